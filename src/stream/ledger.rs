//! The ledger: the count of what became of every event.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::verdict::Code;

/// What became of the events of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Events read from the source.
    pub consumed: i64,
    /// Events written to Silver.
    pub silver: i64,
    /// Change in the number of events held until the watermark passes them; may be negative.
    pub pending: i64,
    /// Events that the contract does not accept.
    pub rejected: i64,
    /// Events whose key was seen before.
    pub duplicate: i64,
    /// Events below the watermark of the commit before.
    pub late: i64,
    /// Rejected events by their first problem.
    pub rejected_by_code: BTreeMap<Code, i64>,
    /// Rows written to Bronze.
    pub bronze: i64,
    /// Rows written to dead letters.
    pub dead_letters: i64,
    /// Dead letters that found another place since: replayed, or made good by a backfill. Their rows stay.
    #[serde(default)]
    pub settled: i64,
    /// Sessions closed.
    pub sessions: i64,
    /// Positions that were gone before they were read, their loss accepted. Not part of `consumed`: nobody can say what
    /// stood there.
    #[serde(default)]
    pub lost: i64,
    /// Rows that retention took, by layer. The headings count them still: this is what became of them later.
    #[serde(default)]
    pub expired: BTreeMap<String, i64>,
}

impl Counts {
    /// Adds another epoch's counts to these.
    pub fn add(&mut self, other: &Counts) {
        self.consumed += other.consumed;
        self.silver += other.silver;
        self.pending += other.pending;
        self.rejected += other.rejected;
        self.duplicate += other.duplicate;
        self.late += other.late;
        self.bronze += other.bronze;
        self.dead_letters += other.dead_letters;
        self.settled += other.settled;
        self.sessions += other.sessions;
        self.lost += other.lost;
        for (code, n) in &other.rejected_by_code {
            *self.rejected_by_code.entry(*code).or_default() += n;
        }
        for (layer, n) in &other.expired {
            *self.expired.entry(layer.clone()).or_default() += n;
        }
    }

    /// Rows of a layer that retention took.
    pub fn expired_of(&self, layer: &str) -> i64 {
        self.expired.get(layer).copied().unwrap_or_default()
    }

    /// Whether every event is accounted for.
    pub fn balanced(&self) -> bool {
        self.consumed == self.silver + self.pending + self.rejected + self.duplicate + self.late
            && self.rejected == self.rejected_by_code.values().sum::<i64>()
    }
}

/// The sums since the pipeline began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The counts of all epochs together.
    #[serde(flatten)]
    pub counts: Counts,
    /// How many epochs were committed.
    pub epochs: u64,
    /// Up to which day (its beginning, in microseconds since the Unix epoch) retention has emptied a layer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expired_before: BTreeMap<String, i64>,
}

impl Ledger {
    /// Adds what another log of the same pipeline counted.
    pub fn add(&mut self, other: &Ledger) {
        self.counts.add(&other.counts);
        self.epochs += other.epochs;
        self.expired_before.retain(|layer, _| other.expired_before.contains_key(layer));
        for (layer, day) in &mut self.expired_before {
            *day = (*day).min(other.expired_before[layer]);
        }
    }

    /// Takes in one more epoch.
    ///
    /// # Errors
    /// [`Error::Ledger`] when an event is not accounted for, in the epoch or in the sum.
    pub fn take(&mut self, epoch: u64, counts: &Counts, with_bronze: bool) -> Result<()> {
        let mut sum = self.clone();
        sum.counts.add(counts);
        sum.epochs += 1;
        if !counts.balanced() || !sum.counts.balanced() {
            return Err(Error::Ledger(format!("epoch {epoch} has {counts:?}")));
        }
        if with_bronze && counts.bronze != counts.consumed {
            return Err(Error::Ledger(format!(
                "epoch {epoch} read {} events and wrote {} to Bronze",
                counts.consumed, counts.bronze
            )));
        }
        if counts.dead_letters != counts.rejected + counts.late {
            return Err(Error::Ledger(format!(
                "epoch {epoch} has {} rejected and {} late events, and wrote {} dead letters",
                counts.rejected, counts.late, counts.dead_letters
            )));
        }
        if sum.counts.pending < 0 {
            return Err(Error::Ledger(format!("after epoch {epoch} {} events are pending", sum.counts.pending)));
        }
        *self = sum;
        Ok(())
    }

    /// Takes in an entry that is no epoch: it consumes nothing, and moves events from one heading to another.
    ///
    /// # Errors
    /// [`Error::Ledger`] when it does not, or more goes from a heading than stood there.
    pub fn take_entry(&mut self, counts: &Counts) -> Result<()> {
        let mut sum = self.clone();
        sum.counts.add(counts);
        sum.counts.rejected_by_code.retain(|_, n| *n != 0);
        let c = &sum.counts;
        let moved = counts.consumed == 0 && counts.bronze == 0 && counts.pending == 0 && counts.balanced();
        let lowest = [c.silver, c.pending, c.rejected, c.duplicate, c.late, c.settled, c.sessions].into_iter().min();
        let below = lowest.is_some_and(|n| n < 0) || c.rejected_by_code.values().any(|n| *n < 0);
        if !moved || !c.balanced() || below || c.dead_letters != c.rejected + c.late + c.settled {
            return Err(Error::Ledger(format!("an entry would move {counts:?}, which leaves {c:?}")));
        }
        *self = sum;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_nowhere_is_an_error() {
        let mut ledger = Ledger::default();
        let mut counts = Counts { consumed: 3, silver: 1, pending: 2, bronze: 3, ..Counts::default() };
        ledger.take(0, &counts, true).unwrap();
        assert_eq!(ledger.counts.pending, 2);
        counts.silver = 0;
        assert!(matches!(ledger.take(1, &counts, true), Err(Error::Ledger(_))));
        assert_eq!(ledger.epochs, 1, "a refused epoch leaves the sums as they were");
    }

    #[test]
    fn rejected_events_have_a_code() {
        let counts = Counts { consumed: 1, rejected: 1, dead_letters: 1, bronze: 1, ..Counts::default() };
        assert!(!counts.balanced());
        let by_code = BTreeMap::from([(Code::MalformedJson, 1)]);
        assert!(Counts { rejected_by_code: by_code, ..counts }.balanced());
    }

    #[test]
    fn an_entry_moves_events_and_makes_none() {
        let mut ledger = Ledger::default();
        let by_code = |n| BTreeMap::from([(Code::MissingField, n)]);
        let counts = Counts {
            consumed: 3,
            silver: 1,
            rejected: 2,
            dead_letters: 2,
            bronze: 3,
            rejected_by_code: by_code(2),
            ..Counts::default()
        };
        ledger.take(0, &counts, true).unwrap();
        let replayed =
            Counts { silver: 1, rejected: -1, settled: 1, rejected_by_code: by_code(-1), ..Counts::default() };
        ledger.take_entry(&replayed).unwrap();
        assert_eq!((ledger.counts.silver, ledger.counts.rejected, ledger.epochs), (2, 1, 1));
        let twice = Counts { silver: 2, rejected: -2, settled: 2, rejected_by_code: by_code(-2), ..Counts::default() };
        assert!(ledger.take_entry(&twice).is_err(), "more than there were");
        assert!(ledger.take_entry(&Counts { silver: 1, ..Counts::default() }).is_err(), "out of nothing");
        ledger.take_entry(&replayed).unwrap();
        assert!(ledger.counts.rejected_by_code.is_empty());
    }
}
