//! The lake as a source: data files that were written before, read again row group by row group, so that memory follows
//! the row group and not the file.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BinaryArray, BinaryViewArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use bytes::{Buf, Bytes};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;

use crate::columns::moment;
use crate::error::{Error, Result};
use crate::events::{Headers, RawEvents, Truncated};
use crate::lake::layout;
use crate::stream::log::FileEntry;
use crate::stream::store::Store;

/// So much of a file's end is read at first: mostly the whole footer lies in it.
const FOOTER: u64 = 64 << 10;
/// Rows that are handed out together.
const ROWS: usize = 32 << 10;
/// Column chunks with no more than this between them are read in one request.
const NEAR: u64 = 1 << 20;

/// A data file whose footer was read.
pub struct StoredFile {
    entry: FileEntry,
    footer: ArrowReaderMetadata,
}

/// Parts of a file, as far as they were fetched.
struct Parts {
    length: u64,
    parts: Vec<(u64, Bytes)>,
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Parts {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let part = self.parts.iter().find(|(from, b)| (*from..*from + b.len() as u64).contains(&start));
        let (from, bytes) = part.ok_or_else(|| ParquetError::EOF(format!("byte {start} was not fetched")))?;
        Ok(bytes.slice((start - from) as usize..).reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start + length as u64;
        let part = self.parts.iter().find(|(from, b)| *from <= start && end <= *from + b.len() as u64);
        let (from, bytes) =
            part.ok_or_else(|| ParquetError::EOF(format!("bytes {start} to {end} were not fetched")))?;
        Ok(bytes.slice((start - from) as usize..(end - from) as usize))
    }
}

/// A stretch of a data file; where an entry of the log has moved it to the trash since, from there.
fn fetch(store: &dyn Store, file: &FileEntry, range: Range<u64>) -> Result<Bytes> {
    let found = match store.get_range(&file.path, range.clone())? {
        Some(bytes) => Some(bytes),
        None => store.get_range(&layout::trash(&file.path), range.clone())?,
    };
    let bytes = found.ok_or_else(|| damaged(file, "missing"))?;
    if bytes.len() as u64 == range.end - range.start {
        return Ok(bytes);
    }
    Err(damaged(file, format!("shorter than the {} bytes that it had when it was written", file.bytes)))
}

/// The error of a file that is not what the log says.
pub fn damaged(file: &FileEntry, reason: impl std::fmt::Display) -> Error {
    Error::checkpoint(
        &file.path,
        format!("{reason}. The commit that names it stands; bring the file back from a backup"),
    )
}

impl StoredFile {
    /// Reads the footer of a data file.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file is missing, or not the one that was committed.
    pub fn open(store: &dyn Store, entry: &FileEntry) -> Result<Self> {
        let mut from = entry.bytes.saturating_sub(FOOTER);
        loop {
            let tail = fetch(store, entry, from..entry.bytes)?;
            let parts = Parts { length: entry.bytes, parts: vec![(from, tail)] };
            let mut reader = ParquetMetaDataReader::new();
            match reader.try_parse_sized(&parts.parts[0].1, entry.bytes) {
                Ok(()) => {
                    let metadata = reader.finish().map_err(|e| damaged(entry, e))?;
                    let footer = ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new())
                        .map_err(|e| damaged(entry, e))?;
                    let rows = footer.metadata().file_metadata().num_rows();
                    if rows as u64 != entry.rows {
                        let reason = format!("has {rows} rows, and had {} when it was written", entry.rows);
                        return Err(damaged(entry, reason));
                    }
                    return Ok(Self { entry: entry.clone(), footer });
                }
                Err(ParquetError::NeedMoreData(needed)) if from > 0 => {
                    from = entry.bytes.saturating_sub(needed as u64);
                }
                Err(e) => return Err(damaged(entry, e)),
            }
        }
    }

    /// What the log says of it.
    pub fn entry(&self) -> &FileEntry {
        &self.entry
    }

    /// Its columns in Arrow.
    pub fn schema(&self) -> &SchemaRef {
        self.footer.schema()
    }

    /// Its columns in Parquet.
    pub fn parquet_schema(&self) -> &SchemaDescriptor {
        self.footer.parquet_schema()
    }

    /// Hands out its rows in their order: of these columns (all when not given), and of those row groups alone that may
    /// hold times of `within` (all when not given).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file is missing or damaged, and whatever `each` answers.
    pub fn read(
        &self,
        store: &dyn Store,
        columns: Option<&[&str]>,
        within: Option<(&str, Range<i64>)>,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let schema = self.footer.parquet_schema();
        let mask = match columns {
            Some(names) => ProjectionMask::columns(schema, names.iter().copied()),
            None => ProjectionMask::all(),
        };
        for (n, group) in self.footer.metadata().row_groups().iter().enumerate() {
            if let Some((column, range)) = &within
                && !may_hold(group, column, range)
            {
                continue;
            }
            let mut wanted: Vec<Range<u64>> = vec![];
            for (leaf, chunk) in group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf)) {
                let _ = leaf;
                let (start, length) = chunk.byte_range();
                match wanted.last_mut() {
                    Some(last) if start >= last.start && start <= last.end + NEAR => {
                        last.end = last.end.max(start + length);
                    }
                    _ => wanted.push(start..start + length),
                }
            }
            let parts = wanted.into_iter().map(|range| Ok((range.start, fetch(store, &self.entry, range)?)));
            let parts = Parts { length: self.entry.bytes, parts: parts.collect::<Result<_>>()? };
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(parts, self.footer.clone())
                .with_projection(mask.clone())
                .with_row_groups(vec![n])
                .with_batch_size(ROWS)
                .build()
                .map_err(|e| damaged(&self.entry, e))?;
            for batch in reader {
                each(batch.map_err(|e| damaged(&self.entry, e))?)?;
            }
        }
        Ok(())
    }
}

/// Whether a row group may hold times of a range, or none at all, by its statistics.
fn may_hold(group: &RowGroupMetaData, column: &str, range: &Range<i64>) -> bool {
    let chunk = group.columns().iter().find(|c| c.column_path().parts() == [column]);
    match chunk.and_then(|c| c.statistics()) {
        Some(Statistics::Int64(s)) => match (s.min_opt(), s.max_opt()) {
            (Some(min), Some(max)) => (*min < range.end && *max >= range.start) || s.null_count_opt() != Some(0),
            _ => true,
        },
        _ => true,
    }
}

/// A column by its name.
///
/// # Errors
/// [`Error::Data`] when it is missing.
pub fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Arc<dyn Array>> {
    batch.column_by_name(name).ok_or_else(|| Error::Data(format!("column {name} is missing")))
}

/// A column as text.
///
/// # Errors
/// As [`column`].
pub fn text(batch: &RecordBatch, name: &str) -> Result<StringArray> {
    Ok(cast(column(batch, name)?, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// A column as times in microseconds.
///
/// # Errors
/// As [`column`].
pub fn times(batch: &RecordBatch, name: &str) -> Result<TimestampMicrosecondArray> {
    Ok(cast(column(batch, name)?, &moment())?.as_primitive::<TimestampMicrosecondType>().clone())
}

/// A column as 64-bit numbers.
///
/// # Errors
/// As [`column`].
pub fn numbers(batch: &RecordBatch, name: &str) -> Result<Int64Array> {
    Ok(cast(column(batch, name)?, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// Rows of Bronze, or dead letters, as the events that they were, and for each piece the rows that it is made of.
/// Consecutive rows of one partition that came together are one piece.
///
/// # Errors
/// [`Error::Data`] when a column is missing or of another type.
pub fn events(batch: &RecordBatch) -> Result<Vec<(Range<usize>, RawEvents)>> {
    let topics = text(batch, "topic")?;
    let partitions = cast(column(batch, "partition")?, &DataType::Int32)?;
    let partitions = partitions.as_primitive::<Int32Type>();
    let offsets = numbers(batch, "offset")?;
    let ingested = times(batch, "ingested_at")?;
    let kinds = text(batch, "timestamp_type")?;
    let timestamps = times(batch, "timestamp")?;
    let values = cast(column(batch, "value")?, &DataType::BinaryView)?.as_binary_view().clone();
    let keys = cast(column(batch, "key")?, &DataType::Binary)?.as_binary::<i32>().clone();
    let lengths = numbers(batch, "value_length")?;
    let hashes = cast(column(batch, "value_sha256")?, &DataType::Binary)?.as_binary::<i32>().clone();
    let headers = column(batch, "headers")?;
    let mut pieces = vec![];
    let mut from = 0;
    while from < batch.num_rows() {
        let same = |row: usize| {
            topics.value(row) == topics.value(from)
                && partitions.value(row) == partitions.value(from)
                && ingested.value(row) == ingested.value(from)
                && timestamps.is_valid(row) == timestamps.is_valid(from)
                && kinds.value(row) == kinds.value(from)
                && headers.is_valid(row) == headers.is_valid(from)
        };
        let to = (from + 1..batch.num_rows()).find(|row| !same(*row)).unwrap_or(batch.num_rows());
        let rows = to - from;
        let truncated = (from..to).filter(|row| hashes.is_valid(*row)).map(|row| {
            let sha256 = hashes.value(row).try_into().map_err(|_| Error::Data("value_sha256 is no SHA-256".into()))?;
            Ok(Truncated { row: (row - from) as u32, length: lengths.value(row).unsigned_abs(), sha256 })
        });
        let with_time = timestamps.is_valid(from);
        pieces.push((
            from..to,
            RawEvents {
                topic: Arc::from(topics.value(from)),
                partition: partitions.value(from),
                offsets: offsets.slice(from, rows),
                values: values.slice(from, rows),
                timestamps: with_time.then(|| timestamps.slice(from, rows).with_timezone_opt(None::<&str>)),
                timestamp_type: with_time.then(|| kind(kinds.value(from))).flatten(),
                keys: (keys.slice(from, rows).null_count() < rows).then(|| keys.slice(from, rows)),
                headers: headers.is_valid(from).then(|| header_rows(headers, from..to)).transpose()?,
                truncated: truncated.collect::<Result<_>>()?,
                arrival: ingested.value(from),
            },
        ));
        from = to;
    }
    Ok(pieces)
}

fn kind(text: &str) -> Option<&'static str> {
    ["create_time", "log_append_time"].into_iter().find(|kind| *kind == text)
}

fn header_rows(headers: &Arc<dyn Array>, rows: Range<usize>) -> Result<Vec<Headers>> {
    let lists = headers.as_list_opt::<i32>().ok_or_else(|| Error::Data("headers are no lists".into()))?;
    rows.map(|row| {
        let entries = lists.value(row);
        let entries = entries.as_struct_opt().ok_or_else(|| Error::Data("headers are no pairs".into()))?;
        let keys = cast(entries.column(0), &DataType::Utf8)?;
        let values = cast(entries.column(1), &DataType::Binary)?;
        let (keys, values): (&StringArray, &BinaryArray) = (keys.as_string(), values.as_binary());
        Ok((0..keys.len())
            .map(|i| (keys.value(i).to_owned(), values.is_valid(i).then(|| values.value(i).to_vec())))
            .collect())
    })
    .collect()
}

/// These rows of a piece of events.
pub fn pick(events: &RawEvents, rows: &[u32]) -> Result<RawEvents> {
    let indices = arrow::array::UInt32Array::from(rows.to_vec());
    let take = |array: &dyn Array| arrow::compute::take(array, &indices, None);
    let place = |row: u32| rows.binary_search(&row).ok().map(|at| at as u32);
    Ok(RawEvents {
        topic: Arc::clone(&events.topic),
        partition: events.partition,
        offsets: take(&events.offsets)?.as_primitive().clone(),
        values: take(&events.values)?
            .as_any()
            .downcast_ref::<BinaryViewArray>()
            .map(BinaryViewArray::gc)
            .ok_or_else(|| Error::Internal("values are no binary views".into()))?,
        timestamps: events.timestamps.as_ref().map(|t| Ok::<_, Error>(take(t)?.as_primitive().clone())).transpose()?,
        timestamp_type: events.timestamp_type,
        keys: events.keys.as_ref().map(|k| Ok::<_, Error>(take(k)?.as_binary::<i32>().clone())).transpose()?,
        headers: events.headers.as_ref().map(|h| rows.iter().filter_map(|r| h.get(*r as usize)).cloned().collect()),
        truncated: events
            .truncated
            .iter()
            .filter_map(|t| Some(Truncated { row: place(t.row)?, ..t.clone() }))
            .collect(),
        arrival: events.arrival,
    })
}
