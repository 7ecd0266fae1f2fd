//! A topic of a seed: what stands in it, when each record came, and what has to become of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::contract::Contract;
use crate::time::{DAY, HOUR, SECOND};

/// The topic's name.
pub const TOPIC: &str = "events";
/// When the story begins: early, so that all of it lies on one day.
pub const BEGIN: i64 = 20_000 * DAY + 6 * HOUR;

/// The contract of the seeds, and a later version of it: no record has what that adds.
pub const CONTRACTS: [&str; 2] = [
    "
name: simulation
roles: {event_type: {const: click}, event_time: {path: /event_time, unit: us}, idempotency_key: /idempotency_key, entity: /entity}
events:
  click:
    v1:
      type: object
      required: [idempotency_key, event_time, entity]
      additionalProperties: false
      properties: {idempotency_key: {type: string}, event_time: {type: integer}, entity: {type: string}}
",
    "
name: simulation
roles: {event_type: {const: click}, event_time: {path: /event_time, unit: us}, idempotency_key: /idempotency_key, entity: /entity}
events:
  click:
    v1:
      type: object
      required: [idempotency_key, event_time, entity]
      additionalProperties: false
      properties: {idempotency_key: {type: string}, event_time: {type: integer}, entity: {type: string}, page: {type: string}}
",
];

/// The contracts, compiled.
pub fn contracts() -> Vec<Contract> {
    let compiled = |text: &&str| Contract::from_text(text, Path::new("simulation.yaml")).expect("a contract");
    CONTRACTS.iter().map(compiled).collect()
}

/// What a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Is {
    /// An event, with its key and time. Another record may have the same key: then one of them goes to Silver.
    Event {
        /// The idempotency key.
        key: u32,
        /// The event time.
        time: i64,
    },
    /// Something that the contract refuses.
    Dirt,
}

/// A record of a partition.
#[derive(Debug, Clone)]
pub struct Record {
    /// Ascending, not without gaps: control records of transactions take offsets too.
    pub offset: i64,
    /// When it was appended; not descending.
    pub appended: i64,
    /// Its value; a tombstone has none.
    pub value: Option<Vec<u8>>,
    /// What it is.
    pub is: Is,
}

/// A partition.
#[derive(Debug, Clone, Default)]
pub struct Partition {
    /// When it came to be.
    pub created: i64,
    /// Its records.
    pub records: Vec<Record>,
}

impl Partition {
    /// How many records there are at a time.
    pub fn until(&self, now: i64) -> usize {
        self.records.partition_point(|r| r.appended <= now)
    }

    /// How many records lie below an offset.
    pub fn below(&self, offset: i64) -> usize {
        self.records.partition_point(|r| r.offset < offset)
    }
}

/// A topic, as it will have been in the end.
#[derive(Debug)]
pub struct Topic {
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// When the last record was appended.
    pub end: i64,
    /// How far an event's time may lie behind its append.
    pub disorder: i64,
}

/// Something no contract takes.
fn dirt(random: &mut ChaCha8Rng, at: i64, key: u32) -> Option<Vec<u8>> {
    let text = match random.random_range(0..6) {
        0 => return None,
        1 => "{\"id\": \"half".to_owned(),
        2 => "[1, 2]".to_owned(),
        3 => format!("{{\"idempotency_key\":\"k{key}\",\"event_time\":{at}}}"),
        4 => format!("{{\"idempotency_key\":\"k{key}\",\"event_time\":{at},\"entity\":7}}"),
        // A clock of the future, and a key that others have.
        _ => format!("{{\"idempotency_key\":\"k{key}\",\"event_time\":{},\"entity\":\"u0\"}}", at + DAY),
    };
    Some(text.into_bytes())
}

impl Topic {
    /// The topic of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let span = random.random_range(5..60) * SECOND;
        let total = random.random_range(8..40);
        let disorder = random.random_range(0..20) * SECOND;
        let users = random.random_range(1..6);
        // Duplicates come again in their own partition, or in any.
        let anywhere = random.random_bool(0.3);
        let mut created = vec![BEGIN; random.random_range(1..4)];
        let later = if random.random_bool(0.4) { random.random_range(1..3) } else { 0 };
        created.extend((0..later).map(|_| BEGIN + random.random_range(1..span)));
        let mut partitions: Vec<Partition> =
            created.iter().map(|&created| Partition { created, records: vec![] }).collect();
        let mut next = vec![0_i64; partitions.len()];
        let mut times: Vec<i64> = (0..total).map(|_| BEGIN + random.random_range(0..span)).collect();
        times.sort_unstable();
        let mut sent: Vec<(usize, u32, Vec<u8>, i64)> = vec![];
        for appended in times {
            let open: Vec<usize> = (0..partitions.len()).filter(|&p| created[p] <= appended).collect();
            let mut at = open[random.random_range(0..open.len())];
            let kind = random.random_range(0..100);
            let (value, is) = if kind < 15 && !sent.is_empty() {
                // Mostly what was just sent, as a producer's retry would.
                let back = if random.random_bool(0.5) { sent.len().min(3) } else { sent.len() };
                let (partition, key, value, time) = sent[sent.len() - 1 - random.random_range(0..back)].clone();
                if !anywhere {
                    at = partition;
                }
                (Some(value), Is::Event { key, time })
            } else if kind < 25 {
                (dirt(&mut random, appended, sent.len() as u32 / 2), Is::Dirt)
            } else {
                let key = sent.len() as u32;
                let time = appended - random.random_range(0..=disorder);
                let user = random.random_range(0..users);
                let mut value = String::new();
                let _ =
                    write!(value, "{{\"idempotency_key\":\"k{key}\",\"event_time\":{time},\"entity\":\"u{user}\"}}");
                sent.push((at, key, value.clone().into_bytes(), time));
                (Some(value.into_bytes()), Is::Event { key, time })
            };
            if random.random_bool(0.05) {
                next[at] += random.random_range(1..4);
            }
            partitions[at].records.push(Record { offset: next[at], appended, value, is });
            next[at] += 1;
        }
        Self { partitions, end: BEGIN + span, disorder }
    }

    /// What each position is.
    pub fn truth(&self) -> BTreeMap<(i32, i64), Is> {
        let each = self.partitions.iter().zip(0..);
        each.flat_map(|(p, n)| p.records.iter().map(move |r| ((n, r.offset), r.is.clone()))).collect()
    }

    /// How late an event may be at most, beyond the disorder, so that none that is on time is judged late by a clock that
    /// runs ahead.
    pub fn lateness(&self) -> i64 {
        self.disorder + 2 * SECOND + 1_000
    }

    /// Long after the last record: every partition is quiet by then.
    pub fn long_after(&self) -> i64 {
        self.end + HOUR
    }
}
