//! The history against a small, slow model of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, TimestampMicrosecondType};
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    key: Option<String>,
    shop: i64,
    at: i64,
    order: Option<i64>,
    delete: bool,
    a: Option<String>,
    b: Option<i64>,
    c: Option<String>,
}

fn spec() -> Scd2Spec {
    Scd2Spec {
        key: vec!["key".into(), "shop".into()],
        at: "at".into(),
        tracked: vec!["a".into(), "b".into()],
        op: Some("op".into()),
        order: vec!["offset".into()],
    }
}

fn batch(changes: &[Change]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("c", Arc::new(changes.iter().map(|c| c.c.as_deref()).collect::<StringArray>())),
        ("key", Arc::new(changes.iter().map(|c| c.key.as_deref()).collect::<StringArray>())),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(changes.iter().map(|c| c.at)))),
        ("shop", Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.shop)))),
        ("op", Arc::new(StringArray::from_iter_values(changes.iter().map(|c| if c.delete { "D" } else { "U" })))),
        ("a", Arc::new(changes.iter().map(|c| c.a.as_deref()).collect::<StringArray>())),
        ("b", Arc::new(changes.iter().map(|c| c.b).collect::<Int64Array>())),
        ("offset", Arc::new(changes.iter().map(|c| c.order).collect::<Int64Array>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

type Key = (Option<String>, i64);

/// A row: key, tracked, untracked, start, end, surrogate key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    key: Key,
    start: i64,
    end: Option<i64>,
    a: Option<String>,
    b: Option<i64>,
    c: Option<String>,
}

fn model(changes: &[Change]) -> Vec<Seen> {
    let mut entities: BTreeMap<Key, BTreeMap<i64, Vec<Change>>> = BTreeMap::new();
    for c in changes {
        entities.entry((c.key.clone(), c.shop)).or_default().entry(c.at).or_default().push(c.clone());
    }
    let mut out = Vec::new();
    for (key, moments) in entities {
        let winner = |all: &Vec<Change>| {
            all.iter().max_by_key(|c| (c.order, !c.delete, c.a.clone(), c.b, c.c.clone())).unwrap().clone()
        };
        let winners: Vec<Change> = moments.values().map(winner).collect();
        let newest = winners.iter().rev().find(|c| !c.delete).and_then(|c| c.c.clone());
        let mut rows: Vec<Seen> = Vec::new();
        let mut open = false;
        for w in winners {
            if open && !w.delete && rows.last().is_some_and(|r| (&r.a, r.b) == (&w.a, w.b)) {
                continue;
            }
            if open {
                rows.last_mut().unwrap().end = Some(w.at);
            }
            open = !w.delete;
            if open {
                rows.push(Seen { key: key.clone(), start: w.at, end: None, a: w.a, b: w.b, c: newest.clone() });
            }
        }
        out.extend(rows);
    }
    out.sort();
    out
}

fn text(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch.column_by_name(name).unwrap().as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect()
}

fn ints(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

fn times(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().iter().collect()
}

fn seen(batch: &RecordBatch) -> Vec<(i64, Seen)> {
    let (key, shop, a, b, c) =
        (text(batch, "key"), ints(batch, "shop"), text(batch, "a"), ints(batch, "b"), text(batch, "c"));
    let (start, end) = (times(batch, "effective_start"), times(batch, "effective_end"));
    let (current, surrogate) = (batch.column_by_name("is_current").unwrap().as_boolean(), ints(batch, "surrogate_key"));
    (0..batch.num_rows())
        .map(|i| {
            assert_eq!(current.value(i), end[i].is_none());
            let row = Seen {
                key: (key[i].clone(), shop[i].unwrap()),
                start: start[i].unwrap(),
                end: end[i],
                a: a[i].clone(),
                b: b[i],
                c: c[i].clone(),
            };
            (surrogate[i].unwrap(), row)
        })
        .collect()
}

fn rows(batch: &RecordBatch) -> Vec<Seen> {
    let mut rows: Vec<Seen> = seen(batch).into_iter().map(|(_, r)| r).collect();
    rows.sort();
    rows
}

fn arb_change() -> impl Strategy<Value = Change> {
    let key = prop_oneof![Just(None), Just(Some(String::new())), "[ab\\x00]{1,3}".prop_map(Some)];
    let value = prop_oneof![Just(None), Just(Some(String::new())), "[xy]".prop_map(Some)];
    let other = proptest::option::of("[pq]");
    (
        key,
        0..2_i64,
        -4..12_i64,
        proptest::option::of(0..3_i64),
        prop::bool::weighted(0.2),
        value,
        proptest::option::of(0..2_i64),
        other,
    )
        .prop_map(|(key, shop, at, order, delete, a, b, c)| Change { key, shop, at, order, delete, a, b, c })
}

/// Changes in any order, cut into loads.
fn arb_loads() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec((arb_change(), 0..6_usize), 1..60).prop_map(|changes| {
        let mut loads = vec![Vec::new(); 6];
        for (change, load) in changes {
            loads[load].push(change);
        }
        loads
    })
}

fn load_all(loads: &[Vec<Change>]) -> History {
    let mut history: Option<History> = None;
    for load in loads.iter().filter(|l| !l.is_empty()) {
        history = Some(merge(history.as_ref(), &[batch(load)], &spec()).unwrap().into_state());
    }
    history.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_order_in_any_number_of_loads_gives_the_history_of_the_model(loads in arb_loads(), seed in any::<u64>()) {
        let mut all: Vec<Change> = loads.concat();
        let expected = model(&all);
        let one = merge(None, &[batch(&all)], &spec()).unwrap();
        let shown = one.history().unwrap();
        prop_assert_eq!(&rows(&shown), &expected);
        // The rows come ordered by key and start.
        prop_assert_eq!(seen(&shown).into_iter().map(|(_, r)| r).collect::<Vec<_>>(), expected);
        let many = load_all(&loads);
        prop_assert_eq!(&many.rows().unwrap(), &shown);
        // Backwards, shuffled and with some changes delivered again.
        let mut state = seed | 1;
        for i in (1..all.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            all.swap(i, (state >> 33) as usize % (i + 1));
        }
        let again: Vec<Vec<Change>> = all.chunks(3).map(<[_]>::to_vec).chain([all[..all.len() / 2].to_vec()]).collect();
        let shuffled = load_all(&again);
        prop_assert_eq!(&shuffled.rows().unwrap(), &shown);
        // What is saved does not tell in which order it came either.
        prop_assert_eq!(shuffled.to_batch().unwrap(), many.to_batch().unwrap());
        prop_assert_eq!(many.points(), many.to_batch().unwrap().num_rows());
    }

    #[test]
    fn intervals_never_overlap_and_gaps_follow_deletes_only(loads in arb_loads()) {
        let all = loads.concat();
        let history = rows(&load_all(&loads).rows().unwrap());
        for pair in history.windows(2).filter(|w| w[0].key == w[1].key) {
            let end = pair[0].end.expect("only the last row of an entity is current");
            prop_assert!(pair[0].start < end && end <= pair[1].start);
            if end < pair[1].start {
                prop_assert!(all.iter().any(|c| c.delete && c.at == end && (&c.key, c.shop) == (&pair[0].key.0, pair[0].key.1)));
            } else {
                prop_assert_ne!((&pair[0].a, pair[0].b), (&pair[1].a, pair[1].b));
            }
        }
        let current: Vec<&Key> = history.iter().filter(|r| r.end.is_none()).map(|r| &r.key).collect();
        prop_assert_eq!(current.iter().collect::<BTreeSet<_>>().len(), current.len());
    }

    #[test]
    fn upserts_and_removed_turn_the_old_table_into_the_new_one(loads in arb_loads()) {
        let mut table: BTreeMap<i64, Seen> = BTreeMap::new();
        let mut points: BTreeMap<(Key, i64), Change> = BTreeMap::new();
        let mut history: Option<History> = None;
        for load in loads.iter().filter(|l| !l.is_empty()) {
            let merged = merge(history.as_ref(), &[batch(load)], &spec()).unwrap();
            let before = table.len() as u64;
            let touched: BTreeSet<Key> = load.iter().map(|c| (c.key.clone(), c.shop)).collect();
            // The points of the touched entities are all that a load needs.
            let needed: Vec<Change> = points.values().filter(|c| touched.contains(&(c.key.clone(), c.shop))).cloned().collect();
            let partial = History::from_points(&[batch(&needed)], &spec()).unwrap();
            let partial = merge(Some(&partial), &[batch(load)], &spec()).unwrap();
            prop_assert_eq!(partial.upserts().unwrap(), merged.upserts().unwrap());
            prop_assert_eq!(partial.removed().unwrap(), merged.removed().unwrap());
            let removed = seen(&merged.removed().unwrap());
            for (surrogate, row) in &removed {
                prop_assert_eq!(table.remove(surrogate), Some(row.clone()));
            }
            for (surrogate, row) in seen(&merged.upserts().unwrap()) {
                prop_assert_ne!(table.insert(surrogate, row.clone()), Some(row), "an upsert that changes nothing");
            }
            let counts = merged.counts();
            prop_assert_eq!(counts.rows_removed, removed.len() as u64);
            prop_assert_eq!(before + counts.rows_added - counts.rows_removed, table.len() as u64);
            prop_assert_eq!(&table, &seen(&merged.history().unwrap()).into_iter().collect::<BTreeMap<_, _>>());
            // Points kept beside the table give the same history again.
            for change in changes_of(&merged.points().unwrap()) {
                points.insert(((change.key.clone(), change.shop), change.at), change);
            }
            let kept: Vec<Change> = points.values().cloned().collect();
            let from_points = History::from_points(&[batch(&kept)], &spec()).unwrap();
            prop_assert_eq!(from_points.rows().unwrap(), merged.history().unwrap());
            let changed = merged.changed_keys().unwrap();
            for (key, shop) in text(&changed, "key").into_iter().zip(ints(&changed, "shop")) {
                prop_assert!(touched.contains(&(key, shop.unwrap())));
            }
            history = Some(merged.into_state());
        }
    }

    #[test]
    fn saved_and_loaded_at_any_point_changes_nothing(loads in arb_loads()) {
        let kept = load_all(&loads);
        let mut history: Option<History> = None;
        for load in loads.iter().filter(|l| !l.is_empty()) {
            let merged = merge(history.as_ref(), &[batch(load)], &spec()).unwrap().into_state();
            history = Some(History::from_batch(&merged.to_batch().unwrap()).unwrap());
        }
        let history = history.unwrap();
        prop_assert_eq!(history.rows().unwrap(), kept.rows().unwrap());
        prop_assert_eq!(history.to_batch().unwrap(), kept.to_batch().unwrap());
    }

    #[test]
    fn a_settled_history_keeps_the_law_for_what_comes_after(loads in arb_loads(), before in -4..12_i64, late in prop::collection::vec(arb_change(), 0..20)) {
        let late: Vec<Change> = late.into_iter().map(|c| Change { at: c.at.max(before), ..c }).collect();
        let settled = load_all(&loads).settle(before).unwrap();
        prop_assert!(settled.points() <= load_all(&loads).points());
        prop_assert_eq!(settled.rows().unwrap(), load_all(&loads).rows().unwrap());
        let merged = merge(Some(&settled), &[batch(&late)], &spec()).unwrap();
        prop_assert_eq!(rows(&merged.history().unwrap()), model(&[loads.concat(), late].concat()));
        prop_assert!(merged.notes().is_empty());
        let again = History::from_batch(&settled.to_batch().unwrap()).unwrap();
        prop_assert_eq!(again.settled(), Some(before));
    }

    #[test]
    fn bare_rows_are_merged_as_points_of_their_own(loads in arb_loads(), more in prop::collection::vec(arb_change(), 1..10)) {
        let complete = load_all(&loads);
        let bare = History::from_rows(&[complete.rows().unwrap()], &spec()).unwrap();
        prop_assert!(!bare.is_complete());
        prop_assert_eq!(bare.rows().unwrap(), complete.rows().unwrap());
        // Later than everything: then nothing forgotten matters.
        let more: Vec<Change> = more.into_iter().map(|c| Change { at: c.at + 100, ..c }).collect();
        let merged = merge(Some(&bare), &[batch(&more)], &spec()).unwrap();
        prop_assert_eq!(rows(&merged.history().unwrap()), model(&[loads.concat(), more].concat()));
        prop_assert_eq!(merged.notes().len(), 1);
        let loaded = History::from_batch(&merged.state().to_batch().unwrap()).unwrap();
        prop_assert!(!loaded.is_complete());
    }

    #[test]
    fn facts_find_their_rows_or_an_inferred_one(loads in arb_loads(), facts in prop::collection::vec((arb_change(), -6..14_i64), 0..40)) {
        let history = load_all(&loads);
        let table: BTreeMap<i64, Seen> = seen(&history.rows().unwrap()).into_iter().collect();
        let asked: Vec<Change> = facts.into_iter().map(|(c, at)| Change { at, ..c }).collect();
        let key = ["key".to_owned(), "shop".to_owned()];
        let pointed = point(&history, &[batch(&asked)], &key, "at").unwrap();
        let inferred: BTreeMap<i64, Seen> = seen(&pointed.inferred).into_iter().collect();
        prop_assert_eq!(inferred.len(), pointed.inferred.num_rows());
        let mut used = BTreeSet::new();
        for (i, fact) in asked.iter().enumerate() {
            let surrogate = pointed.surrogate_key.value(i);
            let row = if pointed.is_inferred.value(i) { &inferred[&surrogate] } else { &table[&surrogate] };
            prop_assert_eq!(&row.key, &(fact.key.clone(), fact.shop));
            prop_assert!(row.start <= fact.at && row.end.is_none_or(|end| fact.at < end));
            if pointed.is_inferred.value(i) {
                used.insert(surrogate);
                prop_assert_eq!((&row.a, row.b, &row.c), (&None, None, &None));
                let overlap = |r: &&Seen| r.key == row.key && row.end.is_none_or(|e| r.start < e) && r.end.is_none_or(|e| row.start < e);
                prop_assert_eq!(table.values().find(overlap), None);
            }
        }
        prop_assert_eq!(used.len(), inferred.len());
        prop_assert!(inferred.keys().all(|k| !table.contains_key(k)));
    }
}

fn changes_of(points: &RecordBatch) -> Vec<Change> {
    let (key, shop, a, b, c) =
        (text(points, "key"), ints(points, "shop"), text(points, "a"), ints(points, "b"), text(points, "c"));
    let (at, order, op) = (times(points, "at"), ints(points, "offset"), text(points, "op"));
    (0..points.num_rows())
        .map(|i| Change {
            key: key[i].clone(),
            shop: shop[i].unwrap(),
            at: at[i].unwrap(),
            order: order[i],
            delete: op[i].as_deref() == Some("D"),
            a: a[i].clone(),
            b: b[i],
            c: c[i].clone(),
        })
        .collect()
}

fn simple(rows: &[(&str, i64, Option<&str>)]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("user", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.1)))),
        ("plan", Arc::new(rows.iter().map(|r| r.2).collect::<StringArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

fn by_user() -> Scd2Spec {
    Scd2Spec { key: vec!["user".into()], at: "at".into(), tracked: vec!["plan".into()], op: None, order: vec![] }
}

fn plans(batch: &RecordBatch) -> Vec<(Option<String>, i64, Option<i64>)> {
    let (start, end) = (times(batch, "effective_start"), times(batch, "effective_end"));
    text(batch, "plan").into_iter().zip(start).zip(end).map(|((p, s), e)| (p, s.unwrap(), e)).collect()
}

#[test]
fn a_late_change_between_two_equal_ones_splits_them() {
    let a = Some("A".to_owned());
    let first = merge(None, &[simple(&[("u", 10, Some("A")), ("u", 20, Some("A"))])], &by_user()).unwrap();
    assert_eq!(plans(&first.history().unwrap()), [(a.clone(), 10, None)]);
    let second = merge(Some(first.state()), &[simple(&[("u", 15, Some("B"))])], &by_user()).unwrap();
    let b = Some("B".to_owned());
    assert_eq!(
        plans(&second.history().unwrap()),
        [(a.clone(), 10, Some(15)), (b.clone(), 15, Some(20)), (a.clone(), 20, None)]
    );
    assert_eq!(plans(&second.upserts().unwrap()).len(), 3);
    // From the rows alone it cannot be known that A was confirmed: the merge works, and says so.
    let bare = History::from_rows(&[first.history().unwrap()], &by_user()).unwrap();
    let merged = merge(Some(&bare), &[simple(&[("u", 15, Some("B"))])], &by_user()).unwrap();
    assert_eq!(plans(&merged.history().unwrap()), [(a, 10, Some(15)), (b, 15, None)]);
    assert!(merged.notes()[0].contains("bare"));
}

#[test]
fn null_and_empty_text_are_different_values() {
    let changes = simple(&[("u", 1, None), ("u", 2, Some("")), ("u", 3, None), ("u", 4, None)]);
    let merged = merge(None, &[changes], &by_user()).unwrap();
    assert_eq!(
        plans(&merged.history().unwrap()),
        [(None, 1, Some(2)), (Some(String::new()), 2, Some(3)), (None, 3, None)]
    );
}

#[test]
fn surrogate_keys_never_change() {
    // These stand in people's warehouses: a change here is a break.
    let merged = merge(None, &[simple(&[("user_000001", 1_734_393_600_000_000, Some("free"))])], &by_user()).unwrap();
    assert_eq!(ints(&merged.history().unwrap(), "surrogate_key"), [Some(8_966_468_859_822_801_089)]);
}

#[test]
fn nested_and_mixed_types_are_tracked() {
    let list = |rows: &[Option<Vec<Option<i32>>>]| -> ArrayRef {
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(rows.iter().cloned()))
    };
    let make = |at: &[i64], lists: ArrayRef, numbers: &[f64]| {
        let n = at.len();
        RecordBatch::try_from_iter_with_nullable(vec![
            ("id", Arc::new(Int32Array::from(vec![7; n])) as ArrayRef, true),
            ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(at.iter().copied())), true),
            ("tags", lists, true),
            ("score", Arc::new(Float64Array::from(numbers.to_vec())), true),
        ])
        .unwrap()
    };
    let spec = Scd2Spec {
        key: vec!["id".into()],
        at: "at".into(),
        tracked: vec!["tags".into(), "score".into()],
        op: None,
        order: vec![],
    };
    let lists = list(&[Some(vec![Some(1)]), Some(vec![Some(1)]), Some(vec![None]), Some(vec![]), None]);
    let first = merge(None, &[make(&[1, 2, 3, 4, 5], lists, &[1.0; 5])], &spec).unwrap();
    assert_eq!(times(&first.history().unwrap(), "effective_start"), [1, 3, 4, 5].map(Some));
    let lists = list(&[None, None, Some(vec![Some(1)])]);
    let second = merge(Some(first.state()), &[make(&[6, 7, 1], lists, &[f64::NAN, f64::NAN, 1.0])], &spec).unwrap();
    assert_eq!(times(&second.history().unwrap(), "effective_start"), [1, 3, 4, 5, 6].map(Some));
    assert_eq!((second.counts().entities_changed, second.counts().rows_added), (1, 1));
}

#[test]
fn text_of_another_kind_fits_and_a_number_does_not() {
    let first = merge(None, &[simple(&[("u", 1, Some("A"))])], &by_user()).unwrap();
    let view = RecordBatch::try_from_iter_with_nullable(vec![
        ("user", Arc::new(StringViewArray::from(vec!["u", "v"])) as ArrayRef, true),
        (
            "at",
            Arc::new(arrow::array::TimestampNanosecondArray::from(vec![2_999, 1_000]).with_timezone("+02:00")),
            true,
        ),
        ("plan", Arc::new(StringViewArray::from(vec!["B", "C"])), true),
    ])
    .unwrap();
    let second = merge(Some(first.state()), &[view], &by_user()).unwrap();
    assert_eq!(
        plans(&second.history().unwrap()),
        [(Some("A".into()), 1, Some(2)), (Some("B".into()), 2, None), (Some("C".into()), 1, None)]
    );
    let number = RecordBatch::try_from_iter(vec![
        ("user", Arc::new(Int64Array::from(vec![12_345])) as ArrayRef),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![3]))),
        ("plan", Arc::new(StringArray::from(vec!["A"]))),
    ])
    .unwrap();
    let error = merge(Some(first.state()), &[number], &by_user()).unwrap_err().to_string();
    assert!(error.contains("'user' comes as Int64"), "{error}");
}

#[test]
fn a_column_of_nulls_takes_the_type_that_comes_later() {
    let nulls = RecordBatch::try_from_iter_with_nullable(vec![
        ("user", Arc::new(StringArray::from(vec!["u", "u"])) as ArrayRef, true),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![1, 5])), true),
        ("plan", arrow::array::new_null_array(&DataType::Null, 2), true),
    ])
    .unwrap();
    let first = merge(None, &[nulls], &by_user()).unwrap();
    assert_eq!(first.history().unwrap().num_rows(), 1);
    let second = merge(Some(first.state()), &[simple(&[("u", 3, Some("A")), ("u", 9, None)])], &by_user()).unwrap();
    assert_eq!(
        plans(&second.history().unwrap()),
        [(None, 1, Some(3)), (Some("A".into()), 3, Some(5)), (None, 5, None)]
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let fails = |batch: RecordBatch, spec: Scd2Spec, words: &str| {
        let error = merge(None, &[batch], &spec).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let good = || simple(&[("u", 1, Some("A"))]);
    fails(
        good(),
        Scd2Spec { tracked: vec!["plam".into()], ..by_user() },
        "no column 'plam'; the columns are: user, at, plan",
    );
    fails(good(), Scd2Spec { key: vec![], ..by_user() }, "at least one key column");
    fails(good(), Scd2Spec { order: vec!["at".into()], ..by_user() }, "named twice");
    fails(good(), Scd2Spec { at: "plan".into(), tracked: vec![], ..by_user() }, "a time is a timestamp or a date");
    fails(good(), Scd2Spec { op: Some("plan".into()), tracked: vec![], ..by_user() }, "'A' is no operation");
    let schema = Schema::new(vec![
        Field::new("user", DataType::Utf8, true),
        Field::new("at", DataType::Date32, true),
        Field::new("plan", DataType::Utf8, true),
        Field::new("is_current", DataType::Boolean, true),
    ]);
    fails(RecordBatch::new_empty(Arc::new(schema)), by_user(), "'is_current': the history adds");
    assert!(merge(None, &[], &by_user()).unwrap_err().to_string().contains("no changes and no history"));
    let rows =
        merge(None, &[simple(&[("u", 1, Some("A")), ("u", 5, Some("B"))])], &by_user()).unwrap().history().unwrap();
    let mut columns = rows.columns().to_vec();
    columns[3] = Arc::new(TimestampMicrosecondArray::from(vec![Some(6), None]).with_timezone("UTC"));
    let overlapping = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let error = History::from_rows(&[overlapping], &by_user()).unwrap_err().to_string();
    assert!(error.contains("hold at once"), "{error}");
    assert!(History::from_batch(&rows).unwrap_err().to_string().contains("no saved history"));
}

#[test]
fn nothing_new_changes_nothing() {
    let first = merge(None, &[simple(&[("u", 1, Some("A"))])], &by_user()).unwrap();
    for again in [
        merge(Some(first.state()), &[], &by_user()),
        merge(Some(first.state()), &[simple(&[("u", 1, Some("A"))])], &by_user()),
    ] {
        let again = again.unwrap();
        assert_eq!(again.history().unwrap(), first.history().unwrap());
        for empty in [again.upserts(), again.removed(), again.points(), again.changed_keys()] {
            assert_eq!(empty.unwrap().num_rows(), 0);
        }
        assert_eq!(again.counts().entities_changed, 0);
    }
}

#[test]
fn threads_make_no_difference() {
    let users: Vec<String> = (0..5_000).map(|i| format!("user_{:04}", i * 7_919 % 1_300)).collect();
    let plans: Vec<String> = (0..5_000).map(|i| format!("{}", i * 31 % 7)).collect();
    let rows: Vec<(&str, i64, Option<&str>)> =
        (0..5_000).map(|i| (users[i].as_str(), (i as i64 * 104_729) % 1_000, Some(plans[i].as_str()))).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let first = merge(None, &[simple(&rows[..3_000])], &by_user()).unwrap();
            let second = merge(Some(first.state()), &[simple(&rows[3_000..])], &by_user()).unwrap();
            [second.history().unwrap(), second.upserts().unwrap(), second.removed().unwrap(), second.points().unwrap()]
        })
    };
    assert_eq!(run(1), run(7));
}

#[test]
fn inferred_rows_are_completed_by_a_later_load() {
    let history = merge(None, &[simple(&[("u", 100, Some("A"))])], &by_user()).unwrap().into_state();
    let facts = simple(&[("u", 50, None), ("u", 100, None), ("nobody", 7, None)]);
    let key = ["user".to_owned()];
    let pointed = point(&history, std::slice::from_ref(&facts), &key, "at").unwrap();
    assert_eq!(pointed.is_inferred, BooleanArray::from(vec![true, false, true]));
    assert_eq!(plans(&pointed.inferred), [(None, BEGINNING, None), (None, BEGINNING, Some(100))]);
    let current = pointed.inferred.column_by_name("is_current").unwrap().as_boolean();
    assert_eq!(current, &BooleanArray::from(vec![true, false]));
    let later =
        merge(Some(&history), &[simple(&[("u", 20, Some("B")), ("nobody", 5, Some("C"))])], &by_user()).unwrap();
    let pointed = point(later.state(), &[facts], &key, "at").unwrap();
    assert_eq!(pointed.inferred.num_rows(), 0);
    assert_eq!(pointed.is_inferred.true_count(), 0);
}

#[test]
fn many_small_loads_stay_few_layers() {
    let mut history: Option<History> = None;
    for i in 0..200_i64 {
        let user = format!("user_{:02}", i % 23);
        let load = simple(&[(user.as_str(), i, Some(if i % 3 == 0 { "A" } else { "B" }))]);
        history = Some(merge(history.as_ref(), &[load], &by_user()).unwrap().into_state());
    }
    let history = history.unwrap();
    assert!(history.layers.len() <= 9, "{} layers", history.layers.len());
    assert_eq!((history.entities(), history.points()), (23, 200));
}

/// A part of entities and the surrogate keys of their rows.
fn a_part(entities: &[(&[u8], i64)]) -> part::Part {
    let mut made = part::Part::default();
    for (key, surrogate) in entities {
        made.push(1, part::OPENS, 0, compare::Src { layer: 0, row: 0 });
        let entity = made.close_entity(keys::hash_of(key), key, part::NOWHERE).unwrap();
        made.surrogates.push((*surrogate, entity));
    }
    made.surrogates.sort_unstable();
    made
}

#[test]
fn a_surrogate_key_of_two_rows_is_found() {
    let lower = a_part(&[(b"\x01a", 5), (b"\x01b", 6), (b"\x01c", 9)]);
    let fine = a_part(&[(b"\x01b", 6), (b"\x01d", 7)]);
    assert_eq!(fine.rivals([&lower].into_iter()), None);
    let across = a_part(&[(b"\x01b", 6), (b"\x01d", 9)]);
    assert_eq!(across.rivals([&lower].into_iter()), Some((9, &b"\x01d"[..], &b"\x01c"[..])));
    let within = a_part(&[(b"\x01b", 6), (b"\x01d", 6)]);
    assert!(within.rivals([].into_iter()).is_some());
    let error = merge::collision(9, b"\x01d", b"\x01c").to_string();
    assert!(error.contains("two rows"), "{error}");
}

#[test]
fn galloping_is_a_partition_point() {
    for n in 0..40_usize {
        let slice: Vec<usize> = (0..n).collect();
        for x in 0..=n + 1 {
            assert_eq!(part::gallop(&slice, |v| *v < x), slice.partition_point(|v| *v < x));
        }
    }
}
