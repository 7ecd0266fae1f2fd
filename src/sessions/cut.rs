//! What the watermark lets go: events are cut into sessions, and sessions that are over are closed.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use rayon::prelude::*;

use super::columns::{self, hex, id_array, session_id};
use super::held::Pending;
use super::kernel::{Assigned, Position, Positions, Running, Session};
use super::names::Names;
use super::open::{AHEAD, Closed, add_counts};
use super::{Columns, Released, SCRATCH_ROWS, Scratch, Sessionizer};
use crate::columns::moments;
use crate::error::{Error, Result};
use crate::packed::{self, Text};

/// Events that the watermark has let go, while the sessions that are over are still open.
#[must_use = "the sessions know nothing of these events until they are closed"]
pub struct Cut<'s> {
    events: Vec<RecordBatch>,
    sessions: &'s mut Sessionizer,
    entities: Names,
    /// What each entity has open.
    open_slots: Vec<Option<u32>>,
    scratch: Scratch,
    ids: Vec<[u8; 32]>,
    limit: Option<i64>,
}

/// The rows of a pending batch that are let go.
pub(super) struct Chosen {
    pub pending: Pending,
    /// Not all of them: which, as mask and as numbers.
    pub some: Option<(BooleanArray, Vec<u32>)>,
}

impl Sessionizer {
    pub(super) fn release(&mut self, limit: Option<i64>) -> Result<Cut<'_>> {
        let chosen = self.choose(limit)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut entities = Names::hashed_like(&self.open.hasher);
        let positions = self.gather(&chosen, &mut entities, &mut scratch)?;
        let Scratch { numbers, times, assigned, .. } = &mut scratch;
        let open = &self.open;
        let open_slots = open.find_all(&entities);
        assigned.assign(numbers, times.iter().copied(), entities.len(), &self.settings, &positions, |n| {
            open_slots[n as usize].and_then(|slot| open.slot(slot).running)
        });
        let id = |s: &Session| hex(session_id(entities.name(s.entity), s.start));
        let ids: Vec<[u8; 32]> = assigned.sessions.par_iter().map(id).collect();
        let events = self.events(&chosen, &positions.starts, assigned, &ids)?;
        Ok(Cut { events, sessions: self, entities, open_slots, scratch, ids, limit })
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

impl Cut<'_> {
    /// The events, as [`Released::events`], for the first who asks.
    pub fn take_events(&mut self) -> Vec<RecordBatch> {
        std::mem::take(&mut self.events)
    }

    /// Takes the new sessions in; those that are over come out, as [`Released::sessions`].
    ///
    /// # Errors
    /// When Arrow cannot hold the result.
    pub fn close(self) -> Result<RecordBatch> {
        let Self { sessions, entities, open_slots, scratch, ids, limit, .. } = self;
        let closed = sessions.close(&entities, &open_slots, &scratch.assigned, &ids, &scratch.types, limit)?;
        sessions.forget_types();
        if scratch.numbers.len() <= SCRATCH_ROWS {
            sessions.scratch = scratch;
        }
        Ok(closed)
    }

    pub(super) fn released(mut self) -> Result<Released> {
        let events = self.take_events();
        Ok(Released { events, sessions: self.close()? })
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
