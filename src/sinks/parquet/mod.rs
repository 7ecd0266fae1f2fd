//! Parquet, encoded in memory: one encoder a partition, its columns on all cores.
//!
//! The bytes of a file follow from the rows, from how they were cut into calls of `write`, and from the version of the
//! engine; never from threads or the time.

mod body;
mod bounds;
mod chunk;
mod delta;
mod encoder;
mod export;
mod interner;
mod levels;
mod number;
mod partitioned;
mod text;

use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::SchemaDescriptor;

use crate::error::{Error, Result};
pub use encoder::Encoder;
pub use export::{Existing, Export, ExportOptions, write_parquet};
use number::NumberOptions;
pub use partitioned::{DataFile, PartitionedWriter};
use text::TextOptions;

/// Rows of a page at most.
const PAGE_ROWS: usize = 32 << 10;

/// How files are encoded.
#[derive(Debug, Clone)]
pub struct ParquetSettings {
    /// The level of zstd: 1 is fast, 3 some percent smaller.
    pub zstd_level: i32,
    /// Rows of a row group at most.
    pub row_group_rows: usize,
    /// Encoded bytes of a row group at most, about.
    pub row_group_bytes: usize,
    /// Rows of a file at most; then the next part begins.
    pub file_rows: usize,
    /// Encoded bytes of a file at most, about.
    pub file_bytes: usize,
    /// Text columns whose values hardly repeat: no dictionary is tried.
    pub unique: Vec<String>,
    /// Columns that nobody looks for by range: no minimum and maximum is kept.
    pub opaque: Vec<String>,
    /// The column whose minimum and maximum a file is found by.
    pub time_column: String,
}

impl Default for ParquetSettings {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Self {
            zstd_level: 1,
            row_group_rows: 128 << 10,
            row_group_bytes: 128 << 20,
            file_rows: 8 << 20,
            file_bytes: 512 << 20,
            unique: names(&["idempotency_key", "value", "key", "value_sha256"]),
            opaque: names(&["value", "value_sha256", "idempotency_key"]),
            time_column: "event_time".to_owned(),
        }
    }
}

impl ParquetSettings {
    /// How a column of text at the top level is written.
    fn text(&self, name: &String) -> TextOptions {
        TextOptions {
            level: self.zstd_level,
            dictionary: !self.unique.contains(name),
            statistics: !self.opaque.contains(name),
            ..TextOptions::default()
        }
    }

    /// How a column of whole numbers or times at the top level is written.
    fn number(&self, name: &String) -> NumberOptions {
        NumberOptions { level: self.zstd_level, statistics: !self.opaque.contains(name), page_rows: PAGE_ROWS }
    }

    /// The Parquet schema of an Arrow one, and how each of its columns is written.
    fn properties(&self, schema: &SchemaRef) -> Result<(SchemaDescriptor, WriterProperties)> {
        let descriptor = ArrowSchemaConverter::new()
            .with_coerce_types(true)
            .convert(schema)
            .map_err(|e| Error::Data(format!("these columns cannot be written as Parquet: {e}")))?;
        let level = ZstdLevel::try_new(self.zstd_level)
            .map_err(|_| Error::settings("zstd level", format!("{} is none; use 1 to 22", self.zstd_level)))?;
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("penstock version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(level))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_coerce_types(true)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_write_batch_size(4096);
        let mut leaf = 0;
        for field in schema.fields() {
            let below = leaf..leaf + encoder::leaves(field);
            leaf = below.end;
            for column in &descriptor.columns()[below] {
                let path = column.path().clone();
                let own = encoder::has_own(field, column);
                // Numbers and times pack well by their differences, and a dictionary would hash every one of them. What has
                // an encoder of its own needs none of the crate's, which takes a MiB for the differences.
                let number = matches!(column.physical_type(), Type::INT32 | Type::INT64);
                if number && !own {
                    properties = properties.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
                }
                if number || own || self.unique.contains(field.name()) {
                    properties = properties.set_column_dictionary_enabled(path.clone(), false);
                }
                if self.opaque.contains(field.name()) {
                    properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
                }
            }
        }
        Ok((descriptor, properties.build()))
    }
}

#[cfg(test)]
mod tests;
