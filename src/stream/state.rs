//! The state of the operators as files: a whole one, and what changed in each epoch after it, as Arrow IPC.

use arrow::array::RecordBatch;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use bytes::Bytes;

use super::log::StateFile;
use super::store::Store;
use crate::error::{Error, Result};
use crate::state::StateParts;

/// After so many epochs the changes are merged into one whole state.
const MERGE_EVERY: usize = 32;
/// Changes smaller than this are never worth a merge before `MERGE_EVERY`, in bytes.
const SMALL: u64 = 4 << 20;

/// Whether the next epoch should write its state whole: there is none yet, or the changes outgrew it.
pub fn merge_is_due(files: &[StateFile]) -> bool {
    let Some(base) = files.first().map(|f| f.epoch) else { return true };
    let mut epochs: Vec<u64> = files.iter().map(|f| f.epoch).collect();
    epochs.dedup();
    let size = |whole: bool| files.iter().filter(|f| (f.epoch == base) == whole).map(|f| f.bytes).sum::<u64>();
    epochs.len() > MERGE_EVERY || size(false) > size(true).max(SMALL)
}

/// Writes a table of state.
///
/// # Errors
/// [`Error::Data`] when it cannot be written as Arrow IPC.
pub fn encode(rows: &RecordBatch) -> Result<Bytes> {
    let mut out = Vec::with_capacity(rows.get_array_memory_size() + 1024);
    let options = IpcWriteOptions::default();
    let mut writer = FileWriter::try_new_with_options(&mut out, rows.schema_ref(), options)?;
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    Ok(out.into())
}

/// Reads a table of state.
///
/// # Errors
/// [`Error::Checkpoint`] naming the object when it is damaged.
pub fn decode(path: &str, bytes: Bytes) -> Result<RecordBatch> {
    let damaged = |e: arrow::error::ArrowError| Error::checkpoint(path, format!("damaged ({e}); nothing was changed"));
    let reader = FileReader::try_new(std::io::Cursor::new(bytes), None).map_err(damaged)?;
    let schema = reader.schema();
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>().map_err(damaged)?;
    arrow::compute::concat_batches(&schema, &batches).map_err(damaged)
}

/// Reads the state that counts: the tables that each epoch wrote, in the order of the epochs.
///
/// # Errors
/// [`Error::Checkpoint`] naming the object that is missing or damaged.
pub fn read(store: &dyn Store, files: &[StateFile]) -> Result<Vec<StateParts>> {
    let mut all: Vec<StateParts> = vec![];
    let mut epoch = None;
    for file in files {
        let bytes = store
            .get(&file.path)?
            .ok_or_else(|| Error::checkpoint(&file.path, "missing, though the newest commit names it; bring it back from a backup"))?;
        if bytes.len() as u64 != file.bytes {
            return Err(Error::checkpoint(
                &file.path,
                format!("damaged: has {} bytes, and had {} when it was written", bytes.len(), file.bytes),
            ));
        }
        let rows = decode(&file.path, bytes)?;
        if epoch != Some(file.epoch) {
            epoch = Some(file.epoch);
            all.push(vec![]);
        }
        if let Some(parts) = all.last_mut() {
            parts.push((file.table.clone(), rows));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use std::sync::Arc;

    fn file(epoch: u64, bytes: u64) -> StateFile {
        StateFile { table: "t/a".into(), path: format!("{epoch}"), epoch, bytes }
    }

    #[test]
    fn changes_are_merged_when_they_outgrow_the_whole() {
        assert!(merge_is_due(&[]));
        assert!(!merge_is_due(&[file(0, 10), file(1, SMALL)]));
        assert!(merge_is_due(&[file(0, 10), file(1, SMALL + 1)]));
        let long: Vec<_> = (0..=MERGE_EVERY as u64).map(|e| file(e, 1)).collect();
        assert!(merge_is_due(&long));
        assert!(!merge_is_due(&long[1..]));
    }

    #[test]
    fn tables_go_there_and_back_and_damage_is_named() {
        let rows = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
        let bytes = encode(&rows).unwrap();
        assert_eq!(decode("x", bytes.clone()).unwrap(), rows);
        let error = decode("some/file", bytes.slice(..bytes.len() / 2)).unwrap_err();
        assert!(error.to_string().contains("some/file"), "{error}");
    }
}
