//! Arrow tables in spilled files: Arrow IPC, written batch by batch and read batch by batch, or a few bytes of a column.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::writer::FileWriter;
use arrow::ipc::{Block, MetadataVersion, root_as_footer, root_as_message};

use super::{Spill, SpillFile, SpillWriter};
use crate::error::{Error, Result};

/// A table while it is being spilled.
pub struct TableWriter {
    inner: FileWriter<Sink>,
    schema: SchemaRef,
    rows: Vec<u32>,
}

/// Hands bytes on, and keeps the first error as it is.
struct Sink {
    to: Box<dyn SpillWriter>,
    error: Option<Error>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.to.write(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.error.get_or_insert(error);
                Err(io::Error::other("spilling failed"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TableWriter {
    /// Begins a table.
    ///
    /// # Errors
    /// [`Error::Spill`] when there is no room.
    pub fn new(spill: &dyn Spill, what: &str, schema: SchemaRef) -> Result<Self> {
        let sink = Sink { to: spill.create(what)?, error: None };
        Ok(Self { inner: FileWriter::try_new(sink, &schema)?, schema, rows: Vec::new() })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// [`Error::Spill`] when there is no room.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let written = self.inner.write(batch);
        self.said(written)?;
        self.rows.push(batch.num_rows() as u32);
        Ok(())
    }

    /// The table, to be read.
    ///
    /// # Errors
    /// [`Error::Spill`] when there is no room.
    pub fn finish(mut self) -> Result<Table> {
        let finished = self.inner.finish();
        self.said(finished)?;
        let file = self.inner.into_inner()?.to.finish()?;
        Table::open(file, self.schema, self.rows)
    }

    fn said<T>(&mut self, result: Result<T, arrow::error::ArrowError>) -> Result<T> {
        result.map_err(|e| self.inner.get_mut().error.take().unwrap_or_else(|| e.into()))
    }
}

/// A spilled table.
#[derive(Debug, Clone)]
pub struct Table {
    file: Arc<dyn SpillFile>,
    schema: SchemaRef,
    blocks: Arc<[Block]>,
    rows: Arc<[u32]>,
}

impl Table {
    fn open(file: Arc<dyn SpillFile>, schema: SchemaRef, rows: Vec<u32>) -> Result<Self> {
        let damaged = |e: &dyn std::fmt::Display| Error::Internal(format!("a spilled table cannot be read: {e}"));
        let mut tail = [0; 10];
        let end = file.size().checked_sub(10).ok_or_else(|| damaged(&"it is too short"))?;
        file.read(end, &mut tail)?;
        let length = read_footer_length(tail)?;
        let mut footer = vec![0; length];
        file.read(end.checked_sub(length as u64).ok_or_else(|| damaged(&"it is too short"))?, &mut footer)?;
        let footer = root_as_footer(&footer).map_err(|e| damaged(&e))?;
        let blocks: Arc<[Block]> =
            footer.recordBatches().map(|blocks| blocks.iter().copied().collect()).unwrap_or_default();
        if blocks.len() != rows.len() {
            return Err(damaged(&"batches are missing"));
        }
        Ok(Self { file, schema, blocks, rows: rows.into() })
    }

    /// How many batches it has.
    pub fn batches(&self) -> usize {
        self.blocks.len()
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows.iter().map(|n| *n as usize).sum()
    }

    /// Bytes of memory that it takes though it is spilled.
    pub fn memory(&self) -> usize {
        self.blocks.len() * (size_of::<Block>() + size_of::<u32>())
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// [`Error::Spill`] when it cannot be read.
    pub fn batch(&self, n: usize) -> Result<RecordBatch> {
        let block = self.block(n)?;
        let mut bytes = vec![0; block.metaDataLength() as usize + block.bodyLength() as usize];
        self.file.read(block.offset() as u64, &mut bytes)?;
        let decoder = FileDecoder::new(self.schema.clone(), MetadataVersion::V5);
        let batch = decoder.read_record_batch(block, &Buffer::from_vec(bytes))?;
        batch.ok_or_else(|| Error::Internal("a spilled batch is none".into()))
    }

    /// Where the buffers of a batch lie in the file: for columns of fixed width without nulls two each, the second its
    /// values.
    ///
    /// # Errors
    /// [`Error::Spill`] when it cannot be read.
    pub fn buffers(&self, n: usize) -> Result<Vec<u64>> {
        let block = self.block(n)?;
        let mut message = vec![0; block.metaDataLength() as usize];
        self.file.read(block.offset() as u64, &mut message)?;
        // A marker of four bytes, the length in four, then the message.
        let buffers = message
            .get(8..)
            .and_then(|bytes| root_as_message(bytes).ok())
            .and_then(|message| message.header_as_record_batch())
            .and_then(|batch| batch.buffers())
            .ok_or_else(|| Error::Internal("a spilled batch has no buffers".into()))?;
        let body = block.offset() as u64 + block.metaDataLength() as u64;
        Ok(buffers.iter().map(|buffer| body + buffer.offset() as u64).collect())
    }

    /// Reads bytes of the file.
    ///
    /// # Errors
    /// [`Error::Spill`] when they cannot be read.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.file.read(at, into)
    }

    fn block(&self, n: usize) -> Result<&Block> {
        self.blocks.get(n).ok_or_else(|| Error::Internal(format!("there is no spilled batch {n}")))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, FixedSizeBinaryArray, Int64Array, StringArray};

    use super::super::memory::Memory;
    use super::*;

    #[test]
    fn batches_come_back_and_so_do_single_values() {
        let spill = Memory::default();
        let batch = |from: i64| {
            let columns: Vec<(&str, ArrayRef)> = vec![
                (
                    "hash",
                    Arc::new(
                        FixedSizeBinaryArray::try_from_iter((from..from + 5).map(|i| i.to_be_bytes().to_vec()))
                            .unwrap(),
                    ),
                ),
                ("time", Arc::new(Int64Array::from_iter_values(from..from + 5))),
                ("text", Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("long"), None]))),
            ];
            RecordBatch::try_from_iter(columns).unwrap()
        };
        let mut writer = TableWriter::new(&spill, "x", batch(0).schema()).unwrap();
        (0..3).for_each(|n| writer.write(&batch(n * 10)).unwrap());
        let table = writer.finish().unwrap();
        assert_eq!((table.batches(), table.rows()), (3, 15));
        for n in 0..3 {
            assert_eq!(table.batch(n).unwrap(), batch(n as i64 * 10));
            let buffers = table.buffers(n).unwrap();
            let mut value = [0; 8];
            table.read(buffers[1] + 3 * 8, &mut value).unwrap();
            assert_eq!(i64::from_be_bytes(value), n as i64 * 10 + 3);
            table.read(buffers[3] + 2 * 8, &mut value).unwrap();
            assert_eq!(i64::from_le_bytes(value), n as i64 * 10 + 2);
        }
    }

    #[test]
    fn a_full_place_is_told_as_such() {
        let spill = Memory::default();
        spill.limit(Some(1_000));
        let rows = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..1_000)) as ArrayRef)]);
        let rows = rows.unwrap();
        let mut writer = TableWriter::new(&spill, "x", rows.schema()).unwrap();
        assert!(matches!(writer.write(&rows), Err(Error::Spill { .. })));
    }
}
