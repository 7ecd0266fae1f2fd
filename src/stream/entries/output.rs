//! The files of an entry: encoded and put as they grow, so that memory stays bounded.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::Work;
use crate::error::Result;
use crate::failpoint;
use crate::lake::layout::{self, Partition};
use crate::sinks::parquet::{ParquetSettings, PartitionedWriter};
use crate::stream::log::FileEntry;

/// Encoded bytes that a table holds at most before its largest file is closed.
const ROOM: usize = 96 << 20;
/// Bytes of a file, about.
const FILE: usize = 128 << 20;

/// What an entry has written.
#[derive(Default)]
pub struct Output {
    next: u32,
    /// The files, in the order in which they were put.
    pub files: Vec<FileEntry>,
}

/// A table that an entry writes.
pub struct Table {
    layer: String,
    writer: PartitionedWriter,
    /// Rows written.
    pub rows: u64,
}

impl Table {
    /// A table of a layer with these columns.
    pub fn new(layer: &str, schema: &SchemaRef) -> Self {
        let settings = ParquetSettings {
            file_bytes: FILE,
            time_column: time_column(layer).to_owned(),
            ..ParquetSettings::default()
        };
        Self { layer: layer.to_owned(), writer: PartitionedWriter::new(schema, &settings), rows: 0 }
    }
}

/// The column of a layer by whose range its files are found.
pub fn time_column(layer: &str) -> &'static str {
    match layer {
        "silver/sessions" => "session_start",
        layer if layer.starts_with("gold/") => "window_start",
        _ => "event_time",
    }
}

impl Output {
    /// Writes rows to one partition.
    ///
    /// # Errors
    /// When they cannot be encoded, or the lake refuses a file.
    pub fn write(
        &mut self,
        work: &Work<'_>,
        table: &mut Table,
        partition: &Partition,
        rows: &RecordBatch,
    ) -> Result<()> {
        table.rows += rows.num_rows() as u64;
        table.writer.write(partition, rows)?;
        self.relieve(work, table)
    }

    /// Writes rows to the partitions `date=…` of a column of times.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn write_by_date(
        &mut self,
        work: &Work<'_>,
        table: &mut Table,
        rows: &RecordBatch,
        column: &str,
    ) -> Result<()> {
        table.rows += rows.num_rows() as u64;
        table.writer.write_by_date(rows, column)?;
        self.relieve(work, table)
    }

    fn relieve(&mut self, work: &Work<'_>, table: &mut Table) -> Result<()> {
        while table.writer.bytes() > ROOM {
            table.writer.close_largest()?;
            self.put(work, table)?;
        }
        self.put(work, table)
    }

    fn put(&mut self, work: &Work<'_>, table: &mut Table) -> Result<()> {
        let (pipeline, next) = (work.journal.pipeline().to_owned(), &mut self.next);
        let layer = table.layer.clone();
        let files = table.writer.take_files(&mut |partition| {
            *next += 1;
            layout::entry_file(&layer, partition, &pipeline, work.journal.shard(), work.id(), *next - 1)
        });
        if files.is_empty() {
            return Ok(());
        }
        work.stop_if_asked()?;
        failpoint::pass("entry.files.before")?;
        self.files.extend(files.iter().map(|file| FileEntry::of(&table.layer, file)));
        work.store().put_many(files.into_iter().map(|f| (f.path, f.content)).collect())?;
        failpoint::pass("entry.files.after")
    }

    /// Closes a table: all its files are put.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn close(&mut self, work: &Work<'_>, mut table: Table) -> Result<()> {
        table.writer.close_all()?;
        self.put(work, &mut table)
    }
}
