//! A column of whole numbers, times or decimals, encoded.
//!
//! The general writer of the `parquet` crate looks at each value several times. This one collects those of a page, keeps the
//! least and the greatest, and packs the differences from one to the next. Columns at the top level only, and none but
//! those that Parquet keeps in 32 or 64 bits.

use arrow::array::{Array, AsArray, BooleanBufferBuilder, DictionaryArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt16Type,
};
use parquet::basic::{BoundaryOrder, Encoding, Type};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;

use super::chunk::Chunk;
use super::{delta, levels};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::packed::plain_type;

/// Whether a column of this type, kept by Parquet in `physical`, can be written here.
pub(super) fn covers(kind: &DataType, physical: Type) -> bool {
    match kind {
        DataType::Int32 => physical == Type::INT32,
        DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _) => physical == Type::INT64,
        DataType::Decimal128(..) => physical == Type::INT64,
        _ => false,
    }
}

/// How a column is to be written.
#[derive(Debug, Clone)]
pub(super) struct NumberOptions {
    pub level: i32,
    /// Whether a minimum and maximum are kept.
    pub statistics: bool,
    /// Rows of a page.
    pub page_rows: usize,
}

/// The encoder of one column, for one row group after the other.
pub(super) struct NumberColumn {
    column: ColumnDescPtr,
    options: NumberOptions,
    nullable: bool,
    /// Whether Parquet keeps it in 32 bits.
    narrow: bool,
    /// The values of the page that has begun.
    values: Vec<i64>,
    valid: BooleanBufferBuilder,
    scratch: Vec<u8>,
    chunk: Chunk,
    bounds: Option<(i64, i64)>,
    /// The bounds of the last page that had a value, and whether those of all pages rise, or fall.
    last: Option<(i64, i64)>,
    rising: bool,
    falling: bool,
}

impl NumberColumn {
    pub(super) fn new(column: ColumnDescPtr, options: NumberOptions) -> Self {
        Self {
            nullable: column.max_def_level() > 0,
            narrow: column.physical_type() == Type::INT32,
            values: Vec::new(),
            valid: BooleanBufferBuilder::new(0),
            scratch: Vec::new(),
            chunk: Chunk::default(),
            bounds: None,
            last: None,
            rising: true,
            falling: true,
            column,
            options,
        }
    }

    /// About how many bytes the column chunk has.
    pub(super) fn bytes(&self) -> usize {
        self.chunk.len() + self.values.len() * 4
    }

    /// Adds the values of an array.
    pub(super) fn write(&mut self, array: &dyn Array) -> Result<()> {
        if !self.nullable && array.null_count() > 0 {
            return Err(Error::Data(format!("column '{}' has nulls and may not", self.column.name())));
        }
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        match array.data_type() {
            kind if plain_type(kind) != kind => self.write_packed(array.as_dictionary(), nulls),
            DataType::Int32 => self.extend(array.as_primitive::<Int32Type>().values(), nulls, i64::from),
            DataType::Int64 => self.extend(array.as_primitive::<Int64Type>().values(), nulls, |v| v),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                self.extend(array.as_primitive::<TimestampMicrosecondType>().values(), nulls, |v| v)
            }
            DataType::Decimal128(..) => {
                self.extend(array.as_primitive::<Decimal128Type>().values(), nulls, |v| v as i64)
            }
            other => Err(Error::Data(format!("column '{}' came as {other}", self.column.name()))),
        }
    }

    /// The same as for a plain column, value for value.
    fn write_packed(&mut self, array: &DictionaryArray<UInt16Type>, nulls: Option<&NullBuffer>) -> Result<()> {
        let (numbers, values) = (array.keys().values(), array.values());
        match values.data_type() {
            DataType::Int32 => {
                let values = values.as_primitive::<Int32Type>().values();
                self.extend(numbers, nulls, |n| i64::from(values[usize::from(n)]))
            }
            DataType::Int64 => {
                let values = values.as_primitive::<Int64Type>().values();
                self.extend(numbers, nulls, |n| values[usize::from(n)])
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let values = values.as_primitive::<TimestampMicrosecondType>().values();
                self.extend(numbers, nulls, |n| values[usize::from(n)])
            }
            DataType::Decimal128(..) => {
                let values = values.as_primitive::<Decimal128Type>().values();
                self.extend(numbers, nulls, |n| values[usize::from(n)] as i64)
            }
            other => Err(Error::Data(format!("column '{}' came as {other}", self.column.name()))),
        }
    }

    fn extend<T: Copy>(&mut self, values: &[T], nulls: Option<&NullBuffer>, of: impl Fn(T) -> i64) -> Result<()> {
        let mut from = 0;
        while from < values.len() {
            let rows = (self.options.page_rows - self.valid.len()).min(values.len() - from);
            let page = &values[from..from + rows];
            match nulls {
                None => {
                    self.values.extend(page.iter().map(|v| of(*v)));
                    self.valid.append_n(rows, true);
                }
                Some(nulls) => {
                    let valid = nulls.inner().slice(from, rows);
                    self.values.extend(valid.set_indices().map(|row| of(page[row])));
                    self.valid.append_buffer(&valid);
                }
            }
            from += rows;
            if self.valid.len() == self.options.page_rows {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Closes the page that has begun.
    fn end_page(&mut self) -> Result<()> {
        if self.valid.is_empty() {
            return Ok(());
        }
        let valid = self.valid.finish();
        let (rows, nulls) = (valid.len(), valid.len() - self.values.len());
        if self.options.statistics {
            self.keep_bounds(nulls);
        }
        self.scratch.clear();
        if self.nullable {
            levels::definition_levels(&valid, nulls, &mut self.scratch);
        }
        if self.narrow {
            delta::narrow(&self.values, &mut self.scratch);
        } else {
            delta::wide(&self.values, &mut self.scratch);
        }
        self.values.clear();
        self.chunk.page(self.options.level, Encoding::DELTA_BINARY_PACKED, &self.scratch, rows, nulls)
    }

    /// Keeps the lowest and the highest value of the page that ends, for the index and for the chunk.
    fn keep_bounds(&mut self, nulls: usize) {
        let Some(first) = self.values.first() else { return self.chunk.describe(None, nulls) };
        let (min, max) = self.values.iter().fold((*first, *first), |(min, max), v| (min.min(*v), max.max(*v)));
        self.chunk.describe(Some((self.bytes_of(min), self.bytes_of(max))), nulls);
        self.bounds = Some(self.bounds.map_or((min, max), |(lowest, highest)| (lowest.min(min), highest.max(max))));
        if let Some((last_min, last_max)) = self.last.replace((min, max)) {
            self.rising &= min >= last_min && max >= last_max;
            self.falling &= min <= last_min && max <= last_max;
        }
    }

    fn bytes_of(&self, value: i64) -> Vec<u8> {
        if self.narrow { (value as i32).to_le_bytes().to_vec() } else { value.to_le_bytes().to_vec() }
    }

    /// The column chunk, and what the footer says of it. The next one can begin.
    pub(super) fn close(&mut self) -> Result<(Content, ColumnCloseResult)> {
        self.end_page()?;
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.ordered(match (self.rising, self.falling) {
            (true, _) => BoundaryOrder::ASCENDING,
            (_, true) => BoundaryOrder::DESCENDING,
            _ => BoundaryOrder::UNORDERED,
        });
        let statistics = self.options.statistics.then(|| self.statistics(chunk.nulls() as u64));
        (self.bounds, self.last, self.rising, self.falling) = (None, None, true, true);
        chunk.close(&self.column, self.options.level, None, statistics)
    }

    fn statistics(&self, nulls: u64) -> Statistics {
        let (min, max) = (self.bounds.map(|b| b.0), self.bounds.map(|b| b.1));
        if self.narrow {
            let of = |value: Option<i64>| value.map(|v| v as i32);
            let statistics = ValueStatistics::new(of(min), of(max), None, Some(nulls), false);
            return Statistics::Int32(statistics.with_backwards_compatible_min_max(true));
        }
        let statistics = ValueStatistics::new(min, max, None, Some(nulls), false);
        Statistics::Int64(statistics.with_backwards_compatible_min_max(true))
    }
}

#[cfg(test)]
#[path = "number_tests.rs"]
mod tests;
