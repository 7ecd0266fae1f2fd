//! A column of text or bytes, encoded.
//!
//! Most columns of events are text, and the general writer of the `parquet` crate hashes and compares every value
//! several times. This one numbers values as they come, compares each distinct value of a page once for the statistics,
//! and writes a dictionary while it pays. Otherwise the lengths of the values stand before all of them
//! (DELTA_LENGTH_BYTE_ARRAY): keys that never repeat compress better, and in half the time, than with a length before each.
//! It covers columns at the top level; nested ones take the general way. Where pages end follows from the rows alone.

use arrow::array::{Array, ArrayAccessor, AsArray, BooleanBufferBuilder, DictionaryArray, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, UInt16Type};
use parquet::basic::Encoding;
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;

use super::bounds::{lower_bound, upper_bound};
use super::chunk::{Bounds, Chunk};
use super::interner::Interner;
use super::{delta, levels};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::packed::is_packed;

/// Whether a column can be written here.
pub(super) fn covers(kind: &DataType) -> bool {
    use DataType as T;
    matches!(kind, T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView)
}

/// How a column is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TextOptions {
    pub level: i32,
    /// Whether a dictionary is tried.
    pub dictionary: bool,
    /// Whether a minimum and maximum are kept.
    pub statistics: bool,
    /// Rows of a page.
    pub page_rows: usize,
    /// Bytes of a page of values without a dictionary, about.
    pub page_bytes: usize,
    /// A dictionary beyond this is closed, and the rest written without.
    pub dictionary_bytes: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            level: 1,
            dictionary: true,
            statistics: true,
            page_rows: super::PAGE_ROWS,
            page_bytes: 1 << 20,
            dictionary_bytes: 4 << 20,
        }
    }
}

/// The encoder of one column, for one row group after the other.
pub(super) struct TextColumn {
    pub(super) column: ColumnDescPtr,
    options: TextOptions,
    nullable: bool,
    utf8: bool,
    interner: Interner,
    /// Whether the values of the page that has begun are held as numbers; else they lie in `plain`.
    by_number: bool,
    numbers: Vec<u32>,
    /// For each number the last page that it was seen in.
    seen: Vec<u32>,
    /// The numbers of the page that has begun, each once.
    distinct: Vec<u32>,
    /// Of values that are numbered next.
    hashes: Vec<u64>,
    /// Values one behind the other, after some room for what stands before them in a page.
    plain: Vec<u8>,
    lengths: Vec<i32>,
    /// Where the lowest and the highest value lie in `plain`.
    plain_bounds: Option<(Span, Span)>,
    valid: BooleanBufferBuilder,
    scratch: Vec<u8>,
    chunk: Chunk,
    bounds: Option<Bounds>,
}

/// A value that has no number yet.
const UNKNOWN: u32 = u32::MAX;

/// So many values of a plain column are looked for at a time.
const AHEAD: usize = 32;

/// Where a value begins and ends.
type Span = (usize, usize);

/// Room for the definition levels of a page, and for lengths that hardly differ.
const ROOM: usize = 4 << 10;

impl TextColumn {
    pub(super) fn new(column: ColumnDescPtr, kind: &DataType, options: TextOptions) -> Self {
        Self {
            nullable: column.max_def_level() > 0,
            utf8: matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
            interner: Interner::new(),
            by_number: options.dictionary,
            numbers: Vec::new(),
            seen: Vec::new(),
            distinct: Vec::new(),
            hashes: Vec::new(),
            plain: vec![0; ROOM],
            lengths: Vec::new(),
            plain_bounds: None,
            valid: BooleanBufferBuilder::new(0),
            scratch: Vec::new(),
            chunk: Chunk::default(),
            bounds: None,
            column,
            options,
        }
    }

    /// About how many bytes the column chunk has.
    pub(super) fn bytes(&self) -> usize {
        let open = self.plain.len() + self.numbers.len() + self.interner.page().len();
        self.chunk.len() + open
    }

    /// Whether equal values become equal bytes in the other column.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.nullable, self.utf8, &self.options) == (other.nullable, other.utf8, &other.options)
    }

    /// Another column with the same values.
    pub(super) fn copy_for(&self, column: &ColumnDescPtr) -> Self {
        let mut valid = BooleanBufferBuilder::new(self.valid.capacity());
        valid.append_buffer(&self.valid.finish_cloned());
        Self {
            column: ColumnDescPtr::clone(column),
            options: self.options.clone(),
            interner: self.interner.clone(),
            numbers: self.numbers.clone(),
            seen: self.seen.clone(),
            distinct: self.distinct.clone(),
            hashes: Vec::new(),
            plain: self.plain.clone(),
            lengths: self.lengths.clone(),
            valid,
            scratch: Vec::new(),
            chunk: self.chunk.clone(),
            bounds: self.bounds.clone(),
            ..*self
        }
    }

    /// Adds the values of an array.
    pub(super) fn write(&mut self, array: &dyn Array) -> Result<()> {
        if !self.nullable && array.null_count() > 0 {
            return Err(Error::Data(format!("column '{}' has nulls and may not", self.column.name())));
        }
        // Parquet counts the length of a value in 31 bits; only these arrays can have a longer one.
        let offsets = match array.data_type() {
            DataType::LargeUtf8 => array.as_string::<i64>().value_offsets(),
            DataType::LargeBinary => array.as_binary::<i64>().value_offsets(),
            _ => &[],
        };
        if offsets.windows(2).any(|w| w[1] - w[0] > i64::from(i32::MAX)) {
            return Err(Error::Data(format!("column '{}' has a value of 2 GiB or more", self.column.name())));
        }
        match array.data_type() {
            DataType::Utf8 => {
                let values = array.as_string::<i32>();
                self.write_values(array, values, Some((values.value_offsets(), values.value_data())))
            }
            DataType::LargeUtf8 => self.write_values(array, array.as_string::<i64>(), None),
            DataType::Utf8View => self.write_values(array, array.as_string_view(), None),
            DataType::Binary => {
                let values = array.as_binary::<i32>();
                self.write_values(array, values, Some((values.value_offsets(), values.value_data())))
            }
            DataType::LargeBinary => self.write_values(array, array.as_binary::<i64>(), None),
            DataType::BinaryView => self.write_values(array, array.as_binary_view(), None),
            kind if is_packed(kind) => self.write_packed(array.as_dictionary()),
            other => Err(Error::Data(format!("column '{}' came as {other}", self.column.name()))),
        }
    }

    /// The same as for plain text, value for value; but each distinct value is looked up once a page.
    fn write_packed(&mut self, array: &DictionaryArray<UInt16Type>) -> Result<()> {
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        let (numbers, values) = (array.keys().values(), array.values().as_string::<i32>());
        // Where the dictionary of the row group has each value; those that no row of the page has get no number.
        let mut known: Vec<u32> = vec![UNKNOWN; values.len()];
        let mut row = 0;
        while row < array.len() {
            let begun = row;
            let stop = row + (self.options.page_rows - self.valid.len()).min(array.len() - row);
            if self.by_number {
                row += match nulls {
                    None => self.push_numbers(&numbers[row..stop], 0..stop - row, stop - row, values, &mut known),
                    Some(nulls) => {
                        let valid = nulls.inner().slice(row, stop - row);
                        let rows = valid.set_indices();
                        self.push_numbers(&numbers[row..stop], rows, stop - row, values, &mut known)
                    }
                };
            } else {
                while row < stop && self.plain.len() - ROOM < self.options.page_bytes {
                    if nulls.is_none_or(|n| n.is_valid(row)) {
                        self.push_plain(values.value(usize::from(numbers[row])).as_bytes());
                    }
                    row += 1;
                }
            }
            self.append_valid(nulls, begun, row);
            if row < stop || self.valid.len() == self.options.page_rows {
                self.end_page()?;
                known.fill(UNKNOWN);
            }
        }
        Ok(())
    }

    /// Takes packed values in until the dictionary is full: says how many of `all` rows that are.
    #[inline]
    fn push_numbers(
        &mut self,
        numbers: &[u16],
        rows: impl Iterator<Item = usize>,
        all: usize,
        values: &StringArray,
        known: &mut [u32],
    ) -> usize {
        if self.interner.page().len() > self.options.dictionary_bytes {
            return 0;
        }
        self.numbers.reserve(numbers.len());
        self.hashes.clear();
        self.hashes.extend(values.iter().map(|value| self.interner.hash(value.unwrap_or_default().as_bytes())));
        for row in rows {
            let value = usize::from(numbers[row]);
            let mut number = known[value];
            if number == UNKNOWN {
                number = self.number(values.value(value).as_bytes(), self.hashes[value]);
                known[value] = number;
                if self.interner.page().len() > self.options.dictionary_bytes {
                    self.numbers.push(number);
                    return row + 1;
                }
            }
            self.numbers.push(number);
        }
        all
    }

    /// The number of a value of the page that has begun.
    #[inline]
    fn number(&mut self, value: &[u8], hash: u64) -> u32 {
        let number = self.interner.intern(value, hash);
        if self.options.statistics {
            let page = self.chunk.pages() as u32 + 1;
            if self.seen.len() <= number as usize {
                self.seen.resize(number as usize + 1, 0);
            }
            if std::mem::replace(&mut self.seen[number as usize], page) != page {
                self.distinct.push(number);
            }
        }
        number
    }

    fn append_valid(&mut self, nulls: Option<&NullBuffer>, from: usize, to: usize) {
        match nulls {
            None => self.valid.append_n(to - from, true),
            Some(nulls) => self.valid.append_buffer(&nulls.inner().slice(from, to - from)),
        }
    }

    /// `whole`: where the values lie one behind the other, and all of them.
    fn write_values<A: ArrayAccessor<Item: AsRef<[u8]>>>(
        &mut self,
        array: &dyn Array,
        values: A,
        whole: Option<(&[i32], &[u8])>,
    ) -> Result<()> {
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        let whole = whole.filter(|_| nulls.is_none() && !self.options.statistics);
        let mut row = 0;
        while row < array.len() {
            let begun = row;
            let stop = row + (self.options.page_rows - self.valid.len()).min(array.len() - row);
            if self.by_number {
                while row < stop && self.interner.page().len() <= self.options.dictionary_bytes {
                    if (row - begun).is_multiple_of(AHEAD) {
                        self.hashes.clear();
                        // What lies in the place of a null may be nothing that can be read.
                        let there = |row: usize| nulls.is_none_or(|n| n.is_valid(row));
                        let hash = |row| if there(row) { self.interner.hash(values.value(row).as_ref()) } else { 0 };
                        self.hashes.extend((row..stop.min(row + AHEAD)).map(hash));
                    }
                    if nulls.is_none_or(|n| n.is_valid(row)) {
                        let value = values.value(row);
                        let number = self.number(value.as_ref(), self.hashes[(row - begun) % AHEAD]);
                        self.numbers.push(number);
                    }
                    row += 1;
                }
            } else if let Some((offsets, bytes)) = whole {
                let held = self.plain.len() - ROOM;
                let begins = |offset: &i32| held + ((offset - offsets[row]) as usize) < self.options.page_bytes;
                let end = row + offsets[row..stop].partition_point(begins);
                self.plain.extend_from_slice(&bytes[offsets[row] as usize..offsets[end] as usize]);
                self.lengths.extend(offsets[row..=end].windows(2).map(|w| w[1] - w[0]));
                row = end;
            } else {
                while row < stop && self.plain.len() - ROOM < self.options.page_bytes {
                    if nulls.is_none_or(|n| n.is_valid(row)) {
                        let value = values.value(row);
                        self.push_plain(value.as_ref());
                    }
                    row += 1;
                }
            }
            self.append_valid(nulls, begun, row);
            if row < stop || self.valid.len() == self.options.page_rows {
                self.end_page()?;
            }
        }
        Ok(())
    }

    #[inline]
    fn push_plain(&mut self, value: &[u8]) {
        self.lengths.push(value.len() as i32);
        if self.options.statistics {
            let span = (self.plain.len(), self.plain.len() + value.len());
            match &mut self.plain_bounds {
                None => self.plain_bounds = Some((span, span)),
                Some((min, _)) if value < &self.plain[min.0..min.1] => *min = span,
                Some((_, max)) if value > &self.plain[max.0..max.1] => *max = span,
                Some(_) => {}
            }
        }
        self.plain.extend_from_slice(value);
    }

    /// Closes the page that has begun.
    fn end_page(&mut self) -> Result<()> {
        if !self.valid.is_empty() {
            self.write_page()?;
        }
        if self.by_number && self.interner.page().len() > self.options.dictionary_bytes {
            self.by_number = false;
        }
        Ok(())
    }

    fn write_page(&mut self) -> Result<()> {
        let valid = self.valid.finish();
        let rows = valid.len();
        let values = if self.by_number { self.numbers.len() } else { self.lengths.len() };
        let nulls = rows - values;
        if self.options.statistics {
            self.keep_bounds(nulls);
        }

        // A dictionary of values that are mostly new would only be in the way.
        let mostly_new = self.interner.len() > 1024 && self.interner.len() * 2 > values;
        if self.by_number && self.chunk.pages() == 0 && mostly_new {
            for number in &self.numbers {
                let value = self.interner.value(*number);
                self.plain.extend_from_slice(value);
                self.lengths.push(value.len() as i32);
            }
            self.interner.clear();
            self.by_number = false;
        }

        self.scratch.clear();
        if self.nullable {
            levels::definition_levels(&valid, nulls, &mut self.scratch);
        }
        let (page, encoding) = if self.by_number {
            levels::numbers(&self.numbers, self.interner.len(), &mut self.scratch);
            (self.scratch.as_slice(), Encoding::RLE_DICTIONARY)
        } else {
            delta::narrow(&self.lengths, &mut self.scratch);
            if let Some(room) = ROOM.checked_sub(self.scratch.len()) {
                self.plain[room..ROOM].copy_from_slice(&self.scratch);
                (&self.plain[room..], Encoding::DELTA_LENGTH_BYTE_ARRAY)
            } else {
                self.scratch.extend_from_slice(&self.plain[ROOM..]);
                (self.scratch.as_slice(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
            }
        };
        self.chunk.page(self.options.level, encoding, page, rows, nulls)?;
        self.numbers.clear();
        self.distinct.clear();
        self.plain.truncate(ROOM);
        self.lengths.clear();
        self.plain_bounds = None;
        Ok(())
    }

    /// Keeps the lowest and the highest value of the page that ends, for the index and for the chunk.
    fn keep_bounds(&mut self, nulls: usize) {
        let bounds = if self.by_number {
            let values = self.distinct.iter().map(|number| self.interner.value(*number));
            values.fold(None, |bounds: Option<(&[u8], &[u8])>, value| {
                Some(bounds.map_or((value, value), |(min, max)| (min.min(value), max.max(value))))
            })
        } else {
            self.plain_bounds.map(|(min, max)| (&self.plain[min.0..min.1], &self.plain[max.0..max.1]))
        };
        let Some((min, max)) = bounds else { return self.chunk.describe(None, nulls) };
        self.chunk.describe(Some((lower_bound(min, self.utf8).0, upper_bound(max, self.utf8).0)), nulls);
        match &mut self.bounds {
            None => self.bounds = Some((min.to_vec(), max.to_vec())),
            Some((lowest, highest)) => {
                if min < lowest.as_slice() {
                    *lowest = min.to_vec();
                }
                if max > highest.as_slice() {
                    *highest = max.to_vec();
                }
            }
        }
    }

    /// The column chunk, and what the footer says of it. The next one can begin.
    pub(super) fn close(&mut self) -> Result<(Content, ColumnCloseResult)> {
        self.end_page()?;
        let chunk = std::mem::take(&mut self.chunk);
        let bounds = self.bounds.take();
        let statistics = self.options.statistics.then(|| self.statistics(bounds, chunk.nulls()));
        let dictionary = Some((self.interner.page(), self.interner.len()));
        let closed = chunk.close(&self.column, self.options.level, dictionary, statistics);
        self.interner.clear();
        self.seen.clear();
        self.by_number = self.options.dictionary;
        closed
    }

    fn statistics(&self, bounds: Option<Bounds>, nulls: usize) -> Statistics {
        let (lower, upper) = match &bounds {
            Some((min, max)) => (Some(lower_bound(min, self.utf8)), Some(upper_bound(max, self.utf8))),
            None => (None, None),
        };
        let (min_exact, max_exact) = (lower.as_ref().is_none_or(|l| l.1), upper.as_ref().is_none_or(|u| u.1));
        let value = |bound: Option<(Vec<u8>, bool)>| bound.map(|(bytes, _)| ByteArray::from(bytes));
        let statistics = ValueStatistics::new(value(lower), value(upper), None, Some(nulls as u64), false);
        Statistics::ByteArray(statistics.with_min_is_exact(min_exact).with_max_is_exact(max_exact))
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
