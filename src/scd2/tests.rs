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

mod laws;

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
