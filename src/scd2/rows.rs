//! From change points to the rows that people see.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rayon::prelude::*;

use super::compare::{Comparators, Src};
use super::history::{CLOSES, History, Live, OPENS, gather, gather_column};
use super::keys::{PARTS, hash_of, surrogate};
use super::layout::Layout;
use crate::error::Result;

/// A row of the history before its values are fetched.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub key: &'a [u8],
    pub start: i64,
    pub end: Option<i64>,
    /// Where key and tracked attributes lie.
    pub src: Src,
    pub sum: u64,
    /// Where untracked attributes lie.
    pub newest: Src,
}

impl Row<'_> {
    /// Whether two rows with the same key and start are the same in everything.
    pub fn same(&self, other: &Self, compare: &Comparators<'_>) -> bool {
        self.end == other.end
            && (self.src == other.src || (self.sum == other.sum && compare.same_tracked(self.src, other.src)))
            && compare.same_others(self.newest, other.newest)
    }
}

/// The rows of an entity, by start.
pub(super) fn of_entity(entity: Live<'_>) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    push_rows(entity, &mut rows);
    rows
}

fn push_rows<'a>(entity: Live<'a>, out: &mut Vec<Row<'a>>) {
    let points = entity.points();
    let Some(newest) = points.newest() else { return };
    let mut open = false;
    for i in 0..points.len() {
        let flags = points.flags[i];
        if flags & (OPENS | CLOSES) == 0 {
            continue;
        }
        if let (true, Some(last)) = (open, out.last_mut()) {
            last.end = Some(points.at[i]);
        }
        open = flags & OPENS != 0;
        if open {
            let (start, src, sum) = (points.at[i], points.src[i], points.sums[i]);
            out.push(Row { key: entity.key(), start, end: None, src, sum, newest });
        }
    }
}

/// The first eight bytes of a key, as a number of the same order.
fn prefix(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    let n = key.len().min(8);
    head[..n].copy_from_slice(&key[..n]);
    u64::from_be_bytes(head)
}

/// Entities by key.
pub(super) fn sorted(entities: Vec<Vec<Live<'_>>>) -> Vec<Live<'_>> {
    // The first byte is the tag, the same for nearly all.
    let keyed =
        entities.into_par_iter().map(|part| part.into_iter().map(|e| (prefix(&e.key()[1..]), e)).collect::<Vec<_>>());
    let mut live = keyed.collect::<Vec<_>>().concat();
    live.par_sort_unstable_by(|a, b| {
        let (x, y) = (a.1.key(), b.1.key());
        x[0].cmp(&y[0]).then(a.0.cmp(&b.0)).then_with(|| x.cmp(y))
    });
    live.into_iter().map(|(_, e)| e).collect()
}

impl History {
    /// The entities that count, by key.
    pub(super) fn sorted(&self) -> Vec<Live<'_>> {
        sorted((0..PARTS).into_par_iter().map(|p| self.live(0, p)).collect())
    }

    /// The rows, as [`super::Merge::history`] gives them.
    ///
    /// # Errors
    /// As [`super::Merge::history`].
    pub fn rows(&self) -> Result<RecordBatch> {
        let rows: Vec<Vec<Row<'_>>> = self
            .sorted()
            .par_chunks(8_192)
            .map(|entities| {
                let mut rows = Vec::with_capacity(entities.len());
                for entity in entities {
                    push_rows(*entity, &mut rows);
                }
                rows
            })
            .collect();
        assemble(self, &rows.concat())
    }
}

/// The schema of the rows.
pub(super) fn schema(layout: &Layout, inferred: bool) -> SchemaRef {
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields: Vec<Arc<Field>> = layout.schema.fields()[..layout.order.start].to_vec();
    fields.push(Arc::new(Field::new("effective_start", moment.clone(), false)));
    fields.push(Arc::new(Field::new("effective_end", moment, true)));
    fields.push(Arc::new(Field::new("is_current", DataType::Boolean, false)));
    fields.push(Arc::new(Field::new("surrogate_key", DataType::Int64, false)));
    if inferred {
        fields.push(Arc::new(Field::new("is_inferred", DataType::Boolean, false)));
    }
    Arc::new(Schema::new(fields))
}

/// The interval columns of rows.
pub(super) fn intervals(spans: &[(i64, Option<i64>, i64)]) -> [ArrayRef; 4] {
    let utc = |a: TimestampMicrosecondArray| Arc::new(a.with_timezone("UTC")) as ArrayRef;
    [
        utc(spans.iter().map(|s| s.0).collect::<Vec<_>>().into()),
        utc(spans.iter().map(|s| s.1).collect()),
        Arc::new(BooleanArray::from_iter(spans.iter().map(|s| Some(s.1.is_none())))),
        Arc::new(Int64Array::from_iter_values(spans.iter().map(|s| s.2))),
    ]
}

/// Fetches the values of rows.
pub(super) fn assemble(history: &History, rows: &[Row<'_>]) -> Result<RecordBatch> {
    let layout = &history.layout;
    let place = |s: Src| (s.layer as usize, s.row as usize);
    let starts: Vec<_> = rows.par_iter().map(|r| place(r.src)).collect();
    let newest: Vec<_> =
        if layout.others.is_empty() { Vec::new() } else { rows.par_iter().map(|r| place(r.newest)).collect() };
    let batches = history.batches();
    let mut columns = (0..layout.order.start)
        .into_par_iter()
        .map(|i| {
            let arrays = batches.iter().map(|b| b.column(i).as_ref()).collect();
            let from = if layout.others.contains(&i) { &newest } else { &starts };
            gather_column(layout.schema.field(i).data_type(), arrays, from)
        })
        .collect::<Result<Vec<_>>>()?;
    let spans: Vec<_> = rows.par_iter().map(|r| (r.start, r.end, surrogate(r.key, hash_of(r.key), r.start))).collect();
    columns.extend(intervals(&spans));
    Ok(RecordBatch::try_new(schema(layout, false), columns)?)
}

/// The key columns at these places.
pub(super) fn keys(history: &History, places: Vec<Src>) -> Result<RecordBatch> {
    let layout = &history.layout;
    let rows: Vec<_> = places.iter().map(|s| (s.layer as usize, s.row as usize)).collect();
    let keys: Vec<usize> = layout.keys.clone().collect();
    let batches: Vec<RecordBatch> = history.batches().iter().map(|b| b.project(&keys)).collect::<Result<_, _>>()?;
    gather(&Arc::new(layout.schema.project(&keys)?), &batches.iter().collect::<Vec<_>>(), &rows)
}
