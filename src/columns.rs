//! What every operator asks of a record batch: a column by its name, its moments, its text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowTimestampType, DataType, Date32Type, Date64Type, Field, Schema, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};

use crate::error::{Error, Result};
use crate::packed::plain_type;
use crate::time::DAY;

/// The type of every moment in the lake: microseconds, UTC.
pub fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A field of moments.
pub fn moment_field(name: &str, nullable: bool) -> Field {
    Field::new(name, moment(), nullable)
}

/// An array of moments without nulls.
pub fn moments(micros: impl Into<ScalarBuffer<i64>>) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::new(micros.into(), None).with_timezone("UTC")
}

/// An array of one moment, or of one null.
pub fn one_moment(micros: Option<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC"))
}

/// Where a column stands.
///
/// # Errors
/// [`Error::Data`] that names the nearest column when there is none of this name.
pub fn index_of(schema: &Schema, name: &str) -> Result<usize> {
    schema.index_of(name).map_err(|_| {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let hint = match nearest(name, &names) {
            Some(near) => format!("; did you mean '{near}'?"),
            None if names.is_empty() => "; there are no columns at all".to_string(),
            None => format!("; the columns are {}", names.join(", ")),
        };
        Error::Data(format!("there is no column '{name}'{hint}"))
    })
}

/// The name most like `name`, when it is near enough to be a slip of the pen.
pub fn nearest<'a>(name: &str, among: &[&'a str]) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    let best = among.iter().map(|other| (edits(&wanted, &other.to_lowercase()), *other)).min()?;
    (best.0 <= 1 + name.chars().count() / 3).then_some(best.1)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The moments of a column as microseconds since the Unix epoch: timestamps of any unit (finer ones rounded down; ones
/// without a zone taken as UTC) and dates.
///
/// # Errors
/// [`Error::Data`] for another type, a null, or a moment beyond 64 bits of microseconds.
pub fn micros(array: &dyn Array, name: &str) -> Result<ScalarBuffer<i64>> {
    if array.null_count() > 0 {
        let row = (0..array.len()).find(|row| array.is_null(*row)).unwrap_or_default();
        return Err(Error::Data(format!(
            "column '{name}' has {} null(s), the first in row {row}: every event needs a time; filter these rows out first",
            array.null_count()
        )));
    }
    let scaled = |values: &[i64], scale: i64| -> Result<ScalarBuffer<i64>> {
        let all: Option<Vec<i64>> = values.iter().map(|v| v.checked_mul(scale)).collect();
        all.map(ScalarBuffer::from).ok_or_else(|| {
            Error::Data(format!("column '{name}' has a moment that 64 bits of microseconds cannot hold"))
        })
    };
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(values::<TimestampMicrosecondType>(array).clone()),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Ok(values::<TimestampNanosecondType>(array).iter().map(|v| v.div_euclid(1_000)).collect())
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => scaled(values::<TimestampMillisecondType>(array), 1_000),
        DataType::Timestamp(TimeUnit::Second, _) => scaled(values::<TimestampSecondType>(array), 1_000_000),
        DataType::Date32 => {
            Ok(array.as_primitive::<Date32Type>().values().iter().map(|d| i64::from(*d) * DAY).collect())
        }
        DataType::Date64 => scaled(array.as_primitive::<Date64Type>().values(), 1_000),
        packed if plain_type(packed) != packed => micros(&cast(array, plain_type(packed))?, name),
        other => Err(Error::Data(format!(
            "column '{name}' is {other}, not a timestamp; cast it to a timestamp first (its unit cannot be guessed)"
        ))),
    }
}

fn values<T: ArrowTimestampType>(array: &dyn Array) -> &ScalarBuffer<i64>
where
    PrimitiveArray<T>: 'static,
{
    array.as_primitive::<T>().values()
}

/// A column as text: what is no text is written as such (`42`).
///
/// # Errors
/// [`Error::Data`] for a type that has no text (a struct, a list).
pub fn text(array: &ArrayRef, name: &str) -> Result<StringArray> {
    match array.data_type() {
        DataType::Utf8 => Ok(array.as_string::<i32>().clone()),
        DataType::Struct(_)
        | DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::Map(..) => Err(Error::Data(format!(
            "column '{name}' is {}, which has no text; choose a plain column",
            array.data_type()
        ))),
        _ => {
            let cast = cast(array, &DataType::Utf8)
                .map_err(|e| Error::Data(format!("column '{name}' cannot be read as text: {e}")))?;
            Ok(cast.as_string::<i32>().clone())
        }
    }
}

/// The same rows in batches of at most `rows` each (slices: nothing is copied), so that all cores have work.
pub fn cut(batches: &[RecordBatch], rows: usize) -> Vec<RecordBatch> {
    let mut pieces = Vec::with_capacity(batches.len());
    for batch in batches {
        if batch.num_rows() <= rows {
            pieces.push(batch.clone());
            continue;
        }
        for at in (0..batch.num_rows()).step_by(rows) {
            pieces.push(batch.slice(at, rows.min(batch.num_rows() - at)));
        }
    }
    pieces
}

/// That all batches have the columns of the first, by name and type.
///
/// # Errors
/// [`Error::Data`] that names the batch that differs.
pub fn same_schema<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<()> {
    let mut batches = batches.into_iter();
    let Some(first) = batches.next() else { return Ok(()) };
    for (i, batch) in batches.enumerate().map(|(i, batch)| (i + 1, batch)) {
        let (ours, theirs) = (batch.schema_ref().fields(), first.schema_ref().fields());
        // Which columns are packed may differ.
        let alike = |a: &Field, b: &Field| plain_type(a.data_type()) == plain_type(b.data_type());
        let same = ours.iter().zip(theirs).all(|(a, b)| a.name() == b.name() && alike(a, b));
        if ours.len() != theirs.len() || !same {
            return Err(Error::Data(format!(
                "batch {i} has other columns than batch 0: {} against {}",
                batch.schema_ref(),
                first.schema_ref()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Int64Array, TimestampNanosecondArray, TimestampSecondArray};

    #[test]
    fn moments_of_any_unit() {
        let nanos = TimestampNanosecondArray::from(vec![-1, 1_999]);
        assert_eq!(&micros(&nanos, "t").unwrap()[..], &[-1, 1]);
        let seconds = TimestampSecondArray::from(vec![-2]).with_timezone("Europe/Berlin");
        assert_eq!(&micros(&seconds, "t").unwrap()[..], &[-2_000_000]);
        assert_eq!(&micros(&Date32Array::from(vec![-1]), "t").unwrap()[..], &[-DAY]);
        assert!(micros(&TimestampSecondArray::from(vec![i64::MAX]), "t").is_err());
        assert!(
            micros(&TimestampSecondArray::from(vec![Some(1), None]), "t").unwrap_err().to_string().contains("row 1")
        );
        assert!(micros(&Int64Array::from(vec![1]), "t").unwrap_err().to_string().contains("not a timestamp"));
    }

    #[test]
    fn a_slip_of_the_pen_is_named() {
        let schema =
            Schema::new(vec![Field::new("user_id", DataType::Utf8, true), Field::new("amount", DataType::Utf8, true)]);
        assert!(index_of(&schema, "userid").unwrap_err().to_string().contains("did you mean 'user_id'?"));
        assert!(index_of(&schema, "zzz").unwrap_err().to_string().contains("the columns are user_id, amount"));
    }
}
