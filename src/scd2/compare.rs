//! Values of any type, compared: exactly, and by a sum that settles most comparisons without a look at the values.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::OnceLock;

use arrow::array::make_comparator;
use arrow::array::{ArrayRef, DynComparator, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use rayon::prelude::*;

use super::layout::Layout;
use crate::error::Result;

/// Where the values of a change lie: a layer of the history and a row of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Src {
    pub layer: u32,
    pub row: u32,
}

struct Pair {
    order: Vec<DynComparator>,
    tracked: Vec<DynComparator>,
    others: Vec<DynComparator>,
}

/// Comparisons between the batches of a history, made when first needed.
pub(super) struct Comparators<'a> {
    layout: &'a Layout,
    batches: Vec<&'a RecordBatch>,
    pairs: Vec<OnceLock<Pair>>,
}

impl<'a> Comparators<'a> {
    pub fn new(layout: &'a Layout, batches: Vec<&'a RecordBatch>) -> Self {
        let pairs = (0..batches.len() * batches.len()).map(|_| OnceLock::new()).collect();
        Self { layout, batches, pairs }
    }

    fn pair(&self, a: Src, b: Src) -> &Pair {
        let (x, y) = (a.layer as usize, b.layer as usize);
        self.pairs[x * self.batches.len() + y].get_or_init(|| {
            let (left, right) = (self.batches[x], self.batches[y]);
            let of = |range: Range<usize>| range.filter_map(|i| comparator(left.column(i), right.column(i))).collect();
            Pair {
                order: of(self.layout.order.clone()),
                tracked: of(self.layout.tracked.clone()),
                others: of(self.layout.others.clone()),
            }
        })
    }

    /// Whether two changes have the same tracked attributes; null equals null and nothing else.
    pub fn same_tracked(&self, a: Src, b: Src) -> bool {
        a == b || compare(&self.pair(a, b).tracked, a, b).is_eq()
    }

    /// Whether two changes have the same untracked attributes.
    pub fn same_others(&self, a: Src, b: Src) -> bool {
        a == b || self.layout.others.is_empty() || compare(&self.pair(a, b).others, a, b).is_eq()
    }

    /// Which of two changes at one moment wins: the later position (none is the earliest), then an update over a
    /// delete (so that a row that is deleted and written anew at once stays), then the greater content.
    pub fn rank(&self, a: (Src, bool), b: (Src, bool)) -> Ordering {
        let pair = self.pair(a.0, b.0);
        compare(&pair.order, a.0, b.0)
            .then_with(|| b.1.cmp(&a.1))
            .then_with(|| compare(&pair.tracked, a.0, b.0))
            .then_with(|| compare(&pair.others, a.0, b.0))
    }
}

fn compare(by: &[DynComparator], a: Src, b: Src) -> Ordering {
    by.iter().map(|c| c(a.row as usize, b.row as usize)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

fn comparator(left: &ArrayRef, right: &ArrayRef) -> Option<DynComparator> {
    // Columns of nulls are equal. Every other type was tried when the layout was made.
    if *left.data_type() == DataType::Null {
        return None;
    }
    make_comparator(left, right, SortOptions::default()).ok()
}

/// A 64-bit sum of each row's tracked attributes. Different sums mean different values; equal ones are looked at.
pub(super) fn sums(layout: &Layout, batch: &RecordBatch) -> Result<Vec<u64>> {
    const CHUNK: usize = 8_192;
    let columns: Vec<&ArrayRef> =
        layout.tracked.clone().map(|i| batch.column(i)).filter(|c| *c.data_type() != DataType::Null).collect();
    let rows = batch.num_rows();
    if columns.is_empty() {
        return Ok(vec![0; rows]);
    }
    let fields: Vec<SortField> = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    let mut out = vec![0; rows];
    out.par_chunks_mut(CHUNK).enumerate().try_for_each(|(i, out)| -> Result<()> {
        let slices: Vec<ArrayRef> = columns.iter().map(|c| c.slice(i * CHUNK, out.len())).collect();
        let rows = RowConverter::new(fields.clone())?.convert_columns(&slices)?;
        for (sum, row) in out.iter_mut().zip(rows.iter()) {
            *sum = xxhash_rust::xxh3::xxh3_64(row.as_ref());
        }
        Ok(())
    })?;
    Ok(out)
}
