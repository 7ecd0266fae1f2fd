//! The sessions that replayed events fall into.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::DataType;
use rayon::prelude::*;

use super::Work;
use super::judge::Judge;
use super::silver;
use crate::columns::moments;
use crate::error::{Error, Result};
use crate::sessions::{SessionSettings, Sessionizer};
use crate::sources::lake::{StoredFile, text, times};
use crate::stream::log::{FileEntry, Snapshot};

/// A session as far as Silver shows it near an event.
#[derive(Debug, Clone)]
struct Near {
    id: String,
    start: i64,
    first: i64,
    last: i64,
}

impl Near {
    /// How an event at `time` stands to the session: in it, after it, or before it, near enough to belong to it.
    fn takes(&self, time: i64, gap: i64, longest: Option<i64>) -> Option<(u8, i64)> {
        let fits = |from: i64, to: i64| longest.is_none_or(|max| to.saturating_sub(from) < max);
        if (self.first..=self.last).contains(&time) {
            Some((0, 0))
        } else if time > self.last && time - self.last <= gap && fits(self.start, time) {
            Some((1, time - self.last))
        } else if time < self.first && self.first - time <= gap && fits(time, self.last) {
            Some((2, self.first - time))
        } else {
            None
        }
    }
}

/// What came of placing events.
pub struct Placed {
    /// The rows of Silver, with their session columns.
    pub rows: RecordBatch,
    /// Rows of `silver/sessions` for sessions that are new.
    pub sessions: RecordBatch,
    /// How many events fell into sessions that were there.
    pub joined: u64,
}

/// Puts accepted events (rows of [`Judge::events`]) into the sessions that Silver has, and into new ones where it has
/// none. A session takes an event that lies in it, or no further than the gap from it.
///
/// # Errors
/// [`Error::Checkpoint`] when a file of Silver is missing or damaged.
pub fn place(work: &Work<'_>, judge: &Judge, base: &Snapshot, rows: &RecordBatch) -> Result<Placed> {
    let Some((gap, longest)) = judge.gap() else {
        let sessions = RecordBatch::new_empty(Sessionizer::sessions_schema());
        return Ok(Placed { rows: silver::rows(judge, rows, true)?, sessions, joined: 0 });
    };
    let entities = text(rows, "entity")?;
    let moments_of = times(rows, "event_time")?;
    let entity = |row: u32| entities.is_valid(row as usize).then(|| entities.value(row as usize));
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    order.sort_by_key(|row| moments_of.value(*row as usize));
    let mut near = sessions_near(work, base, &entities, moments_of.values(), gap)?;
    let mut joins: Vec<(u32, Near)> = vec![];
    let mut alone: Vec<u32> = vec![];
    for row in order {
        let time = moments_of.value(row as usize);
        let known = near.get_mut(&entity(row).map(str::to_owned));
        let best = known.and_then(|sessions| {
            let fits = sessions.iter_mut().filter_map(|s| Some((s.takes(time, gap, longest)?, s)));
            fits.min_by_key(|(how, _)| *how).map(|(_, session)| session)
        });
        match best {
            Some(session) => {
                session.first = session.first.min(time);
                session.last = session.last.max(time);
                joins.push((row, session.clone()));
            }
            None => alone.push(row),
        }
    }
    let settings = SessionSettings { gap, max_duration: longest };
    let mut fresh = Sessionizer::new(settings, judge.events.clone())?;
    fresh.push(take_record_batch(rows, &UInt32Array::from(alone))?)?;
    let released = fresh.flush_all()?;

    let joined: UInt32Array = joins.iter().map(|(row, _)| Some(*row)).collect();
    let joined = take_record_batch(rows, &joined)?;
    let n = joined.num_rows();
    let mut parts = vec![with_sessions(
        judge,
        &joined,
        Arc::new(joins.iter().map(|(_, s)| Some(s.id.as_str())).collect::<StringArray>()),
        Arc::new(moments(joins.iter().map(|(_, s)| s.start).collect::<Vec<_>>())),
    )?];
    for events in &released.events {
        let column = |name: &str| {
            events.column_by_name(name).cloned().ok_or_else(|| Error::Internal(format!("no column {name}")))
        };
        parts.push(with_sessions(judge, events, column("session_id")?, column("session_start")?)?);
    }
    Ok(Placed { rows: concat_batches(&judge.silver, &parts)?, sessions: released.sessions, joined: n as u64 })
}

/// Rows of Silver that were replayed: they have no number in their session.
fn with_sessions(judge: &Judge, events: &RecordBatch, ids: ArrayRef, starts: ArrayRef) -> Result<RecordBatch> {
    let rows = events.num_rows();
    let columns = judge.silver.fields().iter().map(|field| match field.name().as_str() {
        "session_id" => ids.clone(),
        "session_start" => starts.clone(),
        "session_seq" => Arc::new(Int64Array::new_null(rows)) as ArrayRef,
        "replayed" => Arc::new(BooleanArray::from(vec![true; rows])) as ArrayRef,
        name => events.column_by_name(name).cloned().unwrap_or_else(|| new_null_array(field.data_type(), rows)),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    debug_assert!(
        columns
            .iter()
            .zip(judge.silver.fields())
            .all(|(c, f)| c.data_type() == f.data_type() || *c.data_type() == DataType::Null)
    );
    Ok(RecordBatch::try_new(judge.silver.clone(), columns)?)
}

type NearBy = HashMap<Option<String>, Vec<Near>>;

/// The sessions that Silver has within `gap` of these events of these entities.
fn sessions_near(
    work: &Work<'_>,
    base: &Snapshot,
    entities: &StringArray,
    moments: &[i64],
    gap: i64,
) -> Result<NearBy> {
    let mut wanted: HashMap<Option<&str>, Vec<i64>> = HashMap::new();
    for (entity, time) in entities.iter().zip(moments) {
        wanted.entry(entity).or_default().push(*time);
    }
    wanted.values_mut().for_each(|times| times.sort_unstable());
    let (Some(first), Some(last)) = (moments.iter().min(), moments.iter().max()) else { return Ok(NearBy::new()) };
    let within = first.saturating_sub(gap)..last.saturating_add(gap).saturating_add(1);
    let touches = |f: &&FileEntry| match (f.min_event_time, f.max_event_time) {
        (Some(min), Some(max)) => min < within.end && max >= within.start,
        _ => true,
    };
    let files: Vec<&FileEntry> = base.files.values().filter(|f| f.layer == silver::EVENTS).filter(touches).collect();
    let found = files.into_par_iter().with_max_len(1).map(|file| {
        let mut near = NearBy::new();
        let columns = ["entity", "event_time", "session_id", "session_start"];
        let window = Some(("event_time", within.clone()));
        StoredFile::open(work.store(), file)?.read(work.store(), Some(&columns), window, &mut |batch| {
            let (names, at) = (text(&batch, "entity")?, times(&batch, "event_time")?);
            let (ids, starts) = (text(&batch, "session_id")?, times(&batch, "session_start")?);
            for row in 0..batch.num_rows() {
                let entity = names.is_valid(row).then(|| names.value(row));
                let Some(around) = wanted.get(&entity).filter(|_| ids.is_valid(row)) else { continue };
                let time = at.value(row);
                let next = around.partition_point(|t| *t < time.saturating_sub(gap));
                if around.get(next).is_some_and(|t| *t <= time.saturating_add(gap)) {
                    let sessions = near.entry(entity.map(str::to_owned)).or_default();
                    add(
                        sessions,
                        Near { id: ids.value(row).into(), start: starts.value(row), first: time, last: time },
                    );
                }
            }
            Ok(())
        })?;
        Ok(near)
    });
    let mut all = NearBy::new();
    for near in found.collect::<Result<Vec<_>>>()? {
        for (entity, sessions) in near {
            let known = all.entry(entity).or_default();
            sessions.into_iter().for_each(|session| add(known, session));
        }
    }
    Ok(all)
}

fn add(sessions: &mut Vec<Near>, session: Near) {
    match sessions.iter_mut().find(|s| s.id == session.id) {
        Some(known) => {
            known.first = known.first.min(session.first);
            known.last = known.last.max(session.last);
        }
        None => sessions.push(session),
    }
}
