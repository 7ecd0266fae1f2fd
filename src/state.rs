//! The state of operators as named Arrow tables: saved whole or as what changed, split by entity and merged again.
//!
//! A table that can be split says so in the metadata of its schema: [`SPLIT`] names the column whose value decides where
//! a row goes, [`ORDER`] the columns that put merged rows back into their canonical order. A table without [`SPLIT`]
//! (a watermark, a partition's position) belongs to every part and must be the same in all when they are merged; where
//! [`SPLIT`] names no column, the state cannot be split.

use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::buffer::Buffer;
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use arrow::row::{RowConverter, Rows, SortField};
use bytes::Bytes;
use rayon::slice::ParallelSliceMut;

use crate::columns::index_of;
use crate::content::Content;
use crate::error::{Error, Result};

/// Named tables: `("dedup/keys", rows)`.
pub type StateParts = Vec<(String, RecordBatch)>;

/// Schema metadata: the column that decides to which part a row goes.
pub const SPLIT: &str = "penstock.split";
/// Schema metadata: the columns, parted by commas, that rows are ordered by in a snapshot.
pub const ORDER: &str = "penstock.order";

/// What changed in one table.
#[derive(Debug, Clone)]
pub struct Change {
    /// The table (`dedup/keys`).
    pub table: String,
    /// Rows that came, or that count in place of older ones of the same key.
    pub rows: RecordBatch,
    /// Whether what was saved of the table before counts no more.
    pub replaces: bool,
}

/// State that can be saved and loaded. What is loaded behaves as if it had never been saved.
///
/// What follows from the watermark alone (expired keys, released events, closed sessions) is not written row by row: the
/// tables carry the watermark, and `load` draws the same conclusion again. So what was saved is a log: changes are added
/// to it, whole pieces of it drop out when the watermark has passed everything in them ([`Stateful::expired`]), and small
/// pieces are put together ([`Stateful::combine`]). Nothing is ever written whole because it has grown large.
pub trait Stateful {
    /// What changed since the last `delta`, or since this state was made or loaded. The cost follows the change.
    ///
    /// # Errors
    /// When Arrow cannot hold the rows (more than 2 GiB of text in one column).
    fn delta(&mut self) -> Result<Vec<Change>>;

    /// Everything, in canonical order: two histories that lead to the same state give the same bytes. A snapshot takes
    /// nothing from the next `delta`.
    ///
    /// # Errors
    /// When Arrow cannot hold the rows (more than 2 GiB of text in one column).
    fn snapshot(&self) -> Result<StateParts>;

    /// Takes tables of a snapshot or of deltas in; called on fresh state. Of each table the older rows come first; the
    /// `…/meta` tables may come before all others, or last.
    ///
    /// # Errors
    /// When a table has not the columns that it should have.
    fn load(&mut self, parts: &[(String, RecordBatch)]) -> Result<()>;

    /// The highest moment among saved rows, where the table is one whose rows expire.
    ///
    /// # Errors
    /// When the table has not the columns that it should have.
    fn newest(&self, table: &str, rows: &RecordBatch) -> Result<Option<i64>>;

    /// Whether no row whose moment is `newest` or before counts any more.
    fn expired(&self, table: &str, newest: i64) -> bool;

    /// Puts saved rows together, older ones first: those that were replaced or have expired are left out.
    ///
    /// # Errors
    /// When a table has not the columns that it should have.
    fn combine(&self, table: &str, saved: &[RecordBatch]) -> Result<RecordBatch>;

    /// Takes all that changed so far for saved: it is not in the next `delta`.
    ///
    /// # Errors
    /// As [`Stateful::delta`].
    fn forget_changes(&mut self) -> Result<()> {
        self.delta().map(drop)
    }

    /// Everything, as a change that takes the place of all that was saved before.
    ///
    /// # Errors
    /// As [`Stateful::snapshot`].
    fn whole(&mut self) -> Result<Vec<Change>> {
        // What changed is in the snapshot: it is not to be saved twice.
        self.forget_changes()?;
        let parts = self.snapshot()?.into_iter();
        Ok(parts.map(|(table, rows)| Change { table, rows, replaces: true }).collect())
    }
}

/// The highest moment of a column.
///
/// # Errors
/// [`Error::Checkpoint`] when it is not there, or holds no moments.
pub fn highest(table: &str, rows: &RecordBatch, column: &str) -> Result<Option<i64>> {
    let times: &TimestampMicrosecondArray = typed(table, rows, column)?;
    Ok(times.values().iter().copied().max())
}

/// Saved rows put together, older ones first: of each key the last row, ordered by key. `keep` says which moments (of the
/// column `time`) still count.
///
/// # Errors
/// When the columns differ, or are not what they should be.
pub fn latest<'a>(
    table: &str,
    saved: &[RecordBatch],
    key: impl Iterator<Item = &'a str>,
    time: Option<&str>,
    keep: impl Fn(i64) -> bool,
) -> Result<RecordBatch> {
    let Some(first) = saved.first() else { return Err(Error::Internal(format!("nothing of {table} to put together"))) };
    let mut alive = Vec::with_capacity(saved.len());
    for rows in saved {
        alive.push(match time {
            Some(time) => {
                let times: &TimestampMicrosecondArray = typed(table, rows, time)?;
                filter_record_batch(rows, &times.values().iter().map(|t| Some(keep(*t))).collect())?
            }
            None => rows.clone(),
        });
    }
    let all = concat_batches(&first.schema(), &alive)?;
    let keys = rows(&all, key)?;
    let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
    order.par_sort_unstable_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)).then(b.cmp(a)));
    order.dedup_by(|later, first| keys.row(*later as usize) == keys.row(*first as usize));
    Ok(take_record_batch(&all, &UInt32Array::from(order))?)
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
pub fn to_ipc(batch: &RecordBatch) -> Result<Content> {
    let mut buffers = Vec::new();
    batch.columns().iter().for_each(|column| buffers.extend_from_slice(column.to_data().buffers()));
    let file = IpcFile { buffers, content: Content::default(), open: Vec::new() };
    let mut writer = FileWriter::try_new(file, batch.schema_ref())?;
    writer.write(batch)?;
    let mut file = writer.into_inner()?;
    file.seal();
    Ok(file.content)
}

/// A file that is being written: what is large of the columns is not copied, but shared with them.
struct IpcFile {
    /// What the columns consist of.
    buffers: Vec<Buffer>,
    content: Content,
    /// What was copied since.
    open: Vec<u8>,
}

/// What is smaller than this is copied.
const SHARED: usize = 64 << 10;

/// Memory of a column as bytes of a file.
struct Column(Buffer);

impl AsRef<[u8]> for Column {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl IpcFile {
    fn seal(&mut self) {
        self.content.push(std::mem::take(&mut self.open).into());
    }

    /// The column's own memory, if that is what these bytes are.
    fn shared(&self, bytes: &[u8]) -> Option<Buffer> {
        let at = |buffer: &Buffer| (bytes.as_ptr() as usize).checked_sub(buffer.as_ptr() as usize);
        self.buffers.iter().find_map(|buffer| {
            let from = at(buffer).filter(|from| from + bytes.len() <= buffer.len())?;
            Some(buffer.slice_with_length(from, bytes.len()))
        })
    }
}

impl Write for IpcFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match (bytes.len() >= SHARED).then(|| self.shared(bytes)).flatten() {
            Some(column) => {
                self.seal();
                self.content.push(Bytes::from_owner(Column(column)));
            }
            None => self.open.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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

/// Saved state in tests: what an epoch log does with changes, on a small scale.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Saved {
    files: Vec<(String, Bytes, Option<i64>)>,
}

#[cfg(test)]
impl Saved {
    /// A log that begins with a snapshot.
    pub fn whole(operator: &dyn Stateful) -> Self {
        let mut saved = Self::default();
        operator.snapshot().unwrap().into_iter().for_each(|(table, rows)| saved.put(operator, table, &rows));
        saved
    }

    fn put(&mut self, operator: &dyn Stateful, table: String, rows: &RecordBatch) {
        if rows.num_rows() > 0 {
            let newest = operator.newest(&table, rows).unwrap();
            self.files.push((table, to_ipc(rows).unwrap().into_whole(), newest));
        }
    }

    /// Adds what changed; what was replaced or has expired drops out. Where `few`, each table is put together.
    pub fn add(&mut self, operator: &mut dyn Stateful, few: bool) {
        let changes = operator.delta().unwrap();
        let replaced = |table: &String| changes.iter().any(|c| c.replaces && c.table == *table);
        self.files.retain(|(table, _, newest)| {
            !replaced(table) && !newest.is_some_and(|newest| operator.expired(table, newest))
        });
        if few {
            let mut tables: Vec<String> = self.files.iter().map(|f| f.0.clone()).collect();
            tables.sort_unstable();
            tables.dedup();
            let old = std::mem::take(&mut self.files);
            for table in tables {
                let files = old.iter().filter(|f| f.0 == table);
                let batches: Vec<RecordBatch> = files.map(|f| from_ipc(&table, &f.1).unwrap()).collect();
                let rows = if let [one] = batches.as_slice() {
                    one.clone()
                } else {
                    operator.combine(&table, &batches).unwrap()
                };
                self.put(operator, table, &rows);
            }
        }
        changes.into_iter().for_each(|c| self.put(operator, c.table, &c.rows));
    }

    /// Loads everything, file by file.
    pub fn load(&self, operator: &mut dyn Stateful) {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|f| !f.0.ends_with("/meta"));
        files.into_iter().for_each(|(table, bytes, _)| {
            operator.load(&[(table.clone(), from_ipc(table, bytes).unwrap())]).unwrap();
        });
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::DataType;

    use super::*;

    #[test]
    fn large_columns_are_shared_with_the_file() {
        let field = |name: &str, kind: DataType| Field::new(name, kind, true);
        let schema = Arc::new(Schema::new(vec![field("n", DataType::Int64), field("text", DataType::Utf8)]));
        let numbers = Int64Array::from_iter_values(0..20_000);
        let text: StringArray = (0..20_000).map(|n| (n % 7 > 0).then(|| format!("value {n}"))).collect();
        let whole = RecordBatch::try_new(schema, vec![Arc::new(numbers), Arc::new(text)]).unwrap();
        for batch in [whole.clone(), whole.slice(100, 19_000), whole.slice(7, 3), whole.slice(0, 0)] {
            let file = to_ipc(&batch).unwrap();
            let mut plain = FileWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
            plain.write(&batch).unwrap();
            // The numbers, the offsets of the text (but where they are begun anew) and the text, and what stands between.
            assert_eq!(file.pieces().len() > 4, batch.num_rows() > 10_000);
            let file = file.into_whole();
            assert_eq!(file, plain.into_inner().unwrap());
            assert_eq!(from_ipc("t", &file).unwrap(), batch);
        }
    }
}
