//! Sessions of a whole input at once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use rayon::prelude::*;

use super::SessionSettings;
use super::columns::{columns, fields, hex, session_id};
use super::kernel::{Assigned, Position, Positions};
use super::names::Names;
use crate::columns::{index_of, micros, same_schema, text};
use crate::error::{Error, Result};
use crate::packed::{self, Rows, Text, is_packed, plain};

/// Rows that one core takes at a time.
const PIECE: usize = 1 << 16;
/// Pieces whose entities are looked at together.
const COPIED: usize = 16;

/// Adds `session_id`, `session_start` and `session_seq` to every row; rows keep their order. `gap` and `max_duration` in
/// microseconds. Entities that are null are one entity; `entity` may be of any type that has a text.
///
/// Events of one entity at one time stand in the order of `_topic`, `_partition`, `_offset` where the input has these
/// columns, else in the order in which they are given.
///
/// # Errors
/// [`Error::Data`] when a column is missing, of a type that does not serve, or already has one of the new names;
/// [`Error::Settings`] for a negative gap or a maximum that is not positive.
pub fn sessionize(
    batches: &[RecordBatch],
    entity: &str,
    at: &str,
    gap: i64,
    max_duration: Option<i64>,
) -> Result<Vec<RecordBatch>> {
    let rows: Vec<Rows> = batches.iter().cloned().map(Rows::from).collect();
    let made = sessionize_rows(&rows, entity, at, gap, max_duration)?;
    // The ids are the first of the new columns.
    made.iter().map(|rows| unpack_column(rows.batch(), rows.batch().num_columns() - fields().len())).collect()
}

/// The same over rows of which some are left out, packed ids in the result; nothing is copied.
///
/// # Errors
/// As [`sessionize`].
pub fn sessionize_rows(
    rows: &[Rows],
    entity: &str,
    at: &str,
    gap: i64,
    max_duration: Option<i64>,
) -> Result<Vec<Rows>> {
    let settings = SessionSettings { gap, max_duration };
    settings.check()?;
    same_schema(rows.iter().map(Rows::batch))?;
    let Some(first) = rows.first().map(Rows::batch) else { return Ok(Vec::new()) };
    let schema = first.schema();
    let entity_column = index_of(&schema, entity)?;
    let time_column = index_of(&schema, at)?;
    if let Some(taken) = fields().iter().find(|f| schema.index_of(f.name()).is_ok()) {
        return Err(Error::Data(format!(
            "there is a column '{}' already; drop or rename it before the events are put into sessions again",
            taken.name()
        )));
    }
    let pieces: Vec<Rows> = rows.iter().flat_map(|rows| rows.cut(PIECE)).collect();
    let rows: usize = pieces.iter().map(Rows::len).sum();
    if u32::try_from(rows).is_err() {
        return Err(Error::Data(format!(
            "{rows} rows are more than one call can take ({}); cut the input by entity",
            u32::MAX
        )));
    }
    let mut entities = Names::default();
    let mut numbers = Vec::with_capacity(rows);
    let mut starts = Vec::with_capacity(pieces.len());
    // Only so many columns are copied out at a time: what is made of them is smaller.
    for some in pieces.chunks(COPIED) {
        let names = some.par_iter().map(|piece| {
            let column = piece.column(entity_column)?;
            Ok(if is_packed(column.data_type()) {
                column
            } else {
                Arc::new(text(&*plain(&column)?, entity)?) as ArrayRef
            })
        });
        for names in names.collect::<Result<Vec<_>>>()? {
            starts.push(numbers.len() as u32);
            let Some(names) = Text::of(&names) else {
                return Err(Error::Internal(format!("column '{entity}' has no text")));
            };
            names.map(|name| entities.number(name), |n| numbers.push(n));
        }
    }
    let times: Vec<ScalarBuffer<i64>> =
        pieces.par_iter().map(|p| micros(&p.column(time_column)?, at)).collect::<Result<_>>()?;
    let positions = Positions { starts, pieces: pieces.iter().map(position).collect() };
    let mut assigned = Assigned::default();
    let in_order = times.iter().flat_map(|times| times.iter().copied());
    assigned.assign(&numbers, in_order, entities.len(), &settings, &positions, |_| None);
    // What is not needed any more goes before the columns come.
    drop((times, numbers, std::mem::take(&mut assigned.grouped)));
    let ids: Vec<[u8; 32]> =
        assigned.sessions.par_iter().map(|s| hex(session_id(entities.name(s.entity), s.start))).collect();
    pieces
        .par_iter()
        .zip(&positions.starts)
        .map(|(piece, start)| {
            // Where no row counts, there is nothing to repeat in the place of those that do not.
            let piece = if piece.is_empty() { &Rows::from(piece.batch().slice(0, 0)) } else { piece };
            let start = *start as usize;
            let mut all = piece.batch().columns().to_vec();
            let new = columns(&assigned, &ids, start..start + piece.len())?;
            for column in new {
                all.push(spread(column, piece.chosen())?);
            }
            let batch = packed::batch(&with_sessions(piece.batch().schema_ref()), all)?;
            Rows::new(batch, piece.chosen().cloned())
        })
        .collect()
}

/// The columns of events with those that sessions add.
pub fn with_sessions(events: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = events.fields().iter().chain(fields()).cloned().collect();
    Arc::new(Schema::new_with_metadata(fields, events.metadata().clone()))
}

/// A column of the rows that count as one of all rows of the batch: those that do not count get some value.
fn spread(column: ArrayRef, chosen: Option<&BooleanArray>) -> Result<ArrayRef> {
    let Some(chosen) = chosen else { return Ok(column) };
    let last = column.len().saturating_sub(1) as u32;
    let mut next = 0;
    let places: UInt32Array = (0..chosen.len())
        .map(|row| {
            let place = next.min(last);
            next += u32::from(chosen.value(row));
            Some(place)
        })
        .collect();
    Ok(take(&column, &places, None)?)
}

/// A batch with one of its columns made plain.
fn unpack_column(batch: &RecordBatch, at: usize) -> Result<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns[at] = packed::plain(&columns[at])?.into_owned();
    let mut fields: Vec<FieldRef> = batch.schema_ref().fields().to_vec();
    fields[at] = Arc::new(fields[at].as_ref().clone().with_data_type(DataType::Utf8));
    let schema = Schema::new_with_metadata(fields, batch.schema_ref().metadata().clone());
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

fn position(piece: &Rows) -> Option<Position<'_>> {
    let batch = piece.batch();
    let topics = Text::of(batch.column_by_name("_topic")?)?;
    let partitions = batch.column_by_name("_partition")?.as_any().downcast_ref::<Int32Array>()?;
    let offsets = batch.column_by_name("_offset")?.as_any().downcast_ref::<Int64Array>()?;
    let nulls = batch.column_by_name("_topic")?.null_count() + partitions.null_count() + offsets.null_count();
    let rows = piece.chosen().map(|chosen| chosen.values().set_indices_u32().collect());
    (nulls == 0).then_some(Position { topics, partitions, offsets, rows })
}
