//! The state of the operators as files: what changed in each epoch, as Arrow IPC.
//!
//! Each table is a log of files, older ones first. An epoch adds what changed in it; a file in which nothing counts any
//! more (the watermark has passed it) is no longer named; small files are put together, a few at a time, so that there
//! are never many. No file is written because the whole has grown: the cost of an epoch follows the epoch, however large
//! the state is. Which files are put together follows from the commit before alone, so an epoch that is run again writes
//! the same.

use arrow::array::RecordBatch;
use rayon::prelude::*;

use super::log::StateFile;
use super::operators::Operators;
use super::partitions::{TABLE, combine};
use super::store::Store;
use crate::content::Content;
use crate::error::{Error, Result};
use crate::state::{Change, from_ipc, to_ipc};

/// So many files of like size are put together.
pub const MERGE_EVERY: usize = 8;
/// Files below this are of like size, in bytes.
const SMALL: u64 = 1 << 10;
/// A file of this size is left as it is until it drops out, in bytes.
const LARGE: u64 = 2 << 20;

/// What an epoch does to the files of state.
pub struct Next {
    /// The files that count, older ones first. Those that the epoch writes have a name already.
    pub files: Vec<StateFile>,
    /// What it writes.
    pub objects: Vec<(String, Content)>,
}

/// What an epoch changes of the state, encoded.
pub struct Encoded {
    /// Tables of which nothing counts that was saved before.
    replaced: Vec<String>,
    /// Files with their objects.
    files: Vec<(StateFile, (String, Content))>,
}

/// Whether a commit was written by a version that kept state as one whole and changes to it.
pub fn is_old(files: &[StateFile]) -> bool {
    files.iter().any(|f| f.rows == 0)
}

/// Encodes what an epoch changes. `name` gives the object of a table in this epoch.
///
/// # Errors
/// [`Error::Data`] when Arrow cannot hold the rows.
pub fn encode(
    operators: &mut Operators,
    epoch: u64,
    changes: &[Change],
    name: impl Fn(&str) -> String,
) -> Result<Encoded> {
    let replaced = changes.iter().filter(|c| c.replaces).map(|c| c.table.clone()).collect();
    let mut named: Vec<(String, &Change)> = Vec::new();
    for change in changes.iter().filter(|c| c.rows.num_rows() > 0) {
        let table = match named.iter().filter(|(_, before)| before.table == change.table).count() {
            0 => change.table.clone(),
            n => format!("{}-{n}", change.table),
        };
        named.push((name(&table), change));
    }
    let newest = named.iter().map(|(_, c)| operators.newest(&c.table, &c.rows)).collect::<Result<Vec<_>>>()?;
    let files = named
        .into_par_iter()
        .zip(newest)
        .map(|((path, change), newest)| file(epoch, &change.table, path, &change.rows, newest))
        .collect::<Result<_>>()?;
    Ok(Encoded { replaced, files })
}

/// The state after an epoch: what stays of the state before, what is put together, and what changed. `name` gives the
/// object of a table in this epoch.
///
/// # Errors
/// [`Error::Checkpoint`] naming the object that is missing or damaged; [`Error::Data`] when Arrow cannot hold the rows.
pub fn next(
    store: &dyn Store,
    operators: &mut Operators,
    epoch: u64,
    before: &[StateFile],
    changed: Encoded,
    merge_every: usize,
    name: impl Fn(&str) -> String,
) -> Result<Next> {
    let mut files: Vec<StateFile> = before
        .iter()
        .filter(|f| !changed.replaced.contains(&f.table) && (f.table == TABLE || operators.counts(&f.table, f.newest)))
        .cloned()
        .collect();
    let mut objects = Vec::new();
    let mut tables: Vec<String> = Vec::new();
    for file in &files {
        if !tables.contains(&file.table) {
            tables.push(file.table.clone());
        }
    }
    for table in tables {
        let places: Vec<usize> = (0..files.len()).filter(|i| files[*i].table == table).collect();
        let sizes: Vec<u64> = places.iter().map(|i| files[*i].bytes).collect();
        let Some(range) = to_combine(&sizes, merge_every) else { continue };
        let places = &places[range];
        let saved: Vec<RecordBatch> = places.iter().map(|i| read(store, &files[*i])).collect::<Result<_>>()?;
        let rows = if table == TABLE { combine(&saved)? } else { operators.combine(&table, &saved)? };
        drop(saved);
        let newest = operators.newest(&table, &rows)?;
        let (file, object) = file(epoch, &table, name(&format!("{table}-merged")), &rows, newest)?;
        let (first, rest) = (places[0], &places[1..]);
        rest.iter().rev().for_each(|place| drop(files.remove(*place)));
        if file.rows > 0 {
            files[first] = file;
            objects.push(object);
        } else {
            files.remove(first);
        }
    }
    for (file, object) in changed.files {
        files.push(file);
        objects.push(object);
    }
    Ok(Next { files, objects })
}

fn file(
    epoch: u64,
    table: &str,
    path: String,
    rows: &RecordBatch,
    newest: Option<i64>,
) -> Result<(StateFile, (String, Content))> {
    let content = to_ipc(rows)?;
    let file = StateFile {
        table: table.to_owned(),
        path: path.clone(),
        epoch,
        bytes: content.len() as u64,
        rows: rows.num_rows() as u64,
        newest,
    };
    Ok((file, (path, content)))
}

/// Which files of a table are to be put together, given their sizes, older ones first: the newest, as soon as there are
/// `merge_every` of one magnitude among them and none of a larger one.
fn to_combine(sizes: &[u64], merge_every: usize) -> Option<std::ops::Range<usize>> {
    // A power of eight is a magnitude: what is put together of eight belongs to the next.
    let magnitude = |size: u64| (size / SMALL).checked_ilog(8).map_or(0, |n| n + 1);
    let newest = sizes.iter().rev().take_while(|size| **size < LARGE).map(|size| magnitude(*size));
    let newest: Vec<u32> = newest.collect();
    (0..=magnitude(LARGE)).find_map(|of| {
        let run = newest.iter().take_while(|m| **m <= of).count();
        let alike = newest[..run].iter().filter(|m| **m == of).count();
        (alike >= merge_every.max(2)).then_some(sizes.len() - run..sizes.len())
    })
}

/// Reads one file of state.
///
/// # Errors
/// [`Error::Checkpoint`] naming the object when it is missing or damaged.
pub fn read(store: &dyn Store, file: &StateFile) -> Result<RecordBatch> {
    let bytes = store.get(&file.path)?.ok_or_else(|| {
        Error::checkpoint(&file.path, "missing, though the newest commit names it; bring it back from a backup")
    })?;
    if bytes.len() as u64 != file.bytes {
        return Err(Error::checkpoint(
            &file.path,
            format!("damaged: has {} bytes, and had {} when it was written", bytes.len(), file.bytes),
        ));
    }
    from_ipc(&file.path, &bytes)
}

/// Loads files into operators; what does not fit into memory is spilled on the way.
///
/// # Errors
/// [`Error::Checkpoint`] naming the object that is missing or damaged, or a table that does not fit the pipeline;
/// [`Error::Spill`] when there is no room.
pub fn load(store: &dyn Store, operators: &mut Operators, files: &[StateFile]) -> Result<()> {
    let mut order: Vec<&StateFile> = files.iter().filter(|f| operators.counts(&f.table, None)).collect();
    if !is_old(files) {
        // What the watermark has passed is not taken in at all when the watermark is known before.
        order.sort_by_key(|f| !f.table.ends_with("/meta"));
    }
    for file in order {
        operators.load(&file.table, read(store, file)?)?;
        operators.keep_within()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_whatever_their_sizes() {
        for bytes in [100, 1_000, 20_000, 100_000, 1_000_000, 3_000_000] {
            let mut sizes: Vec<u64> = vec![];
            let mut written = 0;
            for _ in 0..1_000 {
                if let Some(range) = to_combine(&sizes, MERGE_EVERY) {
                    let sum: u64 = sizes.drain(range).sum();
                    assert!(sum < 10 * LARGE, "never much at once");
                    sizes.push(sum);
                    written += sum;
                }
                sizes.push(bytes);
            }
            let large = sizes.iter().filter(|size| **size >= LARGE).count();
            assert!(sizes.len() - large < 6 * MERGE_EVERY, "{sizes:?}");
            assert!(written <= 5 * 1_000 * bytes, "each byte is written a few times");
            assert_eq!(sizes.iter().sum::<u64>(), 1_000 * bytes);
        }
    }
}
