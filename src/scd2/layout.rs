//! What a history is made of: which column plays which part, and how input is brought into that form.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::make_comparator;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBufferBuilder, RecordBatch, RecordBatchOptions, StringArray, new_empty_array,
    new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cast::{CastOptions, cast_with_options};
use arrow::compute::{SortOptions, concat};
use arrow::datatypes::{DataType, Date32Type, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use crate::error::{Error, Result};
use crate::time::DAY;

/// The columns that a history adds; no attribute may have one of these names.
pub const ADDED: [&str; 5] = ["effective_start", "effective_end", "is_current", "surrogate_key", "is_inferred"];

/// Which column of the changes plays which part. What is not named here is an untracked attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scd2Spec {
    /// The columns that together name an entity.
    pub key: Vec<String>,
    /// From when a change holds: a timestamp or a date.
    pub at: String,
    /// The attributes whose history is kept.
    pub tracked: Vec<String>,
    /// A text column of `I`, `U` and `D`; without it every change is an update.
    pub op: Option<String>,
    /// The columns of the position: of two changes of one entity at one time, the later one wins.
    pub order: Vec<String>,
}

/// A [`Scd2Spec`] applied to a schema. Columns are stored in the order key, tracked, others, order.
#[derive(Debug)]
pub(super) struct Layout {
    pub spec: Scd2Spec,
    pub schema: SchemaRef,
    pub keys: Range<usize>,
    pub tracked: Range<usize>,
    pub others: Range<usize>,
    pub order: Range<usize>,
}

impl Layout {
    /// The layout of changes with this schema.
    pub fn of(spec: &Scd2Spec, input: &Schema) -> Result<Self> {
        if spec.key.is_empty() {
            return Err(Error::settings("key", "a history needs at least one key column"));
        }
        let named: Vec<&String> =
            spec.key.iter().chain(&spec.tracked).chain([&spec.at]).chain(&spec.op).chain(&spec.order).collect();
        for (i, name) in named.iter().enumerate() {
            if named[..i].contains(name) {
                return Err(Error::settings("scd2", format!("column '{name}' is named twice; a column has one part")));
            }
            column_of(input, name)?;
        }
        let others: Vec<&String> = input.fields().iter().map(|f| f.name()).filter(|n| !named.contains(n)).collect();
        let stored: Vec<&String> =
            spec.key.iter().chain(&spec.tracked).chain(others.iter().copied()).chain(&spec.order).collect();
        let mut fields = Vec::with_capacity(stored.len());
        for (i, name) in stored.iter().enumerate() {
            if i < stored.len() - spec.order.len() && ADDED.contains(&name.as_str()) {
                return Err(Error::Data(format!(
                    "column '{name}': the history adds a column of this name; rename it in the changes"
                )));
            }
            if stored[..i].contains(name) {
                return Err(Error::Data(format!("the changes have two columns named '{name}'")));
            }
            let data_type = match input.field(column_of(input, name)?).data_type() {
                DataType::Dictionary(_, value) => value.as_ref().clone(),
                other => other.clone(),
            };
            comparable(name, &data_type)?;
            fields.push(Field::new(name.as_str(), data_type, true));
        }
        let (k, t, o) = (spec.key.len(), spec.tracked.len(), others.len());
        let layout = Self {
            spec: spec.clone(),
            schema: Arc::new(Schema::new(fields)),
            keys: 0..k,
            tracked: k..k + t,
            others: k + t..k + t + o,
            order: k + t + o..k + t + o + spec.order.len(),
        };
        Keys::new(&new_batch(&layout.schema, 0)?, layout.keys.clone())?;
        Ok(layout)
    }

    /// The layout that both this history and changes of the layout `other` fit into: a column that has been null
    /// throughout takes the other's type.
    pub fn joined(&self, other: &Self) -> Result<Option<Self>> {
        let same = |name: &str, a: &[String], b: &[String]| {
            if a == b {
                Ok(())
            } else {
                Err(Error::settings(
                    name,
                    format!("the history was made with {a:?}, the changes come with {b:?}; they must be the same"),
                ))
            }
        };
        same("key", &self.spec.key, &other.spec.key)?;
        same("tracked", &self.spec.tracked, &other.spec.tracked)?;
        same("order", &self.spec.order, &other.spec.order)?;
        let mut retyped = false;
        let mut fields = self.schema.fields().to_vec();
        for field in &mut fields {
            let theirs = other.schema.field_with_name(field.name()).map_or(&DataType::Null, Field::data_type);
            if *field.data_type() == DataType::Null && *theirs != DataType::Null {
                retyped = true;
                *field = Arc::new(Field::new(field.name(), theirs.clone(), true));
            }
        }
        for i in other.others.clone() {
            let name = other.schema.field(i).name();
            if self.schema.field_with_name(name).is_err() {
                return Err(Error::Data(format!(
                    "column '{name}' of the changes is not in the history; leave it out, or make the history anew with it"
                )));
            }
        }
        Ok(retyped.then(|| Self {
            spec: self.spec.clone(),
            schema: Arc::new(Schema::new(fields)),
            keys: self.keys.clone(),
            tracked: self.tracked.clone(),
            others: self.others.clone(),
            order: self.order.clone(),
        }))
    }

    /// Brings changes into the stored form.
    pub fn input(&self, changes: &[RecordBatch], spec: &Scd2Spec) -> Result<Input> {
        let rows: usize = changes.iter().map(RecordBatch::num_rows).sum();
        if rows > u32::MAX as usize {
            return Err(Error::Data(format!(
                "{rows} changes at once are too many; merge them in parts below 4 billion"
            )));
        }
        let columns = self
            .schema
            .fields()
            .par_iter()
            .map(|field| {
                let pieces = changes
                    .iter()
                    .map(|batch| adapt(batch.column(column_of(&batch.schema(), field.name())?), field))
                    .collect::<Result<Vec<_>>>()?;
                join(&pieces, field.data_type())
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let mut at = Vec::with_capacity(rows);
        let mut deletes = spec.op.as_ref().map(|_| BooleanBufferBuilder::new(rows));
        for piece in changes {
            micros(&spec.at, piece.column(column_of(&piece.schema(), &spec.at)?), &mut at)?;
            if let (Some(op), Some(deletes)) = (&spec.op, &mut deletes) {
                read_ops(op, piece.column(column_of(&piece.schema(), op)?), deletes)?;
            }
        }
        Ok(Input { batch, at, deletes: deletes.map(|mut d| d.finish()) })
    }
}

/// Changes in the stored form.
pub(super) struct Input {
    pub batch: RecordBatch,
    pub at: Vec<i64>,
    pub deletes: Option<BooleanBuffer>,
}

/// The position of a column, or an error that lists what there is.
pub(super) fn column_of(schema: &Schema, name: &str) -> Result<usize> {
    schema.index_of(name).map_err(|_| {
        let there: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        Error::Data(format!("there is no column '{name}'; the columns are: {}", there.join(", ")))
    })
}

/// A batch of nulls.
pub(super) fn new_batch(schema: &SchemaRef, rows: usize) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|f| new_null_array(f.data_type(), rows)).collect();
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &RecordBatchOptions::new().with_row_count(Some(rows)),
    )?)
}

fn comparable(name: &str, data_type: &DataType) -> Result<()> {
    let empty = new_empty_array(data_type);
    if *data_type == DataType::Null || make_comparator(&empty, &empty, SortOptions::default()).is_ok() {
        return Ok(());
    }
    Err(Error::Data(format!(
        "column '{name}' has type {data_type}, whose values cannot be compared; leave it out or cast it"
    )))
}

fn join(pieces: &[ArrayRef], data_type: &DataType) -> Result<ArrayRef> {
    match pieces {
        [] => Ok(new_empty_array(data_type)),
        [one] => Ok(one.clone()),
        _ => Ok(concat(&pieces.iter().map(AsRef::as_ref).collect::<Vec<_>>())?),
    }
}

/// Casts between types that hold the same values; anything else is an error, never a guess.
pub(super) fn adapt(array: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    use DataType::*;
    let (from, to) = (array.data_type(), field.data_type());
    if from == to {
        return Ok(array.clone());
    }
    if *from == Null {
        return Ok(new_null_array(to, array.len()));
    }
    let family = |t: &DataType| match t {
        Utf8 | LargeUtf8 | Utf8View => 1,
        Binary | LargeBinary | BinaryView => 2,
        t if t.is_integer() => 3,
        Float16 | Float32 | Float64 => 4,
        Timestamp(_, None) => 5,
        Timestamp(_, Some(_)) => 6,
        Date32 | Date64 => 7,
        Decimal32(_, s) | Decimal64(_, s) | Decimal128(_, s) | Decimal256(_, s) => 1000 + i32::from(*s),
        _ => 0,
    };
    let fits = match (from, to) {
        (Dictionary(_, value), _) => **value == *to || (family(value) != 0 && family(value) == family(to)),
        _ => family(from) != 0 && family(from) == family(to),
    };
    if !fits {
        return Err(Error::Data(format!(
            "column '{}' comes as {from}, but the history has it as {to}; cast it before merging",
            field.name()
        )));
    }
    let options = CastOptions { safe: false, ..Default::default() };
    let cast = match to {
        // Only the unit changes; the zone is a name for display.
        Timestamp(unit, zone) => {
            let plain = cast_with_options(array, &Timestamp(unit_of(from), None), &options);
            let plain = plain.and_then(|a| cast_with_options(&a, &Timestamp(*unit, None), &options))?;
            cast_zone(plain, *unit, zone.clone())
        }
        _ => cast_with_options(array, to, &options)?,
    };
    Ok(cast)
}

fn unit_of(t: &DataType) -> TimeUnit {
    match t {
        DataType::Timestamp(unit, _) => *unit,
        _ => TimeUnit::Microsecond,
    }
}

fn cast_zone(array: ArrayRef, unit: TimeUnit, zone: Option<Arc<str>>) -> ArrayRef {
    let data = array.to_data().into_builder().data_type(DataType::Timestamp(unit, zone));
    // The layout of a timestamp does not depend on its zone, so the checks cannot fail.
    data.build().map(arrow::array::make_array).unwrap_or(array)
}

/// Appends a column of moments as microseconds (UTC).
pub(super) fn micros(name: &str, array: &ArrayRef, out: &mut Vec<i64>) -> Result<()> {
    if let Some(row) = array.nulls().and_then(|n| (0..n.len()).find(|&i| n.is_null(i))) {
        return Err(Error::Data(format!(
            "column '{name}', row {row}: a change without a time cannot be placed; leave such rows out"
        )));
    }
    let beyond = || Error::Data(format!("column '{name}': a time is beyond what microseconds in 64 bits can hold"));
    let mut push_scaled = |values: &[i64], times: i64, by: i64| -> Result<()> {
        if times == 1 && by == 1 {
            out.extend_from_slice(values);
            return Ok(());
        }
        for v in values {
            out.push(v.checked_mul(times).ok_or_else(beyond)?.div_euclid(by));
        }
        Ok(())
    };
    match array.data_type() {
        DataType::Timestamp(unit, _) => {
            let plain = cast_zone(array.clone(), *unit, None);
            let values = arrow::compute::cast(&plain, &DataType::Int64)?;
            let (times, by) = match unit {
                TimeUnit::Second => (1_000_000, 1),
                TimeUnit::Millisecond => (1_000, 1),
                TimeUnit::Microsecond => (1, 1),
                TimeUnit::Nanosecond => (1, 1_000),
            };
            push_scaled(values.as_primitive::<Int64Type>().values(), times, by)
        }
        DataType::Date32 => {
            let days: Vec<i64> = array.as_primitive::<Date32Type>().values().iter().map(|&d| i64::from(d)).collect();
            push_scaled(&days, DAY, 1)
        }
        DataType::Date64 => {
            let values = arrow::compute::cast(array, &DataType::Int64)?;
            push_scaled(values.as_primitive::<Int64Type>().values(), 1_000, 1)
        }
        other => Err(Error::Data(format!("column '{name}' has type {other}; a time is a timestamp or a date"))),
    }
}

fn read_ops(name: &str, array: &ArrayRef, out: &mut BooleanBufferBuilder) -> Result<()> {
    let text = arrow::compute::cast(array, &DataType::Utf8)?;
    let text: &StringArray = text.as_string();
    for (row, op) in text.iter().enumerate() {
        match op {
            Some("I" | "U") => out.append(false),
            Some("D") => out.append(true),
            other => {
                return Err(Error::Data(format!(
                    "column '{name}', row {row}: {} is no operation; write I, U or D",
                    other.map_or("null".to_owned(), |o| format!("'{o}'"))
                )));
            }
        }
    }
    Ok(())
}
