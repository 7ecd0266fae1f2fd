//! One Parquet file in memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;

use super::ParquetSettings;
use crate::error::{Error, Result};

/// From so many values on, the columns of a batch are encoded on all cores.
const PARALLEL: usize = 32 << 10;

/// Encodes batches into a Parquet file.
pub struct Encoder {
    schema: SchemaRef,
    file: SerializedFileWriter<Vec<u8>>,
    factory: ArrowRowGroupWriterFactory,
    /// The writers of the row group that has begun: for each field its leaves.
    group: Vec<Vec<ArrowColumnWriter>>,
    group_rows: usize,
    groups: usize,
    rows: usize,
    max_rows: usize,
    max_bytes: usize,
}

impl Encoder {
    /// A file with these columns.
    ///
    /// # Errors
    /// [`Error::Data`] when Parquet has no type for one of them.
    pub fn new(schema: &SchemaRef, settings: &ParquetSettings) -> Result<Self> {
        let (descriptor, properties) = settings.properties(schema)?;
        let file = SerializedFileWriter::new(Vec::new(), descriptor.root_schema_ptr(), Arc::new(properties))?;
        let factory = ArrowRowGroupWriterFactory::new(&file, Arc::clone(schema));
        Ok(Self {
            schema: Arc::clone(schema),
            file,
            factory,
            group: Vec::new(),
            group_rows: 0,
            groups: 0,
            rows: 0,
            max_rows: settings.row_group_rows.max(1),
            max_bytes: settings.row_group_bytes.max(1),
        })
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how many bytes it has, encoded.
    pub fn bytes(&self) -> usize {
        let group: usize = self.group.iter().flatten().map(ArrowColumnWriter::get_estimated_total_bytes).sum();
        self.file.bytes_written() + group
    }

    /// Encodes the rows of a batch after those before.
    ///
    /// # Errors
    /// [`Error::Data`] when the columns are not those of the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (batch.num_rows() - from).min(self.max_rows - self.group_rows);
            self.encode(&batch.slice(from, rows))?;
            from += rows;
            let full = self.group_rows >= self.max_rows || {
                let bytes: usize = self.group.iter().flatten().map(ArrowColumnWriter::get_estimated_total_bytes).sum();
                bytes >= self.max_bytes
            };
            if full {
                self.close_group()?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_columns() != self.schema.fields().len() {
            let (got, expected) = (batch.num_columns(), self.schema.fields().len());
            return Err(Error::Internal(format!("a batch of {got} columns for a file of {expected}")));
        }
        if self.group.is_empty() {
            let mut writers = self.factory.create_column_writers(self.groups)?.into_iter();
            let leaves = self.schema.fields().iter().map(|field| leaves(field));
            self.group = leaves.map(|n| writers.by_ref().take(n).collect()).collect();
        }
        let fields = self.schema.fields();
        let column = |((field, array), writers): ((&Arc<Field>, &ArrayRef), &mut Vec<ArrowColumnWriter>)| {
            for (leaf, writer) in compute_leaves(field, array)?.iter().zip(writers) {
                writer.write(leaf)?;
            }
            Ok::<_, Error>(())
        };
        if batch.num_rows() * fields.len() >= PARALLEL {
            let columns = fields.par_iter().zip(batch.columns()).zip(&mut self.group);
            columns.with_max_len(1).try_for_each(column)?;
        } else {
            fields.iter().zip(batch.columns()).zip(&mut self.group).try_for_each(column)?;
        }
        self.group_rows += batch.num_rows();
        self.rows += batch.num_rows();
        Ok(())
    }

    fn close_group(&mut self) -> Result<()> {
        if self.group_rows == 0 {
            return Ok(());
        }
        let writers: Vec<_> = std::mem::take(&mut self.group).into_iter().flatten().collect();
        let chunks = if self.group_rows * writers.len() >= PARALLEL {
            writers.into_par_iter().with_max_len(1).map(ArrowColumnWriter::close).collect::<Result<Vec<_>, _>>()?
        } else {
            writers.into_iter().map(ArrowColumnWriter::close).collect::<Result<Vec<_>, _>>()?
        };
        let mut group = self.file.next_row_group()?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        self.group_rows = 0;
        self.groups += 1;
        Ok(())
    }

    /// The whole file.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be encoded.
    pub fn finish(mut self) -> Result<Bytes> {
        self.close_group()?;
        Ok(self.file.into_inner()?.into())
    }
}

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
