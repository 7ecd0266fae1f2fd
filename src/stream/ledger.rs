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
    /// Sessions closed.
    pub sessions: i64,
    /// Positions that were gone before they were read, their loss accepted. Not part of `consumed`: nobody can say what
    /// stood there.
    #[serde(default)]
    pub lost: i64,
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
        self.sessions += other.sessions;
        self.lost += other.lost;
        for (code, n) in &other.rejected_by_code {
            *self.rejected_by_code.entry(*code).or_default() += n;
        }
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
}

impl Ledger {
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
}
