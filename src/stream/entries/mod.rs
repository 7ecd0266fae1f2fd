//! Log entries that are no epochs: replay, backfill, compaction, retention.
//!
//! An entry does its long work first, under file names of its own, and takes no term. Then it takes the next number by
//! putting its plan, which holds the whole commit: with that put it counts. Whoever meets a plan of an entry without its
//! commit puts the commit. When an entry takes its number it checks that nothing since has touched its files; else it
//! begins again.

pub mod backfill;
pub mod command;
pub mod compact;
pub mod judge;
mod output;
mod place;
pub mod replay;
pub mod reset;
pub mod retention;
pub mod settled;
mod silver;
pub mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use rayon::prelude::*;

use super::journal::Journal;
use super::ledger::Counts;
use super::log::{Commit, EntryPlan, FORMAT, FileEntry, Kind, Planned, Snapshot, StateFile};
use super::partitions::are_saved;
use super::run::Observer;
use super::store::{Clock, Store};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::lake::layout;

/// How often an entry looks again for the commit of an epoch that is being run, in microseconds.
const POLL: i64 = 100_000;
/// For how long it waits for that commit, in microseconds.
const PATIENCE: i64 = 60_000_000;
/// How often an entry begins again because something touched its files.
pub const ATTEMPTS: u32 = 5;

/// The lake of a pipeline, as an entry sees it.
pub struct Work<'a> {
    /// The log.
    pub journal: Journal<'a>,
    /// The clock.
    pub clock: &'a dyn Clock,
    /// Who watches.
    pub observer: &'a dyn Observer,
    /// Random: part of the names of the entry's files.
    id: String,
}

/// What an entry is going to do.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What kind of entry it is.
    pub kind: Kind,
    /// What it was asked for, for people.
    pub note: String,
    /// What it moves in the ledger.
    pub counts: Counts,
    /// Files that come.
    pub added: Vec<FileEntry>,
    /// Files that go.
    pub removed: Vec<FileEntry>,
    /// Files of state that come (keys that the stream has to know). Their epoch is the entry's number.
    pub state: Vec<StateFile>,
    /// Layers that it emptied, and up to which day.
    pub expired_before: Vec<(String, i64)>,
}

impl Draft {
    /// An entry that does nothing yet.
    pub fn new(kind: Kind, note: impl Into<String>) -> Self {
        Self {
            kind,
            note: note.into(),
            counts: Counts::default(),
            added: vec![],
            removed: vec![],
            state: vec![],
            expired_before: vec![],
        }
    }
}

impl<'a> Work<'a> {
    /// Work on a pipeline's lake, by its log or that of one of its shards.
    pub fn new(journal: Journal<'a>, clock: &'a dyn Clock, observer: &'a dyn Observer) -> Self {
        Self { journal, clock, observer, id: new_id() }
    }

    /// The store.
    pub fn store(&self) -> &'a dyn Store {
        self.journal.store()
    }

    /// The entry's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Begins the next entry: its files get names of their own.
    pub fn renew(&mut self) {
        self.id = new_id();
    }

    /// Takes back the files of an entry that was not committed.
    ///
    /// # Errors
    /// [`Error::Lake`] when the lake refuses.
    pub fn discard(&self, files: &[FileEntry]) -> Result<()> {
        files.iter().try_for_each(|file| self.store().delete(&file.path))
    }

    /// Ends with an error when the observer asks for it.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn stop_if_asked(&self) -> Result<()> {
        if self.observer.should_stop() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// What stands in the lake now: what an entry works on. Entries that were planned before are finished first.
    ///
    /// # Errors
    /// [`Error::Lake`] when nothing was committed yet, [`Error::Checkpoint`] when the log is damaged.
    pub fn base(&self) -> Result<Snapshot> {
        while let Some(Planned::Entry(entry)) = self.journal.head()?.plan {
            self.finish(&entry)?;
        }
        self.journal.live()?.ok_or_else(|| {
            Error::lake(
                self.journal.control(),
                "nothing was committed yet: there is nothing to work on. Run the pipeline first",
            )
        })
    }

    /// Takes the next number for an entry that was worked out over the lake as of commit `base`. `None` when something
    /// since has touched the files that go, or `unmoved` (which is given the commits since) says no: then the work has to
    /// be done again.
    ///
    /// # Errors
    /// [`Error::Lake`] when an epoch is planned and its commit does not come; [`Error::Ledger`] when the ledger would not
    /// balance.
    pub fn commit(
        &self,
        base: u64,
        draft: &Draft,
        unmoved: &mut dyn FnMut(&[Commit]) -> Result<bool>,
    ) -> Result<Option<Commit>> {
        let mut waited = 0;
        let mut checked = base;
        loop {
            self.stop_if_asked()?;
            let head = self.journal.head()?;
            match head.plan {
                Some(Planned::Entry(entry)) => {
                    self.finish(&entry)?;
                    continue;
                }
                Some(Planned::Run(plan)) => {
                    if waited >= PATIENCE {
                        return Err(Error::lake(
                            layout::plan(self.journal.log(), plan.number),
                            format!(
                                "epoch {} was planned and is not committed: its run was killed, or hangs. Run the \
                                 pipeline to finish it, then do this again; nothing was changed",
                                plan.number
                            ),
                        ));
                    }
                    self.clock.wait(POLL);
                    waited += POLL;
                    continue;
                }
                None => {}
            }
            let last = head.commit.ok_or_else(|| Error::Internal("a log without a commit".into()))?;
            let since = self.journal.commits(Some(checked))?;
            if touched(&since, draft) || !unmoved(&since)? {
                return Ok(None);
            }
            checked = last.number;
            let entry = EntryPlan { format: FORMAT, kind: draft.kind, commit: self.commit_of(&last, draft)? };
            failpoint::pass("entry.plan.before")?;
            if !self.journal.put_entry(&entry)? {
                // The stream, or another entry, was quicker.
                continue;
            }
            failpoint::pass("entry.plan.after")?;
            self.finish(&entry)?;
            return Ok(Some(entry.commit));
        }
    }

    fn commit_of(&self, last: &Commit, draft: &Draft) -> Result<Commit> {
        let number = last.number + 1;
        let mut ledger = last.ledger.clone();
        ledger.take_entry(&draft.counts)?;
        for (layer, day) in &draft.expired_before {
            let before = ledger.expired_before.entry(layer.clone()).or_insert(*day);
            *before = (*before).max(*day);
        }
        let mut state = last.state.clone();
        state.extend(draft.state.iter().map(|file| StateFile { epoch: number, ..file.clone() }));
        Ok(Commit {
            format: FORMAT,
            number,
            kind: draft.kind,
            term: last.term,
            term_id: self.id.clone(),
            counts: draft.counts.clone(),
            ledger,
            watermark: last.watermark,
            files: draft.added.clone(),
            removed: draft.removed.clone(),
            state,
            // Where they stand in the state, a commit names those that moved alone.
            partitions: if are_saved(last) { vec![] } else { last.partitions.clone() },
            contract: last.contract.clone(),
            origin: self.journal.origin(last)?,
            change: None,
            committed_at: self.clock.now(),
            note: Some(draft.note.clone()),
            unread: last.unread.clone(),
        })
    }

    /// Puts the commit of an entry, and moves the files that it removed to the trash.
    fn finish(&self, entry: &EntryPlan) -> Result<()> {
        self.journal.roll_forward(entry)?;
        failpoint::pass("entry.trash.before")?;
        let removed = entry.commit.removed.par_iter().with_max_len(1);
        removed.try_for_each(|file| self.store().trash(&file.path))?;
        failpoint::pass("entry.trash.after")
    }
}

/// Whether a commit took away what an entry takes away, or put it there again.
fn touched(since: &[Commit], draft: &Draft) -> bool {
    let ours: HashSet<&str> = draft.removed.iter().map(|f| f.path.as_str()).collect();
    since.iter().flat_map(|c| &c.removed).any(|f| ours.contains(f.path.as_str()))
}

fn new_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}
