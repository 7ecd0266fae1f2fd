//! Rows that go from the columns of one contract to those of the next: events that were judged by the old one and are
//! still held.
//!
//! Columns that came are null. A column that went leaves what it held in `_extra`, where the new contract would have put
//! the property. A column whose type changed goes along where every value fits the new type without loss. What cannot go
//! is an error, and nothing is changed.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, StructArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Error, Result};

const EXTRA: &str = "_extra";
/// Integers up to here are exact as floats.
const EXACT: i64 = 1 << 53;

/// The rows under the new columns; columns whose names begin with `__` are the state's own and are left out.
///
/// # Errors
/// [`Error::Checkpoint`] under `name`, naming the column that cannot go along and what to do.
pub fn carry(name: &str, rows: &RecordBatch, to: &SchemaRef) -> Result<RecordBatch> {
    let refused = |column: &str, why: &str| {
        Error::checkpoint(
            name,
            format!(
                "{} events are still held, and their column '{column}' {why}. Run once with the contract and settings of \
                 before and with `--drain`, which lets go all that is held; then run with the new ones",
                rows.num_rows()
            ),
        )
    };
    let mut extra = match rows.column_by_name(EXTRA) {
        Some(column) => column.as_string_opt::<i32>().map(|c| c.iter().map(|v| v.map(str::to_owned)).collect()),
        None => None,
    }
    .unwrap_or_else(|| vec![None; rows.num_rows()]);
    let mut moved = false;
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let gone = !field.name().starts_with("__") && to.index_of(field.name()).is_err();
        if gone && column.null_count() < column.len() {
            if to.index_of(EXTRA).is_err() || !into_extra(field.name(), column, &mut extra)? {
                return Err(refused(
                    field.name(),
                    &format!("({}) is not in the contract any more", column.data_type()),
                ));
            }
            moved = true;
        }
    }
    let columns = to.fields().iter().map(|field| {
        let column = match rows.column_by_name(field.name()) {
            _ if moved && field.name() == EXTRA => Arc::new(StringArray::from(std::mem::take(&mut extra))) as ArrayRef,
            Some(column) => fit(column, field).ok_or_else(|| {
                let now = field.data_type();
                refused(field.name(), &format!("is {}, which cannot become {now} without loss", column.data_type()))
            })?,
            None => new_null_array(field.data_type(), rows.num_rows()),
        };
        if !field.is_nullable() && column.null_count() > 0 {
            return Err(refused(field.name(), "has to have a value now, which they have not"));
        }
        Ok(column)
    });
    Ok(RecordBatch::try_new(to.clone(), columns.collect::<Result<Vec<_>>>()?)?)
}

/// The same values as another type, if none is lost.
fn fit(column: &ArrayRef, field: &Field) -> Option<ArrayRef> {
    let (from, to) = (column.data_type(), field.data_type());
    if from == to {
        return Some(column.clone());
    }
    if column.null_count() == column.len() {
        return Some(new_null_array(to, column.len()));
    }
    match (from, to) {
        (DataType::Int64, DataType::Float64) => {
            let exact = |v: i64| (-EXACT..=EXACT).contains(&v);
            let numbers: &Int64Array = column.as_primitive::<Int64Type>();
            numbers
                .iter()
                .flatten()
                .all(exact)
                .then(|| numbers.iter().map(|v| v.map(|v| v as f64)).collect::<Float64Array>())
                .map(|a| Arc::new(a) as ArrayRef)
        }
        (DataType::Int64, DataType::Decimal128(..)) => strict(column, to),
        (DataType::Decimal128(_, a), DataType::Decimal128(_, b)) if a <= b => strict(column, to),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let old = column.as_struct();
            let gone = old
                .fields()
                .iter()
                .zip(old.columns())
                .any(|(f, c)| c.null_count() < c.len() && !fields.iter().any(|n| n.name() == f.name()));
            let parts = fields.iter().map(|field| match old.column_by_name(field.name()) {
                Some(part) => fit(part, field),
                None => Some(new_null_array(field.data_type(), old.len())),
            });
            let parts = parts.collect::<Option<Vec<_>>>().filter(|_| !gone)?;
            let made = StructArray::try_new(fields.clone(), parts, old.nulls().cloned()).ok()?;
            Some(Arc::new(made))
        }
        _ => None,
    }
}

fn strict(column: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() }).ok()
}

/// Puts a column's values under its name into `_extra`. False when they are of a kind that does not go there.
fn into_extra(name: &str, column: &ArrayRef, extra: &mut [Option<String>]) -> Result<bool> {
    let quoted = |text: &str| serde_json::to_string(text).map_err(|e| Error::Internal(e.to_string()));
    let key = quoted(name)?;
    let options = FormatOptions::default();
    let plain = match column.data_type() {
        DataType::Utf8 | DataType::Timestamp(..) => false,
        DataType::Int64 | DataType::Boolean | DataType::Decimal128(..) | DataType::Float64 => true,
        _ => return Ok(false),
    };
    let text = ArrayFormatter::try_new(column.as_ref(), &options)?;
    for (row, extra) in extra.iter_mut().enumerate().filter(|(row, _)| column.is_valid(*row)) {
        let value = match column.data_type() {
            DataType::Float64 => serde_json::Value::from(column.as_primitive::<Float64Type>().value(row)).to_string(),
            _ if plain => text.value(row).to_string(),
            _ => quoted(&text.value(row).to_string())?,
        };
        let mut object = extra.take().unwrap_or_else(|| "{}".to_owned());
        // What lies below a property of this name stands there already: two of one name would hide one of them.
        if object.contains(&key) {
            return Ok(false);
        }
        object.truncate(object.trim_end().len().saturating_sub(1));
        let comma = if object.trim_end().ends_with('{') { "" } else { "," };
        let _ = write!(object, "{comma}{key}:{value}}}");
        *extra = Some(object);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Decimal128Array};
    use arrow::datatypes::Schema;

    use super::*;

    fn rows() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("entity", Arc::new(StringArray::from(vec!["a", "b"]))),
            ("n", Arc::new(Int64Array::from(vec![Some(1), None]))),
            ("note", Arc::new(StringArray::from(vec![Some("say \"x\""), None]))),
            ("flag", Arc::new(BooleanArray::from(vec![None, Some(true)]))),
            ("_extra", Arc::new(StringArray::from(vec![Some(r#"{"more":1}"#), None]))),
            ("__row", Arc::new(Int64Array::from(vec![0, 1]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        Arc::new(Schema::new(fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
    }

    #[test]
    fn columns_that_came_are_null_and_columns_that_went_are_in_extra() {
        let to = schema(&[
            ("entity", DataType::Utf8),
            ("new", DataType::Int64),
            ("n", DataType::Int64),
            ("_extra", DataType::Utf8),
        ]);
        let carried = carry("t", &rows(), &to).unwrap();
        assert_eq!(carried.column_by_name("new").unwrap().null_count(), 2);
        let extra = carried.column_by_name("_extra").unwrap().as_string::<i32>();
        assert_eq!(extra.value(0), r#"{"more":1,"note":"say \"x\""}"#);
        assert_eq!(extra.value(1), r#"{"flag":true}"#);
    }

    #[test]
    fn types_change_where_nothing_is_lost() {
        let with = |kind: DataType| {
            schema(&[
                ("entity", DataType::Utf8),
                ("n", kind),
                ("note", DataType::Utf8),
                ("flag", DataType::Boolean),
                ("_extra", DataType::Utf8),
            ])
        };
        let decimal = carry("t", &rows(), &with(DataType::Decimal128(12, 2))).unwrap();
        let n: &Decimal128Array = decimal.column(1).as_primitive();
        assert_eq!((n.value(0), n.is_null(1)), (100, true));
        assert!(carry("t", &rows(), &with(DataType::Float64)).is_ok());
        let refused = carry("t", &rows(), &with(DataType::Utf8)).unwrap_err().to_string();
        assert!(refused.contains("'n'") && refused.contains("--drain"), "{refused}");
    }

    #[test]
    fn an_integer_that_no_float_holds_is_kept_from_being_one() {
        let big: ArrayRef = Arc::new(Int64Array::from(vec![EXACT + 1]));
        assert!(fit(&big, &Field::new("n", DataType::Float64, true)).is_none());
    }

    #[test]
    fn objects_gain_properties_and_do_not_lose_them() {
        let inner: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let old: ArrayRef =
            Arc::new(StructArray::from(vec![(Arc::new(Field::new("a", DataType::Int64, true)), inner)]));
        let of = |names: &[&str]| {
            let fields: Vec<_> = names.iter().map(|n| Field::new(*n, DataType::Int64, true)).collect();
            Field::new("o", DataType::Struct(fields.into()), true)
        };
        assert!(fit(&old, &of(&["a", "b"])).is_some());
        assert!(fit(&old, &of(&["b"])).is_none());
    }

    #[test]
    fn a_name_that_stands_in_extra_already_is_refused() {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let mut extra = vec![Some(r#"{"note":{"deep":1}}"#.to_owned())];
        assert!(!into_extra("note", &column, &mut extra).unwrap());
    }
}
