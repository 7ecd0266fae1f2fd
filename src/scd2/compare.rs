//! Values of any type, compared: exactly, and by a sum that settles most comparisons without a look at the values.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::OnceLock;

use arrow::array::make_comparator;
use arrow::array::{Array, ArrayRef, AsArray, DynComparator, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use rayon::prelude::*;

use super::layout::Layout;
use crate::error::Result;
use crate::hash::quick;

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
    let mut out = vec![0; batch.num_rows()];
    out.par_chunks_mut(CHUNK)
        .enumerate()
        .try_for_each(|(i, out)| columns.iter().try_for_each(|column| add(&column.slice(i * CHUNK, out.len()), out)))?;
    Ok(out)
}

/// Adds the values of a column to the sums of its rows. Values that compare as equal count for the same.
fn add(column: &ArrayRef, sums: &mut [u64]) -> Result<()> {
    use DataType::*;
    match column.data_type() {
        Utf8 => each(sums, column.as_string::<i32>().iter()),
        LargeUtf8 => each(sums, column.as_string::<i64>().iter()),
        Utf8View => each(sums, column.as_string_view().iter()),
        Binary => each(sums, column.as_binary::<i32>().iter()),
        LargeBinary => each(sums, column.as_binary::<i64>().iter()),
        BinaryView => each(sums, column.as_binary_view().iter()),
        FixedSizeBinary(_) => each(sums, column.as_fixed_size_binary().iter()),
        Boolean => each(sums, column.as_boolean().iter().map(|v| v.map(|v| [u8::from(v)]))),
        kind => match kind.primitive_width() {
            Some(width) => {
                let data = column.to_data();
                let values = &data.buffers()[0][data.offset() * width..][..sums.len() * width];
                let values = values.chunks_exact(width);
                match column.nulls() {
                    None => each(sums, values.map(Some)),
                    Some(nulls) => each(sums, values.zip(nulls).map(|(value, there)| there.then_some(value))),
                }
            }
            None => {
                let rows = RowConverter::new(vec![SortField::new(kind.clone())])?
                    .convert_columns(std::slice::from_ref(column))?;
                each(sums, rows.iter().map(Some));
            }
        },
    }
    Ok(())
}

fn each<T: AsRef<[u8]>>(sums: &mut [u64], values: impl Iterator<Item = Option<T>>) {
    /// What a null counts for.
    const NULL: u64 = 0x9e37_79b9_7f4a_7c15;
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = match value {
            Some(value) => quick(value.as_ref(), *sum),
            None => sum.rotate_left(23) ^ NULL,
        };
    }
}
