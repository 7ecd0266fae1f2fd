//! The exact judge: every problem of a document, each with the place where it stands.

use std::collections::HashSet;

use serde_json::Value;

use super::node::{Doc, Id, Kind};
use super::number::Decimal;
use super::problem::{self, Found, push_token, type_bit};
use super::rules::{Allowed, ArrayRule, Bound, ObjectRule, RuleId, Rules, StringRule};
use crate::verdict::Code;

/// Appends every problem that `rules` find with the document.
pub fn check(doc: Doc<'_>, rules: &Rules, found: &mut Vec<Found>) {
    check_value(doc, doc.root(), rules, rules.root, found);
}

/// The same for one value of a document, whose pointer is taken to be the root.
pub fn check_value(doc: Doc<'_>, id: Id, rules: &Rules, rule: RuleId, found: &mut Vec<Found>) {
    Exact { doc, rules, path: Vec::new(), found }.value(rule, id);
}

#[derive(Clone, Copy)]
enum Step {
    Key(Id),
    Index(usize),
}

struct Exact<'a, 'f> {
    doc: Doc<'a>,
    rules: &'a Rules,
    path: Vec<Step>,
    found: &'f mut Vec<Found>,
}

impl Exact<'_, '_> {
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => push_token(&mut pointer, &self.doc.string(*key)),
                Step::Index(index) => pointer.push_str(&format!("/{index}")),
            }
        }
        pointer
    }

    fn problem(&mut self, code: Code, id: Id, message: String) {
        let value = Some(self.doc.excerpt(id));
        let found = Found { code, node: id, pointer: self.pointer(), message, value };
        self.found.push(found);
    }

    fn missing(&mut self, object: Id, name: &str) {
        let mut pointer = self.pointer();
        push_token(&mut pointer, name);
        let message = problem::MISSING.to_owned();
        self.found.push(Found { code: Code::MissingField, node: object, pointer, message, value: None });
    }

    fn value(&mut self, rule: RuleId, id: Id) {
        let rules = self.rules;
        let rule = rules.get(rule);
        if rule.never {
            return self.problem(Code::UnexpectedField, id, problem::UNEXPECTED.to_owned());
        }
        let kind = self.doc.kind(id);
        let bit = type_bit(&self.doc, id);
        if rule.types & bit == 0 {
            self.problem(Code::WrongType, id, problem::wrong_type(bit, rule.named));
        }
        for allowed in &rule.allowed {
            self.allowed(allowed, id);
        }
        if !rule.number.is_empty() && kind.is_number() {
            self.number(&rule.number, id);
        }
        if let (Some(string), true) = (&rule.string, kind.is_string()) {
            self.string(string, id);
        }
        if let (Some(array), Kind::Array) = (&rule.array, kind) {
            self.array(array, id);
        }
        if let (Some(object), Kind::Object) = (&rule.object, kind) {
            self.object(object, id);
        }
        if let Some(target) = rule.target {
            self.value(target, id);
        }
    }

    fn allowed(&mut self, allowed: &Allowed, id: Id) {
        if allowed.values.iter().any(|value| equals(&self.doc, id, value)) {
            return;
        }
        let message = match allowed.values.as_slice() {
            [value] if allowed.constant => problem::not_const(value),
            values => problem::not_in_enum(&Value::Array(values.to_vec())),
        };
        self.problem(Code::NotAllowed, id, message);
    }

    fn number(&mut self, bounds: &[Bound], id: Id) {
        let text = self.doc.text(id);
        for bound in bounds {
            if !within(bound, text) {
                self.problem(Code::OutOfRange, id, problem::out_of_bounds(bound.keyword, &bound.limit));
            }
        }
    }

    fn string(&mut self, rule: &StringRule, id: Id) {
        let text = self.doc.string(id);
        if rule.min.is_some() || rule.max.is_some() {
            let length = text.chars().count() as u64;
            self.count("minLength", rule.min.filter(|min| length < *min), id);
            self.count("maxLength", rule.max.filter(|max| length > *max), id);
        }
        if let Some(format) = rule.format.as_ref().filter(|f| !f.accepts(&text)) {
            self.problem(Code::BadFormat, id, problem::not_format(format.name));
        }
        if let Some(pattern) = rule.pattern.as_ref().filter(|p| !p.is_match(&text)) {
            self.problem(Code::BadFormat, id, problem::no_match(&pattern.text));
        }
    }

    fn count(&mut self, keyword: &str, broken: Option<u64>, id: Id) {
        if let Some(limit) = broken {
            self.problem(Code::OutOfRange, id, problem::out_of_counts(keyword, limit));
        }
    }

    fn array(&mut self, rule: &ArrayRule, id: Id) {
        let length = self.doc.count(id) as u64;
        self.count("minItems", rule.min.filter(|min| length < *min), id);
        self.count("maxItems", rule.max.filter(|max| length > *max), id);
        if rule.unique && !unique(&self.doc, id) {
            self.problem(Code::NotAllowed, id, problem::NOT_UNIQUE.to_owned());
        }
        if rule.prefix.is_empty() && rule.items.is_none() {
            return;
        }
        let doc = self.doc;
        for (i, item) in doc.items(id).enumerate() {
            if let Some(rule) = rule.prefix.get(i).copied().or(rule.items) {
                self.path.push(Step::Index(i));
                self.value(rule, item);
                self.path.pop();
            }
        }
    }

    fn object(&mut self, rule: &ObjectRule, id: Id) {
        let doc = self.doc;
        let count = doc.count(id) as u64;
        self.count("minProperties", rule.min.filter(|min| count < *min), id);
        self.count("maxProperties", rule.max.filter(|max| count > *max), id);
        for name in &rule.required {
            if doc.get(id, name).is_none() {
                self.missing(id, name);
            }
        }
        for (name, others) in &rule.dependent {
            if doc.get(id, name).is_some() {
                for other in others.iter().filter(|other| doc.get(id, other).is_none()) {
                    self.missing(id, other);
                }
            }
        }
        for (key, value) in doc.properties(id) {
            self.path.push(Step::Key(key));
            match rule.property(&doc.string(key)) {
                Some(rule) => self.value(rule, value),
                None if rule.closed => self.problem(Code::UnexpectedField, value, problem::UNEXPECTED.to_owned()),
                None => {
                    if let Some(rule) = rule.additional {
                        self.value(rule, value);
                    }
                }
            }
            self.path.pop();
        }
    }
}

/// Whether a number, given as its text, keeps within a bound.
pub fn within(bound: &Bound, text: &[u8]) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let value = Decimal::parse(text);
    let limit = Decimal::parse(bound.limit.as_bytes());
    match bound.keyword {
        "minimum" => value.cmp(&limit) != Less,
        "maximum" => value.cmp(&limit) != Greater,
        "exclusiveMinimum" => value.cmp(&limit) == Greater,
        "exclusiveMaximum" => value.cmp(&limit) == Less,
        _ => value.cmp(&limit) == Equal || value.is_multiple_of(&limit).unwrap_or(false),
    }
}

/// Whether a node is equal to a value, as JSON Schema has it: numbers by what they are worth, objects in any order.
pub fn equals(doc: &Doc<'_>, id: Id, value: &Value) -> bool {
    match (doc.kind(id), value) {
        (Kind::Null, Value::Null) | (Kind::True, Value::Bool(true)) | (Kind::False, Value::Bool(false)) => true,
        (Kind::Integer | Kind::Number, Value::Number(n)) => {
            Decimal::parse(doc.text(id)) == Decimal::parse(n.as_str().as_bytes())
        }
        (Kind::String | Kind::Escaped, Value::String(s)) => doc.is_text(id, s),
        (Kind::Array, Value::Array(items)) => {
            doc.count(id) == items.len() && doc.items(id).zip(items).all(|(a, b)| equals(doc, a, b))
        }
        (Kind::Object, Value::Object(map)) => {
            doc.count(id) == map.len()
                && doc.properties(id).all(|(k, v)| map.get(&*doc.string(k)).is_some_and(|b| equals(doc, v, b)))
        }
        _ => false,
    }
}

/// Whether no two items of an array are equal.
fn unique(doc: &Doc<'_>, array: Id) -> bool {
    let mut seen = HashSet::with_capacity(doc.count(array));
    doc.items(array).all(|item| {
        let mut text = Vec::new();
        identity(doc, item, &mut text);
        seen.insert(text)
    })
}

/// A text that two values share exactly when they are equal.
fn identity(doc: &Doc<'_>, id: Id, out: &mut Vec<u8>) {
    match doc.kind(id) {
        Kind::Integer | Kind::Number => out.extend_from_slice(Decimal::parse(doc.text(id)).canonical().as_bytes()),
        Kind::String | Kind::Escaped => super::json::quote_into(&doc.string(id), out),
        Kind::Array => {
            out.push(b'[');
            for item in doc.items(id) {
                identity(doc, item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Kind::Object => {
            let mut properties: Vec<_> = doc.properties(id).map(|(k, v)| (doc.string(k), v)).collect();
            properties.sort();
            out.push(b'{');
            for (key, value) in properties {
                super::json::quote_into(&key, out);
                identity(doc, value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        _ => out.extend_from_slice(doc.text(id)),
    }
}
