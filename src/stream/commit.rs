//! The end of an epoch: files and state, and when both are durable the commit.

use std::time::Instant;

use rayon::prelude::*;

use super::epoch::Outcome;
use super::log::{Commit, FORMAT, FileEntry, Kind, Origin, Plan, StateFile};
use super::operators::Operators;
use super::partitions::{self, Partitions};
use super::run::{Event, StateSize};
use super::runner::Runner;
use super::spec::Layer;
use super::state::{self, Encoded};
use super::take_up::Position;
use crate::content::Content;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::lake::layout;
use crate::sinks::parquet::DataFile;

impl Runner<'_> {
    /// Puts files, state and commit. False when another run had committed the epoch before.
    pub(super) fn commit(
        &mut self,
        plan: &Plan,
        mut outcome: Outcome,
        operators: &mut Operators,
        at: &mut Position,
        began: Instant,
    ) -> Result<bool> {
        let read = began.elapsed().as_secs_f64();
        let with_bronze = plan.shape.layers.contains(&Layer::Bronze);
        outcome.counts.lost = plan.gaps.iter().map(|g| g.to - g.from).sum();
        let mut ledger = at.ledger.clone();
        ledger.take(plan.number, &outcome.counts, with_bronze)?;
        let mut partitions = at.partitions.clone();
        partitions.take(&plan.partitions);
        // Two halves, with a look at the term before each: a writer that slept in between stops there. The state is encoded
        // while one is put, and put with the other: without the commit neither counts.
        let mut first = outcome.files;
        let rest = first.split_off(first.len() / 2);
        let (put, changed) = rayon::join(
            || {
                let entries = first.par_iter().chain(&rest).map(|(layer, file)| FileEntry::of(layer, file));
                let entries: Vec<FileEntry> = entries.collect();
                self.put_files(contents(first))?;
                Ok::<_, Error>(entries)
            },
            || self.encode_state(plan, operators, at, &partitions),
        );
        let (entries, changed) = (put?, changed?);
        let files_done = began.elapsed().as_secs_f64();
        let (state, state_written_bytes) = self.put_rest_and_state(contents(rest), plan, operators, at, changed)?;
        let state_done = began.elapsed().as_secs_f64();

        if !self.write_to_sinks(plan, &entries)? {
            return Ok(false);
        }

        let origin = Origin { contract: plan.contract.clone(), shape: plan.shape.clone(), secret: plan.secret.clone() };
        let commit = Commit {
            format: FORMAT,
            number: plan.number,
            kind: Kind::Run,
            term: self.term.number,
            term_id: self.term.id.clone(),
            counts: outcome.counts.clone(),
            ledger: ledger.clone(),
            watermark: outcome.watermark,
            files: entries,
            removed: vec![],
            state: state.clone(),
            partitions: plan.partitions.clone(),
            contract: plan.contract.clone(),
            origin: Some(origin.clone()),
            change: plan.change.clone(),
            committed_at: self.clock.now(),
            note: None,
            unread: plan.unread.clone(),
        };
        failpoint::pass("commit.before")?;
        self.stop_if_late()?;
        if self.journal.put_commit(&self.term, &commit)?.is_some() {
            self.observer.event(&Event::Conflict { what: "commit", epoch: plan.number });
            // Another run committed this epoch over the same plan: its files are ours, byte for byte; its state counts.
            return Ok(false);
        }
        failpoint::pass("commit.after")?;
        self.journal.maybe_snapshot(&self.term, &commit)?;
        let (state_files, state_bytes) = (state.len(), state.iter().map(|f| f.bytes).sum());
        let (memory_bytes, spilled) = operators.usage();
        let memory_budget_bytes = self.budget.bytes as u64;
        *at = Position {
            next: plan.number + 1,
            ledger,
            state,
            watermark: outcome.watermark,
            unread: plan.unread.clone(),
            partitions,
            origin: Some(origin),
            whole: false,
            change: None,
        };
        self.run.counts.add(&outcome.counts);
        self.run.epochs += 1;
        self.observer.event(&Event::Committed {
            epoch: plan.number,
            counts: outcome.counts,
            files: commit.files.len(),
            watermark: outcome.watermark,
            seconds: [read, files_done - read, state_done - files_done, began.elapsed().as_secs_f64()],
            state: StateSize {
                state_files,
                state_bytes,
                state_written_bytes,
                memory_bytes,
                memory_budget_bytes,
                spilled_bytes: spilled.bytes,
                spills: spilled.spills,
            },
        });
        self.tell_over_memory(memory_bytes);
        let retries = self.journal.store().retries();
        if retries > self.retries {
            self.observer.event(&Event::Retry { r#where: "store", count: retries - self.retries });
            self.retries = retries;
        }
        self.sweep_if_due(&commit)?;
        Ok(true)
    }

    /// Says once when state takes more memory than it may though all was spilled that can be.
    fn tell_over_memory(&mut self, bytes: u64) {
        let budget = self.budget.bytes as u64;
        if bytes > budget && !self.told_over_memory {
            self.observer.event(&Event::Warning {
                code: "state_over_memory".into(),
                place: "memory".into(),
                message: format!(
                    "open sessions and windows alone take the state to {} MiB, beyond its {} MiB (half of `memory`); \
                     they are not spilled: give the pipeline more `memory`, or group windows by fewer values",
                    bytes >> 20,
                    budget >> 20
                ),
            });
        }
        self.told_over_memory = bytes > budget;
    }

    fn put_files(&self, files: Vec<(String, Content)>) -> Result<()> {
        failpoint::pass("files.before")?;
        self.journal.check_term(&self.term)?;
        self.journal.store().put_many(files)?;
        failpoint::pass("files.between")
    }

    /// What an older version wrote has no bounds by which it could drop out: all is written once more.
    fn writes_anew(at: &Position) -> bool {
        state::is_old(&at.state)
    }

    fn encode_state(
        &self,
        plan: &Plan,
        operators: &mut Operators,
        at: &Position,
        partitions: &Partitions,
    ) -> Result<Encoded> {
        let anew = Self::writes_anew(at);
        let mut changes = match at.whole {
            _ if anew => operators.whole()?,
            true => operators.carried()?,
            false => operators.delta()?,
        };
        changes.push(match anew || at.whole {
            true => partitions::change(&partitions.all(), true)?,
            false => partitions::change(&plan.partitions, false)?,
        });
        state::encode(operators, plan.number, &changes, |table| self.state_name(plan, table))
    }

    fn state_name(&self, plan: &Plan, table: &str) -> String {
        layout::state(self.journal.log(), plan.number, &self.term.id, table)
    }

    fn put_rest_and_state(
        &self,
        rest: Vec<(String, Content)>,
        plan: &Plan,
        operators: &mut Operators,
        at: &Position,
        changed: Encoded,
    ) -> Result<(Vec<StateFile>, u64)> {
        failpoint::pass("state.before")?;
        self.stop_if_late()?;
        let before = if Self::writes_anew(at) { &[][..] } else { &at.state };
        let (store, name) = (self.journal.store(), |table: &str| self.state_name(plan, table));
        let next = state::next(store, operators, plan.number, before, changed, self.merge_every, name)?;
        let written = next.objects.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        self.journal.check_term(&self.term)?;
        failpoint::pass("state.between")?;
        store.put_many(rest.into_iter().chain(next.objects).collect())?;
        failpoint::pass("files.after")?;
        Ok((next.files, written))
    }
}

/// Files as they are put.
fn contents(files: Vec<(String, DataFile)>) -> Vec<(String, Content)> {
    files.into_iter().map(|(_, file)| (file.path, file.content)).collect()
}
