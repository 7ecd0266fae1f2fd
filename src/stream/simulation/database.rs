//! A database that epochs are written into: it loses the reply of a COMMIT, rolls back, is slow, and is met by runs that do
//! not own the pipeline any more. Its lock goes with the connection: a transaction whose client died has landed, or has
//! not, before anybody else gets it.

use std::collections::BTreeMap;
use std::fmt;

use super::handle::{Fault, Handle, Sabotage};
use crate::error::{Error, Result};
use crate::sources::PartitionState;
use crate::stream::log::{Commit, Kind};
use crate::stream::sink::{EpochSink, SinkEpoch, Written};

/// What stands under a number of the log.
#[derive(Debug, Clone, PartialEq)]
enum Row {
    /// An epoch: the files that its rows are from, and where reading stands after it.
    Epoch { files: Vec<String>, partitions: Vec<PartitionState> },
    /// It must never be written.
    Forbidden,
}

/// The tables.
#[derive(Debug, Default)]
pub struct Database {
    /// Whether this world has one.
    pub is_there: bool,
    rows: BTreeMap<u64, Row>,
    term: u64,
}

impl Database {
    /// Only the newest term goes on.
    fn check(&mut self, term: u64) -> Result<()> {
        if term < self.term {
            return Err(Error::Superseded { ours: term, theirs: self.term, holder: "another".into() });
        }
        self.term = term;
        Ok(())
    }

    /// What a commit says is what the database holds.
    pub fn agrees(&self, commit: &Commit) -> Result<(), String> {
        if !self.is_there {
            return Ok(());
        }
        let (number, row) = (commit.number, self.rows.get(&commit.number));
        match (commit.kind, row) {
            (Kind::Run, Some(Row::Epoch { files, partitions })) => {
                let same = files.iter().eq(commit.files.iter().map(|f| &f.path)) && *partitions == commit.partitions;
                if same { Ok(()) } else { Err(format!("epoch {number} is not what the database holds: {row:?}")) }
            }
            (Kind::Run, _) => Err(format!("epoch {number} is committed, and the database has {row:?}")),
            (_, Some(Row::Epoch { .. })) => Err(format!("{number} is {:?}, and the database holds it", commit.kind)),
            (Kind::Void, _) | (_, None) => Ok(()),
            (kind, Some(Row::Forbidden)) => Err(format!("{number} is {kind:?}, and was forbidden")),
        }
    }

    /// When nothing is under way: every number that it has is committed.
    pub fn settled(&self, commits: &BTreeMap<u64, Commit>) -> Result<(), String> {
        let stray = self.rows.keys().find(|number| !commits.contains_key(number));
        stray.map_or(Ok(()), |number| Err(format!("the database has {number}, and the log has not")))?;
        commits.values().try_for_each(|commit| self.agrees(commit))
    }
}

/// The database, as one run sees it.
pub struct Sink<'a>(pub &'a Handle<'a>);

impl fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {}", self.0.run)
    }
}

impl Sink<'_> {
    fn transaction<T>(&self, what: &str, number: u64, work: impl FnOnce(&mut Database) -> Result<T>) -> Result<T> {
        let (handle, place) = (self.0, format!("database/{number}"));
        let fault = handle.begin(what, &place, true)?;
        let landed = handle.draw("landed", &place).is_multiple_of(2);
        let mut inner = handle.enter();
        if fault == Fault::Partial {
            inner.tally.sink_rolled_back += 1;
            return Err(handle.failed(&place, "rolled back"));
        }
        if matches!(fault, Fault::CrashInFlight(_)) {
            inner.tally.crashed_in_flight += 1;
            if landed {
                // Whoever looks next finds it.
                let done = work(&mut inner.database);
                inner.tally.sink_landed_after_death += u64::from(done.is_ok());
            }
            handle.die();
            return Err(handle.failed(&place, "crash with the COMMIT on its way"));
        }
        let done = work(&mut inner.database);
        inner.tally.sink_superseded += u64::from(done.is_err());
        let done = done?;
        // A reply that is lost is asked for: it did land.
        inner.tally.sink_lost_replies += u64::from(fault == Fault::Lost);
        drop(inner);
        handle.end(fault, &place)?;
        Ok(done)
    }
}

impl EpochSink for Sink<'_> {
    fn name(&self) -> &str {
        "database"
    }

    fn write(&self, epoch: &SinkEpoch<'_>) -> Result<Written> {
        let files = epoch.files.iter().map(|f| f.path.clone()).collect();
        let row = Row::Epoch { files, partitions: epoch.partitions.to_vec() };
        let committed = self.0.enter().reader.last.as_ref().map(|c| c.number);
        let mut fresh = false;
        let written = self.transaction("write epoch", epoch.number, |database| {
            database.check(epoch.term)?;
            match database.rows.get(&epoch.number) {
                Some(Row::Forbidden) => Ok(Written::GivenUp),
                Some(_) => Ok(Written::Held),
                None => {
                    fresh = true;
                    database.rows.insert(epoch.number, row);
                    Ok(Written::Held)
                }
            }
        });
        let mut inner = self.0.enter();
        match &written {
            Ok(Written::GivenUp) => inner.tally.sink_given_up += 1,
            Ok(Written::Held) if !fresh => inner.tally.sink_held += 1,
            Ok(Written::Held) => inner.tally.sink_epochs += 1,
            Err(_) => {}
        }
        if fresh && committed >= Some(epoch.number) {
            inner.breaks(|| format!("epoch {} went into the database after its commit", epoch.number));
        }
        written
    }

    fn forbid(&self, epoch: u64, term: u64) -> Result<bool> {
        let asks_only = self.0.sabotage() == Some(Sabotage::AskOnly);
        let forbidden = self.transaction("forbid epoch", epoch, |database| {
            let holds = matches!(database.rows.get(&epoch), Some(Row::Epoch { .. }));
            if asks_only {
                return Ok(!holds);
            }
            database.check(term)?;
            if !holds {
                database.rows.insert(epoch, Row::Forbidden);
            }
            Ok(!holds)
        })?;
        let mut inner = self.0.enter();
        match forbidden {
            true => inner.tally.sink_forbidden += 1,
            false => inner.tally.sink_refused += 1,
        }
        Ok(forbidden)
    }
}
