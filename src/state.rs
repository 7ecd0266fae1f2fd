//! The state of operators as named Arrow tables: saved whole or as what changed, split by entity and merged again.
//!
//! A table that can be split says so in the metadata of its schema: [`SPLIT`] names the column whose value decides where
//! a row goes, [`ORDER`] the columns that put merged rows back into their canonical order. A table without [`SPLIT`]
//! (a watermark, a partition's position) belongs to every part and must be the same in all when they are merged; where
//! [`SPLIT`] names no column, the state cannot be split.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use arrow::row::{RowConverter, Rows, SortField};

use crate::columns::index_of;
use crate::error::{Error, Result};

/// Named tables: `("dedup/keys", rows)`.
pub type StateParts = Vec<(String, RecordBatch)>;

/// Schema metadata: the column that decides to which part a row goes.
pub const SPLIT: &str = "penstock.split";
/// Schema metadata: the columns, parted by commas, that rows are ordered by in a snapshot.
pub const ORDER: &str = "penstock.order";

/// State that can be saved and loaded. What is loaded behaves as if it had never been saved.
///
/// What follows from the watermark alone (expired keys, released events, closed sessions) is not written row by row: the
/// tables carry the watermark, and `load` draws the same conclusion again.
pub trait Stateful {
    /// What changed since the last `delta`, or since this state was made or loaded. The cost follows the change.
    ///
    /// # Errors
    /// When Arrow cannot hold the rows (more than 2 GiB of text in one column).
    fn delta(&mut self) -> Result<StateParts>;

    /// Everything, in canonical order: two histories that lead to the same state give the same bytes. A snapshot takes
    /// nothing from the next `delta`.
    ///
    /// # Errors
    /// When Arrow cannot hold the rows (more than 2 GiB of text in one column).
    fn snapshot(&self) -> Result<StateParts>;

    /// Takes a snapshot or a delta in; called on fresh state, the snapshot first, then the deltas in their order.
    ///
    /// # Errors
    /// When a table has not the columns that it should have.
    fn load(&mut self, parts: &[(String, RecordBatch)]) -> Result<()>;
}

/// A schema with the metadata that [`split`] and [`merge`] read.
pub fn schema(fields: Vec<Field>, split: &str, order: &[&str]) -> SchemaRef {
    let metadata = HashMap::from([(SPLIT.to_string(), split.to_string()), (ORDER.to_string(), order.join(","))]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// The table of this name, if it is among the parts.
pub fn table<'a>(parts: &'a [(String, RecordBatch)], name: &str) -> Option<&'a RecordBatch> {
    parts.iter().find(|(n, _)| n == name).map(|(_, batch)| batch)
}

/// A column of a saved table.
///
/// # Errors
/// [`Error::Checkpoint`] when it is not there.
pub fn column<'a>(table: &str, batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        Error::checkpoint(
            table,
            format!("the saved state has no column '{name}': it is damaged, or was made by a newer version"),
        )
    })
}

/// A column of a saved table, as the array that it should be.
///
/// # Errors
/// [`Error::Checkpoint`] when it is not there, or is of another type.
pub fn typed<'a, A: 'static>(table: &str, batch: &'a RecordBatch, name: &str) -> Result<&'a A> {
    let array = column(table, batch, name)?;
    array.as_any().downcast_ref().ok_or_else(|| {
        Error::checkpoint(
            table,
            format!("column '{name}' of the saved state is {}, not what this version reads", array.data_type()),
        )
    })
}

/// A table as an Arrow IPC file.
///
/// # Errors
/// When Arrow cannot write the batch.
pub fn to_ipc(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = FileWriter::try_new(Vec::new(), batch.schema_ref())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?)
}

/// The table in an Arrow IPC file.
///
/// # Errors
/// [`Error::Checkpoint`] when the bytes are no such file.
pub fn from_ipc(name: &str, bytes: &[u8]) -> Result<RecordBatch> {
    let damaged = |e: arrow::error::ArrowError| Error::checkpoint(name, format!("no Arrow IPC file: {e}"));
    let reader = FileReader::try_new(Cursor::new(bytes), None).map_err(damaged)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
    match batches.as_slice() {
        [one] => Ok(one.clone()),
        many => concat_batches(&schema, many).map_err(damaged),
    }
}

/// Parts a snapshot into `n` by the hash of each row's entity or key. All tables part alike: an entity's rows end in
/// the part of one number, whichever table they come from.
///
/// # Errors
/// [`Error::Settings`] when a table is not kept by entity; [`Error::Data`] when its metadata names a column that it has
/// not.
pub fn split(parts: &[(String, RecordBatch)], n: usize) -> Result<Vec<StateParts>> {
    let mut out: Vec<StateParts> = (0..n).map(|_| Vec::with_capacity(parts.len())).collect();
    for (name, batch) in parts {
        let Some(by) = batch.schema_ref().metadata().get(SPLIT) else {
            out.iter_mut().for_each(|part| part.push((name.clone(), batch.clone())));
            continue;
        };
        if by.is_empty() {
            return Err(Error::settings(
                name.as_str(),
                "this state is not kept by entity and cannot be parted: windows over more than one process have to group by 'entity'",
            ));
        }
        let mut rows_of: Vec<Vec<u32>> = vec![Vec::new(); n];
        for (row, bytes) in rows(batch, std::iter::once(by.as_str()))?.iter().enumerate() {
            let part = xxhash_rust::xxh3::xxh3_64(bytes.as_ref()) % n as u64;
            rows_of[part as usize].push(row as u32);
        }
        for (part, rows) in out.iter_mut().zip(rows_of) {
            part.push((name.clone(), take_record_batch(batch, &UInt32Array::from(rows))?));
        }
    }
    Ok(out)
}

/// Puts together what [`split`] parted: `merge(split(s)) = s`.
///
/// # Errors
/// [`Error::Data`] when a table that is not split is missing from a part, or differs between them.
pub fn merge(parts: &[StateParts]) -> Result<StateParts> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in parts.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut out = Vec::with_capacity(names.len());
    for name in names {
        let tables: Vec<&RecordBatch> = parts.iter().filter_map(|part| table(part, name)).collect();
        let Some(first) = tables.first().copied() else { continue };
        let schema = first.schema();
        let Some(order) = schema.metadata().get(ORDER).filter(|_| schema.metadata().contains_key(SPLIT)) else {
            if tables.len() != parts.len() || tables.iter().any(|other| *other != first) {
                return Err(Error::Data(format!(
                    "'{name}' differs between the parts: stop them all at the same commit first"
                )));
            }
            out.push((name.to_string(), first.clone()));
            continue;
        };
        let all = concat_batches(&schema, tables)?;
        out.push((name.to_string(), sorted(&all, order.split(',').filter(|c| !c.is_empty()))?));
    }
    Ok(out)
}

/// The rows of `batch` ordered by these columns, nulls first, equal rows as they stand.
pub(crate) fn sorted<'a>(batch: &RecordBatch, by: impl Iterator<Item = &'a str>) -> Result<RecordBatch> {
    let rows = rows(batch, by)?;
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    if order.is_sorted_by(|a, b| rows.row(*a as usize) <= rows.row(*b as usize)) {
        return Ok(batch.clone());
    }
    order.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    Ok(take_record_batch(batch, &UInt32Array::from(order))?)
}

fn rows<'a>(batch: &RecordBatch, by: impl Iterator<Item = &'a str>) -> Result<Rows> {
    let columns: Vec<ArrayRef> =
        by.map(|name| Ok(batch.column(index_of(batch.schema_ref(), name)?).clone())).collect::<Result<_>>()?;
    let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    Ok(RowConverter::new(fields)?.convert_columns(&columns)?)
}
