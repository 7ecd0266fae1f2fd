//! Cutting events into sessions: entities become dense numbers, rows are grouped by counting, and only groups that are
//! out of order are sorted. Rows themselves never move.

use std::cmp::Ordering;
use std::ops::Range;

use super::SessionSettings;
use arrow::array::{Int32Array, Int64Array};

use crate::packed::Text;

/// What stands for an entity that is null: no text holds the byte 0xFF, so it is nobody's name, and not ''.
pub(super) const NULL: &[u8] = &[0xFF];

/// The bytes that an entity is known by.
pub(super) fn bytes_of(entity: Option<&str>) -> &[u8] {
    entity.map_or(NULL, str::as_bytes)
}

/// Breaks ties between events of one entity at one time: their positions, else the order in which they are given.
pub(super) struct Positions<'a> {
    /// The first row of each piece.
    pub starts: Vec<u32>,
    /// The positions of each piece, where it has them, and the row of the piece behind each row that takes part (none:
    /// every row takes part).
    pub pieces: Vec<Option<Position<'a>>>,
}

/// The positions of one piece.
pub(super) struct Position<'a> {
    pub topics: Text<'a>,
    pub partitions: &'a Int32Array,
    pub offsets: &'a Int64Array,
    pub rows: Option<Vec<u32>>,
}

impl Positions<'_> {
    fn compare(&self, a: u32, b: u32) -> Ordering {
        match (self.of(a), self.of(b)) {
            (Some(pa), Some(pb)) => pa.cmp(&pb).then(a.cmp(&b)),
            _ => a.cmp(&b),
        }
    }

    fn of(&self, row: u32) -> Option<(Option<&str>, i32, i64)> {
        let piece = self.starts.partition_point(|start| *start <= row) - 1;
        let position = self.pieces[piece].as_ref()?;
        let row = (row - self.starts[piece]) as usize;
        let row = position.rows.as_ref().map_or(row, |rows| rows[row] as usize);
        Some((position.topics.get(row), position.partitions.value(row), position.offsets.value(row)))
    }
}

/// A session that an entity has open: where it began, its last event, how many events it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub start: i64,
    pub last: i64,
    pub events: i64,
}

/// A session, or what has been added to one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    /// The entity's number.
    pub entity: u32,
    pub start: i64,
    pub last: i64,
    /// Events that it had before; above 0, it goes on from the entity's open session.
    pub before: i64,
    /// Events added.
    pub added: u32,
}

/// The sessions, those of an entity one behind the other in the order of time, and for each row where it stands. Used
/// again for the next rows, so that its memory need not be had from the system each time.
#[derive(Default)]
pub(super) struct Assigned {
    pub sessions: Vec<Session>,
    /// The sessions of each entity.
    pub of_entity: Vec<Range<u32>>,
    /// For each row: its session, and its number among the events added to it, from 1.
    pub rows: Vec<(u32, u32)>,
    /// The rows with their times, in the order of the sessions, and of time within a session.
    pub grouped: Vec<(i64, u32)>,
}

impl Assigned {
    /// Cuts rows into sessions. `entities[row]` is below `known`; `open` gives what an entity has open.
    pub fn assign(
        &mut self,
        entities: &[u32],
        times: impl Iterator<Item = i64>,
        known: usize,
        settings: &SessionSettings,
        positions: &Positions<'_>,
        open: impl Fn(u32) -> Option<Running>,
    ) {
        let Self { sessions, of_entity, rows, grouped } = self;
        sessions.clear();
        of_entity.clear();
        of_entity.reserve(known);
        rows.resize(entities.len(), (0, 0));
        grouped.resize(entities.len(), (0, 0));
        let mut next = vec![0u32; known + 1];
        for entity in entities {
            next[*entity as usize + 1] += 1;
        }
        for i in 0..known {
            next[i + 1] += next[i];
        }
        for (row, (entity, time)) in entities.iter().zip(times).enumerate() {
            let place = &mut next[*entity as usize];
            grouped[*place as usize] = (time, row as u32);
            *place += 1;
        }
        // Now each entity's place is where the next one's rows begin.
        let mut from = 0;
        for entity in 0..known {
            let group = &mut grouped[from..next[entity] as usize];
            from = next[entity] as usize;
            let in_order = |a: &(i64, u32), b: &(i64, u32)| match a.0.cmp(&b.0) {
                Ordering::Equal => positions.compare(a.1, b.1),
                order => order,
            };
            if !group.is_sorted_by(|a, b| in_order(a, b) != Ordering::Greater) {
                group.sort_unstable_by(in_order);
            }
            let first = sessions.len() as u32;
            let entity = entity as u32;
            let mut session = open(entity).map(|running| Session {
                entity,
                start: running.start,
                last: running.last,
                before: running.events,
                added: 0,
            });
            for (time, row) in group {
                session = match session {
                    Some(mut same) if settings.goes_on(same.start, same.last, *time) => {
                        same.last = *time;
                        Some(same)
                    }
                    ended => {
                        // An open session that nothing was added to is the caller's to close.
                        sessions.extend(ended.filter(|s| s.added > 0));
                        Some(Session { entity, start: *time, last: *time, before: 0, added: 0 })
                    }
                };
                if let Some(session) = &mut session {
                    session.added += 1;
                    rows[*row as usize] = (sessions.len() as u32, session.added);
                }
            }
            sessions.extend(session.filter(|s| s.added > 0));
            of_entity.push(first..sessions.len() as u32);
        }
    }
}

impl SessionSettings {
    /// Whether an event at `time` belongs to the session that began at `start` and was last seen at `last`.
    pub(super) fn goes_on(&self, start: i64, last: i64, time: i64) -> bool {
        time.saturating_sub(last) <= self.gap && self.max_duration.is_none_or(|max| time.saturating_sub(start) < max)
    }

    /// Whether no event at or above the watermark can belong to a session that was last seen at `last`.
    pub(super) fn has_passed(&self, last: i64, watermark: i64) -> bool {
        watermark > last.saturating_add(self.gap)
    }

    /// The lowest watermark at which a session that was last seen at `last` has passed.
    pub(super) fn passed_at(&self, last: i64) -> i64 {
        last.saturating_add(self.gap).saturating_add(1)
    }
}
