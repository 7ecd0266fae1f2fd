use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use super::*;
use crate::columns::moments;
use crate::spill::memory::Memory;
use crate::state::{Saved, StateParts, Stateful, from_ipc, merge, split, to_ipc};

/// The obviously right memory: every key ever taken in, with its time.
#[derive(Default)]
struct Model {
    taken: BTreeMap<u128, i64>,
}

impl Model {
    fn judge(&mut self, hash: u128, time: i64, watermark: Option<i64>, horizon: Option<i64>) -> Verdict {
        let remembered = self.taken.get(&hash).is_some_and(|then| match (watermark, horizon) {
            (Some(watermark), Some(horizon)) => watermark <= then + horizon,
            _ => true,
        });
        if remembered {
            return Verdict::Duplicate;
        }
        if watermark.is_some_and(|w| time < w) {
            return Verdict::Late;
        }
        self.taken.insert(hash, time);
        Verdict::Accepted
    }
}

#[derive(Debug, Clone)]
enum Step {
    Events(Vec<(u8, i64)>),
    Advance(i64),
    SaveAndLoad,
    ReplayDeltas,
    Delta(bool),
    Spill(usize),
    SpillWithoutRoom(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => prop::collection::vec((any::<u8>(), -20i64..60), 0..12).prop_map(Step::Events),
        4 => (0i64..12).prop_map(Step::Advance),
        1 => Just(Step::SaveAndLoad),
        1 => Just(Step::ReplayDeltas),
        2 => any::<bool>().prop_map(Step::Delta),
        3 => (0usize..4_000).prop_map(Step::Spill),
        1 => (0usize..4_000, 0u64..2_000).prop_map(|(want, room)| Step::SpillWithoutRoom(want, room)),
    ]
}

fn through_ipc(parts: &StateParts) -> StateParts {
    parts
        .iter()
        .map(|(name, batch)| (name.clone(), from_ipc(name, &to_ipc(batch).unwrap().into_whole()).unwrap()))
        .collect()
}

/// Some keys agree in their low half, some are 0: tables have to look at the whole.
fn hash_of(key: u8) -> u128 {
    u128::from(key % 16) | u128::from(key / 16 % 4) << 64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn is_exact_at_any_point_saved_or_not(
        steps in prop::collection::vec(step(), 0..60),
        horizon in prop::option::of(0i64..30),
    ) {
        let spill = Arc::new(Memory::default());
        let fresh = || {
            let mut dedup = Deduplicator::new(horizon).spilling_to(spill.clone());
            // As if a handful of keys were many.
            dedup.closed.limits = closed::Limits { runs: 3, largest: 40, smallest: 3 };
            dedup
        };
        let mut dedup = fresh();
        let mut model = Model::default();
        let mut watermark: Option<i64> = None;
        let mut log = Saved::default();
        for step in steps {
            match step {
                Step::Events(events) => {
                    // Events come around the watermark.
                    let base = watermark.unwrap_or(0);
                    let hashes: Vec<u128> = events.iter().map(|(key, _)| hash_of(*key)).collect();
                    let times: Vec<i64> = events.iter().map(|(_, time)| base + time).collect();
                    let mut verdicts = vec![Verdict::Late];
                    dedup.judge(&hashes, &times, watermark, &mut verdicts).unwrap();
                    let expected: Vec<Verdict> =
                        hashes.iter().zip(&times).map(|(h, t)| model.judge(*h, *t, watermark, horizon)).collect();
                    prop_assert_eq!(&verdicts[1..], &expected[..]);
                }
                Step::Advance(by) => {
                    let to = watermark.unwrap_or(-100) + by;
                    watermark = Some(to);
                    dedup.advance(to).unwrap();
                }
                Step::Spill(want) => {
                    let before = dedup.memory();
                    let freed = dedup.spill(want).unwrap();
                    prop_assert_eq!(before - freed, dedup.memory());
                }
                Step::SpillWithoutRoom(want, room) => {
                    spill.limit(Some(room));
                    // It may do or not.
                    let _ = dedup.spill(want);
                    spill.limit(None);
                }
                Step::Delta(few) => log.add(&mut dedup, few),
                Step::SaveAndLoad | Step::ReplayDeltas => {
                    let snapshot = through_ipc(&dedup.snapshot().unwrap());
                    for n in 1..4 {
                        prop_assert_eq!(&merge(&split(&snapshot, n).unwrap()).unwrap(), &snapshot);
                    }
                    log.add(&mut dedup, false);
                    let mut replayed = fresh();
                    log.load(&mut replayed);
                    prop_assert_eq!(&replayed.snapshot().unwrap(), &snapshot);
                    let mut loaded = fresh();
                    loaded.load(&snapshot).unwrap();
                    prop_assert_eq!(&loaded.snapshot().unwrap(), &snapshot);
                    dedup = if matches!(step, Step::SaveAndLoad) { loaded } else { replayed };
                }
            }
            // Each filter is that of one bucket, and none was left behind.
            let mut filters: Vec<_> = dedup.closed.runs.iter().filter_map(|run| run.filter).collect();
            filters.sort_by_key(|filter| (filter.bank, filter.lane));
            prop_assert_eq!(filters, dedup.closed.filters.taken());
        }
    }

    /// Within the horizon, and with nothing late, the cut into epochs does not matter: a stream finds what a batch finds.
    #[test]
    fn batch_is_stream(
        events in prop::collection::vec((0u8..12, 0i64..4), 0..80),
        cuts in prop::collection::vec(any::<bool>(), 80),
        disorder in 0i64..5,
        horizon in prop::option::of(200i64..400),
    ) {
        // Time moves on with the events, give or take the disorder; all of it lies within the horizon.
        let times: Vec<i64> = events.iter().enumerate().map(|(i, (_, jitter))| i as i64 * 2 - jitter % (disorder + 1)).collect();
        let mut dedup = Deduplicator::new(horizon);
        let mut highest = i64::MIN;
        let mut watermark = None;
        let mut streamed = Vec::new();
        for (i, (key, _)) in events.iter().enumerate() {
            dedup.judge(&[hash_of(*key)], &times[i..=i], watermark, &mut streamed).unwrap();
            highest = highest.max(times[i]);
            if cuts[i] {
                watermark = Some(highest - disorder);
                dedup.advance(highest - disorder).unwrap();
            }
        }
        let keys: Vec<String> = events.iter().map(|(key, _)| key.to_string()).collect();
        let batch = events_batch(&keys, &times);
        let (kept, dropped) = deduplicate(&[batch], &["key"], Some("at"), horizon).unwrap();
        let kept: Vec<i64> = kept.iter().flat_map(|b| b["row"].as_primitive::<Int64Type>().values().to_vec()).collect();
        let accepted: Vec<i64> =
            (0..).zip(&streamed).filter(|(_, v)| **v == Verdict::Accepted).map(|(row, _)| row).collect();
        prop_assert_eq!(&kept, &accepted);
        prop_assert_eq!(dropped as usize, events.len() - kept.len());
    }

    /// Whatever the cut of the input into batches, the first of each key stays, in order.
    #[test]
    fn a_batch_keeps_the_first_of_each_key(
        rows in prop::collection::vec((prop::option::of(0u8..6), prop::option::of(0u8..3), 0i64..50), 0..60),
        cut in 1usize..20,
        horizon in prop::option::of(0i64..20),
    ) {
        let table = |rows: &[(Option<u8>, Option<u8>, i64)], from: usize| {
            let text = |v: &Option<u8>| v.map(|v| if v == 0 { String::new() } else { v.to_string() });
            let one: StringArray = rows.iter().map(|r| text(&r.0)).collect();
            let two: Int64Array = rows.iter().map(|r| r.1.map(i64::from)).collect();
            let columns: [(&str, ArrayRef); 4] = [
                ("one", Arc::new(one)),
                ("two", Arc::new(two)),
                ("at", Arc::new(moments(rows.iter().map(|r| r.2).collect::<Vec<_>>()))),
                ("row", Arc::new(Int64Array::from_iter_values((from..).map(|r| r as i64).take(rows.len())))),
            ];
            RecordBatch::try_from_iter(columns).unwrap()
        };
        let batches: Vec<RecordBatch> = rows.chunks(cut).enumerate().map(|(i, rows)| table(rows, i * cut)).collect();
        for key in [vec!["one"], vec!["two"], vec!["one", "two"]] {
            let mut seen: Vec<(Option<u8>, Option<u8>, i64)> = Vec::new();
            let mut expected = Vec::new();
            for (row, (one, two, at)) in rows.iter().enumerate() {
                let key = (one.filter(|_| key.contains(&"one")), two.filter(|_| key.contains(&"two")));
                match seen.iter_mut().find(|s| (s.0, s.1) == key) {
                    Some(known) if horizon.is_none_or(|h| *at - h <= known.2) => continue,
                    Some(known) => known.2 = *at,
                    None => seen.push((key.0, key.1, *at)),
                }
                expected.push(row as i64);
            }
            let (kept, dropped) = deduplicate(&batches, &key, Some("at"), horizon).unwrap();
            let kept: Vec<i64> = kept.iter().flat_map(|b| b["row"].as_primitive::<Int64Type>().values().to_vec()).collect();
            prop_assert_eq!(dropped as usize, rows.len() - kept.len());
            prop_assert_eq!(kept, expected);
        }
    }
}

fn events_batch(keys: &[String], times: &[i64]) -> RecordBatch {
    let columns: [(&str, ArrayRef); 3] = [
        ("key", Arc::new(StringArray::from_iter_values(keys))),
        ("at", Arc::new(moments(times.to_vec()))),
        ("row", Arc::new(Int64Array::from_iter_values(0..times.len() as i64))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[test]
fn a_key_is_remembered_to_the_microsecond() {
    let mut dedup = Deduplicator::new(Some(100));
    let judge = |dedup: &mut Deduplicator, time, watermark| {
        let mut verdicts = Vec::new();
        dedup.judge(&[7], &[time], watermark, &mut verdicts).unwrap();
        verdicts[0]
    };
    assert_eq!(judge(&mut dedup, 1_000, None), Verdict::Accepted);
    dedup.advance(1_100).unwrap();
    assert_eq!(
        judge(&mut dedup, 1_100, Some(1_100)),
        Verdict::Duplicate,
        "the watermark is at the horizon, not past it"
    );
    dedup.advance(1_101).unwrap();
    assert_eq!(judge(&mut dedup, 1_000, Some(1_101)), Verdict::Late, "forgotten, but late");
    assert_eq!(judge(&mut dedup, 1_101, Some(1_101)), Verdict::Accepted, "the late one was not remembered");
    assert_eq!(judge(&mut dedup, 1_101, Some(1_101)), Verdict::Duplicate);
}

#[test]
fn a_duplicate_that_is_late_is_a_duplicate() {
    let mut dedup = Deduplicator::new(None);
    let mut verdicts = Vec::new();
    dedup.judge(&[1, 1, 2], &[10, 5, 5], Some(8), &mut verdicts).unwrap();
    assert_eq!(verdicts, [Verdict::Accepted, Verdict::Duplicate, Verdict::Late]);
}

#[test]
fn few_buckets_live_and_memory_stays_bounded() {
    for (horizon, lateness) in [(1_000, 10), (1_000, 100_000), (0, 50), (100_000, 0)] {
        let mut dedup = Deduplicator::new(Some(horizon));
        let mut most = (0, 0);
        for i in 0..2_000i64 {
            let time = i * 100;
            let hashes: Vec<u128> = (0..10).map(|n| u128::from(i as u64 * 10 + n) * 0x9E37_79B9_7F4A_7C15).collect();
            let watermark = (i > 0).then_some(time - 100 - lateness);
            dedup.judge(&hashes, &[time; 10], watermark, &mut Vec::new()).unwrap();
            dedup.advance(time - lateness).unwrap();
            dedup.delta().unwrap();
            most = (most.0.max(dedup.closed.runs.len() + 1), most.1.max(dedup.len()));
        }
        assert!(most.0 <= 7, "{} buckets at horizon {horizon}, lateness {lateness}", most.0);
        let alive = (horizon + lateness) / 100 * 10;
        assert!(most.1 as i64 <= alive + alive / 2 + 50, "{} keys, {alive} of them alive", most.1);
    }
}

#[test]
fn what_is_spilled_is_found_and_memory_is_given_back() {
    let spill = Arc::new(Memory::default());
    let mut dedup = Deduplicator::new(Some(1_000)).spilling_to(spill.clone());
    let hash = |i: i64| crate::hash::HashKey([3; 16]).hash(&i.to_le_bytes());
    let mut verdicts = Vec::new();
    for from in (0..60_000).step_by(1_000) {
        let hashes: Vec<u128> = (from..from + 1_000).map(hash).collect();
        dedup.judge(&hashes, &[from / 100; 1_000], None, &mut verdicts).unwrap();
        dedup.delta().unwrap();
        if dedup.memory() > 800_000 {
            let over = dedup.memory() - 600_000;
            assert!(dedup.spill(over).unwrap() >= over);
        }
    }
    assert!(verdicts.iter().all(|v| *v == Verdict::Accepted));
    assert!(spill.usage().bytes > 700_000 && dedup.memory() <= 800_000, "{:?} {}", spill.usage(), dedup.memory());
    // One bucket after the other: each key is found, and where it is not the filter spares the read.
    let before = spill.reads();
    verdicts.clear();
    let new: Vec<u128> = (100_000..110_000).map(hash).collect();
    dedup.clone().judge(&new, &[500; 10_000], None, &mut verdicts).unwrap();
    assert!(spill.reads() - before < 10_000 * dedup.closed.runs.len() as u64 / 20, "{} reads", spill.reads() - before);
    let all: Vec<u128> = (0..60_000).map(hash).collect();
    verdicts.clear();
    dedup.judge(&all, &[500; 60_000], None, &mut verdicts).unwrap();
    assert!(verdicts.iter().all(|v| *v == Verdict::Duplicate));
    // Without filters it is slower, and the same.
    dedup.spill(usize::MAX).unwrap();
    assert!(dedup.closed.runs.iter().all(|run| run.is_spilled() && run.filter.is_none()));
    assert_eq!(dedup.closed.filters.banks_used(), 0);
    dedup.judge(&all, &[500; 60_000], None, &mut verdicts).unwrap();
    assert!(verdicts.iter().all(|v| *v == Verdict::Duplicate));
    // What has expired goes from the disk too.
    dedup.advance(1_700).unwrap();
    assert_eq!((dedup.len(), spill.usage().bytes), (0, 0));
}

/// One cache line says that a key is not there: also after a start, and after buckets came and went.
#[test]
fn filters_lie_side_by_side() {
    let hash = |i: i64| crate::hash::HashKey([3; 16]).hash(&i.to_le_bytes());
    let times: Vec<i64> = (0..400_000).map(|i| i / 100).collect();
    let mut log = Saved::default();
    let mut dedup = Deduplicator::new(Some(1_000));
    for (n, times) in times.chunks(5_000).enumerate() {
        let hashes: Vec<u128> = (n as i64 * 5_000..).take(5_000).map(hash).collect();
        let watermark = times[0] - 10;
        dedup.judge(&hashes, times, Some(watermark), &mut vec![]).unwrap();
        dedup.advance(watermark).unwrap();
        log.add(&mut dedup, true);
        assert!(dedup.closed.filters.banks_used() <= dedup.closed.runs.len().div_ceil(4) + 1);
    }
    let mut loaded = Deduplicator::new(Some(1_000));
    log.load(&mut loaded);
    for dedup in [&mut dedup, &mut loaded] {
        let closed = &dedup.closed;
        assert!((2..=4).contains(&closed.runs.len()), "{}", closed.runs.len());
        let mut verdicts = vec![];
        let (old, new): (Vec<u128>, Vec<u128>) =
            ((310_000..400_000).map(hash).collect(), (500_000..590_000).map(hash).collect());
        dedup.judge(&old, &[4_000; 90_000], Some(3_989), &mut verdicts).unwrap();
        assert!(verdicts.iter().all(|v| *v == Verdict::Duplicate));
        verdicts.clear();
        dedup.judge(&new, &[4_000; 90_000], Some(3_989), &mut verdicts).unwrap();
        assert_eq!(dedup.closed.filters.banks_used(), 1);
        assert!(verdicts.iter().all(|v| *v == Verdict::Accepted));
    }
}

#[test]
fn a_full_disk_changes_nothing() {
    let spill = Arc::new(Memory::default());
    spill.limit(Some(10_000));
    let mut dedup = Deduplicator::new(None).spilling_to(spill.clone());
    let hash = |i: i64| crate::hash::HashKey([3; 16]).hash(&i.to_le_bytes());
    let all: Vec<u128> = (0..20_000).map(hash).collect();
    let mut verdicts = Vec::new();
    dedup.judge(&all, &[5; 20_000], None, &mut verdicts).unwrap();
    assert!(matches!(dedup.spill(1), Err(crate::Error::Spill { .. })));
    assert_eq!(dedup.len(), 20_000);
    verdicts.clear();
    dedup.judge(&all, &[5; 20_000], None, &mut verdicts).unwrap();
    assert!(verdicts.iter().all(|v| *v == Verdict::Duplicate));
    spill.limit(None);
    assert!(dedup.spill(1).unwrap() > 0);
    dedup.judge(&all, &[5; 20_000], None, &mut verdicts).unwrap();
    assert!(verdicts.iter().all(|v| *v == Verdict::Duplicate));
}

#[test]
fn times_at_the_ends_of_the_range() {
    let mut dedup = Deduplicator::new(Some(i64::MAX));
    let mut verdicts = Vec::new();
    dedup.judge(&[1, 2], &[i64::MIN, i64::MAX], None, &mut verdicts).unwrap();
    dedup.advance(i64::MAX).unwrap();
    let mut loaded = Deduplicator::new(Some(i64::MAX));
    loaded.load(&dedup.snapshot().unwrap()).unwrap();
    loaded.judge(&[2], &[i64::MAX], Some(i64::MAX), &mut verdicts).unwrap();
    assert_eq!(verdicts, [Verdict::Accepted, Verdict::Accepted, Verdict::Duplicate]);
}

#[test]
fn errors_say_what_to_do() {
    let batch = events_batch(&["a".to_string()], &[1]);
    let error = |key: &[&str], at, horizon| {
        deduplicate(std::slice::from_ref(&batch), key, at, horizon).unwrap_err().to_string()
    };
    assert!(error(&["kee"], None, None).contains("did you mean 'key'?"));
    assert!(error(&["key"], None, Some(1)).contains("give 'at' too"));
    assert!(error(&[], None, None).contains("at least one column"));
    assert!(error(&["key"], Some("row"), Some(1)).contains("not a timestamp"));
}

#[test]
fn a_damaged_state_is_an_error() {
    let mut parts = Deduplicator::new(None).snapshot().unwrap();
    parts[0].1 = RecordBatch::try_from_iter([("hash", Arc::new(BooleanArray::from(vec![true])) as ArrayRef)]).unwrap();
    let error = Deduplicator::new(None).load(&parts).unwrap_err().to_string();
    assert!(error.contains("dedup/keys") && error.contains("hash"), "{error}");
}

#[test]
fn nothing_in_nothing_out() {
    assert_eq!(deduplicate(&[], &["key"], None, None).unwrap(), (Vec::new(), 0));
    let none = events_batch(&[], &[]);
    let (kept, dropped) = deduplicate(std::slice::from_ref(&none), &["key"], None, None).unwrap();
    assert_eq!((concat_batches(&none.schema(), &kept).unwrap(), dropped), (none, 0));
}
