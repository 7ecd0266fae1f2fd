//! The state of sessions: held events, open sessions, the watermark.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema};

use super::open::OPEN;
use super::{Pending, Sessionizer};
use crate::carry::carry;
use crate::columns::{moment_field, one_moment};
use crate::error::Result;
use crate::packed::plain;
use crate::state::{self, ORDER, SPLIT, StateParts, Stateful, typed};
use crate::watermark::moment_of;

const PENDING: &str = "sessions/pending";
const META: &str = "sessions/meta";
/// The number of the pushed batch that a held event came in.
const PUSH: &str = "__push";
/// Its number among the held events of that batch.
const ROW: &str = "__row";

/// Held events beyond so many bytes go into a table of their own: a column of text holds at most 2 GiB.
const TABLE_BYTES: usize = 256 << 20;

impl Sessionizer {
    fn pending_tables<'a>(&'a self, which: impl Iterator<Item = &'a Pending>) -> Result<StateParts> {
        let mut fields = self.input.fields().to_vec();
        fields.push(Arc::new(Field::new(PUSH, DataType::Int64, false)));
        fields.push(Arc::new(Field::new(ROW, DataType::Int32, false)));
        let mut metadata = self.input.metadata().clone();
        metadata.insert(SPLIT.to_string(), "entity".to_string());
        metadata.insert(ORDER.to_string(), format!("{PUSH},{ROW}"));
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
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
        let named = |(n, batches): (usize, Vec<RecordBatch>)| {
            let name = if n == 0 { PENDING.to_string() } else { format!("{PENDING}-{n}") };
            Ok((name, concat_batches(&schema, &batches)?))
        };
        tables.into_iter().enumerate().map(named).collect()
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

    fn load_pending(&mut self, name: &str, batch: &RecordBatch) -> Result<()> {
        let numbers: &Int64Array = typed(name, batch, PUSH)?;
        let rows = carry(name, batch, &self.input)?;
        let mut from = 0;
        for run in numbers.values().chunk_by(|a, b| a == b) {
            self.pending.extend(self.hold(run[0], rows.slice(from, run.len()), true)?);
            from += run.len();
        }
        Ok(())
    }
}

impl Stateful for Sessionizer {
    fn delta(&mut self) -> Result<StateParts> {
        let unsaved = self.open.take_unsaved();
        let mut parts = self.pending_tables(self.pending.iter().filter(|p| !p.saved))?;
        parts.push(self.open.table(Some(unsaved), &self.types)?);
        parts.push(self.meta(self.flushed)?);
        self.pending.iter_mut().for_each(|p| p.saved = true);
        self.flushed = false;
        Ok(parts)
    }

    fn snapshot(&self) -> Result<StateParts> {
        let mut parts = self.pending_tables(self.pending.iter())?;
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
            self.open.clear();
        }
        for (name, batch) in parts.iter().filter(|(name, _)| name.starts_with(PENDING)) {
            self.load_pending(name, batch)?;
        }
        if let Some(batch) = state::table(parts, OPEN) {
            self.open.load(batch, &mut self.types)?;
        }
        let Some(meta) = meta else { return Ok(()) };
        self.pushes = typed::<Int64Array>(META, meta, "pushes")?.iter().flatten().next().unwrap_or(self.pushes);
        // What was over is over by the gap of that time; a new gap counts from the next release.
        let gap = typed::<Int64Array>(META, meta, "gap")?.iter().flatten().next().unwrap_or(self.settings.gap);
        if let Some(watermark) = moment_of(META, meta, "watermark")? {
            self.watermark = Some(watermark);
            for slot in self.open.which(|running| watermark > running.last.saturating_add(gap)) {
                self.open.remove(slot);
            }
            for pending in std::mem::take(&mut self.pending) {
                if pending.oldest >= watermark {
                    self.pending.push(pending);
                } else if pending.newest >= watermark {
                    let rest: BooleanArray = pending.times.iter().map(|t| Some(*t >= watermark)).collect();
                    let rest = filter_record_batch(&pending.batch, &rest)?;
                    self.pending.extend(self.hold(pending.number, rest, true)?);
                }
            }
        }
        Ok(())
    }
}
