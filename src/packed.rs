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
use arrow::buffer::NullBuffer;
use arrow::compute::{FilterBuilder, cast};
use arrow::datatypes::{DataType, Schema, UInt16Type};

use crate::error::{Error, Result};

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

/// A packed column: for each row the place of its value.
///
/// # Errors
/// When a place is beyond the values.
pub fn of(numbers: Vec<u16>, nulls: Option<NullBuffer>, values: StringArray) -> Result<ArrayRef> {
    let highest = numbers.iter().fold(0, |highest, number| (*number).max(highest));
    let numbers = UInt16Array::try_new(numbers.into(), nulls)?;
    let values: ArrayRef = Arc::new(values);
    if usize::from(highest) < values.len() {
        // Arrow's own check looks at one number and one null at a time: a tenth of what it costs to fill the column.
        // SAFETY: `try_new` would not return an error, which is all that is asked for: no number is negative, and none, of
        // a null or not, is above `highest`, which is below the number of values.
        return Ok(Arc::new(unsafe { DictionaryArray::<UInt16Type>::new_unchecked(numbers, values) }));
    }
    // Numbers of nulls may be anything: there may even be no value at all.
    Ok(Arc::new(DictionaryArray::<UInt16Type>::try_new(numbers, values)?))
}

/// For each item the place of its first equal, and those; none when there are too many for packing to pay.
pub fn numbered(items: &[u32]) -> Option<(Vec<u16>, Vec<u32>)> {
    let slots = (items.len() * 2).next_power_of_two().max(16);
    let mut table: Vec<u16> = vec![u16::MAX; slots];
    let mut distinct: Vec<u32> = Vec::new();
    let mut numbers = Vec::with_capacity(items.len());
    let most = usize::from(u16::MAX).min(items.len() / 2 + 256);
    for item in items {
        let mut at = item.wrapping_mul(0x9e37_79b9).rotate_left(15) as usize & (slots - 1);
        loop {
            match table[at] {
                u16::MAX if distinct.len() >= most => return None,
                u16::MAX => {
                    table[at] = distinct.len() as u16;
                    distinct.push(*item);
                    break;
                }
                known if distinct[usize::from(known)] == *item => break,
                _ => at = (at + 1) & (slots - 1),
            }
        }
        numbers.push(table[at]);
    }
    Some((numbers, distinct))
}

/// Rows of a packed batch, of which some may be left out: they are copied when somebody wants them, not before.
#[derive(Debug, Clone)]
pub struct Rows {
    batch: RecordBatch,
    /// Which rows count; none: all.
    chosen: Option<BooleanArray>,
}

impl From<RecordBatch> for Rows {
    fn from(batch: RecordBatch) -> Self {
        Self { batch, chosen: None }
    }
}

impl Rows {
    /// Some rows of a batch.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is not one choice for each row.
    pub fn new(batch: RecordBatch, chosen: Option<BooleanArray>) -> Result<Self> {
        match &chosen {
            Some(chosen) if chosen.len() != batch.num_rows() => {
                Err(Error::Internal(format!("{} choices for {} rows", chosen.len(), batch.num_rows())))
            }
            _ => Ok(Self { batch, chosen }),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.chosen.as_ref().map_or(self.batch.num_rows(), BooleanArray::true_count)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch, with the rows that are left out.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Which rows of it count; none: all.
    pub fn chosen(&self) -> Option<&BooleanArray> {
        self.chosen.as_ref()
    }

    /// The rows that count of one column.
    ///
    /// # Errors
    /// When Arrow cannot hold them.
    pub fn column(&self, index: usize) -> Result<ArrayRef> {
        let column = self.batch.column(index);
        Ok(match &self.chosen {
            Some(chosen) => arrow::compute::filter(column, chosen)?,
            None => Arc::clone(column),
        })
    }

    /// The rows that count, packed.
    ///
    /// # Errors
    /// When Arrow cannot hold them.
    pub fn packed(&self) -> Result<RecordBatch> {
        match &self.chosen {
            Some(chosen) => filter(&self.batch, chosen),
            None => Ok(self.batch.clone()),
        }
    }

    /// The same rows in pieces of at most so many rows of the batch (slices: nothing is copied).
    pub fn cut(&self, rows: usize) -> impl Iterator<Item = Self> + '_ {
        let whole = self.batch.num_rows();
        (0..whole.max(1)).step_by(rows.max(1)).map(move |at| {
            let length = rows.min(whole - at);
            Self {
                batch: self.batch.slice(at, length),
                chosen: self.chosen.as_ref().map(|chosen| chosen.slice(at, length)),
            }
        })
    }
}

/// One text in every row.
///
/// # Errors
/// Never, unless Arrow changes what it takes.
pub fn repeated(text: &str, rows: usize) -> Result<ArrayRef> {
    of(vec![0; rows], None, StringArray::from_iter_values([text]))
}

/// A column of text, packed or not.
#[derive(Clone, Copy)]
pub enum Text<'a> {
    /// A value in each row.
    Plain(&'a StringArray),
    /// A number in each row, and the values that they stand for (in a dictionary of somebody else one of them may be null).
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
            Self::Plain(values) => text_of(values, row),
            Self::Packed(numbers, values) if numbers.is_valid(row) => text_of(values, usize::from(numbers.value(row))),
            Self::Packed(..) => None,
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
                        *known[number].get_or_insert_with(|| of(text_of(values, number)))
                    } else {
                        *null.get_or_insert_with(|| of(None))
                    });
                }
            }
        }
    }
}

#[inline]
fn text_of(values: &StringArray, at: usize) -> Option<&str> {
    values.is_valid(at).then(|| values.value(at))
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
    fn equal_items_have_one_number() {
        let items: Vec<u32> = (0..1000).map(|i| i % 7 * 1000).collect();
        let (numbers, distinct) = numbered(&items).unwrap();
        assert_eq!(distinct, [0, 1000, 2000, 3000, 4000, 5000, 6000]);
        assert!(items.iter().zip(&numbers).all(|(item, n)| distinct[usize::from(*n)] == *item));
        assert!(numbered(&(0..1000).collect::<Vec<_>>()).is_none());
        assert!(numbered(&(0..200_000).map(|i| i % 66_000).collect::<Vec<_>>()).is_none());
        assert_eq!(numbered(&[]), Some((vec![], vec![])));
    }

    #[test]
    fn a_null_among_the_values_is_null() {
        let numbers = UInt16Array::from(vec![Some(0), Some(1), None, Some(2)]);
        let values = StringArray::from(vec![Some("a"), None, Some("")]);
        let column = DictionaryArray::<UInt16Type>::new(numbers, Arc::new(values));
        let text = Text::of(&column).unwrap();
        let texts = [Some("a"), None, None, Some("")];
        assert_eq!((0..4).map(|row| text.get(row)).collect::<Vec<_>>(), texts);
        let mut mapped = vec![];
        text.map(|t| t, |t| mapped.push(t));
        assert_eq!(mapped, texts);
    }

    #[test]
    fn a_place_beyond_the_values_is_refused() {
        let values = |n: usize| StringArray::from_iter_values((0..n).map(|i| i.to_string()));
        for rows in [0, 1, 7, 8, 9, 40] {
            let numbers: Vec<u16> = (0..rows).map(|row| row % 5).collect();
            let last = usize::from(rows.clamp(1, 5));
            let column = of(numbers.clone(), None, values(last)).unwrap();
            let text = Text::of(&column).unwrap();
            assert!((0..rows).all(|row| text.get(usize::from(row)) == Some((row % 5).to_string().as_str())));
            column.to_data().validate_full().unwrap();
            assert_eq!(of(numbers.clone(), None, values(last - 1)).is_err(), rows > 0);
            // Where a row is null its number does not count.
            let nulls = NullBuffer::from_iter(numbers.iter().map(|n| usize::from(*n) + 1 < last));
            let column = of(numbers, Some(nulls), values(last - 1)).unwrap();
            assert!(
                (0..rows).all(|row| Text::of(&column).unwrap().get(usize::from(row)).is_some()
                    == (usize::from(row % 5) + 1 < last))
            );
        }
        assert!(of(vec![u16::MAX, 0], None, values(usize::from(u16::MAX))).is_err());
    }

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
        let chosen = BooleanArray::from(vec![true, false, true, true]);
        let rows = Rows::new(both.clone(), Some(chosen)).unwrap();
        assert_eq!((rows.len(), Text::of(&rows.column(1).unwrap()).unwrap().get(1)), (3, Some("bb")));
        let pieces: Vec<_> = rows.cut(3).map(|piece| unpack(&schema, &piece.packed().unwrap()).unwrap()).collect();
        assert_eq!(pieces.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(pieces[0].column(1).as_string::<i32>().value(1), "bb");
        assert!(Rows::new(both, Some(BooleanArray::from(vec![true]))).is_err());
        let repeated = repeated("t", 3).unwrap();
        assert_eq!(Text::of(&repeated).unwrap().get(2), Some("t"));
    }
}
