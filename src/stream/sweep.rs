//! Removing what no longer counts: state that newer state took the place of, snapshots that newer ones took the place of,
//! and what has lain in the trash for an hour. The owner of the pipeline does it.
//!
//! A request lives a minute at most, and nothing younger than ten minutes is removed: a writer that wakes late never finds
//! that something came in between, and a reader that has just read a commit still finds what it names.

use serde::Serialize;

use super::journal::Journal;
use super::log::{Commit, Term};
use crate::error::Result;
use crate::failpoint;
use crate::lake::layout;
use crate::time::MINUTE;

/// Nothing younger than this is removed, in microseconds.
pub const YOUNG: i64 = 10 * MINUTE;
/// So long removed files stay in the trash, in microseconds.
pub const TRASH_KEPT: i64 = 60 * MINUTE;
/// So many snapshots of the log are kept.
const SNAPSHOTS: usize = 3;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Files of state.
    pub state: usize,
    /// Snapshots of the log.
    pub snapshots: usize,
    /// Files in the trash.
    pub trash: usize,
}

/// Sweeps the pipeline whose newest commit is `commit`.
///
/// # Errors
/// [`crate::Error::Lake`] when something cannot be listed or removed, [`crate::Error::Superseded`] when a newer run took
/// over.
pub fn sweep(journal: &Journal<'_>, term: &Term, commit: &Commit, now: i64) -> Result<Swept> {
    failpoint::pass("sweep.before")?;
    let control = journal.control();
    let store = journal.store();
    let old = |modified: i64| modified < now - YOUNG;
    let mut swept = Swept::default();

    // A file that drops out of the state never comes back. Those who read an older commit have ten minutes: what counted
    // that long ago stays, and so does what is younger.
    let then = as_of(journal, commit, now - YOUNG);
    let named = |path: &str| {
        commit.state.iter().chain(then.iter().flat_map(|commit| &commit.state)).any(|file| file.path == path)
    };
    // Of an epoch that several runs tried, the state of one counts.
    let settled = |path: &str| layout::number(path).is_some_and(|epoch| epoch <= commit.number);
    let state = store.list(&format!("{control}state/"), None)?;
    for object in state.into_iter().filter(|o| old(o.modified_us) && !named(&o.path) && settled(&o.path)) {
        journal.check_term(term)?;
        store.delete(&object.path)?;
        swept.state += 1;
        failpoint::pass("sweep.between")?;
    }
    let mut snapshots = store.list(&format!("{control}snapshots/"), None)?;
    snapshots.truncate(snapshots.len().saturating_sub(SNAPSHOTS));
    for object in snapshots.into_iter().filter(|o| old(o.modified_us)) {
        journal.check_term(term)?;
        store.delete(&object.path)?;
        swept.snapshots += 1;
    }
    let trash = store.list(&format!("{}/", layout::TRASH), None)?;
    for object in trash.into_iter().filter(|o| o.modified_us < now - TRASH_KEPT) {
        journal.check_term(term)?;
        store.delete(&object.path)?;
        swept.trash += 1;
    }
    failpoint::pass("sweep.after")?;
    Ok(swept)
}

/// The newest commit that is older than a moment, if there is one. Commits are searched by halves, for there may
/// be thousands in ten minutes.
fn as_of(journal: &Journal<'_>, newest: &Commit, moment: i64) -> Option<Commit> {
    if newest.committed_at < moment {
        return Some(newest.clone());
    }
    // It lies from `low` on and before `after`. A commit that is not there any more is older than those that are.
    let (mut found, mut low, mut after, mut step) = (None, None::<u64>, newest.number, 1);
    loop {
        let number = match low {
            None if after == 0 => break,
            None => after.saturating_sub(step),
            Some(low) if low + 1 >= after => break,
            Some(low) => low.midpoint(after),
        };
        match journal.commit(number).ok() {
            Some(commit) if commit.committed_at >= moment => (after, step) = (number, step * 2),
            older => {
                low = Some(number);
                found = older.or(found);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use bytes::Bytes;

    use super::super::log::StateFile;
    use super::super::store::Store;
    use super::super::tests::{CLOCK, Memory, commit};
    use super::*;
    use crate::error::Error;

    /// Puts a file of state, at a moment of the store's clock.
    fn state(store: &Memory, epoch: u64, term: &str, now: i64) -> StateFile {
        store.now.store(now, Ordering::SeqCst);
        let path = layout::state("p", epoch, term, "dedup/keys");
        store.put_many(vec![(path.clone(), Bytes::from_static(b"x").into())]).unwrap();
        StateFile { table: "dedup/keys".into(), path, epoch, bytes: 1, rows: 1, newest: None }
    }

    /// The commit of an epoch with this state, put at this moment.
    fn put(store: &Memory, journal: &Journal<'_>, term: &Term, number: u64, state: &[StateFile], now: i64) -> Commit {
        store.now.store(now, Ordering::SeqCst);
        let commit = Commit { state: state.to_vec(), committed_at: now, ..commit(number, term) };
        journal.put_commit(term, &commit).unwrap();
        commit
    }

    fn there(store: &Memory, folder: &str) -> Vec<u64> {
        let objects = store.list(&format!("_penstock/{folder}/"), None).unwrap();
        objects.iter().filter_map(|o| layout::number(&o.path)).collect()
    }

    #[test]
    fn state_goes_when_newer_state_took_its_place_for_ten_minutes() {
        let store = Memory::default();
        let journal = Journal::new(&store, "p");
        let term = journal.take_term(&CLOCK).unwrap();
        // Two epochs with changes, then one that writes its state whole. Epoch 1 was tried by another run, too.
        let whole = state(&store, 0, "a", 0);
        let change = state(&store, 1, "a", MINUTE);
        state(&store, 1, "b", MINUTE);
        put(&store, &journal, &term, 0, std::slice::from_ref(&whole), 0);
        let second = put(&store, &journal, &term, 1, &[whole, change], MINUTE);
        let at = |now: i64, commit: &Commit| sweep(&journal, &term, commit, now).unwrap().state;
        assert_eq!(at(MINUTE + YOUNG, &second), 0, "what is ten minutes old is young");
        assert_eq!(at(MINUTE + YOUNG + 1, &second), 1, "what the other run wrote");
        assert_eq!(there(&store, "p/state"), [0, 1]);

        let merged = state(&store, 2, "a", 60 * MINUTE);
        let third = put(&store, &journal, &term, 2, std::slice::from_ref(&merged), 60 * MINUTE);
        state(&store, 3, "a", 60 * MINUTE);
        assert_eq!(at(60 * MINUTE + YOUNG, &third), 0, "who reads the commit before has ten minutes");
        assert_eq!(at(60 * MINUTE + YOUNG + 1, &third), 2);
        assert_eq!(there(&store, "p/state"), [2, 3], "an epoch that is not committed keeps its state");
        let again = sweep(&journal, &term, &third, 70 * MINUTE + 2).unwrap();
        assert_eq!(again, Swept::default());
    }

    #[test]
    fn trash_is_kept_for_an_hour_and_three_snapshots_for_ever() {
        let store = Memory::default();
        let journal = Journal::new(&store, "p");
        let term = journal.take_term(&CLOCK).unwrap();
        let commit = put(&store, &journal, &term, 0, &[], 0);
        for n in 0..5 {
            store.put_many(vec![(layout::snapshot("p", n), Bytes::new().into())]).unwrap();
        }
        store.put_many(vec![(layout::trash("silver/events/old.parquet"), Bytes::new().into())]).unwrap();
        store.now.store(MINUTE, Ordering::SeqCst);
        store.put_many(vec![(layout::trash("silver/events/new.parquet"), Bytes::new().into())]).unwrap();
        let swept = sweep(&journal, &term, &commit, TRASH_KEPT + 1).unwrap();
        assert_eq!(swept, Swept { state: 0, snapshots: 2, trash: 1 });
        assert_eq!(there(&store, "p/snapshots"), [2, 3, 4]);
        assert_eq!(store.list("_penstock/trash/", None).unwrap().len(), 1);
    }

    #[test]
    fn only_the_owner_sweeps() {
        let store = Memory::default();
        let journal = Journal::new(&store, "p");
        let older = journal.take_term(&CLOCK).unwrap();
        let commit = put(&store, &journal, &older, 0, &[], 0);
        state(&store, 0, "b", 0);
        journal.take_term(&CLOCK).unwrap();
        assert!(matches!(sweep(&journal, &older, &commit, 60 * MINUTE), Err(Error::Superseded { .. })));
        assert_eq!(there(&store, "p/state"), [0]);
    }
}
