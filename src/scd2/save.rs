//! Histories saved and loaded as Arrow: as their change points, or from rows that stand somewhere.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use serde::{Deserialize, Serialize};

use super::compare::Src;
use super::history::{History, Live, gather};
use super::keys::Keys;
use super::layout::{ADDED, Layout, Scd2Spec, column_of, micros, new_batch};
use super::merge::merge;
use super::part::DELETE;
use crate::error::{Error, Result};

/// The name of the operation's column where the changes have none.
const OP: &str = "_op";
/// Under this name the schema's metadata says what the points are.
const METADATA: &str = "penstock.scd2";

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    spec: Scd2Spec,
    complete: bool,
    settled: Option<i64>,
}

/// The points of these entities that `keep` lets through, by key and time.
pub(super) fn points(history: &History, entities: &[Live<'_>], keep: impl Fn(Src) -> bool) -> Result<RecordBatch> {
    let layout = &history.layout;
    let (mut places, mut at, mut ops) = (Vec::new(), Vec::new(), Vec::new());
    for entity in entities {
        let points = entity.points();
        for i in (0..points.len()).filter(|&i| keep(points.src[i])) {
            places.push((points.src[i].layer as usize, points.src[i].row as usize));
            at.push(points.at[i]);
            ops.push(if points.flags[i] & DELETE == 0 { "U" } else { "D" });
        }
    }
    let values = gather(&layout.schema, &history.batches(), &places)?;
    let op = layout.spec.op.clone().unwrap_or_else(|| OP.to_owned());
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = layout.schema.fields().to_vec();
    fields.push(Arc::new(Field::new(&layout.spec.at, moment, false)));
    fields.push(Arc::new(Field::new(&op, DataType::Utf8, false)));
    let mut columns = values.columns().to_vec();
    columns.push(Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC")));
    columns.push(Arc::new(StringArray::from(ops)));
    let spec = Scd2Spec { op: Some(op), ..layout.spec.clone() };
    let saved = Saved { format: 1, spec, complete: !history.bare, settled: history.settled };
    let text = serde_json::to_string(&saved).map_err(|e| Error::Internal(e.to_string()))?;
    let schema = Schema::new_with_metadata(fields, [(METADATA.to_owned(), text)].into());
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

impl History {
    /// Every change point: the columns of the changes, with the operation (`U` or `D`). Equal histories give equal
    /// batches. The schema's metadata says what [`History::from_batch`] has to know.
    ///
    /// # Errors
    /// [`Error::Data`] where the rows of a column are beyond what its type can address.
    pub fn to_batch(&self) -> Result<RecordBatch> {
        points(self, &self.sorted(), |_| true)
    }

    /// Loads what [`History::to_batch`] gave.
    ///
    /// # Errors
    /// [`Error::Data`] where the batch was not made by it.
    pub fn from_batch(batch: &RecordBatch) -> Result<Self> {
        let schema = batch.schema();
        let text = schema.metadata().get(METADATA).ok_or_else(|| {
            Error::Data(format!("this is no saved history: its schema lacks the metadata '{METADATA}'; for plain points or rows say which column is which"))
        })?;
        let saved: Saved = serde_json::from_str(text)
            .map_err(|e| Error::Data(format!("the metadata '{METADATA}' of the saved history cannot be read: {e}")))?;
        if saved.format != 1 {
            return Err(Error::Data(format!(
                "the saved history has format {}, which a newer version wrote; this one knows format 1",
                saved.format
            )));
        }
        let mut history = Self::from_points(std::slice::from_ref(batch), &saved.spec)?;
        history.bare = !saved.complete;
        history.settled = saved.settled;
        Ok(history)
    }

    /// Loads change points that a table kept ([`super::Merge::points`]); also those of a few entities alone.
    ///
    /// # Errors
    /// As [`merge`].
    pub fn from_points(points: &[RecordBatch], spec: &Scd2Spec) -> Result<Self> {
        Ok(merge(None, points, spec)?.into_state())
    }

    /// Makes a history of rows: key, attributes and `effective_start`; `effective_end` closes a row that no other
    /// follows at once. Inferred rows (`is_inferred`) are left out. What confirmed the rows is not known, so late
    /// changes may be placed differently than they would have been in time.
    ///
    /// # Errors
    /// As [`merge`], and where rows of one entity overlap.
    pub fn from_rows(rows: &[RecordBatch], spec: &Scd2Spec) -> Result<Self> {
        let plain = Scd2Spec { at: ADDED[0].to_owned(), op: Some(OP.to_owned()), ..spec.clone() };
        let mut points = Vec::with_capacity(2 * rows.len());
        let mut all_ends = Vec::with_capacity(rows.len());
        for batch in rows {
            let (opens, closes, ends) = points_of(batch, spec)?;
            points.push(opens);
            points.push(closes);
            all_ends.push(ends);
        }
        if points.is_empty() {
            return Err(Error::Data("there are no rows, and nothing says what their columns are".to_owned()));
        }
        // A row that follows at once is an update at the end of the one before it, and wins over its delete.
        let history = merge(None, &points, &plain)?.into_state();
        let opens: Vec<RecordBatch> = points.iter().step_by(2).cloned().collect();
        refuse_overlaps(&history.layout, &opens, &all_ends.concat(), &plain)?;
        let stored = Schema::new(history.layout.schema.fields().iter().cloned().chain(marks(spec)).collect::<Vec<_>>());
        let layout = Arc::new(Layout::of(spec, &stored)?);
        Ok(Self { layout, bare: true, ..history })
    }
}

/// Columns that stand for time and operation where only a schema is needed.
fn marks(spec: &Scd2Spec) -> impl Iterator<Item = Arc<Field>> {
    let at = Field::new(&spec.at, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false);
    let op = spec.op.as_ref().map(|op| Field::new(op, DataType::Utf8, true));
    [Some(at), op].into_iter().flatten().map(Arc::new)
}

/// Of two rows of one entity, the earlier one must have ended when the later one starts.
fn refuse_overlaps(layout: &Layout, rows: &[RecordBatch], ends: &[Option<i64>], plain: &Scd2Spec) -> Result<()> {
    let input = layout.input(rows, plain)?;
    let keys = Keys::new(&input.batch, layout.keys.clone())?;
    let mut spans: Vec<(Vec<u8>, i64, Option<i64>)> = (0..ends.len())
        .map(|row| {
            let mut key = Vec::new();
            keys.encode(row, &mut key);
            (key, input.at[row], ends[row])
        })
        .collect();
    spans.sort_unstable();
    match spans.windows(2).find(|w| w[0].0 == w[1].0 && w[0].2.is_none_or(|end| end > w[1].1)) {
        None => Ok(()),
        Some(pair) => Err(Error::Data(format!(
            "two rows of the key '{}' hold at once: one starts at {} µs and has not ended when the next starts at {} µs",
            pair[0].0.escape_ascii(),
            pair[0].1,
            pair[1].1
        ))),
    }
}

/// The points at which rows open, those at which they end, and for each row its end.
fn points_of(batch: &RecordBatch, spec: &Scd2Spec) -> Result<(RecordBatch, RecordBatch, Vec<Option<i64>>)> {
    let schema = batch.schema();
    let mut batch = batch.clone();
    if let Ok(i) = schema.index_of("is_inferred") {
        let real = arrow::compute::cast(batch.column(i), &DataType::Boolean)?;
        let real = arrow::array::BooleanArray::from_iter(real.as_boolean().iter().map(|v| Some(v != Some(true))));
        batch = filter_record_batch(&batch, &real)?;
    }
    let (mut start, mut end) = (Vec::new(), Vec::new());
    micros("effective_start", batch.column(column_of(&schema, "effective_start")?), &mut start)?;
    let mut ended = arrow::array::BooleanArray::from(vec![false; batch.num_rows()]);
    if let Ok(i) = schema.index_of("effective_end") {
        let column = batch.column(i);
        if *column.data_type() != DataType::Null {
            ended = arrow::compute::is_not_null(column)?;
            micros("effective_end", &arrow::compute::filter(column, &ended)?, &mut end)?;
        }
    }
    let mut closing = end.iter().copied();
    let ends: Vec<Option<i64>> = ended.values().iter().map(|ended| if ended { closing.next() } else { None }).collect();
    if let Some((start, end)) = start.iter().zip(&ends).find_map(|(s, e)| e.filter(|e| e <= s).map(|e| (s, e))) {
        return Err(Error::Data(format!("a row ends at {end} µs, not after its start at {start} µs")));
    }
    let attribute = |name: &str| !ADDED.contains(&name) && name != spec.at && Some(name) != spec.op.as_deref();
    let wanted: Vec<usize> = (0..schema.fields().len()).filter(|&i| attribute(schema.field(i).name())).collect();
    let values = batch.project(&wanted)?;
    let missing: Vec<&String> = spec.order.iter().filter(|o| schema.index_of(o).is_err()).collect();
    let build = |values: RecordBatch, at: Vec<i64>, op: &str| -> Result<RecordBatch> {
        let rows = values.num_rows();
        let mut fields = values.schema().fields().to_vec();
        let mut columns = values.columns().to_vec();
        let nulls = Arc::new(Schema::new(
            missing.iter().map(|m| Field::new(m.as_str(), DataType::Null, true)).collect::<Vec<_>>(),
        ));
        fields.extend(nulls.fields().iter().cloned());
        columns.extend(new_batch(&nulls, rows)?.columns().iter().cloned());
        let moment = DataType::Timestamp(TimeUnit::Microsecond, None);
        fields.push(Arc::new(Field::new(ADDED[0], moment, false)));
        columns.push(Arc::new(TimestampMicrosecondArray::from(at)));
        fields.push(Arc::new(Field::new(OP, DataType::Utf8, false)));
        columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(op, rows))) as ArrayRef);
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    };
    let closes = build(filter_record_batch(&values, &ended)?, end, "D")?;
    Ok((build(values, start, "U")?, closes, ends))
}
