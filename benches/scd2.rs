//! 200,000 changes (10 % of new entities, 5 % that change nothing) into a history of 1,000,000 entities with five
//! tracked attributes.

use std::hint::black_box;
use std::sync::Arc;

use _core::scd2::{Scd2Spec, merge, point};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use criterion::{Criterion, criterion_group, criterion_main};

const ENTITIES: i64 = 1_000_000;
const CHANGES: i64 = 200_000;

fn spec() -> Scd2Spec {
    Scd2Spec {
        key: vec!["user_id".into()],
        at: "at".into(),
        tracked: ["plan", "city", "segment", "score", "visits"].map(String::from).into(),
        op: None,
        order: vec!["offset".into()],
    }
}

/// One change an entity; `version` decides the attributes.
fn changes(ids: &[(i64, i64)], at: i64) -> RecordBatch {
    let n = ids.len() as i64;
    let text = |f: &dyn Fn(i64, i64) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(ids.iter().map(|(id, v)| f(*id, *v))))
    };
    RecordBatch::try_from_iter(vec![
        ("user_id", text(&|id, _| format!("user_{id:09}"))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values((0..n).map(|i| at + i))) as ArrayRef),
        ("plan", text(&|id, v| ["free", "basic", "premium"][((id + v) % 3) as usize].to_owned())),
        ("city", text(&|id, v| format!("city {}", (id * 31 + v) % 5_000))),
        ("segment", text(&|id, _| format!("segment {}", id % 12))),
        ("score", Arc::new(Int32Array::from_iter_values(ids.iter().map(|(id, v)| ((id * 7 + v) % 100) as i32)))),
        ("visits", Arc::new(Int64Array::from_iter_values(ids.iter().map(|(id, _)| id % 1_000)))),
        ("offset", Arc::new(Int64Array::from_iter_values(at..at + n))),
    ])
    .expect("columns of one length")
}

fn bench(c: &mut Criterion) {
    let base = changes(&(0..ENTITIES).map(|id| (id, 0)).collect::<Vec<_>>(), 0);
    let ids: Vec<(i64, i64)> = (0..CHANGES)
        .map(|i| match i % 20 {
            0 | 1 => (ENTITIES + i, 0),
            2 => ((i * 7_919) % ENTITIES, 0),
            _ => ((i * 7_919) % ENTITIES, 1),
        })
        .collect();
    let load = changes(&ids, 10 * ENTITIES);
    let first = merge(None, std::slice::from_ref(&base), &spec()).expect("a history");
    let merged = merge(Some(first.state()), std::slice::from_ref(&load), &spec()).expect("a merge");
    let mut group = c.benchmark_group("scd2");
    group.sample_size(20);
    group.bench_function("merge 1M changes into nothing", |b| {
        b.iter(|| merge(None, std::slice::from_ref(black_box(&base)), &spec()))
    });
    group.bench_function("merge 200k changes into 1M entities", |b| {
        b.iter(|| merge(Some(first.state()), std::slice::from_ref(black_box(&load)), &spec()))
    });
    group.bench_function("upserts and removed of that merge", |b| b.iter(|| (merged.upserts(), merged.removed())));
    let key = ["user_id".to_owned()];
    group.bench_function("1M facts find their rows", |b| {
        b.iter(|| point(merged.state(), std::slice::from_ref(black_box(&base)), &key, "at"))
    });
    group.bench_function("the whole history, 1.2M rows", |b| b.iter(|| merged.history()));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
