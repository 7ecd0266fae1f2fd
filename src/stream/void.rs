//! Giving up an epoch that cannot be run any more: it is committed as void, and its ranges are read again in the next.

use super::ledger::Counts;
use super::log::{Commit, FORMAT, Kind, Plan};
use super::partitions::are_saved;
use super::run::Event;
use super::runner::Runner;
use super::spec::Shard;
use crate::error::{Error, Result};
use crate::failpoint;

impl Runner<'_> {
    /// Makes the outstanding epoch void. One that is void already only has its files removed once more, so that a task
    /// that is tried again goes on.
    pub(super) fn void(&mut self, number: u64, base: Option<&Commit>, outstanding: Option<&Plan>) -> Result<()> {
        match outstanding {
            Some(plan) if plan.number == number => self.commit_void(plan, base)?,
            outstanding => {
                let committed = base.is_some_and(|c| c.number >= number);
                if !committed || self.journal.commit(number)?.kind != Kind::Void {
                    let what = if committed { "is committed: it counts, and stays" } else { "was never planned" };
                    let which = match outstanding {
                        Some(plan) => format!("the one that can be made void is {}", plan.number),
                        None => "no epoch is planned and not committed: there is nothing to make void".to_owned(),
                    };
                    return Err(Error::settings("void", format!("epoch {number} {what}; {which}")));
                }
            }
        }
        let files = self.remove_files(number)?;
        self.observer.event(&Event::Voided { epoch: number, files });
        Ok(())
    }

    fn commit_void(&self, plan: &Plan, base: Option<&Commit>) -> Result<()> {
        for sink in &self.sinks {
            self.journal.check_term(&self.term)?;
            if !sink.forbid(plan.number, self.term.number)? {
                return Err(Error::settings(
                    "void",
                    format!(
                        "{} holds epoch {} already, and would keep what the log takes back. Bring back what the epoch needs, \
                         and run it",
                        sink.name(),
                        plan.number
                    ),
                ));
            }
        }
        let carried = base.filter(|c| !are_saved(c));
        let commit = Commit {
            format: FORMAT,
            number: plan.number,
            kind: Kind::Void,
            term: self.term.number,
            term_id: self.term.id.clone(),
            counts: Counts::default(),
            ledger: base.map(|c| c.ledger.clone()).unwrap_or_default(),
            watermark: base.and_then(|c| c.watermark),
            files: vec![],
            removed: vec![],
            state: base.map(|c| c.state.clone()).unwrap_or_default(),
            partitions: carried.map(|c| c.partitions.clone()).unwrap_or_default(),
            contract: base.map_or_else(|| plan.contract.clone(), |c| c.contract.clone()),
            origin: base.map(|c| self.journal.origin(c)).transpose()?.flatten(),
            change: None,
            committed_at: self.clock.now(),
            note: None,
            unread: base.map(|c| c.unread.clone()).unwrap_or_default(),
        };
        failpoint::pass("void.before")?;
        if self.journal.put_commit(&self.term, &commit)?.is_some_and(|standing| standing.kind != Kind::Void) {
            return Err(Error::settings("void", format!("epoch {} was committed in this moment", plan.number)));
        }
        failpoint::pass("void.after")?;
        self.journal.maybe_snapshot(&self.term, &commit)
    }

    /// Removes what was written of an epoch: no commit names it.
    fn remove_files(&self, number: u64) -> Result<usize> {
        let mut removed = 0;
        let state_folder = format!("{}state/", self.journal.control());
        let state = format!("{state_folder}{number:010}-");
        for folder in ["bronze/", "silver/", "dead_letters/", "gold/", &state_folder] {
            for object in self.journal.store().list(folder, None)? {
                let name = object.path.rsplit('/').next().unwrap_or_default();
                if name.starts_with(&self.names.epoch(number)) || object.path.starts_with(&state) {
                    self.journal.check_term(&self.term)?;
                    self.journal.store().delete(&object.path)?;
                    removed += 1;
                    failpoint::pass("void.removing")?;
                }
            }
        }
        failpoint::pass("void.removed")?;
        Ok(removed)
    }
}

/// Says how an epoch that cannot be run again is given up.
pub(super) fn with_way_out(error: Error, plan: &Plan, shard: Option<Shard>) -> Error {
    let number = plan.number;
    let shard = shard.map(|s| format!(" --shard {}/{}", s.number, s.of)).unwrap_or_default();
    let way = format!(
        "Epoch {number} was planned before, and cannot be run as it was planned. Bring back what it needs, or give it up: \
         `penstock run PIPELINE --void {number}{shard}` commits it as void, removes its files, and reads the same ranges again \
         under today's contract and settings; no event is lost or doubled"
    );
    match error {
        Error::Contract { file, line, reason } => Error::Contract { file, line, reason: format!("{reason}. {way}") },
        Error::Settings { name, reason } => Error::Settings { name, reason: format!("{reason}. {way}") },
        Error::Data(reason) => Error::Data(format!("{reason}. {way}")),
        Error::Source { place, reason } => Error::Source { place, reason: format!("{reason}. {way}") },
        Error::Checkpoint { path, reason } => Error::Checkpoint { path, reason: format!("{reason}. {way}") },
        Error::Ledger(reason) => Error::Ledger(format!("{reason}. {way}")),
        other => other,
    }
}
