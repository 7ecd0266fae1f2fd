//! Payments: transactions of users in the currency of each, most of them processed within seconds.
//!
//! Each event is one transaction, with the moment when it happened and the one when it was processed. Nine in ten are
//! processed within two seconds, three in a hundred take longer than two minutes and are late by the rule of the hourly
//! metrics. An event comes when it is processed, so slow ones come behind newer ones, two hours at most. A few users pay
//! often, most seldom; nights are quiet. No two transactions happen in the same microsecond.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::clock::Clock;
use super::draft::Draft;
use super::names::Names;
use super::{Event, GenerateOptions, Truth, World, below, unit};
use crate::error::Result;
use crate::time::{HOUR, MINUTE, SECOND};

/// The one event type: events have none of their own, the contract gives it.
pub const EVENT_TYPE: &str = "transaction";
/// A transaction is late when it took longer than this.
pub const LATE: i64 = 2 * MINUTE;
/// The longest that one takes.
const LONGEST: i64 = 2 * HOUR;

pub(super) const NAMES: Names = Names {
    event_type: None,
    version: None,
    time: "event_time",
    entity: "user_id",
    text: "currency",
    amount: "amount",
    count: None,
    required: &["transaction_id", "user_id", "amount", "currency", "status", "event_time"],
    wrong_type: &[("user_id", "12345"), ("amount", "\"12.50\""), ("currency", "null"), ("status", "[\"completed\"]")],
    not_allowed: &[("currency", "\"BTC\""), ("status", "\"lost\"")],
    bad_format: &[
        ("event_time", "\"17/12/2024 10:11:12\""),
        ("transaction_id", "\"not-a-uuid\""),
        ("user_id", "\"user_000001\""),
        ("processing_time", "\"just now\""),
    ],
    several: ("currency", [("user_id", "12345"), ("status", "\"lost\"")]),
    no_objects: ["[\"transaction\",12.5]", "\"transaction\"", "42", "null"],
};

const CURRENCIES: [&str; 8] = ["USD", "USD", "USD", "EUR", "EUR", "GBP", "JPY", "CHF"];

#[derive(Clone, Copy, Default)]
struct User {
    /// Where the id comes from; 0: it has not been met.
    id: u128,
    currency: u8,
    /// Whether it has a good transaction.
    counted: bool,
}

/// What the transaction that was made last would tell, if it is a good one.
#[derive(Default)]
struct Last {
    user: usize,
    at: i64,
    processed: i64,
    currency: &'static str,
    cents: u64,
}

/// The users, and what they pay.
pub(super) struct Payments {
    users: Vec<User>,
    draft: Draft,
    key: String,
    clock: Clock,
    last: Last,
}

impl Payments {
    pub fn new(options: &GenerateOptions) -> Result<Self> {
        Ok(Self {
            users: vec![User::default(); options.users() as usize],
            draft: Draft::default(),
            key: String::new(),
            clock: Clock::new(options)?,
            last: Last::default(),
        })
    }

    /// Few users pay often: the density falls with the root of the rank.
    fn pick_user(&mut self, rng: &mut ChaCha8Rng) -> usize {
        let (u, n) = (unit(rng), self.users.len());
        let number = ((u * u * n as f64) as usize).min(n - 1);
        let user = &mut self.users[number];
        if user.id == 0 {
            user.id = long(rng) | 1;
            user.currency = below(rng, CURRENCIES.len() as u32) as u8;
        }
        number
    }
}

impl World for Payments {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Event<'_> {
        self.clock.pass(rng);
        let at = self.clock.now;
        let number = self.pick_user(rng);
        let user = self.users[number];
        let currency = CURRENCIES[usize::from(user.currency)];
        let processed = at + latency(rng);
        // Small amounts are many, large ones few. The yen has no cents.
        let share = unit(rng);
        let share = share * share * share;
        let yen = 50 + (share * 300_000.0) as u64;
        let cents = if currency == "JPY" { yen * 100 } else { 50 + (share * 200_000.0) as u64 };
        let chance = below(rng, 100);
        let status = match chance {
            0..88 => "completed",
            88..93 => "pending",
            93..97 => "failed",
            _ => "refunded",
        };
        let draft = &mut self.draft;
        draft.clear();
        draft.uuid("transaction_id", long(rng));
        draft.uuid("user_id", user.id);
        read_key(draft, &mut self.key);
        match currency {
            "JPY" => draft.number("amount", yen),
            _ => draft.money("amount", cents),
        }
        draft.text("currency", currency);
        draft.text("status", status);
        draft.time("event_time", at);
        draft.time("processing_time", processed);
        // Properties that the contract does not name are kept, not refused.
        if below(rng, 50) == 0 {
            draft.text("channel", if chance.is_multiple_of(2) { "app" } else { "web" });
        }
        self.last = Last { user: number, at, processed, currency, cents };
        Event { draft, key: &self.key, at, arrives: processed, may_be_late: true }
    }

    fn happened(&mut self, at: i64) {
        self.last.at = at;
    }

    fn accepted(&mut self, truth: &mut Truth) {
        let last = &self.last;
        let user = &mut self.users[last.user];
        truth.good(EVENT_TYPE, last.at);
        truth.users += u64::from(!std::mem::replace(&mut user.counted, true));
        truth.paid(last.currency, last.cents);
        truth.hour(last.at, last.cents, last.processed - last.at > LATE);
    }
}

/// How long a transaction takes.
fn latency(rng: &mut ChaCha8Rng) -> i64 {
    let (from, to) = match below(rng, 1_000) {
        0..900 => (SECOND / 20, 2 * SECOND),
        900..970 => (2 * SECOND, LATE),
        _ => (LATE + 1, LONGEST),
    };
    from + (unit(rng) * (to - from) as f64) as i64
}

fn long(rng: &mut ChaCha8Rng) -> u128 {
    u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
}

/// The key of the message: the user's id.
fn read_key(draft: &Draft, key: &mut String) {
    key.clear();
    let id = draft.value("user_id").unwrap_or_default();
    key.extend(id.iter().filter(|b| **b != b'"').map(|b| char::from(*b)));
}

/// A transaction of nothing.
pub(super) fn heartbeat(rng: &mut ChaCha8Rng, at: i64, line: &mut Vec<u8>) -> String {
    let (mut draft, mut key) = (Draft::default(), String::new());
    draft.uuid("transaction_id", long(rng));
    draft.uuid("user_id", long(rng));
    read_key(&draft, &mut key);
    draft.money("amount", 0);
    draft.text("currency", CURRENCIES[0]);
    draft.text("status", "completed");
    draft.time("event_time", at);
    draft.time("processing_time", at);
    draft.render(line);
    key
}
