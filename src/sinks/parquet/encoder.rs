//! One Parquet file in memory.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Field, SchemaRef, UInt16Type};
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;

use super::ParquetSettings;
use super::text::{self, TextColumn};
use crate::error::{Error, Result};
use crate::packed::is_packed;

/// From so many values on, the columns of a batch are encoded on all cores.
const PARALLEL: usize = 32 << 10;

/// Encodes batches into a Parquet file.
pub struct Encoder {
    schema: SchemaRef,
    file: SerializedFileWriter<Vec<u8>>,
    factory: ArrowRowGroupWriterFactory,
    columns: Vec<Column>,
    group_rows: usize,
    groups: usize,
    rows: usize,
    max_rows: usize,
    max_bytes: usize,
}

/// The encoder of one field.
enum Column {
    Text(Box<TextColumn>),
    /// The general way; the writers of the leaves are made for each row group.
    Leaves(Vec<ArrowColumnWriter>),
}

/// What a field became in a row group.
enum Chunk {
    Text(Bytes, Box<ColumnCloseResult>),
    Leaves(Vec<ArrowColumnChunk>),
}

impl Encoder {
    /// A file with these columns.
    ///
    /// # Errors
    /// [`Error::Data`] when Parquet has no type for one of them.
    pub fn new(schema: &SchemaRef, settings: &ParquetSettings) -> Result<Self> {
        let (descriptor, properties) = settings.properties(schema)?;
        let mut leaf = 0;
        let mut columns = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            columns.push(if text::covers(field.data_type()) {
                let options = settings.text(field.name());
                Column::Text(Box::new(TextColumn::new(descriptor.column(leaf), field.data_type(), options)))
            } else {
                Column::Leaves(Vec::new())
            });
            leaf += leaves(field);
        }
        let file = SerializedFileWriter::new(Vec::new(), descriptor.root_schema_ptr(), Arc::new(properties))?;
        let factory = ArrowRowGroupWriterFactory::new(&file, Arc::clone(schema));
        Ok(Self {
            schema: Arc::clone(schema),
            file,
            factory,
            columns,
            group_rows: 0,
            groups: 0,
            rows: 0,
            max_rows: settings.row_group_rows.max(1),
            max_bytes: settings.row_group_bytes.max(1),
        })
    }

    /// How many columns it has.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how many bytes it has, encoded.
    pub fn bytes(&self) -> usize {
        self.file.bytes_written() + self.group_bytes()
    }

    fn group_bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// Encodes the rows of a batch after those before.
    ///
    /// # Errors
    /// [`Error::Data`] when the columns are not those of the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_columns() != self.columns.len() {
            let (got, expected) = (batch.num_columns(), self.columns.len());
            return Err(Error::Internal(format!("a batch of {got} columns for a file of {expected}")));
        }
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (batch.num_rows() - from).min(self.max_rows - self.group_rows);
            self.encode(&[batch.slice(from, rows)])?;
            from += rows;
            if self.group_rows >= self.max_rows || self.group_bytes() >= self.max_bytes {
                self.close_group()?;
            }
        }
        Ok(())
    }

    /// Encodes batches one after the other, with the same bytes as [`Encoder::write`]; but where no row group can end among
    /// them, each column takes them all in one go, and the cores meet once and not once a batch.
    ///
    /// # Errors
    /// As [`Encoder::write`].
    pub fn write_all(&mut self, mut batches: &[RecordBatch]) -> Result<()> {
        while let [first, rest @ ..] = batches {
            let (mut rows, mut bytes, mut fit) = (self.group_rows, self.group_bytes() + MARGIN, 0);
            for batch in batches {
                rows += batch.num_rows();
                bytes += at_most(batch)?;
                if rows >= self.max_rows || bytes >= self.max_bytes || batch.num_columns() != self.columns.len() {
                    break;
                }
                fit += 1;
            }
            if fit < 2 {
                self.write(first)?;
                batches = rest;
            } else {
                self.encode(&batches[..fit])?;
                batches = &batches[fit..];
            }
        }
        Ok(())
    }

    fn encode(&mut self, batches: &[RecordBatch]) -> Result<()> {
        if self.group_rows == 0 {
            let mut writers = self.factory.create_column_writers(self.groups)?.into_iter();
            for (field, column) in self.schema.fields().iter().zip(&mut self.columns) {
                let fresh = writers.by_ref().take(leaves(field));
                match column {
                    Column::Text(_) => fresh.for_each(drop),
                    Column::Leaves(leaves) => *leaves = fresh.collect(),
                }
            }
        }
        let fields = self.schema.fields();
        let write = |((at, field), column): ((usize, &Arc<Field>), &mut Column)| {
            batches.iter().try_for_each(|batch| column.write(field, batch.column(at)))
        };
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows * fields.len() >= PARALLEL {
            let columns = fields.par_iter().enumerate().zip(&mut self.columns);
            columns.with_max_len(1).try_for_each(write)?;
        } else {
            fields.iter().enumerate().zip(&mut self.columns).try_for_each(write)?;
        }
        self.group_rows += rows;
        self.rows += rows;
        Ok(())
    }

    fn close_group(&mut self) -> Result<()> {
        if self.group_rows == 0 {
            return Ok(());
        }
        let chunks = if self.group_rows * self.columns.len() >= PARALLEL {
            self.columns.par_iter_mut().with_max_len(1).map(Column::close).collect::<Result<Vec<_>>>()?
        } else {
            self.columns.iter_mut().map(Column::close).collect::<Result<Vec<_>>>()?
        };
        let mut group = self.file.next_row_group()?;
        for chunk in chunks {
            match chunk {
                Chunk::Text(bytes, close) => group.append_column(&bytes, *close)?,
                Chunk::Leaves(leaves) => leaves.into_iter().try_for_each(|l| l.append_to_row_group(&mut group))?,
            }
        }
        group.close()?;
        self.group_rows = 0;
        self.groups += 1;
        Ok(())
    }

    /// The row groups that are finished, if they come to so many bytes: they need not be held until the file ends.
    pub fn take_done(&mut self, least: usize) -> Option<Bytes> {
        let done = self.file.inner_mut();
        (done.len() >= least).then(|| std::mem::take(done).into())
    }

    /// The whole file, or what was not taken of it.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be encoded.
    pub fn finish(mut self) -> Result<Bytes> {
        self.close_group()?;
        Ok(self.file.into_inner()?.into())
    }
}

impl Column {
    fn write(&mut self, field: &Field, array: &ArrayRef) -> Result<()> {
        match self {
            Self::Text(column) => column.write(array),
            Self::Leaves(writers) => {
                for (leaf, writer) in compute_leaves(field, array)?.iter().zip(writers) {
                    writer.write(leaf)?;
                }
                Ok(())
            }
        }
    }

    fn close(&mut self) -> Result<Chunk> {
        Ok(match self {
            Self::Text(column) => {
                let (bytes, close) = column.close()?;
                Chunk::Text(bytes, Box::new(close))
            }
            Self::Leaves(leaves) => {
                let leaves = std::mem::take(leaves).into_iter().map(ArrowColumnWriter::close);
                Chunk::Leaves(leaves.collect::<Result<_, _>>()?)
            }
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Text(column) => column.bytes(),
            Self::Leaves(leaves) => leaves.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum(),
        }
    }
}

/// The most that a row group grows by with these rows, before any compression.
pub(super) fn at_most(batch: &RecordBatch) -> Result<usize> {
    let rows = batch.num_rows();
    let column = |column: &ArrayRef| -> Result<usize> {
        if is_packed(column.data_type()) {
            let values = column.as_dictionary::<UInt16Type>().values().as_string::<i32>();
            let longest = values.offsets().lengths().max().unwrap_or(0);
            return Ok(rows * (longest + EACH));
        }
        Ok(2 * column.to_data().get_slice_memory_size()? + rows * EACH)
    };
    batch.columns().iter().map(column).sum()
}

/// What a value takes beside itself, at most.
const EACH: usize = 16;
/// What the pages of a row group take beside their values, at most.
const MARGIN: usize = 4 << 20;

/// How many Parquet columns an Arrow column becomes.
fn leaves(field: &Field) -> usize {
    use arrow::datatypes::DataType as T;
    match field.data_type() {
        T::Struct(fields) => fields.iter().map(|f| leaves(f)).sum(),
        T::List(f) | T::LargeList(f) | T::FixedSizeList(f, _) | T::ListView(f) | T::LargeListView(f) | T::Map(f, _) => {
            leaves(f)
        }
        T::RunEndEncoded(_, f) => leaves(f),
        _ => 1,
    }
}
