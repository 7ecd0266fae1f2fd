//! Users' own logic: a pure function from rows to rows, called once a tick after the contract.
//!
//! The function may change and add columns. It keeps every row, in its order: which events there are, and what becomes of
//! each, is for contract, deduplication and ledger to say; an event that is to be left out is refused by the contract. The
//! columns of the roles stay as the contract read them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use super::epoch::Judgment;
use super::log::Tick;
use super::runner::Runner;
use super::spec::Shape;
use crate::columns::moment;
use crate::contract::Contract;
use crate::error::{Error, Result};
use crate::packed;

/// The columns that follow from the contract's roles.
const ROLES: [&str; 5] = ["event_type", "event_time", "idempotency_key", "entity", "schema_version"];
/// The columns that come after it.
const RESERVED: [&str; 7] =
    ["session_id", "session_start", "session_seq", "replayed", "_topic", "_partition", "_offset"];

/// A function over the valid rows of one tick.
pub trait Transform: std::fmt::Debug + Send + Sync {
    /// The rows that take the place of these.
    ///
    /// # Errors
    /// [`Error::Data`] saying what went wrong in the function, without naming it or the tick.
    fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch>;
}

/// Calls a transform over valid rows; what it gives has the columns `declared`.
///
/// # Errors
/// [`Error::Data`] saying what it gave that it should not.
pub(super) fn transformed(transform: &dyn Transform, rows: &RecordBatch, declared: &SchemaRef) -> Result<RecordBatch> {
    if rows.num_rows() == 0 {
        return Ok(RecordBatch::new_empty(declared.clone()));
    }
    transform.apply(rows).and_then(|made| check(rows, &made, declared))
}

/// `transform`: which function, and the columns that it makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformSpec {
    /// `module:function`.
    pub function: String,
    /// What tells its code from a later one's, where that is known.
    #[serde(default)]
    pub code: Option<String>,
    /// Name and type of each column that it adds, or that it gives another type.
    #[serde(default)]
    pub columns: Vec<(String, ColumnKind)>,
}

/// The type of a declared column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// UTF-8.
    Text,
    /// 64 bits, signed.
    Integer,
    /// 64 bits, IEEE 754.
    Number,
    /// True or false.
    Boolean,
    /// Microseconds, UTC.
    Timestamp,
    /// Digits in all, and after the point.
    Decimal(u8, i8),
}

impl ColumnKind {
    fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Integer => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Timestamp => moment(),
            Self::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
        }
    }
}

impl Shape {
    /// The columns of valid rows: those of the contract, as the transform changes them.
    ///
    /// # Errors
    /// [`Error::Settings`] when the transform declares a column that it cannot have.
    pub fn rows(&self, contract: &Schema) -> Result<SchemaRef> {
        let mut fields: Vec<_> = contract.fields().iter().cloned().collect();
        for (name, kind) in self.transform.iter().flat_map(|t| &t.columns) {
            let setting = format!("transform.columns.{name}");
            if ROLES.contains(&name.as_str()) {
                return Err(Error::settings(setting, "is a role of the contract, which a transform leaves as it is"));
            }
            if RESERVED.contains(&name.as_str()) || name.starts_with("__") || name.is_empty() {
                return Err(Error::settings(setting, "is a name of our own; give the column another"));
            }
            if let ColumnKind::Decimal(precision, scale) = kind
                && !((1..=38).contains(precision) && (0..=*precision as i8).contains(scale))
            {
                return Err(Error::settings(
                    setting,
                    "decimal(p, s) needs 1 to 38 digits, and no more after the point",
                ));
            }
            let field = Arc::new(Field::new(name, kind.data_type(), true));
            match fields.iter_mut().find(|f| f.name() == name) {
                Some(known) => *known = field,
                None => fields.push(field),
            }
        }
        Ok(Arc::new(Schema::new_with_metadata(fields, contract.metadata().clone())))
    }
}

/// A transform with what it is called by and what it has to give.
pub(super) struct Call<'a> {
    pub(super) transform: &'a dyn Transform,
    pub(super) spec: &'a TransformSpec,
    pub(super) rows: SchemaRef,
    pub(super) epoch: u64,
}

impl Runner<'_> {
    /// The transform of an epoch, if it has one.
    pub(super) fn call<'a>(&'a self, contract: &Contract, shape: &'a Shape, epoch: u64) -> Result<Option<Call<'a>>> {
        let Some(spec) = &shape.transform else { return Ok(None) };
        let Some(transform) = self.transform.as_deref() else {
            return Err(Error::settings("transform", format!("{} was not handed to the run", spec.function)));
        };
        Ok(Some(Call { transform, spec, rows: shape.rows(&contract.schema())?, epoch }))
    }
}

impl Call<'_> {
    /// Calls the function over the valid rows of one tick, all pieces at once; a tick without valid rows is none.
    pub(super) fn apply(&self, number: usize, tick: &Tick, judged: &mut [Judgment]) -> Result<()> {
        for judgment in judged.iter_mut() {
            let plain = packed::plain_rows(judgment.valid())?;
            judgment.set_valid(plain);
        }
        let Some(first) = judged.first() else { return Ok(()) };
        let schema = first.valid().schema();
        let whole = concat_batches(&schema, judged.iter().map(Judgment::valid))?;
        if whole.num_rows() == 0 {
            for judgment in judged {
                judgment.set_valid(RecordBatch::new_empty(self.rows.clone()));
            }
            return Ok(());
        }
        let place = || {
            let ranges =
                tick.ranges.iter().map(|r| format!("{} partition {} {}..{}", r.topic, r.partition, r.from, r.to));
            let ranges = ranges.collect::<Vec<_>>().join(", ");
            format!("transform {}, epoch {}, tick {number} ({ranges})", self.spec.function, self.epoch)
        };
        let within = |e: Error| match e {
            Error::Data(reason) => Error::Data(format!("{}: {reason}", place())),
            other => other,
        };
        let made = transformed(self.transform, &whole, &self.rows).map_err(within)?;
        let mut from = 0;
        for judgment in judged {
            let rows = judgment.valid().num_rows();
            judgment.set_valid(made.slice(from, rows));
            from += rows;
        }
        Ok(())
    }
}

/// The rows that a transform gave, as the declared columns.
fn check(given: &RecordBatch, made: &RecordBatch, declared: &SchemaRef) -> Result<RecordBatch> {
    if made.num_rows() != given.num_rows() {
        return Err(Error::Data(format!(
            "gave {} rows for {}. A transform keeps every row, in its order: the ledger counts each event, and what is to \
             be left out is refused by the contract",
            made.num_rows(),
            given.num_rows()
        )));
    }
    let names = |schema: &Schema| schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(", ");
    if let Some(other) = made.schema().fields().iter().find(|f| declared.index_of(f.name()).is_err()) {
        return Err(Error::Data(format!(
            "gave a column '{}' ({}) that is not declared; name it under transform.columns",
            other.name(),
            other.data_type()
        )));
    }
    let columns = declared.fields().iter().map(|field| {
        let Some(column) = made.column_by_name(field.name()) else {
            return Err(Error::Data(format!("gave no column '{}'; it gave {}", field.name(), names(&made.schema()))));
        };
        let column = as_declared(column, field.data_type()).ok_or_else(|| {
            Error::Data(format!(
                "gave '{}' as {}, declared is {}, and not every value can be that",
                field.name(),
                column.data_type(),
                field.data_type()
            ))
        })?;
        if !field.is_nullable() && column.null_count() > 0 {
            return Err(Error::Data(format!("gave nulls in '{}', which has none by the contract", field.name())));
        }
        let role = ROLES.contains(&field.name().as_str());
        if role && given.column_by_name(field.name()).is_none_or(|was| was.to_data() != column.to_data()) {
            return Err(Error::Data(format!(
                "changed '{}', a role of the contract. Duplicates, sessions and lateness are judged by it: put another value \
                 into a column of its own",
                field.name()
            )));
        }
        Ok(column)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(declared.clone(), columns)?)
}

/// The same values under the declared type: other Arrow types for the same thing are taken, where every value fits.
fn as_declared(column: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    let from = column.data_type();
    if from == to {
        return Some(column.clone());
    }
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let same = match (from, to) {
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, value), to) => return as_declared(&strict(column, value)?, to),
        (from, DataType::Utf8) => text(from),
        (from, DataType::Int64) => from.is_integer(),
        (from, DataType::Float64) => matches!(from, DataType::Float32),
        (DataType::Timestamp(_, zone), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
            zone.as_deref().is_some_and(|z| matches!(z, "UTC" | "+00:00" | "Etc/UTC"))
        }
        (DataType::Decimal128(_, a), DataType::Decimal128(_, b)) => a <= b,
        (from, DataType::Decimal128(..)) => from.is_integer(),
        (DataType::Struct(_) | DataType::List(_) | DataType::LargeList(_), DataType::Struct(_) | DataType::List(_)) => {
            true
        }
        _ => false,
    };
    same.then(|| strict(column, to)).flatten()
}

fn strict(column: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(column, to, &options).ok()?;
    (cast.null_count() == column.logical_null_count()).then_some(cast)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int32Array, LargeStringArray, StringArray};

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    fn given() -> RecordBatch {
        batch(vec![
            ("entity", Arc::new(StringArray::from(vec!["a", "b"]))),
            ("amount", Arc::new(Float64Array::from(vec![1.0, 2.0]))),
        ])
    }

    fn declared() -> SchemaRef {
        let mut fields: Vec<_> = given().schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("label", DataType::Utf8, true)));
        Arc::new(Schema::new(fields))
    }

    fn refusal(made: &RecordBatch) -> String {
        check(&given(), made, &declared()).unwrap_err().to_string()
    }

    #[test]
    fn other_arrow_types_for_the_same_thing_are_taken() {
        let mut columns: Vec<(&str, ArrayRef)> =
            vec![("label", Arc::new(LargeStringArray::from(vec![Some("x"), None])))];
        let given = given();
        columns.push(("amount", given.column(1).clone()));
        columns.push(("entity", given.column(0).clone()));
        let made = check(&given, &batch(columns), &declared()).unwrap();
        assert_eq!(made.schema(), declared());
        assert_eq!(made.column(2).data_type(), &DataType::Utf8);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let whole = given();
        let label: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
        let with = |entity: ArrayRef, amount: ArrayRef, more: Vec<(&str, ArrayRef)>| {
            let mut columns = vec![("entity", entity), ("amount", amount)];
            columns.extend(more);
            batch(columns)
        };
        let (entity, amount) = (whole.column(0).clone(), whole.column(1).clone());
        let said = refusal(&with(entity.clone(), amount.clone(), vec![]));
        assert!(said.contains("gave no column 'label'"), "{said}");
        let said = refusal(&with(entity.clone(), amount.clone(), vec![("label", label.clone()), ("b", label.clone())]));
        assert!(said.contains("'b'") && said.contains("transform.columns"), "{said}");
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let said = refusal(&with(entity.clone(), amount.clone(), vec![("label", numbers)]));
        assert!(said.contains("'label' as Int32"), "{said}");
        let said = refusal(&with(label.clone(), amount, vec![("label", label.clone())]));
        assert!(said.contains("changed 'entity'"), "{said}");
        let said = refusal(&whole.slice(0, 1));
        assert!(said.contains("gave 1 rows for 2"), "{said}");
    }

    #[test]
    fn a_value_that_does_not_fit_is_no_null() {
        let wide: ArrayRef = Arc::new(arrow::array::UInt64Array::from(vec![1, u64::MAX]));
        assert!(as_declared(&wide, &DataType::Int64).is_none());
        let small: ArrayRef = Arc::new(arrow::array::UInt64Array::from(vec![1, 2]));
        assert!(as_declared(&small, &DataType::Int64).is_some());
    }
}
