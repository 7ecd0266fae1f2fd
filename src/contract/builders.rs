//! Column builders whose rows can be taken back: what a row has put in goes again when the row turns out to be no good.
//! A column that a row says nothing of is not touched; the nulls are filled in when something comes, or at the end.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, Field};

use super::columns::{ColumnType, fields};
use super::text::{Habit, TextBuilder};
use crate::error::{Error, Result};
use crate::packed;

/// A column that is being built.
#[derive(Debug)]
pub struct Builder {
    /// How many rows there are.
    pub(super) len: usize,
    /// Runs of nulls: first row, and the row after the last.
    nulls: Vec<(usize, usize)>,
    /// The values.
    pub data: Values,
}

/// The values of a column that is being built.
#[derive(Debug)]
pub enum Values {
    /// Booleans.
    Boolean(Vec<bool>),
    /// Integers.
    Int64(Vec<i64>),
    /// Floats.
    Float64(Vec<f64>),
    /// Decimals.
    Decimal(Vec<i128>, u8, u8),
    /// Microseconds.
    Timestamp(Vec<i64>),
    /// Text, and JSON text.
    Text(TextBuilder),
    /// Fields, which have the rows of their struct.
    Struct(Vec<Builder>, ColumnType),
    /// Where the items of each row end, and the items, which have rows of their own.
    List(Vec<i32>, Box<Builder>, ColumnType),
}

impl Builder {
    /// An empty column.
    pub fn new(kind: &ColumnType) -> Self {
        let data = match kind {
            ColumnType::Boolean => Values::Boolean(Vec::new()),
            ColumnType::Int64 => Values::Int64(Vec::new()),
            ColumnType::Float64 => Values::Float64(Vec::new()),
            ColumnType::Decimal(precision, scale) => Values::Decimal(Vec::new(), *precision, *scale),
            ColumnType::Text | ColumnType::Json => Values::Text(TextBuilder::default()),
            ColumnType::Timestamp => Values::Timestamp(Vec::new()),
            ColumnType::Struct(columns) => {
                Values::Struct(columns.iter().map(|c| Builder::new(&c.kind)).collect(), kind.clone())
            }
            ColumnType::List(item) => Values::List(vec![0], Box::new(Builder::new(item)), kind.clone()),
        };
        Self { len: 0, nulls: Vec::new(), data }
    }

    /// An empty column of about so many rows; text is packed while that pays.
    pub fn packed(kind: &ColumnType, rows: usize, seed: u64, habit: &Habit) -> Self {
        let data = match kind {
            ColumnType::Text | ColumnType::Json => Values::Text(TextBuilder::packed(rows, seed, habit)),
            // In the end there is a value for each row, null or not.
            ColumnType::Int64 => Values::Int64(Vec::with_capacity(rows)),
            ColumnType::Float64 => Values::Float64(Vec::with_capacity(rows)),
            ColumnType::Decimal(precision, scale) => Values::Decimal(Vec::with_capacity(rows), *precision, *scale),
            ColumnType::Timestamp => Values::Timestamp(Vec::with_capacity(rows)),
            ColumnType::Boolean => Values::Boolean(Vec::with_capacity(rows)),
            ColumnType::Struct(_) | ColumnType::List(_) => Self::new(kind).data,
        };
        Self { len: 0, nulls: Vec::with_capacity(habit.nulls(rows)), data }
    }

    /// An empty column of about so many rows of text that hardly ever repeats.
    pub fn plain(rows: usize, habit: &Habit) -> Self {
        Self { len: 0, nulls: Vec::new(), data: Values::Text(TextBuilder::plain(rows, habit)) }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills up with nulls, so that the next value is that of `row`.
    #[inline(always)]
    pub fn reach(&mut self, row: usize) {
        if self.len < row {
            self.fill(row);
        }
    }

    #[inline(never)]
    fn fill(&mut self, row: usize) {
        let from = self.len;
        match self.nulls.last_mut() {
            Some(run) if run.1 == from => run.1 = row,
            _ => self.nulls.push((from, row)),
        }
        self.len = row;
        match &mut self.data {
            Values::Boolean(v) => v.resize(row, false),
            Values::Int64(v) | Values::Timestamp(v) => v.resize(row, 0),
            Values::Float64(v) => v.resize(row, 0.0),
            Values::Decimal(v, ..) => v.resize(row, 0),
            Values::Text(text) => text.fill(row),
            Values::List(offsets, ..) => {
                let last = offsets.last().copied().unwrap_or(0);
                offsets.resize(row + 1, last);
            }
            Values::Struct(..) => {}
        }
    }

    /// Makes `row` null.
    #[inline]
    pub fn null(&mut self, row: usize) {
        self.reach(row + 1);
    }

    /// Puts an integer, or microseconds.
    #[inline(always)]
    pub fn int(&mut self, row: usize, value: i64) {
        self.reach(row);
        if let Values::Int64(v) | Values::Timestamp(v) = &mut self.data {
            v.push(value);
            self.len += 1;
        }
    }

    /// Puts a float.
    #[inline]
    pub fn float(&mut self, row: usize, value: f64) {
        self.reach(row);
        if let Values::Float64(v) = &mut self.data {
            v.push(value);
            self.len += 1;
        }
    }

    /// Puts a decimal.
    #[inline]
    pub fn decimal(&mut self, row: usize, value: i128) {
        self.reach(row);
        if let Values::Decimal(v, ..) = &mut self.data {
            v.push(value);
            self.len += 1;
        }
    }

    /// Puts a boolean.
    #[inline]
    pub fn boolean(&mut self, row: usize, value: bool) {
        self.reach(row);
        if let Values::Boolean(v) = &mut self.data {
            v.push(value);
            self.len += 1;
        }
    }

    /// Puts a text.
    #[inline]
    pub fn text(&mut self, row: usize, value: &[u8]) {
        self.reach(row);
        if let Values::Text(text) = &mut self.data {
            text.push(value);
            self.len += 1;
        }
    }

    /// Puts the text that stands from one place of another to the next.
    #[inline]
    pub fn text_part(&mut self, row: usize, text: &[u8], from: usize, to: usize) {
        self.reach(row);
        if let Values::Text(column) = &mut self.data {
            column.push_part(text, from, to);
            self.len += 1;
        }
    }

    /// Puts a text whose first bytes are at hand ([`super::text::head_of`]).
    #[inline]
    pub fn text_with_head(&mut self, row: usize, value: &[u8], head: u128) {
        self.reach(row);
        if let Values::Text(text) = &mut self.data {
            let found = text.find(value, head);
            text.push_found(found, 0, value, head);
            self.len += 1;
        }
    }

    /// Puts a text that is the one that was given this number, if the column still knows it so; gives its number.
    #[inline]
    pub fn text_again(&mut self, row: usize, number: u16, value: &[u8]) -> u16 {
        self.reach(row);
        let Values::Text(text) = &mut self.data else { return 0 };
        self.len += 1;
        text.push_again(number, value)
    }

    /// Puts a text that `write` appends to what it is given.
    #[inline]
    pub fn text_with(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let written: Result<(), std::convert::Infallible> = self.try_text_with(row, |out| {
            write(out);
            Ok(())
        });
        match written {
            Ok(()) => {}
        }
    }

    /// Puts a text that `write` appends to what it is given; when it fails the row has to be taken back.
    #[inline]
    pub fn try_text_with<E>(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        self.reach(row);
        if let Values::Text(text) = &mut self.data {
            text.push_with(write)?;
            self.len += 1;
        }
        Ok(())
    }

    /// Makes the struct of `row` not null; its fields take their values themselves.
    #[inline]
    pub fn present(&mut self, row: usize) {
        self.reach(row);
        self.len += 1;
    }

    /// Ends the list of `row` after the items put into the items' builder.
    #[inline]
    pub fn end_list(&mut self, row: usize) {
        self.reach(row);
        if let Values::List(offsets, items, _) = &mut self.data {
            offsets.push(items.len() as i32);
            self.len += 1;
        }
    }

    /// Takes back everything from `row` on.
    pub fn truncate(&mut self, row: usize) {
        if self.len > row {
            self.len = row;
            while let Some(run) = self.nulls.last_mut() {
                if run.1 <= row {
                    break;
                }
                run.1 = row;
                if run.0 >= row {
                    self.nulls.pop();
                }
            }
        }
        match &mut self.data {
            Values::Boolean(v) => v.truncate(row),
            Values::Int64(v) | Values::Timestamp(v) => v.truncate(row),
            Values::Float64(v) => v.truncate(row),
            Values::Decimal(v, ..) => v.truncate(row),
            Values::Text(text) => text.truncate(row),
            Values::Struct(fields, _) => fields.iter_mut().for_each(|f| f.truncate(row)),
            Values::List(offsets, items, _) => {
                offsets.truncate(row + 1);
                items.truncate(offsets.last().map_or(0, |end| *end as usize));
            }
        }
    }

    /// The finished column of `rows` rows.
    ///
    /// # Errors
    /// [`Error::Data`] when its text comes to more than 2 GiB.
    pub fn finish(self, rows: usize) -> Result<ArrayRef> {
        self.finish_with(rows, None)
    }

    /// The same, but packed where that pays; `habit` is told what it was like.
    ///
    /// # Errors
    /// As [`Builder::finish`].
    pub fn finish_with(mut self, rows: usize, habit: Option<&Habit>) -> Result<ArrayRef> {
        self.reach(rows);
        let nulls = null_buffer(&self.nulls, rows);
        let runs = habit.map(|_| self.nulls.as_slice());
        if let Some(habit) = habit {
            habit.tell_nulls(self.nulls.len());
        }
        Ok(match self.data {
            Values::Boolean(v) => Arc::new(BooleanArray::new(BooleanBuffer::from(v), nulls)),
            Values::Int64(v) => {
                let of = |v, nulls| Ok(Int64Array::try_new(v, nulls)?);
                let mostly_null = runs.is_none_or(|runs| packed::mostly_null(rows, runs));
                match if mostly_null { None } else { packed::repeating(&v) } {
                    Some((numbers, values)) => packed::of(numbers, nulls, of(values.into(), None)?)?,
                    None => numbers(v, runs, nulls, of)?,
                }
            }
            Values::Float64(v) => numbers(v, runs, nulls, |v, nulls| Ok(Float64Array::try_new(v, nulls)?))?,
            Values::Timestamp(v) => numbers(v, runs, nulls, |v, nulls| {
                Ok(TimestampMicrosecondArray::try_new(v, nulls)?.with_timezone("UTC"))
            })?,
            Values::Decimal(v, precision, scale) => numbers(v, runs, nulls, |v, nulls| {
                Ok(Decimal128Array::try_new(v, nulls)?.with_precision_and_scale(precision, scale as i8)?)
            })?,
            Values::Text(text) => text.finish(nulls, habit)?,
            Values::Struct(builders, kind) => {
                let ColumnType::Struct(columns) = &kind else { return Err(Error::Internal("no struct".into())) };
                let arrays: Vec<ArrayRef> = builders.into_iter().map(|b| b.finish(rows)).collect::<Result<_>>()?;
                Arc::new(StructArray::try_new(fields(columns), arrays, nulls)?)
            }
            Values::List(offsets, items, kind) => {
                let ColumnType::List(item) = &kind else { return Err(Error::Internal("no list".into())) };
                let count = items.len();
                too_long(count)?;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                let field = Arc::new(Field::new("item", item.arrow(), true));
                Arc::new(ListArray::try_new(field, offsets, items.finish(count)?, nulls)?)
            }
        })
    }
}

/// A column of numbers: packed where it is mostly null and may be packed (then `runs` tells where it is null).
fn numbers<T: ArrowNativeType, A: Array + 'static>(
    column: Vec<T>,
    runs: Option<&[(usize, usize)]>,
    nulls: Option<NullBuffer>,
    of: impl Fn(ScalarBuffer<T>, Option<NullBuffer>) -> Result<A>,
) -> Result<ArrayRef> {
    match runs.and_then(|runs| packed::sparse(&column, runs)) {
        Some((numbers, values)) => packed::of(numbers, nulls, of(values.into(), None)?),
        None => Ok(Arc::new(of(column.into(), nulls)?)),
    }
}

fn too_long(length: usize) -> Result<()> {
    if length > i32::MAX as usize {
        return Err(Error::Data("a column of one piece comes to more than 2 GiB; hand in fewer events at once".into()));
    }
    Ok(())
}

fn null_buffer(runs: &[(usize, usize)], rows: usize) -> Option<NullBuffer> {
    if runs.is_empty() {
        return None;
    }
    let mut bits = vec![0xffu8; rows.div_ceil(8)];
    for &(from, to) in runs {
        let mut at = from;
        while at < to {
            if at % 8 == 0 && to - at >= 8 {
                let bytes = (to - at) / 8;
                bits[at / 8..at / 8 + bytes].fill(0);
                at += bytes * 8;
            } else {
                bits[at / 8] &= !(1 << (at % 8));
                at += 1;
            }
        }
    }
    Some(NullBuffer::new(BooleanBuffer::new(bits.into(), 0, rows)))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int64Type;

    use super::super::columns::Column;
    use super::*;
    use crate::packed::plain_type;

    #[test]
    fn rows_can_be_taken_back() {
        let inner = ColumnType::Struct(vec![
            Column { name: "a".into(), kind: ColumnType::Int64 },
            Column { name: "b".into(), kind: ColumnType::Text },
        ]);
        let mut list = Builder::new(&ColumnType::List(Box::new(inner)));
        let put = |list: &mut Builder, row: usize, values: &[i64]| {
            list.reach(row);
            if let Values::List(_, items, _) = &mut list.data {
                for value in values {
                    let at = items.len();
                    items.present(at);
                    if let Values::Struct(fields, _) = &mut items.data {
                        fields[0].int(at, *value);
                        if value % 2 == 0 {
                            fields[1].text(at, value.to_string().as_bytes());
                        }
                    }
                }
            }
            list.end_list(row);
        };
        put(&mut list, 0, &[1, 2]);
        put(&mut list, 3, &[4]);
        put(&mut list, 4, &[5, 6, 7]);
        list.truncate(4);
        list.truncate(2);
        put(&mut list, 2, &[8]);
        let array = list.finish(5).unwrap();
        let array = array.as_list::<i32>();
        assert_eq!((0..5).map(|i| array.is_null(i)).collect::<Vec<_>>(), [false, true, false, true, true]);
        let items = array.values().as_struct();
        assert_eq!(items.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 8]);
        assert_eq!(items.column(1).as_string::<i32>().value(2), "8");
        assert!(items.column(1).is_null(0));
    }

    #[test]
    fn what_is_mostly_null_is_packed() {
        let decimal = ColumnType::Decimal(12, 2);
        for kind in [ColumnType::Int64, ColumnType::Float64, ColumnType::Timestamp, decimal] {
            let column = |step: usize, habit: Option<&Habit>| {
                let mut column = Builder::new(&kind);
                for row in (0..90).step_by(step) {
                    match kind {
                        ColumnType::Float64 => column.float(row, row as f64),
                        ColumnType::Decimal(..) => column.decimal(row, row as i128),
                        _ => column.int(row, row as i64),
                    }
                }
                // A row that was taken back leaves nothing.
                column.null(95);
                column.truncate(91);
                column.finish_with(100, habit).unwrap()
            };
            let habit = Habit::default();
            let packed = column(7, Some(&habit));
            assert_eq!(plain_type(packed.data_type()), &kind.arrow());
            assert_ne!(packed.data_type(), &kind.arrow());
            assert_eq!(packed.as_any_dictionary().values().len(), 13);
            assert_eq!(packed::plain(&packed).unwrap().as_ref(), &column(7, None));
            // Columns without a habit are not at the top level; one with more values than nulls stays as it is.
            assert_eq!(column(7, None).data_type(), &kind.arrow());
            assert_eq!(column(1, Some(&habit)).data_type(), &kind.arrow());
        }
        let repeating = |habit: Option<&Habit>| {
            let mut column = Builder::new(&ColumnType::Int64);
            (0..100).filter(|row| row % 9 != 0).for_each(|row| column.int(row, row as i64 % 5));
            column.finish_with(100, habit).unwrap()
        };
        let packed = repeating(Some(&Habit::default()));
        assert_eq!(packed.as_any_dictionary().values().len(), 5);
        assert_eq!(packed::plain(&packed).unwrap().as_ref(), &repeating(None));
    }

    #[test]
    fn long_runs_of_nulls_are_null() {
        let mut column = Builder::new(&ColumnType::Int64);
        column.int(3, 1);
        column.int(40, 2);
        column.null(41);
        let array = column.finish(43).unwrap();
        for row in 0..43 {
            assert_eq!(array.is_valid(row), row == 3 || row == 40, "{row}");
        }
    }
}
