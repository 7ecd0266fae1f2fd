//! Text whose values repeat, as it travels through the engine: each distinct value once a batch, and a number of 16 bits
//! for each row.
//!
//! Most columns of events have few distinct values among the thousands of rows of a piece. Packed, such a column is a
//! fifth as large, is filtered by its numbers alone, and lets every later stage do its work once a value and not once a
//! row. A packed batch has the columns of its plain schema by name, place and nullability; which of its text columns are
//! packed may differ from batch to batch. Nothing outside the engine sees it: files, state and Python have plain text.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, RecordBatch, StringArray, UInt16Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{FilterBuilder, cast};
use arrow::datatypes::{DataType, Schema, UInt16Type};

use crate::error::Result;

/// The type of a packed column.
pub fn packed_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8))
}

/// Whether a column is packed.
pub fn is_packed(kind: &DataType) -> bool {
    matches!(kind, DataType::Dictionary(key, value) if **key == DataType::UInt16 && **value == DataType::Utf8)
}

/// A batch of these columns, whose schema is the plain one but for the columns that come packed.
///
/// # Errors
/// When the columns are not those of the schema.
pub fn batch(plain: &Schema, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let fields = plain.fields().iter().zip(&columns).map(|(field, column)| {
        if is_packed(column.data_type()) && *field.data_type() == DataType::Utf8 {
            Arc::new(field.as_ref().clone().with_data_type(packed_type()))
        } else {
            Arc::clone(field)
        }
    });
    let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), plain.metadata().clone());
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

/// The batch with plain text in every column that the schema has as such.
///
/// # Errors
/// When the columns are not those of the schema, or the text of one comes to more than 2 GiB.
pub fn unpack(plain: &Arc<Schema>, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = plain.fields().iter().zip(batch.columns()).map(|(field, column)| {
        Ok(if *field.data_type() == DataType::Utf8 && is_packed(column.data_type()) {
            cast(column, &DataType::Utf8)?
        } else {
            Arc::clone(column)
        })
    });
    Ok(RecordBatch::try_new(Arc::clone(plain), columns.collect::<Result<Vec<_>>>()?)?)
}

/// The schema of a batch whose packed columns are made plain.
pub fn plain_schema(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        if is_packed(field.data_type()) {
            Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8))
        } else {
            Arc::clone(field)
        }
    });
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

/// A batch of the engine with plain text in every column.
///
/// # Errors
/// When the text of a column comes to more than 2 GiB.
pub fn plain_rows(batch: &RecordBatch) -> Result<RecordBatch> {
    unpack(&Arc::new(plain_schema(batch.schema_ref())), batch)
}

/// The rows of a batch that are chosen. A column that stands there twice is filtered once, and stays one in memory.
///
/// # Errors
/// When there is not one choice for each row.
pub fn filter(batch: &RecordBatch, chosen: &BooleanArray) -> Result<RecordBatch> {
    let filter = FilterBuilder::new(chosen).optimize().build();
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for column in batch.columns() {
        let same = batch.columns()[..columns.len()].iter().position(|other| Arc::ptr_eq(other, column));
        columns.push(match same {
            Some(at) => Arc::clone(&columns[at]),
            None => filter.filter(column)?,
        });
    }
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// One text in every row.
///
/// # Errors
/// Never, unless Arrow changes what it takes.
pub fn repeated(text: &str, rows: usize) -> Result<ArrayRef> {
    let numbers = UInt16Array::new(ScalarBuffer::from(vec![0; rows]), None);
    let values: ArrayRef = Arc::new(StringArray::from_iter_values([text]));
    Ok(Arc::new(DictionaryArray::<UInt16Type>::try_new(numbers, values)?))
}

/// A column of text, packed or not.
#[derive(Clone, Copy)]
pub enum Text<'a> {
    /// A value in each row.
    Plain(&'a StringArray),
    /// A number in each row, and the values that they stand for.
    Packed(&'a UInt16Array, &'a StringArray),
}

impl<'a> Text<'a> {
    /// The column as text; none when it is of another type.
    pub fn of(array: &'a dyn Array) -> Option<Self> {
        match array.data_type() {
            DataType::Utf8 => Some(Self::Plain(array.as_string::<i32>())),
            kind if is_packed(kind) => {
                let packed = array.as_dictionary::<UInt16Type>();
                Some(Self::Packed(packed.keys(), packed.values().as_string::<i32>()))
            }
            _ => None,
        }
    }

    /// The text of a row; none where it is null.
    #[inline]
    pub fn get(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Plain(values) => values.is_valid(row).then(|| values.value(row)),
            Self::Packed(numbers, values) => {
                numbers.is_valid(row).then(|| values.value(usize::from(numbers.value(row))))
            }
        }
    }

    /// What `of` makes of each row, asked once for each distinct value where the column is packed.
    pub fn map<T: Copy>(&self, mut of: impl FnMut(Option<&'a str>) -> T, mut each: impl FnMut(T)) {
        match self {
            Self::Plain(values) => values.iter().for_each(|value| each(of(value))),
            Self::Packed(numbers, values) => {
                let mut known: Vec<Option<T>> = vec![None; values.len()];
                let mut null = None;
                for row in 0..numbers.len() {
                    each(if numbers.is_valid(row) {
                        let number = usize::from(numbers.value(row));
                        *known[number].get_or_insert_with(|| of(Some(values.value(number))))
                    } else {
                        *null.get_or_insert_with(|| of(None))
                    });
                }
            }
        }
    }
}

/// A column as plain text; any other column as it is.
///
/// # Errors
/// When its text comes to more than 2 GiB.
pub fn plain(column: &ArrayRef) -> Result<Cow<'_, ArrayRef>> {
    if is_packed(column.data_type()) {
        return Ok(Cow::Owned(cast(column, &DataType::Utf8)?));
    }
    Ok(Cow::Borrowed(column))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn packed_and_plain_say_the_same() {
        let texts = [Some("a"), None, Some("bb"), Some("a")];
        let plain: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let packed: ArrayRef = cast(&plain, &packed_type()).unwrap();
        let schema =
            Arc::new(Schema::new(vec![Field::new("x", DataType::Utf8, true), Field::new("y", DataType::Utf8, true)]));
        let both = batch(&schema, vec![Arc::clone(&plain), Arc::clone(&packed)]).unwrap();
        assert!(is_packed(both.column(1).data_type()) && !is_packed(both.column(0).data_type()));
        assert_eq!(unpack(&schema, &both).unwrap().column(1), &plain);
        for column in both.columns() {
            let text = Text::of(column).unwrap();
            assert_eq!((0..4).map(|row| text.get(row)).collect::<Vec<_>>(), texts);
            let (mut lengths, mut asked) = (vec![], 0);
            text.map(
                |t| {
                    asked += 1;
                    t.map(str::len)
                },
                |n| lengths.push(n),
            );
            assert_eq!(lengths, [Some(1), None, Some(2), Some(1)]);
            assert!(asked == 4 || asked == 3);
        }
        let repeated = repeated("t", 3).unwrap();
        assert_eq!(Text::of(&repeated).unwrap().get(2), Some("t"));
    }
}
