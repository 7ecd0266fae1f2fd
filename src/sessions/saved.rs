//! The state of sessions: held events, open sessions, the watermark.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::held::Pending;
use super::open::{LAST, OPEN};
use super::{SessionSettings, Sessionizer};
use crate::carry::carry;
use crate::columns::{moment_field, one_moment};
use crate::error::Result;
use crate::packed::plain;
use crate::state::{self, Change, ORDER, SPLIT, StateParts, Stateful, typed};
use crate::watermark::moment_of;

const PENDING: &str = "sessions/pending";
const META: &str = "sessions/meta";
/// The number of the pushed batch that a held event came in.
pub(super) const PUSH: &str = "__push";
/// Its number among the held events of that batch.
pub(super) const ROW: &str = "__row";

/// Held events beyond so many bytes go into a table of their own: a column of text holds at most 2 GiB.
const TABLE_BYTES: usize = 256 << 20;

impl Sessionizer {
    pub(super) fn saved_schema(&self) -> SchemaRef {
        let mut fields = self.input.fields().to_vec();
        fields.push(Arc::new(Field::new(PUSH, DataType::Int64, false)));
        fields.push(Arc::new(Field::new(ROW, DataType::Int32, false)));
        let mut metadata = self.input.metadata().clone();
        metadata.insert(SPLIT.to_string(), "entity".to_string());
        metadata.insert(ORDER.to_string(), format!("{PUSH},{ROW}"));
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }

    fn pending_tables<'a>(&'a self, which: impl Iterator<Item = &'a Pending>) -> Result<StateParts> {
        let schema = self.saved_schema();
        let mut tables: Vec<Vec<RecordBatch>> = Vec::new();
        let mut bytes = 0;
        for pending in which {
            let rows = pending.batch.num_rows();
            let mut columns =
                pending.batch.columns().iter().map(|c| Ok(plain(c)?.into_owned())).collect::<Result<Vec<_>>>()?;
            columns.push(Arc::new(Int64Array::from_value(pending.number, rows)));
            columns.push(Arc::new(Int32Array::from_iter_values(0..rows as i32)));
            let size: usize = columns.iter().map(|c| c.to_data().get_slice_memory_size()).sum::<Result<usize, _>>()?;
            if tables.is_empty() || bytes + size > TABLE_BYTES {
                tables.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            if let Some(table) = tables.last_mut() {
                table.push(RecordBatch::try_new(schema.clone(), columns)?);
            }
        }
        tables.into_iter().map(|batches| Ok((PENDING.to_string(), concat_batches(&schema, &batches)?))).collect()
    }

    fn meta(&self, flushed: bool) -> Result<(String, RecordBatch)> {
        let schema = Schema::new(vec![
            moment_field("watermark", true),
            Field::new("pushes", DataType::Int64, false),
            Field::new("gap", DataType::Int64, false),
            Field::new("flushed", DataType::Boolean, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            one_moment(self.watermark),
            Arc::new(Int64Array::from(vec![self.pushes])),
            Arc::new(Int64Array::from(vec![self.settings.gap])),
            Arc::new(BooleanArray::from(vec![flushed])),
        ];
        Ok((META.to_string(), RecordBatch::try_new(Arc::new(schema), columns)?))
    }

    /// Held events as they were saved, with the columns that this pipeline has now.
    fn adapt_saved(&self, saved: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = carry(PENDING, saved, &self.input)?.columns().to_vec();
        columns.push(state::column(PENDING, saved, PUSH)?.clone());
        columns.push(state::column(PENDING, saved, ROW)?.clone());
        Ok(RecordBatch::try_new(self.saved_schema(), columns)?)
    }

    /// Saved events that are still held.
    fn alive(&self, name: &str, saved: &RecordBatch) -> Result<RecordBatch> {
        let Some(watermark) = self.watermark else { return Ok(saved.clone()) };
        let times: &TimestampMicrosecondArray = typed(name, saved, "event_time")?;
        if times.values().iter().all(|time| *time >= watermark) {
            return Ok(saved.clone());
        }
        Ok(filter_record_batch(saved, &times.values().iter().map(|time| Some(*time >= watermark)).collect())?)
    }

    fn load_pending(&mut self, name: &str, batch: &RecordBatch) -> Result<()> {
        // What has been released does not have to fit a contract that came since.
        let alive = self.alive(name, batch)?;
        let numbers: &Int64Array = typed(name, &alive, PUSH)?;
        let rows = carry(name, &alive, &self.input)?;
        let mut from = 0;
        for run in numbers.values().chunk_by(|a, b| a == b) {
            self.pending.extend(self.hold(run[0], rows.slice(from, run.len()), None, true)?);
            from += run.len();
        }
        Ok(())
    }
}

impl Stateful for Sessionizer {
    fn delta(&mut self) -> Result<Vec<Change>> {
        let unsaved = self.open.take_unsaved();
        let anew = std::mem::take(&mut self.gap_changed);
        let open = self.open.table((!anew).then_some(unsaved), &self.types)?;
        let pending = self.pending_tables(self.held(true)?.iter())?;
        let meta = self.meta(self.flushed)?;
        self.all_saved();
        let flushed = std::mem::take(&mut self.flushed);
        let change = |(table, rows), replaces| Change { table, rows, replaces };
        let mut changes: Vec<Change> = pending.into_iter().map(|part| change(part, false)).collect();
        if flushed {
            let none = RecordBatch::new_empty(self.saved_schema());
            changes.insert(0, change((PENDING.to_string(), none), true));
        }
        changes.push(change(open, flushed || anew));
        changes.push(change(meta, true));
        Ok(changes)
    }

    fn forget_changes(&mut self) -> Result<()> {
        self.open.take_unsaved();
        self.all_saved();
        (self.gap_changed, self.flushed) = (false, false);
        Ok(())
    }

    fn snapshot(&self) -> Result<StateParts> {
        let mut parts = self.pending_tables(self.held(false)?.iter())?;
        parts.push(self.open.table(None, &self.types)?);
        parts.push(self.meta(false)?);
        Ok(parts)
    }

    fn load(&mut self, parts: &[(String, RecordBatch)]) -> Result<()> {
        let meta = state::table(parts, META);
        if let Some(meta) = meta
            && typed::<BooleanArray>(META, meta, "flushed")?.iter().any(|f| f == Some(true))
        {
            self.pending.clear();
            self.slices.clear();
            self.open.clear();
        }
        for (name, batch) in parts.iter().filter(|(name, _)| name.starts_with(PENDING)) {
            self.load_pending(name, batch)?;
        }
        if let Some(batch) = state::table(parts, OPEN) {
            self.open.load(batch, &mut self.types)?;
        }
        if let Some(meta) = meta {
            self.pushes = typed::<Int64Array>(META, meta, "pushes")?.iter().flatten().next().unwrap_or(self.pushes);
            // What was over is over by the gap of that time; a new gap counts from the next release.
            let gap = typed::<Int64Array>(META, meta, "gap")?.iter().flatten().next();
            self.saved_gap = gap.unwrap_or(self.settings.gap);
            self.gap_changed = self.saved_gap != self.settings.gap;
            self.watermark = moment_of(META, meta, "watermark")?.or(self.watermark);
        }
        let Some(watermark) = self.watermark else { return Ok(()) };
        let saved = SessionSettings { gap: self.saved_gap, ..self.settings };
        for slot in self.open.over(&saved, watermark) {
            self.open.remove(slot);
        }
        self.forget_released(watermark)
    }

    fn newest(&self, table: &str, rows: &RecordBatch) -> Result<Option<i64>> {
        match table {
            PENDING => state::highest(table, rows, "event_time"),
            OPEN => state::highest(table, rows, LAST),
            _ => Ok(None),
        }
    }

    fn expired(&self, table: &str, newest: i64) -> bool {
        self.watermark.is_some_and(|watermark| match table {
            PENDING => newest < watermark,
            OPEN => self.settings.has_passed(newest, watermark),
            _ => false,
        })
    }

    fn combine(&self, table: &str, saved: &[RecordBatch]) -> Result<RecordBatch> {
        match table {
            PENDING => {
                let fit = |rows: &RecordBatch| self.adapt_saved(&self.alive(table, rows)?);
                let saved = saved.iter().map(fit).collect::<Result<Vec<_>>>()?;
                let key = [PUSH, ROW].into_iter();
                state::latest(table, &saved, key, Some("event_time"), |time| !self.expired(table, time))
            }
            _ => state::latest(table, saved, ["entity"].into_iter(), Some(LAST), |last| !self.expired(table, last)),
        }
    }
}
