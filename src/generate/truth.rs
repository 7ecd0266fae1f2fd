//! What was made, counted while it was made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::draft::rfc3339;
use super::{Flaw, GenerateOptions, Profile, payments};
use crate::time::HOUR;

/// What the ledger has to say of the events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Every event.
    pub consumed: u64,
    /// Valid, unique and in time.
    pub silver: u64,
    /// With a flaw.
    pub rejected: u64,
    /// With a flaw, by the first code of the contract.
    pub rejected_by_code: BTreeMap<String, u64>,
    /// Delivered again.
    pub duplicate: u64,
    /// Delivered an hour or more after newer ones. They are late where the watermark of the last commit has passed
    /// them, which depends on how the reader cuts its epochs; otherwise they are in Silver. None where the pipeline waits
    /// long enough for all of them.
    pub late: u64,
    /// Sent to move the watermark past all others, and therefore held until something later comes; none where the
    /// pipeline holds nothing.
    pub pending: u64,
}

/// What the hourly metrics have to say of an hour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hour {
    /// Transactions that happened in it.
    pub total_transactions: u64,
    /// The sum of their amounts over all currencies, exact.
    pub total_amount: String,
    /// Those that took longer than two minutes to be processed.
    pub late_transactions: u64,
}

/// The truth about generated events. Everything but `lines` and `flaws` speaks of good events, each once, without late
/// ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// Whose events these are.
    pub profile: String,
    /// The seed.
    pub seed: u64,
    /// Every event that was handed out.
    pub total: u64,
    /// Their bytes, with the ends of the lines.
    pub bytes: u64,
    /// Good events by type.
    pub by_type: BTreeMap<String, u64>,
    /// Bad events by flaw.
    pub flaws: BTreeMap<String, u64>,
    /// What a pipeline has to find.
    pub expected: Expected,
    /// The same where nobody knows when an event arrived (validation of a file): a time far ahead is no flaw then.
    pub expected_batch: Expected,
    /// Users with at least one event.
    pub users: u64,
    /// Users with a sign-up among the events; the others were customers before.
    pub users_signed_up: u64,
    /// Times that a user took a plan other than the one before.
    pub plan_changes: u64,
    /// Rows of the users' history (one a sign-up, one a change of plan), without inferred ones.
    pub plan_rows: u64,
    /// Sessions with a gap of 30 minutes and at most 24 hours.
    pub sessions: u64,
    /// The sum of what was paid, exact; of payments the amounts of all transactions, whatever became of them.
    pub purchase_amount: String,
    /// The same by currency.
    pub purchase_amount_by_currency: BTreeMap<String, String>,
    /// When the first event happened.
    pub first_event_time: Option<String>,
    /// When the last event happened.
    pub last_event_time: Option<String>,
    /// Transactions by the hour in which they happened; payments only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hours: BTreeMap<String, Hour>,
    #[serde(skip)]
    sums: Sums,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sums {
    types: Vec<(&'static str, u64)>,
    flaws: Vec<u64>,
    paid: Vec<(&'static str, u128)>,
    first: Option<i64>,
    last: Option<i64>,
    duplicate: u64,
    late: u64,
    /// Transactions, cents and late ones by the hour's number since 1970.
    hours: BTreeMap<i64, (u64, u128, u64)>,
}

impl Truth {
    pub(super) fn new(profile: Profile, options: &GenerateOptions) -> Self {
        Self {
            profile: profile.name().to_owned(),
            seed: options.seed,
            total: options.total,
            bytes: 0,
            by_type: BTreeMap::new(),
            flaws: BTreeMap::new(),
            expected: Expected::default(),
            expected_batch: Expected::default(),
            users: 0,
            users_signed_up: 0,
            plan_changes: 0,
            plan_rows: 0,
            sessions: 0,
            purchase_amount: String::new(),
            purchase_amount_by_currency: BTreeMap::new(),
            first_event_time: None,
            last_event_time: None,
            hours: BTreeMap::new(),
            sums: Sums { flaws: vec![0; Flaw::ALL.len()], ..Sums::default() },
        }
    }

    pub(super) fn flawed(&mut self, flaw: Flaw) {
        self.sums.flaws[flaw as usize] += 1;
    }

    pub(super) fn duplicate(&mut self) {
        self.sums.duplicate += 1;
    }

    pub(super) fn late(&mut self) {
        self.sums.late += 1;
    }

    pub(super) fn good(&mut self, event_type: &'static str, at: i64) {
        match self.sums.types.iter_mut().find(|t| t.0 == event_type) {
            Some(there) => there.1 += 1,
            None => self.sums.types.push((event_type, 1)),
        }
        self.sums.first = Some(self.sums.first.map_or(at, |f| f.min(at)));
        self.sums.last = Some(self.sums.last.map_or(at, |l| l.max(at)));
    }

    pub(super) fn paid(&mut self, currency: &'static str, cents: u64) {
        match self.sums.paid.iter_mut().find(|p| p.0 == currency) {
            Some(there) => there.1 += u128::from(cents),
            None => self.sums.paid.push((currency, u128::from(cents))),
        }
    }

    pub(super) fn hour(&mut self, at: i64, cents: u64, late: bool) {
        let (transactions, sum, slow) = self.sums.hours.entry(at.div_euclid(HOUR)).or_default();
        *transactions += 1;
        *sum += u128::from(cents);
        *slow += u64::from(late);
    }

    /// Only so many events arrived.
    pub(super) fn arrived(&mut self, total: u64, bytes: u64) {
        (self.total, self.bytes) = (total, bytes);
        (self.expected.consumed, self.expected_batch.consumed) = (total, total);
    }

    /// When the last event happened, in microseconds since the Unix epoch.
    pub fn newest(&self) -> Option<i64> {
        let text = self.last_event_time.as_deref()?;
        chrono::DateTime::parse_from_rfc3339(text).ok().map(|at| at.timestamp_micros())
    }

    /// Events that happen at `at` were sent after all others, only to move the watermark.
    pub fn heartbeats(&mut self, profile: Profile, events: u64, bytes: u64, at: i64) {
        self.arrived(self.total + events, self.bytes + bytes);
        // A batch knows no watermark, and holds nothing.
        self.expected_batch.silver += events;
        if profile.holds() {
            self.expected.pending += events;
            return;
        }
        if events == 0 {
            return;
        }
        // They are events as all others, of users that have no others, and of no amount.
        self.expected.silver += events;
        self.users += events;
        *self.by_type.entry(payments::EVENT_TYPE.to_owned()).or_default() += events;
        self.last_event_time = Some(rfc3339(at));
        let hour = self.hours.entry(hour_text(at)).or_default();
        if hour.total_transactions == 0 {
            hour.total_amount = money(0);
        }
        hour.total_transactions += events;
    }

    pub(super) fn finish(&mut self) {
        let sums = std::mem::take(&mut self.sums);
        self.by_type = sums.types.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
        let good: u64 = self.by_type.values().sum();
        let mut expected = Expected {
            consumed: self.total,
            silver: good,
            duplicate: sums.duplicate,
            late: sums.late,
            ..Expected::default()
        };
        for (flaw, &n) in Flaw::ALL.iter().zip(&sums.flaws).filter(|(_, n)| **n > 0) {
            self.flaws.insert(flaw.as_str().to_owned(), n);
            expected.rejected += n;
            *expected.rejected_by_code.entry(flaw.code().as_str().to_owned()).or_default() += n;
        }
        let ahead = sums.flaws[Flaw::FutureEventTime as usize];
        self.expected_batch = expected.clone();
        self.expected_batch.rejected_by_code.remove(Flaw::FutureEventTime.code().as_str());
        self.expected_batch.rejected -= ahead;
        // Nothing is late in a batch.
        self.expected_batch.silver += ahead + sums.late;
        self.expected_batch.late = 0;
        self.expected = expected;
        self.purchase_amount = money(sums.paid.iter().map(|p| p.1).sum());
        self.purchase_amount_by_currency = sums.paid.iter().map(|(c, n)| ((*c).to_owned(), money(*n))).collect();
        self.first_event_time = sums.first.map(rfc3339);
        self.last_event_time = sums.last.map(rfc3339);
        for (hour, (total_transactions, cents, late_transactions)) in sums.hours {
            let hour_of = Hour { total_transactions, total_amount: money(cents), late_transactions };
            self.hours.insert(hour_text(hour * HOUR), hour_of);
        }
    }
}

fn money(cents: u128) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// The hour of a moment, as `2024-12-17T13:00:00Z`.
fn hour_text(at: i64) -> String {
    let begin = at - at.rem_euclid(HOUR);
    rfc3339(begin).replace(".000000", "")
}
