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
    let control = layout::control(journal.pipeline());
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

/// The commit that was the newest at a moment; none when there was none yet. Commits are searched by halves, for there may
/// be thousands in ten minutes.
fn as_of(journal: &Journal<'_>, newest: &Commit, moment: i64) -> Option<Commit> {
    if newest.committed_at <= moment {
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
            Some(commit) if commit.committed_at > moment => (after, step) = (number, step * 2),
            older => {
                low = Some(number);
                found = older.or(found);
            }
        }
    }
    found
}
