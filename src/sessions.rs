//! Sessions: events are held until the watermark has passed them, then numbered in the order of event time.
//!
//! An event opens a new session of its entity when it comes strictly more than `gap` after the one before, or
//! `max_duration` or more after the session's first. Ties are broken by position. A null entity is an entity of its own,
//! distinct from ''. A session is over when the watermark is beyond its last event + `gap` (no event that could still
//! belong to it can come), when the next session of its entity has begun, or when everything is flushed.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Int64Type, Schema, SchemaRef};
use rayon::prelude::*;

use crate::columns::{index_of, moment, moment_field, moments};
use crate::error::{Error, Result};
use crate::packed::{self, Text};
use crate::spill::Spill;

mod batch;
mod columns;
mod held;
mod index;
mod kernel;
mod names;
mod open;
mod saved;

pub use batch::{sessionize, sessionize_rows, with_sessions};
pub use columns::id_of;
use columns::{fields, hex, id_array, session_id};
use held::{Pending, Slice};
use kernel::{Assigned, Position, Positions, Running, Session};
use names::Names;
use open::{AHEAD, Closed, OpenSessions, Types, add_counts, counts_field};

/// When a session ends, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSettings {
    /// An event that comes strictly more than this after the one before opens a new session.
    pub gap: i64,
    /// An event that comes this much or more after the session's first opens a new session.
    pub max_duration: Option<i64>,
}

impl SessionSettings {
    fn check(&self) -> Result<()> {
        if self.gap < 0 {
            return Err(Error::settings("sessions.gap", "must not be negative"));
        }
        if self.max_duration.is_some_and(|max| max <= 0) {
            return Err(Error::settings("sessions.max_duration", "must be positive; leave it out for no limit"));
        }
        Ok(())
    }
}

/// What the watermark has let go.
#[derive(Debug, Clone)]
pub struct Released {
    /// Events with `session_id`, `session_start` and `session_seq`, rows in the order in which they were pushed: one
    /// batch for each pushed batch that has rows in it.
    pub events: Vec<RecordBatch>,
    /// Sessions that are over, ordered by (`session_start`, `session_id`).
    pub sessions: RecordBatch,
}

/// Holds events until the watermark has passed them, and puts them into sessions.
pub struct Sessionizer {
    settings: SessionSettings,
    input: SchemaRef,
    output: SchemaRef,
    /// Where the session columns go in: before `replayed` and the position columns.
    insert_at: usize,
    columns: Columns,
    watermark: Option<i64>,
    /// How many batches were ever pushed: each keeps its number, so that what is released is cut as it was pushed, however
    /// often it was saved and loaded on the way.
    pushes: i64,
    pending: Vec<Pending>,
    /// What is held and spilled.
    slices: Vec<Slice>,
    spill: Option<Arc<dyn Spill>>,
    open: OpenSessions,
    types: Types,
    /// Event types known when those that nothing uses were last forgotten.
    types_kept: usize,
    /// Everything was flushed since the last delta.
    flushed: bool,
    /// The gap by which saved sessions were open.
    saved_gap: i64,
    /// The saved sessions were open by another gap: those that were over by it are to be forgotten for good.
    gap_changed: bool,
    scratch: Scratch,
}

/// What a release works with, kept for the next one: memory that is had from the system anew each time costs more than
/// all the work done in it.
#[derive(Default)]
struct Scratch {
    numbers: Vec<u32>,
    times: Vec<i64>,
    types: Vec<u32>,
    assigned: Assigned,
}

/// A release of more rows than this gives its memory back.
const SCRATCH_ROWS: usize = 1 << 20;

#[derive(Debug, Clone, Copy)]
struct Columns {
    entity: usize,
    event_type: usize,
    event_time: usize,
    topic: usize,
    partition: usize,
    offset: usize,
}

/// The rows of a pending batch that are let go.
struct Chosen {
    pending: Pending,
    /// Not all of them: which, as mask and as numbers.
    some: Option<(BooleanArray, Vec<u32>)>,
}

impl Sessionizer {
    /// `schema`: a Silver row before the session columns, with `entity`, `event_type`, `event_time`, `_topic`,
    /// `_partition` and `_offset` among its columns. The session columns are put in before `replayed`, if it is there,
    /// else before `_topic`.
    ///
    /// # Errors
    /// [`Error::Settings`] for settings out of range, [`Error::Data`] when one of those columns is missing or of another
    /// type, or a session column is already there.
    pub fn new(settings: SessionSettings, schema: SchemaRef) -> Result<Self> {
        settings.check()?;
        let find = |name: &str, data_type: DataType| {
            let index = index_of(&schema, name)?;
            let is = schema.field(index).data_type();
            if *is != data_type {
                return Err(Error::Data(format!("column '{name}' is {is}; sessions need {data_type}")));
            }
            Ok(index)
        };
        let columns = Columns {
            entity: find("entity", DataType::Utf8)?,
            event_type: find("event_type", DataType::Utf8)?,
            event_time: find("event_time", moment())?,
            topic: find("_topic", DataType::Utf8)?,
            partition: find("_partition", DataType::Int32)?,
            offset: find("_offset", DataType::Int64)?,
        };
        if let Some(taken) = fields().iter().find(|f| schema.index_of(f.name()).is_ok()) {
            return Err(Error::Data(format!("there is a column '{}' already", taken.name())));
        }
        let insert_at = schema.index_of("replayed").unwrap_or(columns.topic).min(columns.topic);
        let mut output: Vec<FieldRef> = schema.fields().to_vec();
        output.splice(insert_at..insert_at, fields().map(Arc::new));
        let output = Arc::new(Schema::new_with_metadata(output, schema.metadata().clone()));
        Ok(Self {
            settings,
            input: schema,
            output,
            insert_at,
            columns,
            watermark: None,
            pushes: 0,
            pending: Vec::new(),
            slices: Vec::new(),
            spill: None,
            open: OpenSessions::new(settings.gap),
            types: Types::default(),
            types_kept: 0,
            flushed: false,
            saved_gap: settings.gap,
            gap_changed: false,
            scratch: Scratch::default(),
        })
    }

    /// From now on [`Sessionizer::spill`] puts held events there.
    #[must_use]
    pub fn spilling_to(mut self, spill: Arc<dyn Spill>) -> Self {
        self.spill = Some(spill);
        self
    }

    /// The columns of what is released.
    pub fn output_schema(&self) -> SchemaRef {
        self.output.clone()
    }

    /// The columns of closed sessions.
    pub fn sessions_schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("session_id", DataType::Utf8, false),
            Field::new("entity", DataType::Utf8, true),
            moment_field("session_start", false),
            moment_field("session_end", false),
            Field::new("duration_us", DataType::Int64, false),
            Field::new("events", DataType::Int64, false),
            counts_field(),
        ]))
    }

    /// Holds accepted events, packed ones as they are. None of them may be late.
    ///
    /// # Errors
    /// [`Error::Data`] for other columns than those given at first; [`Error::Internal`] for an event below the watermark.
    pub fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_columns() != self.input.fields().len() {
            return Err(Error::Data(format!(
                "events for sessions have the columns {}, not {}",
                batch.schema_ref(),
                self.input
            )));
        }
        let batch = packed::batch(&self.input, batch.columns().to_vec())?;
        self.pushes += 1;
        if let Some(pending) = self.hold(self.pushes - 1, batch, None, false)? {
            if self.watermark.is_some_and(|w| pending.oldest < w) {
                return Err(Error::Internal(format!(
                    "an event at {} was accepted below the watermark {:?}",
                    pending.oldest, self.watermark
                )));
            }
            self.pending.push(pending);
        }
        Ok(())
    }

    /// Lets go the events strictly below the watermark, and the sessions that are over.
    ///
    /// # Errors
    /// When Arrow cannot hold the result.
    pub fn advance(&mut self, watermark: i64) -> Result<Released> {
        let watermark = self.watermark.map_or(watermark, |w| w.max(watermark));
        self.watermark = Some(watermark);
        self.release(Some(watermark))
    }

    /// Lets everything go, and closes every session: the end of bounded input. The watermark moves just past the highest
    /// event time held.
    ///
    /// # Errors
    /// When Arrow cannot hold the result.
    pub fn flush_all(&mut self) -> Result<Released> {
        let newest = self.pending.iter().map(|p| p.newest).chain(self.slices.iter().map(|s| s.newest)).max();
        self.watermark = self.watermark.max(newest.map(|t| t.saturating_add(1)));
        self.flushed = true;
        self.release(None)
    }

    /// How many events are held.
    pub fn pending(&self) -> usize {
        let spilled: usize = self.slices.iter().map(Slice::rows).sum();
        self.pending.iter().map(|p| p.batch.num_rows()).sum::<usize>() + spilled
    }

    /// The lowest watermark at which an event or a session is let go; none when nothing is held.
    pub fn next_release(&self) -> Option<i64> {
        let oldest = self.pending.iter().map(|p| p.oldest).chain(self.slices.iter().map(|s| s.oldest)).min();
        let events = oldest.map(|time| time.saturating_add(1));
        let sessions = self.open.earliest_last().map(|last| self.settings.passed_at(last));
        events.into_iter().chain(sessions).min()
    }

    /// How many sessions are open.
    pub fn open_sessions(&self) -> usize {
        self.open.len()
    }

    /// The memory that held events and open sessions take, in bytes.
    pub fn memory(&self) -> usize {
        self.held_memory() + self.slices.iter().map(Slice::memory).sum::<usize>() + self.open.memory()
    }

    fn release(&mut self, limit: Option<i64>) -> Result<Released> {
        let chosen = self.choose(limit)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut entities = Names::hashed_like(&self.open.hasher);
        let positions = self.gather(&chosen, &mut entities, &mut scratch)?;
        let Scratch { numbers, times, types, assigned } = &mut scratch;
        let open = &self.open;
        let open_slots = open.find_all(&entities);
        assigned.assign(numbers, times.iter().copied(), entities.len(), &self.settings, &positions, |n| {
            open_slots[n as usize].and_then(|slot| open.slot(slot).running)
        });
        let id = |s: &Session| hex(session_id(entities.name(s.entity), s.start));
        let ids: Vec<[u8; 32]> = assigned.sessions.par_iter().map(id).collect();
        let events = self.events(&chosen, &positions.starts, assigned, &ids)?;
        let sessions = self.close(&entities, &open_slots, assigned, &ids, types, limit)?;
        self.forget_types();
        if scratch.numbers.len() <= SCRATCH_ROWS {
            self.scratch = scratch;
        }
        Ok(Released { events, sessions })
    }

    /// The entities, times and types of the rows let go, in order, and where they stand.
    fn gather<'a>(
        &mut self,
        chosen: &'a [Chosen],
        entities: &mut Names,
        scratch: &mut Scratch,
    ) -> Result<Positions<'a>> {
        let Scratch { numbers, times, types, .. } = scratch;
        numbers.clear();
        times.clear();
        types.clear();
        let mut positions = Positions { starts: Vec::new(), pieces: Vec::new() };
        for piece in chosen {
            positions.starts.push(numbers.len() as u32);
            positions.pieces.push(piece.position(&self.columns));
            let batch = &piece.pending.batch;
            let [Some(names), Some(type_names)] =
                [self.columns.entity, self.columns.event_type].map(|column| Text::of(batch.column(column)))
            else {
                return Err(Error::Internal("held events have no text as entity or type".to_string()));
            };
            match &piece.some {
                None => {
                    times.extend_from_slice(&piece.pending.times);
                    names.map(|name| entities.number(name), |n| numbers.push(n));
                    type_names.map(|name| self.types.number(name), |n| types.push(n));
                }
                Some((_, rows)) => {
                    times.extend(rows.iter().map(|row| piece.pending.times[*row as usize]));
                    numbers.extend(rows.iter().map(|row| entities.number(names.get(*row as usize))));
                    types.extend(rows.iter().map(|row| self.types.number(type_names.get(*row as usize))));
                }
            }
        }
        Ok(positions)
    }

    /// The rows let go, with their session columns.
    fn events(
        &self,
        chosen: &[Chosen],
        starts: &[u32],
        assigned: &Assigned,
        ids: &[[u8; 32]],
    ) -> Result<Vec<RecordBatch>> {
        chosen
            .par_iter()
            .zip(starts)
            .map(|(piece, start)| {
                let batch = match &piece.some {
                    None => piece.pending.batch.clone(),
                    Some((mask, _)) => filter_record_batch(&piece.pending.batch, mask)?,
                };
                let start = *start as usize;
                let mut all = batch.columns().to_vec();
                all.splice(
                    self.insert_at..self.insert_at,
                    columns::columns(assigned, ids, start..start + batch.num_rows())?,
                );
                packed::batch(&self.output, all)
            })
            .collect()
    }

    /// Takes the new sessions in; what is over comes out.
    fn close(
        &mut self,
        entities: &Names,
        open_slots: &[Option<u32>],
        assigned: &Assigned,
        ids: &[[u8; 32]],
        types: &[u32],
        limit: Option<i64>,
    ) -> Result<RecordBatch> {
        let (counts, ranges) = count_types(assigned, types, self.types.len());
        let mut closed: Vec<Closed<'_>> = Vec::new();
        let settings = self.settings;
        let over = |last: i64| limit.is_none_or(|watermark| settings.has_passed(last, watermark));
        for (entity, sessions) in assigned.of_entity.iter().enumerate() {
            let (place, name) = (entities.hash(entity as u32), entities.name(entity as u32));
            self.open.fetch(entities.hash((entity as u32 + AHEAD).min(entities.len() as u32 - 1)));
            let mut slot = open_slots[entity];
            for n in sessions.clone() {
                let session: &Session = &assigned.sessions[n as usize];
                let added = &counts[ranges[n as usize].clone()];
                let running = Running {
                    start: session.start,
                    last: session.last,
                    events: session.before + i64::from(session.added),
                };
                let mut all = Cow::Borrowed(added);
                if let Some(slot) = slot.take() {
                    if session.before > 0 {
                        let mut sum = std::mem::take(self.open.counts_mut(slot));
                        add_counts(&mut sum, added);
                        all = Cow::Owned(sum);
                        if n + 1 < sessions.end || over(running.last) {
                            self.open.remove(slot);
                        }
                    } else {
                        closed.extend(Closed::of(self.open.remove(slot)));
                    }
                }
                if n + 1 == sessions.end && !over(running.last) {
                    self.open.put(place, name, running, all.into_owned());
                } else {
                    closed.push(Closed { id: ids[n as usize], entity: name.map(Cow::Borrowed), running, counts: all });
                }
            }
        }
        let rest = match limit {
            Some(watermark) => self.open.over(&settings, watermark),
            None => self.open.which(|_| true),
        };
        for (n, slot) in rest.iter().enumerate() {
            if let Some(later) = rest.get(n + AHEAD as usize) {
                self.open.fetch(self.open.slot(*later).place);
            }
            closed.extend(Closed::of(self.open.remove(*slot)));
        }
        let mut order: Vec<u32> = (0..closed.len() as u32).collect();
        order.sort_unstable_by_key(|n| {
            let session = &closed[*n as usize];
            (session.running.start, session.id)
        });
        let closed: Vec<&Closed<'_>> = order.into_iter().map(|n| &closed[n as usize]).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(id_array(closed.iter().map(|c| c.id))?),
            Arc::new(closed.iter().map(|c| c.entity.as_deref()).collect::<StringArray>()),
            Arc::new(moments(closed.iter().map(|c| c.running.start).collect::<Vec<_>>())),
            Arc::new(moments(closed.iter().map(|c| c.running.last).collect::<Vec<_>>())),
            Arc::new(Int64Array::from_iter_values(closed.iter().map(|c| c.running.last.wrapping_sub(c.running.start)))),
            Arc::new(Int64Array::from_iter_values(closed.iter().map(|c| c.running.events))),
            Arc::new(self.types.counts(closed.iter().map(|c| &*c.counts))?),
        ];
        Ok(RecordBatch::try_new(Self::sessions_schema(), columns)?)
    }

    /// Forgets event types that no open session has, when a contract that takes every type has let many in.
    fn forget_types(&mut self) {
        if self.types.len() < 1024 || self.types.len() < 2 * self.types_kept {
            return;
        }
        let old = std::mem::take(&mut self.types);
        self.open.renumber(|n| self.types.number(old.name(n)));
        self.types_kept = self.types.len();
    }
}

impl Chosen {
    fn position(&self, columns: &Columns) -> Option<Position<'_>> {
        let batch = &self.pending.batch;
        Some(Position {
            topics: Text::of(batch.column(columns.topic))?,
            partitions: batch.column(columns.partition).as_primitive::<Int32Type>(),
            offsets: batch.column(columns.offset).as_primitive::<Int64Type>(),
            rows: self.some.as_ref().map(|(_, rows)| rows.clone()),
        })
    }
}

/// For each session the events added to it by type, as ranges of one list.
fn count_types(assigned: &Assigned, types: &[u32], known: usize) -> (Vec<(u32, i64)>, Vec<std::ops::Range<usize>>) {
    let mut counts = Vec::new();
    let mut ranges = Vec::with_capacity(assigned.sessions.len());
    let mut sums = vec![0i64; known];
    let mut seen: Vec<u32> = Vec::new();
    let mut rows = assigned.grouped.iter();
    for session in &assigned.sessions {
        for (_, row) in rows.by_ref().take(session.added as usize) {
            let n = types[*row as usize];
            if sums[n as usize] == 0 {
                seen.push(n);
            }
            sums[n as usize] += 1;
        }
        let from = counts.len();
        counts.extend(seen.drain(..).map(|n| (n, std::mem::take(&mut sums[n as usize]))));
        ranges.push(from..counts.len());
    }
    (counts, ranges)
}

#[cfg(test)]
mod real_data;
#[cfg(test)]
mod tests;
