//! The stateful kernels over a million events of 50,000 entities, of about the shape of a shop's clicks.

use std::hint::black_box;
use std::sync::Arc;

use _core::dedup::{Deduplicator, deduplicate};
use _core::hash::HashKey;
use _core::sessions::{SessionSettings, Sessionizer, sessionize};
use _core::spill::memory::Memory;
use _core::state::Stateful;
use _core::time::{HOUR, MINUTE, SECOND};
use _core::verdict::Verdict;
use _core::windows::{Aggregate, WindowSpec, Windows, aggregate_windows};
use arrow::array::{
    ArrayRef, AsArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const EVENTS: usize = 1_000_000;
const ENTITIES: u32 = 50_000;
/// Events in one piece, as a contract hands them on.
const PIECE: usize = 8_192;

/// Visits under way at any time, and the events of one.
const VISITS: usize = 500;
const CLICKS: u32 = 10;

/// A day of events, in order but for a minute of jitter, 2 % of them duplicates; users come for visits of ten events.
fn events() -> Vec<RecordBatch> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let pages = ["view", "search", "add_to_cart", "purchase", "user_signup"];
    let step = 24 * HOUR / EVENTS as i64;
    let mut keys: Vec<String> = Vec::with_capacity(EVENTS);
    let mut visits = vec![(0, 0); VISITS];
    let mut batches = Vec::new();
    for from in (0..EVENTS).step_by(PIECE) {
        let rows = PIECE.min(EVENTS - from);
        for _ in 0..rows {
            let again = !keys.is_empty() && random.random_bool(0.02);
            let key = if again {
                keys[random.random_range(0..keys.len())].clone()
            } else {
                format!("{:032x}", random.random::<u128>())
            };
            keys.push(key);
        }
        let times = (from..from + rows).map(|i| i as i64 * step + random.random_range(0..MINUTE));
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        let money = Decimal128Array::from_iter_values((0..rows).map(|_| random.random_range(1..1_000_000)));
        let types: Vec<&str> = (0..rows).map(|_| pages[random.random_range(0..pages.len())]).collect();
        let mut user = |_| {
            let (user, left) = &mut visits[random.random_range(0..VISITS)];
            if *left == 0 {
                (*user, *left) = (random.random_range(0..ENTITIES), CLICKS);
            }
            *left -= 1;
            format!("user_{user}")
        };
        let users: Vec<String> = (0..rows).map(&mut user).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("event_type", Arc::new(StringArray::from(types))),
            ("event_time", Arc::new(times)),
            ("idempotency_key", Arc::new(StringArray::from(keys[from..].to_vec()))),
            ("entity", Arc::new(StringArray::from(users))),
            (
                "page",
                Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("/products/{}?ref=home", i % 977)))),
            ),
            (
                "agent",
                Arc::new(StringArray::from_iter_values(
                    (0..rows).map(|i| format!("Mozilla/5.0 (X11; Linux x86_64) {}", i % 31)),
                )),
            ),
            ("amount", Arc::new(money.with_precision_and_scale(12, 2).expect("12 digits"))),
            ("weight", Arc::new(Float64Array::from_iter_values((0..rows).map(|_| random.random::<f64>())))),
            ("store", Arc::new(Int64Array::from_iter_values((0..rows).map(|_| random.random_range(0..100))))),
            ("_topic", Arc::new(StringArray::from_iter_values((0..rows).map(|_| "in/events.jsonl")))),
            ("_partition", Arc::new(Int32Array::from_value(0, rows))),
            ("_offset", Arc::new(Int64Array::from_iter_values((from..from + rows).map(|i| i as i64 * 390)))),
        ];
        batches.push(RecordBatch::try_from_iter(columns).expect("columns of one length"));
    }
    batches
}

fn hashes(batches: &[RecordBatch]) -> Vec<(Vec<u128>, Vec<i64>)> {
    let secret = HashKey([7; 16]);
    let of = |batch: &RecordBatch| {
        let keys = batch["idempotency_key"].as_string::<i32>();
        let times = batch["event_time"].as_primitive::<TimestampMicrosecondType>();
        (keys.iter().flatten().map(|k| secret.hash(k.as_bytes())).collect(), times.values().to_vec())
    };
    batches.iter().map(of).collect()
}

fn dedup(c: &mut Criterion) {
    let batches = events();
    let hashes = hashes(&batches);
    let mut group = c.benchmark_group("dedup");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(10);
    for (name, horizon, epoch) in
        [("judge, one epoch", 24 * HOUR, 1_000), ("judge, horizon 4 h, epochs of 40,000", 4 * HOUR, 5)]
    {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut dedup = Deduplicator::new(Some(horizon));
                let mut verdicts = Vec::with_capacity(EVENTS);
                let mut watermark = None;
                for epoch in hashes.chunks(epoch) {
                    for (hashes, times) in epoch {
                        dedup.judge(hashes, times, watermark, &mut verdicts).expect("judges");
                    }
                    let to = epoch.last().and_then(|(_, times)| times.last()).map_or(0, |t| t - 10 * MINUTE);
                    dedup.advance(to).expect("advances");
                    watermark = Some(to);
                }
                black_box((verdicts.len(), dedup.len()))
            });
        });
    }
    group.bench_function("batch, with the rows", |b| {
        b.iter(|| black_box(deduplicate(&batches, &["idempotency_key"], None, None).expect("deduplicates")));
    });
    let mut full = Deduplicator::new(None);
    hashes.iter().for_each(|(hashes, times)| full.judge(hashes, times, None, &mut Vec::new()).expect("judges"));
    group.bench_function("snapshot", |b| b.iter(|| black_box(full.snapshot().expect("saves"))));
    group.bench_function("delta", |b| {
        b.iter_batched_ref(|| full.clone(), |full| black_box(full.delta().expect("saves")), BatchSize::LargeInput);
    });
    group.finish();
}

/// Events in an epoch of a stream that goes on.
const EPOCH: usize = 40_000;

/// A hash as good as any, without the cost of one.
fn scramble(n: u64) -> u128 {
    let half = |n: u64| {
        let n = (n ^ n >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let n = (n ^ n >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        n ^ n >> 31
    };
    u128::from(half(n)) << 64 | u128::from(half(n ^ 0x9E37_79B9_7F4A_7C15))
}

/// A stream with so many live keys, one event a microsecond, one in fifty a duplicate.
struct Keys {
    dedup: Deduplicator,
    live: i64,
    next: i64,
    budget: Option<usize>,
    hashes: Vec<u128>,
    times: Vec<i64>,
    verdicts: Vec<Verdict>,
}

impl Keys {
    fn new(live: i64, budget: Option<usize>, spill: Arc<Memory>) -> Self {
        let dedup = Deduplicator::new(Some(live)).spilling_to(spill);
        let (hashes, times, verdicts) = Default::default();
        let mut keys = Self { dedup, live, next: 0, budget, hashes, times, verdicts };
        while keys.next < live + live / 2 {
            keys.epoch();
        }
        keys
    }

    /// Judges, moves on, saves: what an epoch does with keys.
    fn epoch(&mut self) -> usize {
        for _ in 0..EPOCH / PIECE {
            self.hashes.clear();
            self.times.clear();
            self.verdicts.clear();
            for n in self.next..self.next + PIECE as i64 {
                let back = (scramble(n as u64) as u64 as i64).rem_euclid(self.live);
                let key = if n % 50 == 0 && n > self.live { n - back } else { n };
                self.hashes.push(scramble(key as u64));
                self.times.push(n);
            }
            self.next += PIECE as i64;
            let watermark = Some(self.next - self.live / 100);
            self.dedup.judge(&self.hashes, &self.times, watermark, &mut self.verdicts).expect("judges");
            if let Some(budget) = self.budget.filter(|budget| self.dedup.keys_memory() > *budget) {
                self.dedup.spill(self.dedup.keys_memory() - budget / 8 * 7).expect("spills");
            }
        }
        self.dedup.advance(self.next - self.live / 100).expect("advances");
        self.dedup.delta().expect("saves").len()
    }
}

fn growing(c: &mut Criterion) {
    let mut group = c.benchmark_group("state as it grows");
    group.throughput(Throughput::Elements(EPOCH as u64)).sample_size(50);
    for (name, live, budget) in [
        ("dedup, 100,000 live keys", 100_000, None),
        ("dedup, 1,000,000 live keys", 1_000_000, None),
        ("dedup, 10,000,000 live keys", 10_000_000, None),
        ("dedup, 10,000,000 live keys, in 64 MiB", 10_000_000, Some(64 << 20)),
    ] {
        let mut keys = Keys::new(live, budget, Arc::default());
        group.bench_function(name, |b| b.iter(|| black_box(keys.epoch())));
    }
    for (name, open) in [("sessions, 100,000 open", 100_000i64), ("sessions, 1,000,000 open", 1_000_000)] {
        // Each event is the visit of a user for whom none was open.
        let gap = 30 * MINUTE;
        let mut next = 0;
        let piece = |from: i64| {
            let at = |n: i64| n * gap / open;
            let times = TimestampMicrosecondArray::from_iter_values((from..from + PIECE as i64).map(at));
            let users = (from..from + PIECE as i64).map(|n| format!("user_{n}"));
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("event_type", Arc::new(StringArray::from_iter_values((0..PIECE).map(|_| "view")))),
                ("event_time", Arc::new(times.with_timezone("UTC"))),
                ("entity", Arc::new(StringArray::from_iter_values(users))),
                ("_topic", Arc::new(StringArray::from_iter_values((0..PIECE).map(|_| "in/events.jsonl")))),
                ("_partition", Arc::new(Int32Array::from_value(0, PIECE))),
                ("_offset", Arc::new(Int64Array::from_iter_values(from..from + PIECE as i64))),
            ];
            (RecordBatch::try_from_iter(columns).expect("columns of one length"), at(from + PIECE as i64))
        };
        let settings = SessionSettings { gap, max_duration: None };
        let mut stream = Sessionizer::new(settings, piece(0).0.schema()).expect("settings");
        let mut epoch = || {
            let mut to = 0;
            for _ in 0..EPOCH / PIECE {
                let (batch, end) = piece(next);
                stream.push(batch).expect("pushes");
                next += PIECE as i64;
                to = end;
            }
            let closed = stream.advance(to).expect("advances").sessions.num_rows();
            (closed, stream.open_sessions(), stream.delta().expect("saves").len())
        };
        while (epoch().1 as i64) < open * 9 / 10 {}
        group.bench_function(name, |b| b.iter(|| black_box(epoch())));
    }
    group.finish();
}

fn sessions(c: &mut Criterion) {
    let batches = events();
    let schema = batches[0].schema();
    let settings = SessionSettings { gap: 30 * MINUTE, max_duration: Some(24 * HOUR) };
    let mut group = c.benchmark_group("sessions");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(10);
    group.bench_function("batch", |b| {
        b.iter(|| {
            black_box(
                sessionize(&batches, "entity", "event_time", settings.gap, settings.max_duration).expect("sessions"),
            )
        });
    });
    group.bench_function("stream, epochs of 500,000", |b| {
        b.iter(|| {
            let mut stream = Sessionizer::new(settings, schema.clone()).expect("settings");
            let mut released = 0;
            for epoch in batches.chunks(500_000 / PIECE) {
                epoch.iter().for_each(|batch| stream.push(batch.clone()).expect("pushes"));
                let last = epoch[epoch.len() - 1]["event_time"].as_primitive::<TimestampMicrosecondType>().value(0);
                released += stream.advance(last - 10 * MINUTE).expect("advances").events.len();
            }
            black_box((released, stream.flush_all().expect("flushes")))
        });
    });
    let mut stream = Sessionizer::new(settings, schema.clone()).expect("settings");
    batches.iter().for_each(|batch| stream.push(batch.clone()).expect("pushes"));
    stream.advance(12 * HOUR).expect("advances");
    group.bench_function("snapshot of 500,000 held", |b| b.iter(|| black_box(stream.snapshot().expect("saves"))));
    group.finish();
}

fn windows(c: &mut Criterion) {
    let batches = events();
    let spec = |slide| WindowSpec {
        name: "bench".to_string(),
        size: MINUTE,
        slide,
        by: vec!["store".to_string()],
        from: Vec::new(),
        aggregates: ["count()", "sum(amount)", "avg(weight)", "max(amount)", "approx_count_distinct(entity)"]
            .iter()
            .map(|text| (text.to_string(), Aggregate::parse(text).expect("an aggregate")))
            .collect(),
    };
    let mut group = c.benchmark_group("windows");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(10);
    group.bench_function("batch, tumbling", |b| {
        b.iter(|| black_box(aggregate_windows(&batches, "event_time", spec(None)).expect("windows")));
    });
    for (name, slide) in [("stream, tumbling", None), ("stream, hopping by 15 s", Some(15 * SECOND))] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut windows = Windows::new(spec(slide), &batches[0].schema()).expect("a specification");
                let mut rows = 0;
                for batch in &batches {
                    windows.push(batch).expect("pushes");
                    let last = batch["event_time"].as_primitive::<TimestampMicrosecondType>().value(0);
                    rows += windows.advance(last - 2 * MINUTE).expect("advances").num_rows();
                }
                black_box(rows)
            });
        });
    }
    group.finish();
}

/// What the machine needs to touch the data at all, to compare with.
fn floor(c: &mut Criterion) {
    let batches = events();
    let mut group = c.benchmark_group("floor");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(10);
    group.bench_function("hash the keys", |b| b.iter(|| black_box(hashes(&batches))));
    group.bench_function("copy the rows", |b| {
        b.iter(|| black_box(concat_batches(&batches[0].schema(), &batches).expect("fits").num_rows()));
    });
    group.bench_function("add up a column", |b| {
        let sum = |batch: &RecordBatch| batch["store"].as_primitive::<Int64Type>().values().iter().sum::<i64>();
        b.iter(|| black_box(batches.iter().map(sum).sum::<i64>()));
    });
    group.finish();
}

criterion_group!(benches, dedup, growing, sessions, windows, floor);
criterion_main!(benches);
