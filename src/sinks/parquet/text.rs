//! A column of text or bytes, encoded.
//!
//! Most columns of events are text, and the general writer of the `parquet` crate hashes and compares every value
//! several times. This one numbers values as they come, compares each distinct value of a page once for the statistics,
//! and writes the same kinds of pages: a dictionary while it pays, PLAIN otherwise. It covers columns at the top level;
//! nested ones take the general way. Where pages end follows from the rows alone.

use std::cell::RefCell;

use arrow::array::{Array, ArrayAccessor, AsArray, BooleanBufferBuilder, DictionaryArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, UInt16Type};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType, Type, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use zstd::zstd_safe::CParameter;

use super::bounds::{lower_bound, upper_bound};
use super::interner::Interner;
use super::levels;
use crate::error::{Error, Result};
use crate::packed::is_packed;

/// At level 1 the compressor's table is this (a power of two): half of zstd's own choice fits the innermost cache, is 7 %
/// faster, and makes events no larger.
const FAST_TABLE: u32 = 13;

/// Whether a column can be written here.
pub(super) fn covers(kind: &DataType) -> bool {
    use DataType as T;
    matches!(kind, T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView)
}

/// How a column is to be written.
#[derive(Debug, Clone)]
pub(super) struct TextOptions {
    pub level: i32,
    /// Whether a dictionary is tried.
    pub dictionary: bool,
    /// Whether a minimum and maximum are kept.
    pub statistics: bool,
    /// Rows of a page.
    pub page_rows: usize,
    /// Bytes of a page of PLAIN values, about.
    pub page_bytes: usize,
    /// A dictionary beyond this is closed, and the rest written PLAIN.
    pub dictionary_bytes: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            level: 1,
            dictionary: true,
            statistics: true,
            page_rows: 32 << 10,
            page_bytes: 1 << 20,
            dictionary_bytes: 4 << 20,
        }
    }
}

/// The encoder of one column, for one row group after the other.
pub(super) struct TextColumn {
    column: ColumnDescPtr,
    options: TextOptions,
    nullable: bool,
    utf8: bool,
    interner: Interner,
    /// Whether the values of the page that has begun are held as numbers; else they lie in `plain`.
    by_number: bool,
    numbers: Vec<u32>,
    /// For each number the last page that it was seen in.
    seen: Vec<u32>,
    /// Values with their lengths, after some room for the levels of a page without nulls.
    plain: Vec<u8>,
    plain_values: usize,
    /// Where the lowest and the highest value lie in `plain`.
    plain_bounds: Option<(Span, Span)>,
    valid: BooleanBufferBuilder,
    scratch: Vec<u8>,
    chunk: Chunk,
}

/// A value that has no number yet.
const UNKNOWN: u32 = u32::MAX;

/// Where a value begins and ends.
type Span = (usize, usize);

/// Room for the definition levels of a page without nulls.
const ROOM: usize = 16;

/// What is finished of a column chunk.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Of each page: bytes with the header, rows.
    pages: Vec<(usize, usize)>,
    index: Option<ColumnIndexBuilder>,
    bounds: Option<(Vec<u8>, Vec<u8>)>,
    rows: usize,
    nulls: usize,
    uncompressed: usize,
    numbered_pages: i32,
}

impl TextColumn {
    pub(super) fn new(column: ColumnDescPtr, kind: &DataType, options: TextOptions) -> Self {
        Self {
            nullable: column.max_def_level() > 0,
            utf8: matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
            interner: Interner::new(),
            by_number: options.dictionary,
            numbers: Vec::new(),
            seen: Vec::new(),
            plain: vec![0; ROOM],
            plain_values: 0,
            plain_bounds: None,
            valid: BooleanBufferBuilder::new(0),
            scratch: Vec::new(),
            chunk: Chunk::default(),
            column,
            options,
        }
    }

    /// About how many bytes the column chunk has.
    pub(super) fn bytes(&self) -> usize {
        let open = self.plain.len() + self.numbers.len() + self.interner.page().len();
        self.chunk.bytes.len() + open
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
            DataType::Utf8 => self.write_values(array, array.as_string::<i32>()),
            DataType::LargeUtf8 => self.write_values(array, array.as_string::<i64>()),
            DataType::Utf8View => self.write_values(array, array.as_string_view()),
            DataType::Binary => self.write_values(array, array.as_binary::<i32>()),
            DataType::LargeBinary => self.write_values(array, array.as_binary::<i64>()),
            DataType::BinaryView => self.write_values(array, array.as_binary_view()),
            kind if is_packed(kind) => self.write_packed(array.as_dictionary()),
            other => Err(Error::Data(format!("column '{}' came as {other}", self.column.name()))),
        }
    }

    /// The same as for plain text, value for value; but each distinct value is looked up once.
    fn write_packed(&mut self, array: &DictionaryArray<UInt16Type>) -> Result<()> {
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        let (numbers, values) = (array.keys().values(), array.values().as_string::<i32>());
        // Where the dictionary of the row group has each value; those that no row has get no number.
        let mut known: Vec<u32> = vec![UNKNOWN; values.len()];
        let mut row = 0;
        while row < array.len() {
            let begun = row;
            let stop = row + (self.options.page_rows - self.valid.len()).min(array.len() - row);
            if self.by_number {
                while row < stop && self.interner.page().len() <= self.options.dictionary_bytes {
                    if nulls.is_none_or(|n| n.is_valid(row)) {
                        let value = usize::from(numbers[row]);
                        if known[value] == UNKNOWN {
                            known[value] = self.interner.intern(values.value(value).as_bytes());
                        }
                        self.numbers.push(known[value]);
                    }
                    row += 1;
                }
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
            }
        }
        Ok(())
    }

    fn append_valid(&mut self, nulls: Option<&NullBuffer>, from: usize, to: usize) {
        match nulls {
            None => self.valid.append_n(to - from, true),
            Some(nulls) => self.valid.append_buffer(&nulls.inner().slice(from, to - from)),
        }
    }

    fn write_values<A: ArrayAccessor<Item: AsRef<[u8]>>>(&mut self, array: &dyn Array, values: A) -> Result<()> {
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        let mut row = 0;
        while row < array.len() {
            let begun = row;
            let stop = row + (self.options.page_rows - self.valid.len()).min(array.len() - row);
            if self.by_number {
                while row < stop && self.interner.page().len() <= self.options.dictionary_bytes {
                    if nulls.is_none_or(|n| n.is_valid(row)) {
                        let value = values.value(row);
                        self.numbers.push(self.interner.intern(value.as_ref()));
                    }
                    row += 1;
                }
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
        self.plain.extend_from_slice(&(value.len() as u32).to_le_bytes());
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
        self.plain_values += 1;
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
        let values = if self.by_number { self.numbers.len() } else { self.plain_values };
        let nulls = rows - values;
        self.keep_bounds(nulls);

        // A dictionary of values that are mostly new would only be in the way.
        let mostly_new = self.interner.len() > 1024 && self.interner.len() * 2 > values;
        if self.by_number && self.chunk.pages.is_empty() && mostly_new {
            for number in &self.numbers {
                self.plain.extend_from_slice(self.interner.plain(*number));
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
            self.chunk.numbered_pages += 1;
            (self.scratch.as_slice(), Encoding::RLE_DICTIONARY)
        } else if let Some(room) = ROOM.checked_sub(self.scratch.len()) {
            self.plain[room..ROOM].copy_from_slice(&self.scratch);
            (&self.plain[room..], Encoding::PLAIN)
        } else {
            self.scratch.extend_from_slice(&self.plain[ROOM..]);
            (self.scratch.as_slice(), Encoding::PLAIN)
        };
        let (size, uncompressed) = put_page(&mut self.chunk.bytes, self.options.level, page, |buf| Page::DataPage {
            buf,
            num_values: rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        })?;
        self.chunk.pages.push((size, rows));
        self.chunk.uncompressed += uncompressed;
        self.chunk.rows += rows;
        self.chunk.nulls += nulls;
        self.numbers.clear();
        self.plain.truncate(ROOM);
        (self.plain_values, self.plain_bounds) = (0, None);
        Ok(())
    }

    /// Keeps the lowest and the highest value of the page that ends, for the index and for the chunk.
    fn keep_bounds(&mut self, nulls: usize) {
        if !self.options.statistics {
            return;
        }
        let bounds = if self.by_number {
            let page = self.chunk.pages.len() as u32 + 1;
            self.seen.resize(self.interner.len(), 0);
            let mut bounds: Option<(&[u8], &[u8])> = None;
            for number in &self.numbers {
                if std::mem::replace(&mut self.seen[*number as usize], page) != page {
                    let value = self.interner.value(*number);
                    bounds = Some(bounds.map_or((value, value), |(min, max)| (min.min(value), max.max(value))));
                }
            }
            bounds
        } else {
            self.plain_bounds.map(|(min, max)| (&self.plain[min.0..min.1], &self.plain[max.0..max.1]))
        };
        let index = self.chunk.index.get_or_insert_with(|| ColumnIndexBuilder::new(Type::BYTE_ARRAY));
        let Some((min, max)) = bounds else { return index.append(true, Vec::new(), Vec::new(), nulls as i64) };
        let (lower, upper) = (lower_bound(min, self.utf8), upper_bound(max, self.utf8));
        index.append(false, lower.0, upper.0, nulls as i64);
        match &mut self.chunk.bounds {
            None => self.chunk.bounds = Some((min.to_vec(), max.to_vec())),
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
    pub(super) fn close(&mut self) -> Result<(Bytes, ColumnCloseResult)> {
        self.end_page()?;
        let chunk = std::mem::take(&mut self.chunk);
        let mut bytes = Vec::new();
        let mut uncompressed = chunk.uncompressed;
        let dictionary = chunk.numbered_pages > 0;
        if dictionary {
            let num_values = self.interner.len() as u32;
            let page = self.interner.page();
            let encoding = Encoding::PLAIN;
            uncompressed += put_page(&mut bytes, self.options.level, page, |buf| Page::DictionaryPage {
                buf,
                num_values,
                encoding,
                is_sorted: false,
            })?
            .1;
        }
        let first_page = bytes.len();
        bytes.extend_from_slice(&chunk.bytes);
        self.interner.clear();
        self.seen.clear();
        self.by_number = self.options.dictionary;

        let mut offsets = OffsetIndexBuilder::new();
        let mut offset = first_page;
        for (size, rows) in &chunk.pages {
            offsets.append_offset_and_size(offset as i64, *size as i32);
            offsets.append_row_count(*rows as i64);
            offset += size;
        }
        let plain_pages = chunk.pages.len() as i32 - chunk.numbered_pages;
        let mut encodings = vec![Encoding::RLE];
        let mut stats = Vec::new();
        let kinds = [
            (PageType::DICTIONARY_PAGE, Encoding::PLAIN, i32::from(dictionary)),
            (PageType::DATA_PAGE, Encoding::RLE_DICTIONARY, chunk.numbered_pages),
            (PageType::DATA_PAGE, Encoding::PLAIN, plain_pages),
        ];
        for (page_type, encoding, count) in kinds.into_iter().filter(|(.., count)| *count > 0) {
            stats.push(PageEncodingStats { page_type, encoding, count });
            if !encodings.contains(&encoding) {
                encodings.push(encoding);
            }
        }
        let mut metadata = ColumnChunkMetaData::builder(ColumnDescPtr::clone(&self.column))
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(self.options.level)?))
            .set_encodings(encodings)
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_num_values(chunk.rows as i64)
            .set_data_page_offset(first_page as i64)
            .set_dictionary_page_offset(dictionary.then_some(0));
        if self.options.statistics {
            metadata = metadata.set_statistics(self.statistics(chunk.bounds, chunk.nulls));
        }
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: chunk.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: chunk.index.map(ColumnIndexBuilder::build).transpose()?,
            offset_index: Some(offsets.build()),
        };
        Ok((bytes.into(), close))
    }

    fn statistics(&self, bounds: Option<(Vec<u8>, Vec<u8>)>, nulls: usize) -> Statistics {
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

/// Compresses a page and appends it with its header. How many bytes that are, and how many it would be uncompressed.
fn put_page(out: &mut Vec<u8>, level: i32, page: &[u8], make: impl FnOnce(Bytes) -> Page) -> Result<(usize, usize)> {
    let compressed = compress(level, page)?;
    let mut sink = TrackedWrite::new(out);
    let written = SerializedPageWriter::new(&mut sink).write_page(CompressedPage::new(make(compressed), page.len()))?;
    sink.into_inner()?;
    Ok((written.compressed_size, written.uncompressed_size))
}

thread_local! {
    /// A compressor's tables are large, and the same for every column.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
}

fn compress(level: i32, bytes: &[u8]) -> Result<Bytes> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let failed = |e: std::io::Error| Error::Internal(format!("a page cannot be compressed: {e}"));
        let compressor = match kept {
            Some((l, compressor)) if *l == level => compressor,
            none => {
                let mut compressor = zstd::bulk::Compressor::new(level).map_err(failed)?;
                if level == 1 {
                    compressor.set_parameter(CParameter::HashLog(FAST_TABLE)).map_err(failed)?;
                }
                &mut none.insert((level, compressor)).1
            }
        };
        Ok(compressor.compress(bytes).map_err(failed)?.into())
    })
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
