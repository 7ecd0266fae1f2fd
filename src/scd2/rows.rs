//! From change points to the rows that people see.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rayon::prelude::*;

use super::compare::{Comparators, Src};
use super::history::{History, Live, gather, gather_column};
use super::keys::{PARTS, surrogate};
use super::layout::Layout;
use super::part::{CLOSES, OPENS};
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
    pub surrogate: i64,
}

impl Row<'_> {
    /// Whether two rows with the same key and start are the same in everything.
    pub fn same(&self, other: &Self, compare: &Comparators<'_>) -> bool {
        self.end == other.end
            && (self.src == other.src || (self.sum == other.sum && compare.same_tracked(self.src, other.src)))
            && compare.same_others(self.newest, other.newest)
    }
}

/// Appends the rows of an entity, by start.
pub(super) fn push_rows<'a>(entity: Live<'a>, out: &mut Vec<Row<'a>>) {
    let points = entity.points();
    let Some(newest) = points.newest() else { return };
    let key = entity.key();
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
            let surrogate = surrogate(key, entity.hash(), start);
            out.push(Row { key, start, end: None, src, sum, newest, surrogate });
        }
    }
}

/// Puts things into the order of their keys; those of one key stay in the order that they have.
pub(super) fn by_key<'a, T: Send + Sync + Copy>(things: &[T], key: impl Fn(&T) -> &'a [u8] + Sync) -> Vec<T> {
    let Some(first) = things.first().map(&key) else { return Vec::new() };
    let shared = |a: &[u8], most: usize| a.iter().zip(&first[..most]).take_while(|(x, y)| x == y).count();
    // What all keys begin with says nothing. The next eight bytes, as a number, settle most comparisons.
    let common = things.iter().fold(first.len(), |common, t| shared(key(t), common));
    let head = |key: &[u8]| {
        let mut head = [0; 8];
        let rest = &key[common..];
        let n = rest.len().min(8);
        head[..n].copy_from_slice(&rest[..n]);
        u64::from_be_bytes(head)
    };
    let mut order: Vec<(u64, usize)> = things.par_iter().enumerate().map(|(i, t)| (head(key(t)), i)).collect();
    order.par_sort_unstable_by(|a, b| {
        let rest = |i: usize| &key(&things[i])[common..];
        a.0.cmp(&b.0).then_with(|| rest(a.1).cmp(rest(b.1))).then(a.1.cmp(&b.1))
    });
    order.into_par_iter().map(|(_, i)| things[i]).collect()
}

/// The rows of the entities of one part.
#[derive(Default)]
pub(super) struct Blocks<'a> {
    rows: Vec<Row<'a>>,
    blocks: Vec<Block<'a>>,
}

/// The rows of one entity.
#[derive(Clone, Copy)]
struct Block<'a> {
    key: &'a [u8],
    part: u32,
    begin: u32,
    end: u32,
}

impl<'a> Blocks<'a> {
    /// Appends some of the rows of an entity, by start.
    pub fn push(&mut self, part: usize, fill: impl FnOnce(&mut Vec<Row<'a>>)) {
        let begin = self.rows.len();
        fill(&mut self.rows);
        if let Some(row) = self.rows.get(begin) {
            let (begin, end) = (begin as u32, self.rows.len() as u32);
            self.blocks.push(Block { key: row.key, part: part as u32, begin, end });
        }
    }

    /// The rows of all parts, by key and start.
    pub fn sorted(parts: &[Self]) -> Vec<Row<'a>> {
        let blocks: Vec<Block<'a>> = parts.iter().flat_map(|p| &p.blocks).copied().collect();
        let rows = by_key(&blocks, |b| b.key)
            .par_chunks(16_384)
            .map(|blocks| {
                let mut rows = Vec::with_capacity(blocks.len() * 2);
                for b in blocks {
                    rows.extend_from_slice(&parts[b.part as usize].rows[b.begin as usize..b.end as usize]);
                }
                rows
            })
            .collect::<Vec<_>>();
        rows.concat()
    }
}

impl History {
    /// The entities that count, by key.
    pub(super) fn sorted(&self) -> Vec<Live<'_>> {
        let live = (0..PARTS).into_par_iter().map(|p| self.live(0, p)).collect::<Vec<_>>().concat();
        by_key(&live, |e| e.key())
    }

    /// The rows, as [`super::Merge::history`] gives them.
    ///
    /// # Errors
    /// As [`super::Merge::history`].
    pub fn rows(&self) -> Result<RecordBatch> {
        let parts = (0..PARTS).into_par_iter().map(|p| {
            let mut blocks = Blocks::default();
            for entity in self.live(0, p) {
                blocks.push(p, |rows| push_rows(entity, rows));
            }
            blocks
        });
        let rows = Blocks::sorted(&parts.collect::<Vec<_>>());
        assemble(self, &rows)
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
    let spans: Vec<_> = rows.par_iter().map(|r| (r.start, r.end, r.surrogate)).collect();
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
