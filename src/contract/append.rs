//! From a document into the column builders: the way of valid events that the fast path would not take.

use super::builders::{Builder, Values};
use super::columns::{ColumnType, Pii, Property, Shape};
use super::date_time::date_time;
use super::extra::Extra;
use super::node::{Doc, Id, Kind};
use super::number::{Decimal, to_f64};
use super::pii::{MASK, Secret, plain_into};
use super::problem::{Found, push_token};
use crate::verdict::Code;

/// Appends a value to its column. It has been found representable.
pub fn append(
    shape: &Shape,
    doc: Doc<'_>,
    id: Id,
    into: &mut Builder,
    row: usize,
    secret: Option<&Secret>,
    extra: &mut Extra,
) {
    let kind = doc.kind(id);
    if kind == Kind::Null {
        return into.null(row);
    }
    let text = doc.text(id);
    match shape {
        Shape::Role(_) | Shape::Pii(Pii::Drop) => {}
        Shape::Pii(Pii::Mask) => into.text(row, MASK),
        Shape::Pii(Pii::Hash) => {
            let mut plain = Vec::new();
            match kind {
                Kind::Array | Kind::Object => doc.compact_into(id, &mut plain),
                _ => plain_into(kind, text, &mut plain),
            }
            match secret {
                Some(secret) => into.text_with(row, |out| secret.hash_into(&plain, out)),
                None => into.null(row),
            }
        }
        Shape::Leaf(ColumnType::Boolean) => into.boolean(row, kind == Kind::True),
        Shape::Leaf(ColumnType::Int64) => into.int(row, Decimal::parse(text).to_i64().unwrap_or_default()),
        Shape::Leaf(ColumnType::Float64) => into.float(row, to_f64(text).unwrap_or_default()),
        Shape::Leaf(ColumnType::Decimal(precision, scale)) => {
            into.decimal(row, Decimal::parse(text).to_decimal(*precision, *scale).unwrap_or_default());
        }
        Shape::Leaf(ColumnType::Text) => into.text(row, doc.string(id).as_bytes()),
        Shape::Leaf(ColumnType::Timestamp) => into.int(row, date_time(doc.string(id).as_bytes()).unwrap_or_default()),
        Shape::Leaf(_) => into.text_with(row, |out| doc.compact_into(id, out)),
        Shape::Struct(properties) => {
            into.present(row);
            if let Values::Struct(fields, _) = &mut into.data {
                append_object(properties, doc, id, fields, row, secret, extra);
            }
        }
        Shape::List(item) => {
            into.reach(row);
            if let Values::List(_, items, _) = &mut into.data {
                for (index, value) in doc.items(id).enumerate() {
                    let at = items.len();
                    let nested = enters(item, doc.kind(value));
                    if let Some(object) = nested {
                        extra.enter_item(object, index as u32);
                    }
                    append(item, doc, value, items, at, secret, extra);
                    items.reach(at + 1);
                    if nested.is_some() {
                        extra.leave();
                    }
                }
            }
            into.end_list(row);
        }
    }
}

/// Appends the properties of an object to the builders of its level, and those that are not declared to `extra`.
pub fn append_object(
    properties: &[Property],
    doc: Doc<'_>,
    object: Id,
    fields: &mut [Builder],
    row: usize,
    secret: Option<&Secret>,
    extra: &mut Extra,
) {
    for (key, value) in doc.properties(object) {
        let (start, end) = doc.place(key);
        let place = (start - 1, end + 1);
        let name = doc.string(key);
        let Some(property) = properties.iter().find(|p| p.name == name) else {
            extra.property(doc.source(), place, |out| doc.compact_into(value, out));
            continue;
        };
        if let Some(field) = property.slot.and_then(|slot| fields.get_mut(slot)) {
            let nested = enters(&property.shape, doc.kind(value));
            if let Some(object) = nested {
                extra.enter_property(object, place);
            }
            append(&property.shape, doc, value, field, row, secret, extra);
            if nested.is_some() {
                extra.leave();
            }
        }
    }
}

/// Whether unknown properties may stand inside a value: of an object (true) or an array (false).
fn enters(shape: &Shape, kind: Kind) -> Option<bool> {
    match (shape, kind) {
        (Shape::Struct(_), Kind::Object) => Some(true),
        (Shape::List(_), Kind::Array) => Some(false),
        _ => None,
    }
}

/// Appends a problem for each value that its column cannot hold.
pub fn representable(shape: &Shape, doc: Doc<'_>, id: Id, pointer: &mut String, found: &mut Vec<Found>) {
    let kind = doc.kind(id);
    if kind == Kind::Null {
        return;
    }
    let text = doc.text(id);
    let fits = match shape {
        Shape::Leaf(ColumnType::Boolean) => matches!(kind, Kind::True | Kind::False),
        Shape::Leaf(ColumnType::Int64) => kind.is_number() && Decimal::parse(text).to_i64().is_some(),
        Shape::Leaf(ColumnType::Float64) => kind.is_number() && to_f64(text).is_some(),
        Shape::Leaf(ColumnType::Decimal(precision, scale)) => {
            kind.is_number() && Decimal::parse(text).to_decimal(*precision, *scale).is_some()
        }
        Shape::Leaf(ColumnType::Text) => kind.is_string(),
        Shape::Leaf(ColumnType::Timestamp) => kind.is_string() && date_time(doc.string(id).as_bytes()).is_some(),
        Shape::Struct(properties) => {
            for (key, value) in doc.properties(id) {
                let name = doc.string(key);
                if let Some(property) = properties.iter().find(|p| p.name == name) {
                    let before = pointer.len();
                    push_token(pointer, &name);
                    representable(&property.shape, doc, value, pointer, found);
                    pointer.truncate(before);
                }
            }
            kind == Kind::Object
        }
        Shape::List(item) => {
            if kind == Kind::Array {
                for (index, value) in doc.items(id).enumerate() {
                    let before = pointer.len();
                    push_token(pointer, &index.to_string());
                    representable(item, doc, value, pointer, found);
                    pointer.truncate(before);
                }
            }
            kind == Kind::Array
        }
        Shape::Leaf(_) | Shape::Pii(_) | Shape::Role(_) => true,
    };
    if !fits {
        let column = shape.column_type().map(|t| t.describe()).unwrap_or_default();
        found.push(Found {
            code: Code::NotRepresentable,
            node: id,
            pointer: pointer.clone(),
            message: format!("has no value in its column of type {column}"),
            value: Some(doc.excerpt(id)),
        });
    }
}
