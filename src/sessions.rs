//! Sessions: events are held until the watermark has passed them, then numbered in the order of event time.
//!
//! An event opens a new session of its entity when it comes strictly more than `gap` after the one before, or
//! `max_duration` or more after the session's first. Ties are broken by position. A null entity is an entity of its own,
//! distinct from ''. A session is over when the watermark is beyond its last event + `gap` (no event that could still
//! belong to it can come), when the next session of its entity has begun, or when everything is flushed.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use crate::columns::{index_of, moment, moment_field};
use crate::error::{Error, Result};
use crate::packed;
use crate::spill::Spill;

mod batch;
mod columns;
mod cut;
mod held;
mod index;
mod kernel;
mod names;
mod open;
mod saved;

pub use batch::{sessionize, sessionize_rows, with_sessions};
use columns::fields;
pub use columns::id_of;
pub use cut::Cut;
use held::{Pending, Slice};
use kernel::Assigned;
use open::{OpenSessions, Types, counts_field};

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
        output.splice(insert_at..insert_at, fields().iter().cloned());
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
        self.cut(watermark)?.released()
    }

    /// Lets everything go, and closes every session: the end of bounded input. The watermark moves just past the highest
    /// event time held.
    ///
    /// # Errors
    /// When Arrow cannot hold the result.
    pub fn flush_all(&mut self) -> Result<Released> {
        self.cut_all()?.released()
    }

    /// As [`Sessionizer::advance`], but for the sessions, which the caller has to [close](Cut::close).
    ///
    /// # Errors
    /// When Arrow cannot hold the result.
    pub fn cut(&mut self, watermark: i64) -> Result<Cut<'_>> {
        let watermark = self.watermark.map_or(watermark, |w| w.max(watermark));
        self.watermark = Some(watermark);
        self.release(Some(watermark))
    }

    /// As [`Sessionizer::flush_all`], but for the sessions, which the caller has to [close](Cut::close).
    ///
    /// # Errors
    /// When Arrow cannot hold the result.
    pub fn cut_all(&mut self) -> Result<Cut<'_>> {
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
}

#[cfg(test)]
mod real_data;
#[cfg(test)]
mod tests;
