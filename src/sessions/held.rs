//! Held events: in memory, and beyond the budget on disk, in slices of event time.
//!
//! What is spilled is what will be needed last. A slice is read back, whole, when the watermark enters it. Rows keep the
//! number of the batch that they were pushed in and their place in it, so that what is released is cut and ordered as if
//! nothing had been spilled.

use std::sync::Arc;

use arrow::array::{BooleanArray, Int32Array, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};

use super::Sessionizer;
use super::cut::Chosen;
use super::saved::{PUSH, ROW};
use crate::columns::micros;
use crate::error::Result;
use crate::packed::plain_rows;
use crate::spill::Spill;
use crate::spill::table::{Table, TableWriter};
use crate::state::typed;

/// Spilled slices are about so large, in bytes.
const SLICE_BYTES: usize = if cfg!(test) { 500 } else { 8 << 20 };
/// Batches of a slice are about so large, in bytes.
const BATCH_BYTES: usize = if cfg!(test) { 200 } else { 2 << 20 };

/// Held rows of one pushed batch.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// Which batch, counted from 0.
    pub number: i64,
    pub batch: RecordBatch,
    pub times: ScalarBuffer<i64>,
    /// The rows' places in the batch; none: these are all its held rows.
    pub rows: Option<ScalarBuffer<i32>>,
    pub oldest: i64,
    pub newest: i64,
    /// Whether a delta has them.
    pub saved: bool,
    /// What they take, in bytes.
    pub bytes: usize,
}

/// Spilled rows of one stretch of event time.
#[derive(Debug)]
pub(super) struct Slice {
    table: Table,
    pub oldest: i64,
    pub newest: i64,
    saved: bool,
}

impl Slice {
    pub fn rows(&self) -> usize {
        self.table.rows()
    }

    pub fn memory(&self) -> usize {
        self.table.memory() + size_of::<Self>()
    }
}

impl Sessionizer {
    pub(super) fn hold(
        &self,
        number: i64,
        batch: RecordBatch,
        rows: Option<ScalarBuffer<i32>>,
        saved: bool,
    ) -> Result<Option<Pending>> {
        let times = micros(batch.column(self.columns.event_time), "event_time")?;
        let (Some(oldest), Some(newest)) = (times.iter().copied().min(), times.iter().copied().max()) else {
            return Ok(None);
        };
        let bytes = size_of_rows(&batch)? + rows.as_ref().map_or(0, |rows| rows.len() * size_of::<i32>());
        Ok(Some(Pending { number, batch, times, rows, oldest, newest, saved, bytes }))
    }

    /// Takes out what is below the limit (everything without one); the rest stays held.
    pub(super) fn choose(&mut self, limit: Option<i64>) -> Result<Vec<Chosen>> {
        self.recall(limit)?;
        let mut chosen = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            match limit {
                Some(limit) if pending.oldest >= limit => self.pending.push(pending),
                Some(limit) if pending.newest >= limit => {
                    let mask = BooleanBuffer::collect_bool(pending.times.len(), |row| pending.times[row] < limit);
                    self.pending.extend(self.part(&pending, &!&mask)?);
                    let rows = mask.set_indices_u32().collect();
                    chosen.push(Chosen { pending, some: Some((BooleanArray::new(mask, None), rows)) });
                }
                _ => chosen.push(Chosen { pending, some: None }),
            }
        }
        Ok(chosen)
    }

    /// Some rows of a piece.
    fn part(&self, pending: &Pending, mask: &BooleanBuffer) -> Result<Option<Pending>> {
        let rows = pending.rows.as_ref().map(|rows| mask.set_indices().map(|row| rows[row]).collect());
        let batch = filter_record_batch(&pending.batch, &BooleanArray::new(mask.clone(), None))?;
        self.hold(pending.number, batch, rows, pending.saved)
    }

    /// Forgets what is below the watermark.
    pub(super) fn forget_released(&mut self, watermark: i64) -> Result<()> {
        self.recall(Some(watermark))?;
        for pending in std::mem::take(&mut self.pending) {
            if pending.oldest >= watermark {
                self.pending.push(pending);
            } else if pending.newest >= watermark {
                let rest = BooleanBuffer::collect_bool(pending.times.len(), |row| pending.times[row] >= watermark);
                self.pending.extend(self.part(&pending, &rest)?);
            }
        }
        Ok(())
    }

    /// Reads back the slices that have something below the limit.
    fn recall(&mut self, limit: Option<i64>) -> Result<()> {
        let needed = |slice: &Slice| limit.is_none_or(|limit| slice.oldest < limit);
        if !self.slices.iter().any(needed) {
            return Ok(());
        }
        let (wanted, rest): (Vec<Slice>, Vec<Slice>) = std::mem::take(&mut self.slices).into_iter().partition(needed);
        self.slices = rest;
        let mut pieces = std::mem::take(&mut self.pending);
        for slice in wanted {
            pieces.extend(self.pieces(&slice)?);
        }
        self.pending = merged(pieces, |piece, number| self.hold(number, piece.0, piece.1, piece.2))?;
        Ok(())
    }

    /// The rows of a slice.
    fn pieces(&self, slice: &Slice) -> Result<Vec<Pending>> {
        let width = self.input.fields().len();
        let mut pieces = Vec::new();
        for n in 0..slice.table.batches() {
            let batch = slice.table.batch(n)?;
            let numbers: &Int64Array = typed(PUSH, &batch, PUSH)?;
            let rows: &Int32Array = typed(ROW, &batch, ROW)?;
            let mut from = 0;
            for run in numbers.values().chunk_by(|a, b| a == b) {
                let columns = batch.columns()[..width].iter().map(|c| c.slice(from, run.len())).collect();
                let own = RecordBatch::try_new(self.input.clone(), columns)?;
                let rows = rows.values().slice(from, run.len());
                pieces.extend(self.hold(run[0], own, Some(rows), slice.saved)?);
                from += run.len();
            }
        }
        Ok(pieces)
    }

    /// Everything that is held (that no delta has, where `unsaved`), batch by batch as it was pushed.
    pub(super) fn held(&self, unsaved: bool) -> Result<Vec<Pending>> {
        let wanted = |saved: bool| !unsaved || !saved;
        let mut pieces: Vec<Pending> = self.pending.iter().filter(|p| wanted(p.saved)).cloned().collect();
        for slice in self.slices.iter().filter(|slice| wanted(slice.saved)) {
            pieces.extend(self.pieces(slice)?);
        }
        merged(pieces, |piece, number| self.hold(number, piece.0, piece.1, piece.2))
    }

    /// From now on a delta has everything.
    pub(super) fn all_saved(&mut self) {
        self.pending.iter_mut().for_each(|p| p.saved = true);
        self.slices.iter_mut().for_each(|s| s.saved = true);
    }

    /// The memory that held events take, in bytes.
    pub fn held_memory(&self) -> usize {
        self.pending.iter().map(|p| p.bytes).sum()
    }

    /// Gives `want` bytes of memory back, if that can be: the events that will be released last are spilled. Says how many
    /// bytes were given back.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when there is no room: nothing is forgotten then.
    pub fn spill(&mut self, want: usize) -> Result<usize> {
        let before = self.held_memory();
        let Some(spill) = self.spill.clone().filter(|_| before > 0) else { return Ok(0) };
        let mut times: Vec<i64> = self.pending.iter().flat_map(|p| p.times.iter().copied()).collect();
        times.sort_unstable();
        let share = |bytes: usize| (times.len() as u128 * bytes as u128 / before as u128) as usize;
        // Never a little only: each time costs a look at everything.
        let keep = share(before.saturating_sub(want)).min(times.len() / 8 * 7);
        let mut bounds: Vec<i64> = (keep..times.len()).step_by(share(SLICE_BYTES).max(1)).map(|n| times[n]).collect();
        drop(times);
        bounds.dedup();
        let mut slices = Vec::new();
        for (n, from) in bounds.iter().enumerate() {
            let to = bounds.get(n + 1).copied();
            for saved in [true, false] {
                slices.extend(self.write(spill.as_ref(), saved, *from, to)?);
            }
        }
        let first = bounds[0];
        let mut stay = Vec::new();
        for pending in &self.pending {
            if pending.newest < first {
                stay.push(pending.clone());
            } else if pending.oldest < first {
                let mask = BooleanBuffer::collect_bool(pending.times.len(), |row| pending.times[row] < first);
                // From now on it is one piece of several, and its rows need their places.
                stay.extend(self.part(&Pending { rows: Some(places(pending)), ..pending.clone() }, &mask)?);
            }
        }
        self.pending = stay;
        self.slices.extend(slices);
        Ok(before.saturating_sub(self.held_memory()))
    }

    /// Writes the rows of a stretch of time, half-open, to disk.
    fn write(&self, spill: &dyn Spill, saved: bool, from: i64, to: Option<i64>) -> Result<Option<Slice>> {
        let within = |time: i64| time >= from && to.is_none_or(|to| time < to);
        let schema = self.saved_schema();
        let mut writer: Option<TableWriter> = None;
        let mut waiting: Vec<RecordBatch> = Vec::new();
        let mut bytes = 0;
        let (mut oldest, mut newest) = (i64::MAX, i64::MIN);
        let touched = |p: &&Pending| p.saved == saved && p.newest >= from && to.is_none_or(|to| p.oldest < to);
        let mut pending = self.pending.iter().filter(touched).peekable();
        while let Some(piece) = pending.next() {
            let mask = BooleanBuffer::collect_bool(piece.times.len(), |row| within(piece.times[row]));
            let rows = places(piece);
            let rows: Int32Array = mask.set_indices().map(|row| rows[row]).collect::<Vec<_>>().into();
            if !rows.is_empty() {
                mask.set_indices().for_each(|row| {
                    oldest = oldest.min(piece.times[row]);
                    newest = newest.max(piece.times[row]);
                });
                let some = plain_rows(&filter_record_batch(&piece.batch, &BooleanArray::new(mask, None))?)?;
                let mut columns = some.columns().to_vec();
                columns.push(Arc::new(Int64Array::from_value(piece.number, rows.len())));
                columns.push(Arc::new(rows));
                let some = RecordBatch::try_new(schema.clone(), columns)?;
                bytes += size_of_rows(&some)?;
                waiting.push(some);
            }
            if !waiting.is_empty() && (bytes >= BATCH_BYTES || pending.peek().is_none()) {
                if writer.is_none() {
                    writer = Some(TableWriter::new(spill, "sessions/pending", schema.clone())?);
                }
                if let Some(writer) = &mut writer {
                    writer.write(&concat_batches(&schema, &std::mem::take(&mut waiting))?)?;
                }
                bytes = 0;
            }
        }
        let Some(writer) = writer else { return Ok(None) };
        Ok(Some(Slice { table: writer.finish()?, oldest, newest, saved }))
    }
}

/// The places of a piece's rows in the batch that they were pushed in.
fn places(pending: &Pending) -> ScalarBuffer<i32> {
    pending.rows.clone().unwrap_or_else(|| (0..pending.times.len() as i32).collect())
}

fn size_of_rows(batch: &RecordBatch) -> Result<usize> {
    Ok(batch.columns().iter().map(|c| c.to_data().get_slice_memory_size()).sum::<Result<usize, _>>()?)
}

/// Pieces in the order in which their batches were pushed, those of one batch as one.
fn merged(
    mut pieces: Vec<Pending>,
    hold: impl Fn((RecordBatch, Option<ScalarBuffer<i32>>, bool), i64) -> Result<Option<Pending>>,
) -> Result<Vec<Pending>> {
    pieces.sort_by_key(|piece| piece.number);
    let mut out = Vec::with_capacity(pieces.len());
    for same in pieces.chunk_by(|a, b| a.number == b.number) {
        let [first, _, ..] = same else {
            out.extend(same.iter().cloned());
            continue;
        };
        // What was spilled has come back plain.
        let plain = same.iter().map(|piece| plain_rows(&piece.batch)).collect::<Result<Vec<_>>>()?;
        let all = concat_batches(plain[0].schema_ref(), &plain)?;
        let rows: Vec<i32> = same.iter().flat_map(|piece| places(piece).to_vec()).collect();
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_unstable_by_key(|n| rows[*n as usize]);
        let rows = order.iter().map(|n| rows[*n as usize]).collect();
        let all = take_record_batch(&all, &UInt32Array::from(order))?;
        out.extend(hold((all, Some(rows), first.saved), first.number)?);
    }
    Ok(out)
}
