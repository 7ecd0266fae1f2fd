//! What became of each event before, held against what becomes of it now.

use std::collections::{HashMap, HashSet};

use super::gather::{Gathered, bucket_of, number, words};
use super::{Backfill, BackfillReport};
use crate::error::{Error, Result};
use crate::stream::ledger::Counts;
use crate::verdict::Code;

/// Words of a mark: a position, the kind, and what belongs to it.
pub const MARK: usize = 6;

/// What was found out about a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Valid, and the stream is at it.
    Streams,
    /// Valid, and today's contract reads a time or an entity that is not in the scope.
    Elsewhere,
    /// Not valid; whether its time lies in the range.
    Rejected {
        /// The place of its first code among all.
        code: u64,
        /// Whether its time lies in the range.
        inside: bool,
    },
    /// There is an open dead letter of it.
    Letter {
        /// The place of its code among all.
        code: u64,
    },
    /// Goes to Silver.
    Silver {
        /// The hash of its key.
        key: u128,
        /// Its time.
        time: i64,
    },
    /// Its key is another's.
    Duplicate,
    /// It had a row in Silver that goes.
    Removed,
    /// It has a row in Silver that stays.
    Stays,
}

impl Fate {
    /// As a record.
    pub fn mark(self, position: u128) -> [u64; MARK] {
        let [a, b] = words(position);
        let (kind, [c, d, e]) = match self {
            Self::Streams => (0, [0; 3]),
            Self::Elsewhere => (1, [0; 3]),
            Self::Rejected { code, inside } => (2, [code, u64::from(inside), 0]),
            Self::Letter { code } => (3, [code, 0, 0]),
            Self::Silver { key, time } => {
                let [high, low] = words(key);
                (4, [high, low, time as u64])
            }
            Self::Duplicate => (5, [0; 3]),
            Self::Removed => (6, [0; 3]),
            Self::Stays => (7, [0; 3]),
        };
        [a, b, kind, c, d, e]
    }

    fn read(mark: &[u64; MARK]) -> Self {
        match mark[2] {
            0 => Self::Streams,
            1 => Self::Elsewhere,
            2 => Self::Rejected { code: mark[3], inside: mark[4] == 1 },
            3 => Self::Letter { code: mark[3] },
            4 => Self::Silver { key: number(&mark[3..5]), time: mark[5] as i64 },
            5 => Self::Duplicate,
            6 => Self::Removed,
            _ => Self::Stays,
        }
    }
}

/// What is known of one event.
#[derive(Default)]
struct Event {
    /// Removed or Stays.
    old: Option<Fate>,
    letter: Option<u64>,
    new: Option<Fate>,
}

/// What moves.
#[derive(Default)]
pub struct Fates {
    /// Dead letters that find another place, and whether that is Silver.
    pub settled: HashMap<u128, bool>,
    /// Events that get a dead letter.
    pub letters: HashSet<u128>,
    /// Keys that come into Silver and were not there, with their times.
    pub new_keys: Vec<(u128, i64)>,
    counts: Counts,
    report: BackfillReport,
}

impl Fates {
    /// Adds what moves to ledger and report.
    pub fn count(&self, counts: &mut Counts, report: &mut BackfillReport) {
        counts.add(&self.counts);
        let found = &self.report;
        report.rows_before = found.rows_before;
        report.rows_after = found.rows_after;
        report.accepted = found.accepted;
        report.found_duplicate = found.found_duplicate;
        report.no_duplicate = found.no_duplicate;
        report.duplicate = found.duplicate;
        report.rejected = found.rejected;
    }

    fn reject(&mut self, position: u128, code: u64) {
        self.letters.insert(position);
        self.report.rejected += 1;
        self.counts.rejected += 1;
        self.counts.dead_letters += 1;
        if let Some(code) = Code::ALL.get(code as usize) {
            *self.counts.rejected_by_code.entry(*code).or_default() += 1;
        }
    }

    fn settle(&mut self, position: u128, code: u64, silver: bool) {
        self.settled.insert(position, silver);
        self.counts.settled += 1;
        self.counts.leave(Code::ALL.get(code as usize).map_or("", |c| c.as_str()));
    }

    fn decide(&mut self, position: u128, event: &Event) -> Result<()> {
        let report = &mut self.report;
        match (event.old, event.letter, event.new) {
            (Some(Fate::Removed), _, new) => {
                report.rows_before += 1;
                match new {
                    Some(Fate::Silver { .. }) => report.rows_after += 1,
                    Some(Fate::Duplicate) => {
                        report.duplicate += 1;
                        self.counts.silver -= 1;
                        self.counts.duplicate += 1;
                    }
                    Some(Fate::Rejected { code, .. }) => {
                        self.counts.silver -= 1;
                        self.reject(position, code);
                    }
                    Some(_) => return Err(read_otherwise()),
                    None => {
                        return Err(Error::lake(
                            "bronze/events",
                            "events of the range have rows in Silver and none in Bronze: Bronze of these days has \
                             expired, or is damaged (`penstock audit` says which). Nothing was changed; begin with a later day",
                        ));
                    }
                }
            }
            (Some(_), _, Some(Fate::Silver { .. })) => return Err(read_otherwise()),
            (None, Some(code), Some(Fate::Silver { key, time })) => {
                report.accepted += 1;
                report.rows_after += 1;
                self.counts.silver += 1;
                self.new_keys.push((key, time));
                self.settle(position, code, true);
            }
            (None, Some(code), Some(Fate::Duplicate)) => {
                report.found_duplicate += 1;
                self.counts.duplicate += 1;
                self.settle(position, code, false);
            }
            (None, None, Some(Fate::Silver { key, time })) => {
                report.no_duplicate += 1;
                report.rows_after += 1;
                self.counts.duplicate -= 1;
                self.counts.silver += 1;
                self.new_keys.push((key, time));
            }
            (None, None, Some(Fate::Rejected { code, inside: true })) => {
                self.counts.duplicate -= 1;
                self.reject(position, code);
            }
            _ => {}
        }
        Ok(())
    }
}

fn read_otherwise() -> Error {
    Error::Data(
        "today's contract reads other times or entities from events of these days than the one that wrote Silver, so that \
         their rows would lie partly outside the range. Nothing was changed; backfill a range that holds all of them"
            .into(),
    )
}

impl Backfill<'_> {
    /// Holds the new places against the old ones.
    pub fn fates(&self, gathered: &mut Gathered<'_>) -> Result<Fates> {
        let mut fates = Fates::default();
        for n in 0..self.buckets {
            let mut events: HashMap<u128, Event> = HashMap::new();
            for mark in gathered.marks.take(n)? {
                let position = number(&mark[..2]);
                debug_assert_eq!(bucket_of(position, self.buckets), n);
                let event = events.entry(position).or_default();
                match Fate::read(&mark) {
                    Fate::Letter { code } => event.letter = Some(code),
                    old @ (Fate::Removed | Fate::Stays) => event.old = Some(old),
                    new => event.new = Some(new),
                }
            }
            for (position, event) in &events {
                fates.decide(*position, event)?;
            }
        }
        // The order is that of a hash table: nothing follows from it but the order of keys in the state.
        fates.new_keys.sort_unstable();
        if fates.counts.consumed != 0 || !fates.counts.balanced() {
            return Err(Error::Ledger(format!("{}: a backfill moves {:?}", self.work.journal.control(), fates.counts)));
        }
        Ok(fates)
    }
}
