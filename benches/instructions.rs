//! The kernels once each, for callgrind: `make bench-check` counts the instructions between the two ends of
//! [`penstock_measured`] and compares them with those in `instructions.json`.
//!
//! Without an argument it prints the names of the kernels, a line each; with a name it runs that kernel twice: once so
//! that whatever is made at first is there, once measured. Everything is on one thread, from fixed seeds.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use _core::contract::{Contract, JudgeRules, Judged, events_of};
use _core::dedup::{Deduplicator, deduplicate};
use _core::events::RawEvents;
use _core::generate::{GenerateOptions, Made, Profile, generate};
use _core::hash::HashKey;
use _core::lake::layout::Partition;
use _core::packed;
use _core::scd2::{Merge, Scd2Spec, merge, point};
use _core::sessions::{SessionSettings, Sessionizer, sessionize};
use _core::sinks::bronze;
use _core::sinks::parquet::{ParquetSettings, PartitionedWriter};
use _core::state::Stateful;
use _core::time::{HOUR, MINUTE, SECOND};
use _core::windows::{Aggregate, WindowSpec, Windows, aggregate_windows};
use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::TimestampMicrosecondType;

const CONTRACT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/penstock/pipelines/ecommerce/contract.yaml");
/// Events of a shop, and how many of them are judged at a time.
const EVENTS: u64 = 20_000;
const PIECE: usize = 5_000;
/// Entities of a dimension, and changes of them.
const ENTITIES: i64 = 20_000;
const CHANGES: i64 = 4_000;

/// What is counted. Its name is asked for on callgrind's command line.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn penstock_measured(work: &mut Work) {
    work();
}

/// Stands in for the C library's, which std takes the seeds of its hash tables from: here they are the same in each run,
/// so that equal programs give equal counts.
///
/// # Safety
/// As the C library's: `to` is valid for writes of `size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(to: *mut u8, size: usize, _flags: u32) -> isize {
    // SAFETY: the caller says so.
    unsafe { to.write_bytes(7, size) };
    size as isize
}

/// One run of a kernel.
type Work = Box<dyn FnMut()>;

/// A kernel: its name, and what makes its data.
type Kernel = (&'static str, fn() -> Work);

const KERNELS: [Kernel; 18] = [
    ("generate", || Box::new(|| drop(black_box(lines(0.01))))),
    ("judge", || judging(0.01)),
    ("judge, every second event flawed", || judging(0.5)),
    ("packed text, filter", || {
        let batches = events();
        let every_third = |b: &RecordBatch| (0..b.num_rows()).map(|n| Some(n % 3 != 0)).collect::<BooleanArray>();
        let masks: Vec<BooleanArray> = batches.iter().map(every_third).collect();
        each(batches.into_iter().zip(masks).collect(), |(b, mask)| packed::filter(b, mask).expect("filters"))
    }),
    ("packed text, unpack", || each(events(), |batch| packed::plain_rows(batch).expect("unpacks"))),
    ("dedup, batch", || {
        let batches = events();
        again(move || deduplicate(&batches, &["idempotency_key"], None, None).expect("deduplicates"))
    }),
    ("dedup, stream with deltas", dedup_stream),
    ("dedup, snapshot", || {
        let mut dedup = Deduplicator::new(None);
        hashes(&events()).iter().for_each(|(h, t)| dedup.judge(h, t, None, &mut Vec::new()).expect("judges"));
        again(move || dedup.snapshot().expect("saves"))
    }),
    ("sessions, batch", || {
        let batches = events();
        again(move || sessionize(&batches, "entity", "event_time", 30 * MINUTE, Some(24 * HOUR)).expect("sessions"))
    }),
    ("sessions, stream with deltas", session_stream),
    ("parquet, silver", || {
        let silver =
            sessionize(&events(), "entity", "event_time", 30 * MINUTE, Some(24 * HOUR)).expect("has the columns");
        encoding(silver)
    }),
    ("parquet, bronze", || {
        let bronze = |e: &RawEvents| bronze::batch(e, &vec![Some(0); e.len()]).expect("fits");
        encoding(raw(&lines(0.01)).iter().map(bronze).collect())
    }),
    ("windows, batch", || {
        let batches = plain(events());
        again(move || aggregate_windows(&batches, "event_time", window(None)).expect("windows"))
    }),
    ("windows, stream, hopping", || {
        let batches = plain(events());
        let ends = low_ends(&batches);
        again(move || {
            let mut windows = Windows::new(window(Some(15 * SECOND)), &batches[0].schema()).expect("a specification");
            let mut rows = 0;
            for (batch, end) in batches.iter().zip(&ends) {
                windows.push(batch).expect("pushes");
                rows += windows.advance(*end).expect("advances").num_rows();
            }
            rows
        })
    }),
    ("scd2, merge into nothing", || {
        let base = [base()];
        again(move || merge(None, &base, &scd2_spec()).expect("merges"))
    }),
    ("scd2, merge", || {
        let (first, load) = (first(), [load()]);
        again(move || merge(Some(first.state()), &load, &scd2_spec()).expect("merges"))
    }),
    ("scd2, history", || {
        let (first, load) = (first(), [load()]);
        let merged = merge(Some(first.state()), &load, &scd2_spec()).expect("merges");
        again(move || merged.history().expect("rows"))
    }),
    ("scd2, point", || {
        let (first, facts) = (first(), [base()]);
        again(move || point(first.state(), &facts, &["user_id".to_owned()], "at").expect("points"))
    }),
];

/// Work whose outcome nobody wants.
fn again<T>(mut work: impl FnMut() -> T + 'static) -> Work {
    Box::new(move || drop(black_box(work())))
}

fn each<T: 'static, R>(items: Vec<T>, work: impl Fn(&T) -> R + 'static) -> Work {
    again(move || items.iter().map(|item| black_box(work(item))).count())
}

fn lines(bad_rate: f64) -> Vec<Vec<u8>> {
    let options = GenerateOptions { total: EVENTS, seed: 7, bad_rate, span: Some(2 * HOUR), ..Default::default() };
    let mut lines = Vec::new();
    let mut keep = |made: Made<'_>| {
        lines.push(made.line.to_vec());
        Ok(())
    };
    generate(Profile::Ecommerce, &options, &mut keep, &mut |_| Ok(())).expect("makes events");
    lines
}

fn raw(lines: &[Vec<u8>]) -> Vec<RawEvents> {
    lines.chunks(PIECE).map(|piece| events_of(piece.iter().map(|line| Some(line.as_slice())))).collect()
}

fn contract() -> Contract {
    Contract::load(Path::new(CONTRACT)).expect("a contract")
}

fn judge(contract: &Contract, events: &RawEvents) -> Judged {
    contract.judge_packed(events, &JudgeRules { max_future_skew: None }).expect("judges")
}

fn judging(bad_rate: f64) -> Work {
    let contract = contract();
    each(raw(&lines(bad_rate)), move |events| judge(&contract, events))
}

/// Valid events, text packed, with where they come from.
fn events() -> Vec<RecordBatch> {
    let contract = contract();
    let located = |(n, events): (usize, RawEvents)| {
        let valid = judge(&contract, &events).valid;
        let rows = valid.num_rows();
        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        for (field, column) in valid.schema().fields().iter().zip(valid.columns()) {
            columns.push((field.name().clone(), Arc::clone(column)));
        }
        let offsets = Int64Array::from_iter_values((0..rows).map(|row| ((n * PIECE + row) * 390) as i64));
        columns.push(("_topic".into(), packed::repeated("in/events.jsonl", rows).expect("fits")));
        columns.push(("_partition".into(), Arc::new(Int32Array::from_value(0, rows))));
        columns.push(("_offset".into(), Arc::new(offsets)));
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .expect("columns of one length")
    };
    raw(&lines(0.01)).into_iter().enumerate().map(located).collect()
}

fn plain(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    batches.iter().map(|batch| packed::plain_rows(batch).expect("unpacks")).collect()
}

fn times(batch: &RecordBatch) -> &TimestampMicrosecondArray {
    batch["event_time"].as_primitive::<TimestampMicrosecondType>()
}

/// After each batch the earliest time that is still to come.
fn low_ends(batches: &[RecordBatch]) -> Vec<i64> {
    let mut low = times(&batches[batches.len() - 1]).values().iter().copied().max().unwrap_or(0);
    let mut ends: Vec<i64> = Vec::new();
    for batch in batches.iter().rev() {
        ends.push(low);
        low = times(batch).values().iter().copied().fold(low, i64::min);
    }
    ends.reverse();
    ends
}

fn hashes(batches: &[RecordBatch]) -> Vec<(Vec<u128>, Vec<i64>)> {
    let secret = HashKey([7; 16]);
    let of = |batch: RecordBatch| {
        let keys = batch["idempotency_key"].as_string::<i32>();
        (keys.iter().flatten().map(|key| secret.hash(key.as_bytes())).collect(), times(&batch).values().to_vec())
    };
    plain(batches.to_vec()).into_iter().map(of).collect()
}

fn dedup_stream() -> Work {
    let batches = events();
    let (hashes, ends) = (hashes(&batches), low_ends(&batches));
    again(move || {
        let mut dedup = Deduplicator::new(Some(30 * MINUTE));
        let (mut verdicts, mut saved, mut watermark) = (Vec::new(), 0, None);
        for ((hashes, times), end) in hashes.iter().zip(&ends) {
            dedup.judge(hashes, times, watermark, &mut verdicts).expect("judges");
            dedup.advance(*end).expect("advances");
            saved += dedup.delta().expect("saves").len();
            watermark = Some(*end);
        }
        (verdicts, saved)
    })
}

fn session_stream() -> Work {
    let batches = events();
    let ends = low_ends(&batches);
    let schema = plain(batches[..1].to_vec())[0].schema();
    let settings = SessionSettings { gap: 30 * MINUTE, max_duration: Some(24 * HOUR) };
    again(move || {
        let mut stream = Sessionizer::new(settings, schema.clone()).expect("settings");
        let (mut released, mut saved) = (0, 0);
        for (batch, end) in batches.iter().zip(&ends) {
            stream.push(batch.clone()).expect("pushes");
            released += stream.advance(*end).expect("advances").events.len();
            saved += stream.delta().expect("saves").len();
        }
        (released, saved, stream.flush_all().expect("flushes").events.len())
    })
}

fn encoding(batches: Vec<RecordBatch>) -> Work {
    let schema = Arc::new(packed::plain_schema(&batches[0].schema()));
    again(move || {
        let mut writer = PartitionedWriter::new(&schema, &ParquetSettings::default());
        for batch in &batches {
            writer.write(&Partition::date(0), batch).expect("encodes");
        }
        writer.finish(&|partition, n| format!("{}/{n}", partition.path())).expect("finishes")
    })
}

fn window(slide: Option<i64>) -> WindowSpec {
    let aggregates = ["count()", "sum(amount)", "avg(load_time_ms)", "max(amount)", "approx_count_distinct(entity)"];
    WindowSpec {
        name: "bench".to_owned(),
        size: MINUTE,
        slide,
        by: vec!["country".to_owned()],
        from: Vec::new(),
        aggregates: aggregates
            .iter()
            .map(|text| ((*text).to_owned(), Aggregate::parse(text).expect("an aggregate")))
            .collect(),
    }
}

fn scd2_spec() -> Scd2Spec {
    Scd2Spec {
        key: vec!["user_id".into()],
        at: "at".into(),
        tracked: ["plan", "city", "segment", "score", "visits"].map(String::from).into(),
        op: None,
        order: vec!["offset".into()],
    }
}

/// One change for each of these entities; the version decides the attributes.
fn changes(ids: &[(i64, i64)], at: i64) -> RecordBatch {
    let n = ids.len() as i64;
    let text = |f: &dyn Fn(i64, i64) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(ids.iter().map(|(id, version)| f(*id, *version))))
    };
    let times = TimestampMicrosecondArray::from_iter_values((0..n).map(|i| at + i));
    let columns: [(&str, ArrayRef); 8] = [
        ("user_id", text(&|id, _| format!("user_{id:09}"))),
        ("at", Arc::new(times)),
        ("plan", text(&|id, version| ["free", "basic", "premium"][((id + version) % 3) as usize].to_owned())),
        ("city", text(&|id, version| format!("city {}", (id * 31 + version) % 5_000))),
        ("segment", text(&|id, _| format!("segment {}", id % 12))),
        ("score", Arc::new(Int32Array::from_iter_values(ids.iter().map(|(id, v)| ((id * 7 + v) % 100) as i32)))),
        ("visits", Arc::new(Int64Array::from_iter_values(ids.iter().map(|(id, _)| id % 1_000)))),
        ("offset", Arc::new(Int64Array::from_iter_values(at..at + n))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn base() -> RecordBatch {
    changes(&(0..ENTITIES).map(|id| (id, 0)).collect::<Vec<_>>(), 0)
}

fn first() -> Merge {
    merge(None, &[base()], &scd2_spec()).expect("merges")
}

/// A tenth of them of new entities, a twentieth change nothing.
fn load() -> RecordBatch {
    let of = |i: i64| match i % 20 {
        0 | 1 => (ENTITIES + i, 0),
        2 => ((i * 7_919) % ENTITIES, 0),
        _ => ((i * 7_919) % ENTITIES, 1),
    };
    changes(&(0..CHANGES).map(of).collect::<Vec<_>>(), 10 * ENTITIES)
}

fn main() {
    // Cargo adds `--bench`.
    let Some(name) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        KERNELS.iter().for_each(|(name, _)| println!("{name}"));
        return;
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("the first pool of this process");
    let Some((_, make)) = KERNELS.iter().find(|(known, _)| *known == name) else {
        eprintln!("there is no kernel '{name}'");
        std::process::exit(2);
    };
    let mut work = make();
    work();
    penstock_measured(&mut work);
}
