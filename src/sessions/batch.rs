//! Sessions of a whole input at once.

use std::sync::Arc;

use arrow::array::{Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{FieldRef, Schema};
use rayon::prelude::*;

use super::SessionSettings;
use super::columns::{columns, fields, hex, session_id};
use super::kernel::{Assigned, Position, Positions};
use super::names::Names;
use crate::columns::{cut, index_of, micros, same_schema, text};
use crate::error::{Error, Result};
use crate::packed::Text;

/// Rows that one core takes at a time.
const PIECE: usize = 1 << 16;

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
    let settings = SessionSettings { gap, max_duration };
    settings.check()?;
    same_schema(batches)?;
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let schema = first.schema();
    let entity_column = index_of(&schema, entity)?;
    let time_column = index_of(&schema, at)?;
    if let Some(taken) = fields().iter().find(|f| schema.index_of(f.name()).is_ok()) {
        return Err(Error::Data(format!(
            "there is a column '{}' already; drop or rename it before the events are put into sessions again",
            taken.name()
        )));
    }
    let pieces = cut(batches, PIECE);
    let names: Vec<StringArray> =
        pieces.par_iter().map(|p| text(p.column(entity_column), entity)).collect::<Result<_>>()?;
    let times: Vec<ScalarBuffer<i64>> =
        pieces.par_iter().map(|p| micros(p.column(time_column), at)).collect::<Result<_>>()?;
    let rows: usize = pieces.iter().map(RecordBatch::num_rows).sum();
    if u32::try_from(rows).is_err() {
        return Err(Error::Data(format!(
            "{rows} rows are more than one call can take ({}); cut the input by entity",
            u32::MAX
        )));
    }
    let mut entities = Names::default();
    let mut numbers = Vec::with_capacity(rows);
    let mut starts = Vec::with_capacity(pieces.len());
    for names in &names {
        starts.push(numbers.len() as u32);
        numbers.extend(names.iter().map(|name| entities.number(name)));
    }
    let times = times.iter().flat_map(|t| t.iter().copied()).collect::<Vec<i64>>();
    let positions = Positions { starts, pieces: pieces.iter().map(position).collect() };
    let mut assigned = Assigned::default();
    assigned.assign(&numbers, &times, entities.len(), &settings, &positions, |_| None);
    let ids: Vec<[u8; 32]> =
        assigned.sessions.par_iter().map(|s| hex(session_id(entities.name(s.entity), s.start))).collect();
    pieces
        .par_iter()
        .zip(&positions.starts)
        .map(|(piece, start)| {
            let start = *start as usize;
            let mut all = piece.columns().to_vec();
            all.extend(columns(&assigned, &ids, start..start + piece.num_rows())?);
            let fields: Vec<FieldRef> =
                piece.schema_ref().fields().iter().cloned().chain(fields().map(Arc::new)).collect();
            let schema = Schema::new_with_metadata(fields, piece.schema_ref().metadata().clone());
            Ok(RecordBatch::try_new(Arc::new(schema), all)?)
        })
        .collect()
}

fn position(piece: &RecordBatch) -> Option<Position<'_>> {
    let topics = piece.column_by_name("_topic")?.as_any().downcast_ref::<StringArray>()?;
    let partitions = piece.column_by_name("_partition")?.as_any().downcast_ref::<Int32Array>()?;
    let offsets = piece.column_by_name("_offset")?.as_any().downcast_ref::<Int64Array>()?;
    let complete = topics.null_count() + partitions.null_count() + offsets.null_count() == 0;
    complete.then_some(Position { topics: Text::Plain(topics), partitions, offsets, rows: None })
}
