//! Columns whose values repeat, or are mostly null, as they travel through the engine: each value once a batch, and a number
//! of 16 bits for each row.
//!
//! Most columns of events have few distinct values among the thousands of rows of a piece. Packed, such a column of text is
//! a fifth as large, is filtered by its numbers alone, and lets every later stage do its work once a value and not once a
//! row. A number that only some types of events have takes two bytes where it is null, not eight or sixteen. A packed batch
//! has the columns of its plain schema by name, place and nullability; which of them are packed may differ from batch to
//! batch. Nothing outside the engine sees it: files, state and Python have plain columns.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, RecordBatch, StringArray, UInt16Array};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use arrow::compute::{FilterBuilder, cast};
use arrow::datatypes::{DataType, FieldRef, Schema, UInt16Type};

use crate::error::{Error, Result};

/// The type of a packed column of text.
pub fn packed_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8))
}

/// Whether a column is packed text.
pub fn is_packed(kind: &DataType) -> bool {
    *plain_type(kind) == DataType::Utf8 && *kind != DataType::Utf8
}

/// The type of a column when it is plain.
pub fn plain_type(kind: &DataType) -> &DataType {
    match kind {
        DataType::Dictionary(key, value) if **key == DataType::UInt16 => value,
        plain => plain,
    }
}

thread_local! {
    /// Plain fields and what they are packed, by where the plain ones lie (which each holds on to): batch after batch has
    /// the same.
    static PACKED_FIELDS: RefCell<HashMap<usize, (FieldRef, FieldRef)>> = RefCell::default();
}

/// So many packed fields are remembered, at most.
const FIELDS_REMEMBERED: usize = 4_096;

/// A field whose values are packed.
fn packed_field(plain: &FieldRef, kind: &DataType) -> FieldRef {
    PACKED_FIELDS.with_borrow_mut(|known| {
        let at = Arc::as_ptr(plain).addr();
        if let Some((_, packed)) = known.get(&at) {
            return Arc::clone(packed);
        }
        if known.len() >= FIELDS_REMEMBERED {
            known.clear();
        }
        let packed = Arc::new(plain.as_ref().clone().with_data_type(kind.clone()));
        known.insert(at, (Arc::clone(plain), Arc::clone(&packed)));
        packed
    })
}

/// A batch of these columns, whose schema is the plain one but for the columns that come packed.
///
/// # Errors
/// When the columns are not those of the schema.
pub fn batch(plain: &Schema, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let fields = plain.fields().iter().zip(&columns).map(|(field, column)| {
        let kind = column.data_type();
        if field.data_type() != kind && field.data_type() == plain_type(kind) {
            packed_field(field, kind)
        } else {
            Arc::clone(field)
        }
    });
    let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), plain.metadata().clone());
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

/// The batch with every column plain that the schema has as such.
///
/// # Errors
/// When the columns are not those of the schema, or the text of one comes to more than 2 GiB.
pub fn unpack(plain: &Arc<Schema>, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = plain.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let kind = column.data_type();
        Ok(if field.data_type() != kind && field.data_type() == plain_type(kind) {
            cast(column, field.data_type())?
        } else {
            Arc::clone(column)
        })
    });
    Ok(RecordBatch::try_new(Arc::clone(plain), columns.collect::<Result<Vec<_>>>()?)?)
}

/// The schema of a batch whose packed columns are made plain.
pub fn plain_schema(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        let kind = plain_type(field.data_type());
        if kind == field.data_type() {
            Arc::clone(field)
        } else {
            Arc::new(field.as_ref().clone().with_data_type(kind.clone()))
        }
    });
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

/// A batch of the engine with every column plain.
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
pub fn of(numbers: Vec<u16>, nulls: Option<NullBuffer>, values: impl Array + 'static) -> Result<ArrayRef> {
    let highest = numbers.iter().fold(0, |highest, number| (*number).max(highest));
    let numbers = UInt16Array::try_new(if highest == 0 { zeros(numbers) } else { numbers.into() }, nulls)?;
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

/// So many zeros are kept for all columns that have one value, or none.
const ZEROS: usize = 1 << 15;

/// Numbers that are all 0, which many columns share.
fn zeros(numbers: Vec<u16>) -> ScalarBuffer<u16> {
    static SHARED: LazyLock<Buffer> = LazyLock::new(|| Buffer::from_vec(vec![0u16; ZEROS]));
    if numbers.len() > ZEROS { numbers.into() } else { ScalarBuffer::new(SHARED.clone(), 0, numbers.len()) }
}

fn nulls_of(runs: &[(usize, usize)]) -> usize {
    runs.iter().map(|(from, to)| to - from).sum()
}

/// Whether half of the rows are null, and there is one at all: what is never null stays plain in a batch without rows, too.
pub fn mostly_null(rows: usize, runs: &[(usize, usize)]) -> bool {
    let nulls = nulls_of(runs);
    nulls > 0 && nulls * 2 >= rows
}

/// The numbers and the values of a column that is mostly null; none when it is not, or has more values than there are
/// numbers, or is empty. `runs`: where it is null, first row and the row after the last.
pub fn sparse<T: Copy>(column: &[T], runs: &[(usize, usize)]) -> Option<(Vec<u16>, Vec<T>)> {
    let count = column.len() - nulls_of(runs);
    if !mostly_null(column.len(), runs) || count > usize::from(u16::MAX) {
        return None;
    }
    let mut numbers = vec![0; column.len()];
    let mut values = Vec::with_capacity(count);
    let mut from = 0;
    for (null, next) in runs.iter().copied().chain([(column.len(), column.len())]) {
        for (number, place) in numbers[from..null].iter_mut().zip(values.len()..) {
            *number = place as u16;
        }
        values.extend_from_slice(&column[from..null]);
        from = next;
    }
    Some((numbers, values))
}

/// The same of whole numbers that repeat: none when they hardly do.
pub fn repeating(column: &[i64]) -> Option<(Vec<u16>, Vec<i64>)> {
    // Beyond that they would take more than half of what they take as they are.
    let most = usize::from(u16::MAX).min(column.len() / 4);
    if most == 0 {
        return None;
    }
    let slots = (most * 2).next_power_of_two().max(16);
    let mut table: Vec<u16> = vec![u16::MAX; slots];
    let mut values: Vec<i64> = Vec::new();
    let mut numbers = Vec::with_capacity(column.len());
    for value in column {
        let mut at = (*value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 32;
        // Numbers that somebody has chosen to collide are not worth a long search.
        let mut tries = 0..32;
        let number = loop {
            tries.next()?;
            at &= slots - 1;
            match table[at] {
                u16::MAX if values.len() >= most => return None,
                u16::MAX => {
                    table[at] = values.len() as u16;
                    values.push(*value);
                    break table[at];
                }
                known if values[usize::from(known)] == *value => break known,
                _ => at += 1,
            }
        };
        numbers.push(number);
    }
    values.shrink_to_fit();
    Some((numbers, values))
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

/// A packed column as a plain one; any other column as it is.
///
/// # Errors
/// When its text comes to more than 2 GiB.
pub fn plain(column: &ArrayRef) -> Result<Cow<'_, ArrayRef>> {
    let kind = plain_type(column.data_type());
    if kind == column.data_type() {
        return Ok(Cow::Borrowed(column));
    }
    Ok(Cow::Owned(cast(column, kind)?))
}

#[cfg(test)]
mod tests;
