//! Sinks that write epochs into databases, each in a transaction of its own that also records the epoch.
//!
//! An epoch goes into every sink when its files and its state are durable, before its commit: so a sink holds at most the
//! one epoch that comes next in the log, and what it holds is read from files that stay. A run that finds the plan of an
//! epoch runs it again and writes it again; the sink sees by the number that it holds it, and does nothing.
//!
//! Giving an epoch up is the other way round: every sink is told to forbid it, before the log says that it is void. To ask
//! only would not do: a request of an older run may land between the answer and the commit.

use std::fmt;

use serde::Serialize;

use super::log::{FileEntry, Plan, Planned};
use super::runner::Runner;
use crate::error::Result;
use crate::failpoint;
use crate::sources::PartitionState;

/// What a sink is handed of an epoch.
#[derive(Debug, Clone, Serialize)]
pub struct SinkEpoch<'a> {
    /// Its number in the log.
    pub number: u64,
    /// The term of the run that writes it.
    pub term: u64,
    /// The pipeline.
    pub pipeline: &'a str,
    /// The shard, 0 without shards: each has a log of its own.
    pub shard: u32,
    /// The partitions that moved, as they stand after it.
    pub partitions: &'a [PartitionState],
    /// Its data files, of all layers: they are in the lake.
    pub files: &'a [FileEntry],
}

/// What became of an epoch in a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The sink holds it, since now or from before.
    Held,
    /// The sink was told to forbid it: it is void, whether or not the log says so already.
    GivenUp,
}

/// A sink that writes epochs into a database. What it holds of an epoch cannot be taken back by the log.
///
/// Epochs are written in the order of the log, and sinks in the order in which they are named; they are told to forbid in
/// the same order.
pub trait EpochSink: Send + Sync + fmt::Debug {
    /// Its name, for messages.
    fn name(&self) -> &str;

    /// Writes the epoch and its number in one transaction; nothing where it holds the epoch.
    ///
    /// # Errors
    /// [`Error::Superseded`](crate::Error::Superseded) when it knows of a newer term; others when it cannot be written. What
    /// became of the transaction may then be unknown: it is written again.
    fn write(&self, epoch: &SinkEpoch<'_>) -> Result<Written>;

    /// Sees to it that the epoch is never written, by nobody. False where the sink holds it already.
    ///
    /// # Errors
    /// As [`EpochSink::write`].
    fn forbid(&self, epoch: u64, term: u64) -> Result<bool>;
}

impl Runner<'_> {
    /// Writes an epoch into every sink. False when it turned out to be given up, and the log has to be read again.
    pub(super) fn write_to_sinks(&mut self, plan: &Plan, files: &[FileEntry]) -> Result<bool> {
        let epoch = SinkEpoch {
            number: plan.number,
            term: self.term.number,
            pipeline: &self.spec.name,
            shard: self.names.shard,
            partitions: &plan.partitions,
            files,
        };
        for sink in &self.sinks {
            self.stop_if_late()?;
            self.journal.check_term(&self.term)?;
            failpoint::pass("sink.before")?;
            let written = sink.write(&epoch)?;
            failpoint::pass("sink.after")?;
            if written == Written::GivenUp {
                self.finish_void(plan.number)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whoever forbade an epoch ended before the log said that it is void: nobody can run it any more, so it is said now.
    fn finish_void(&mut self, number: u64) -> Result<()> {
        let head = self.journal.head()?;
        let outstanding = match &head.plan {
            Some(Planned::Run(plan)) => Some(&**plan),
            _ => None,
        };
        self.void(number, head.commit.as_ref(), outstanding)
    }
}
