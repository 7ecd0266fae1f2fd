//! The end of an epoch: files, state, commit, each durable before the next.

use std::time::Instant;

use arrow::array::RecordBatch;
use bytes::Bytes;
use rayon::prelude::*;

use super::epoch::Outcome;
use super::log::{Commit, FORMAT, FileEntry, Kind, Origin, Plan, StateFile};
use super::operators::Operators;
use super::partitions::to_table;
use super::run::Event;
use super::runner::{Position, Runner};
use super::spec::Layer;
use super::state;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::lake::layout;
use crate::sinks::parquet::DataFile;
use crate::state::to_ipc;

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
        let entries = self.put_files(outcome.files)?;
        let files_done = began.elapsed().as_secs_f64();

        let whole = at.whole || state::merge_is_due(&at.state, self.merge_every);
        // A snapshot does not settle what the next delta begins with: a delta does.
        let changes = operators.delta()?;
        let mut parts = if whole { operators.snapshot()? } else { changes };
        let mut partitions = at.partitions.clone();
        partitions.take(&plan.partitions);
        parts.push(if whole { to_table(&partitions.all())? } else { to_table(&plan.partitions)? });
        let written = self.put_state(plan.number, parts)?;
        let mut state = if whole { vec![] } else { at.state.clone() };
        state.extend(written);
        let state_done = began.elapsed().as_secs_f64();

        let origin = Origin { contract: plan.contract.clone(), shape: plan.shape.clone() };
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
        });
        let retries = self.journal.store().retries();
        if retries > self.retries {
            self.observer.event(&Event::Retry { r#where: "store", count: retries - self.retries });
            self.retries = retries;
        }
        self.sweep_if_due(&commit)?;
        Ok(true)
    }

    fn put_files(&self, files: Vec<(String, DataFile)>) -> Result<Vec<FileEntry>> {
        failpoint::pass("files.before")?;
        let entries = files
            .iter()
            .map(|(layer, f)| FileEntry {
                path: f.path.clone(),
                layer: layer.clone(),
                rows: f.rows,
                bytes: f.bytes.len() as u64,
                min_event_time: f.min_time,
                max_event_time: f.max_time,
            })
            .collect();
        // Two halves, with a look at the term before each: a writer that slept in between stops there.
        let mut objects: Vec<_> = files.into_iter().map(|(_, f)| (f.path, f.bytes)).collect();
        let rest = objects.split_off(objects.len() / 2);
        self.journal.check_term(&self.term)?;
        self.journal.store().put_many(objects)?;
        failpoint::pass("files.between")?;
        self.stop_if_late()?;
        self.journal.check_term(&self.term)?;
        self.journal.store().put_many(rest)?;
        failpoint::pass("files.after")?;
        Ok(entries)
    }

    fn put_state(&self, epoch: u64, parts: Vec<(String, RecordBatch)>) -> Result<Vec<StateFile>> {
        failpoint::pass("state.before")?;
        self.stop_if_late()?;
        let parts: Vec<_> = parts.into_iter().filter(|(_, rows)| rows.num_rows() > 0).collect();
        let objects = parts
            .into_par_iter()
            .map(|(table, rows)| {
                let path = layout::state(self.journal.pipeline(), epoch, &self.term.id, &table);
                Ok::<_, Error>((table, path, Bytes::from(to_ipc(&rows)?)))
            })
            .collect::<Result<Vec<_>>>()?;
        let written = objects
            .iter()
            .map(|(table, path, bytes)| StateFile {
                table: table.clone(),
                path: path.clone(),
                epoch,
                bytes: bytes.len() as u64,
            })
            .collect();
        self.journal.check_term(&self.term)?;
        failpoint::pass("state.between")?;
        self.journal.store().put_many(objects.into_iter().map(|(_, path, bytes)| (path, bytes)).collect())?;
        failpoint::pass("state.after")?;
        Ok(written)
    }
}
