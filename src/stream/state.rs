//! The state of the operators as files: a whole one, and what changed in each epoch after it, as Arrow IPC.

use super::log::StateFile;
use super::store::Store;
use crate::error::{Error, Result};
use crate::state::{StateParts, from_ipc};

/// After so many epochs the changes are merged into one whole state.
pub const MERGE_EVERY: usize = 32;
/// Changes smaller than this are never worth a merge before `MERGE_EVERY`, in bytes.
const SMALL: u64 = 4 << 20;

/// Whether the next epoch should write its state whole: there is none yet, or the changes outgrew it, or they lie in more
/// than `merge_every` epochs.
pub fn merge_is_due(files: &[StateFile], merge_every: usize) -> bool {
    let Some(base) = files.first().map(|f| f.epoch) else { return true };
    let mut epochs: Vec<u64> = files.iter().map(|f| f.epoch).collect();
    epochs.dedup();
    let size = |whole: bool| files.iter().filter(|f| (f.epoch == base) == whole).map(|f| f.bytes).sum::<u64>();
    epochs.len() > merge_every || size(false) > size(true).max(SMALL)
}

/// Reads the state that counts: the tables that each epoch wrote, in the order of the epochs.
///
/// # Errors
/// [`Error::Checkpoint`] naming the object that is missing or damaged.
pub fn read(store: &dyn Store, files: &[StateFile]) -> Result<Vec<StateParts>> {
    let mut all: Vec<StateParts> = vec![];
    let mut epoch = None;
    for file in files {
        let bytes = store.get(&file.path)?.ok_or_else(|| {
            Error::checkpoint(&file.path, "missing, though the newest commit names it; bring it back from a backup")
        })?;
        if bytes.len() as u64 != file.bytes {
            return Err(Error::checkpoint(
                &file.path,
                format!("damaged: has {} bytes, and had {} when it was written", bytes.len(), file.bytes),
            ));
        }
        let rows = from_ipc(&file.path, &bytes)?;
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

    fn file(epoch: u64, bytes: u64) -> StateFile {
        StateFile { table: "t/a".into(), path: format!("{epoch}"), epoch, bytes }
    }

    #[test]
    fn changes_are_merged_when_they_outgrow_the_whole() {
        assert!(merge_is_due(&[], MERGE_EVERY));
        assert!(!merge_is_due(&[file(0, 10), file(1, SMALL)], MERGE_EVERY));
        assert!(merge_is_due(&[file(0, 10), file(1, SMALL + 1)], MERGE_EVERY));
        let long: Vec<_> = (0..=MERGE_EVERY as u64).map(|e| file(e, 1)).collect();
        assert!(merge_is_due(&long, MERGE_EVERY));
        assert!(!merge_is_due(&long[1..], MERGE_EVERY));
    }
}
