//! The sessions that are open, by entity.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use hashbrown::DefaultHashBuilder;
use rayon::prelude::*;

use super::SessionSettings;
use super::columns::{hex, session_id};
use super::index::Index;
use super::kernel::Running;
use super::names::{Names, hash_of};
use crate::columns::{moment_field, moments};
use crate::error::{Error, Result};
use crate::state::{self, typed};

pub(super) const OPEN: &str = "sessions/open";
/// The time of a session's last event.
pub(super) const LAST: &str = "last_event_time";

/// Into how many stretches the gap is cut by which sessions are looked at.
const STRETCHES: i64 = 16;

/// Entities that one core looks up.
const LOOKED_UP: usize = 1 << 12;
/// The memory that an entity is looked up in is fetched so many entities ahead.
pub(super) const AHEAD: u32 = 16;

/// Events by number of their type.
pub(super) type Counts = Vec<(u32, i64)>;

/// Open sessions in slots that are used again.
pub(super) struct OpenSessions {
    /// The hash of entities; a [`Names`] that is hashed alike can hand its own on.
    pub hasher: DefaultHashBuilder,
    index: Index,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots that changed since the last delta.
    unsaved: Vec<u32>,
    /// Which slots may be over when the watermark is beyond a stretch of time and the gap, by number of the stretch.
    due: BTreeMap<i64, Vec<u32>>,
    /// The length of such a stretch.
    stretch: i64,
    /// Bytes of entities and counts.
    heap: usize,
}

/// One entity and its open session.
#[derive(Default)]
pub(super) struct Slot {
    /// The hash of the entity.
    pub place: u64,
    pub entity: Option<Box<str>>,
    pub running: Option<Running>,
    pub counts: Counts,
    unsaved: bool,
    /// The stretch under which the slot is looked at.
    due: Option<i64>,
    heap: u32,
}

impl OpenSessions {
    /// No open session; `gap` is about what they will be over by.
    pub fn new(gap: i64) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            index: Index::default(),
            slots: Vec::new(),
            free: Vec::new(),
            unsaved: Vec::new(),
            due: BTreeMap::new(),
            stretch: (gap / STRETCHES).max(1),
            heap: 0,
        }
    }

    /// The slot of an entity.
    pub fn find(&self, place: u64, entity: Option<&str>) -> Option<u32> {
        self.index.find(place, |n| self.slots[n as usize].entity.as_deref() == entity)
    }

    /// The slots of entities, in their order.
    pub fn find_all(&self, entities: &Names) -> Vec<Option<u32>> {
        let find = |n: u32| {
            self.index.fetch(entities.hash((n + AHEAD).min(entities.len() as u32 - 1)));
            self.find(entities.hash(n), entities.name(n))
        };
        (0..entities.len() as u32).into_par_iter().with_min_len(LOOKED_UP).map(find).collect()
    }

    /// Has the memory fetched in which an entity is looked up.
    #[inline]
    pub fn fetch(&self, place: u64) {
        self.index.fetch(place);
    }

    /// What a slot holds.
    pub fn slot(&self, n: u32) -> &Slot {
        &self.slots[n as usize]
    }

    /// The counts of a slot.
    pub fn counts_mut(&mut self, n: u32) -> &mut Counts {
        &mut self.slots[n as usize].counts
    }

    /// Opens a session, or replaces what an entity has open.
    pub fn put(&mut self, place: u64, entity: Option<&str>, running: Running, counts: Counts) {
        let n = self.find(place, entity).unwrap_or_else(|| {
            let n = self.free.pop().unwrap_or(self.slots.len() as u32);
            self.index.insert(place, n);
            n
        });
        if n as usize == self.slots.len() {
            self.slots.push(Slot::default());
        }
        let slot = &mut self.slots[n as usize];
        if slot.running.is_none() {
            slot.place = place;
            slot.entity = entity.map(Box::from);
        }
        slot.running = Some(running);
        slot.counts = counts;
        let heap = slot.entity.as_ref().map_or(0, |e| e.len()) + slot.counts.capacity() * size_of::<(u32, i64)>();
        self.heap = self.heap + heap - slot.heap as usize;
        slot.heap = heap as u32;
        if slot.due.is_none() {
            // A session that goes on is moved to a later stretch only when it is looked at.
            let due = running.last.div_euclid(self.stretch);
            slot.due = Some(due);
            self.due.entry(due).or_default().push(n);
        }
        if !slot.unsaved {
            slot.unsaved = true;
            self.unsaved.push(n);
        }
    }

    /// Takes a session out.
    pub fn remove(&mut self, n: u32) -> Slot {
        let slot = std::mem::take(&mut self.slots[n as usize]);
        self.index.remove(slot.place, n);
        self.free.push(n);
        self.heap -= slot.heap as usize;
        slot
    }

    /// The slots whose session is over at a watermark. The cost follows them, and those that went on; not all.
    pub fn over(&mut self, settings: &SessionSettings, watermark: i64) -> Vec<u32> {
        let last = watermark.saturating_sub(settings.gap).div_euclid(self.stretch);
        let later = last.checked_add(1).map_or_else(BTreeMap::new, |next| self.due.split_off(&next));
        let mut over = Vec::new();
        for (due, slots) in std::mem::replace(&mut self.due, later) {
            for n in slots {
                let slot = &mut self.slots[n as usize];
                // The slot was emptied and used again since.
                let Some(running) = slot.running.filter(|_| slot.due == Some(due)) else { continue };
                if settings.has_passed(running.last, watermark) {
                    slot.due = None;
                    over.push(n);
                } else {
                    let due = running.last.div_euclid(self.stretch);
                    slot.due = Some(due);
                    self.due.entry(due).or_default().push(n);
                }
            }
        }
        over
    }

    /// Bytes allocated, about.
    pub fn memory(&self) -> usize {
        let numbers = self.free.capacity() + self.unsaved.capacity() + self.slots.len();
        self.index.memory() + self.slots.capacity() * size_of::<Slot>() + numbers * size_of::<u32>() + self.heap
    }

    /// The slots whose session satisfies a condition.
    pub fn which(&self, condition: impl Fn(&Running) -> bool) -> Vec<u32> {
        let used = self.slots.iter().enumerate();
        used.filter(|(_, slot)| slot.running.as_ref().is_some_and(&condition)).map(|(n, _)| n as u32).collect()
    }

    /// When the session that was quiet for longest had its last event.
    pub fn earliest_last(&self) -> Option<i64> {
        let mut earliest: Option<i64> = None;
        for (due, slots) in &self.due {
            // Nothing that is looked at later can have ended before.
            if earliest.is_some_and(|last| last < due.saturating_mul(self.stretch)) {
                break;
            }
            let slots = slots.iter().map(|n| &self.slots[*n as usize]).filter(|slot| slot.due == Some(*due));
            let last = slots.filter_map(|slot| slot.running.map(|running| running.last)).min();
            earliest = earliest.into_iter().chain(last).min();
        }
        earliest
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn clear(&mut self) {
        let stretch = self.stretch;
        *self = Self { hasher: self.hasher.clone(), stretch, ..Self::new(0) };
    }

    /// Forgets what is still to be saved.
    pub fn take_unsaved(&mut self) -> Vec<u32> {
        let mut unsaved = std::mem::take(&mut self.unsaved);
        // A slot may have been emptied, or be here twice because it was emptied and used again.
        unsaved.retain(|n| {
            let slot = &mut self.slots[*n as usize];
            std::mem::take(&mut slot.unsaved) && slot.running.is_some()
        });
        unsaved
    }

    /// Gives each count of every session the number `change` makes of its type's.
    pub fn renumber(&mut self, mut change: impl FnMut(u32) -> u32) {
        for count in self.slots.iter_mut().flat_map(|slot| slot.counts.iter_mut()) {
            count.0 = change(count.0);
        }
    }

    /// These slots (all used ones when none are named) as a table, ordered by entity.
    pub fn table(&self, which: Option<Vec<u32>>, types: &Types) -> Result<(String, RecordBatch)> {
        let mut order = which.unwrap_or_else(|| self.which(|_| true));
        order.sort_unstable_by(|a, b| self.slot(*a).entity.cmp(&self.slot(*b).entity));
        let running: Vec<(&Slot, &Running)> =
            order.iter().filter_map(|n| Some((self.slot(*n), self.slot(*n).running.as_ref()?))).collect();
        let schema = state::schema(
            vec![
                Field::new("entity", DataType::Utf8, true),
                moment_field("session_start", false),
                moment_field(LAST, false),
                Field::new("events", DataType::Int64, false),
                counts_field(),
            ],
            "entity",
            &["entity"],
        );
        let columns: Vec<ArrayRef> = vec![
            Arc::new(running.iter().map(|(slot, _)| slot.entity.as_deref()).collect::<StringArray>()),
            Arc::new(moments(running.iter().map(|(_, r)| r.start).collect::<Vec<_>>())),
            Arc::new(moments(running.iter().map(|(_, r)| r.last).collect::<Vec<_>>())),
            Arc::new(Int64Array::from_iter_values(running.iter().map(|(_, r)| r.events))),
            Arc::new(types.counts(running.iter().map(|(slot, _)| slot.counts.as_slice()))?),
        ];
        Ok((OPEN.to_string(), RecordBatch::try_new(schema, columns)?))
    }

    /// Takes a saved table in.
    pub fn load(&mut self, batch: &RecordBatch, types: &mut Types) -> Result<()> {
        let entities: &StringArray = typed(OPEN, batch, "entity")?;
        let starts: &TimestampMicrosecondArray = typed(OPEN, batch, "session_start")?;
        let lasts: &TimestampMicrosecondArray = typed(OPEN, batch, LAST)?;
        let events: &Int64Array = typed(OPEN, batch, "events")?;
        let counts: &ListArray = typed(OPEN, batch, "counts")?;
        let damaged = || Error::checkpoint(OPEN, "the counts of the saved state are not what this version reads");
        for row in 0..batch.num_rows() {
            let items = counts.value(row);
            let items = items.as_struct_opt().ok_or_else(damaged)?;
            let names =
                items.column_by_name("event_type").and_then(|c| c.as_string_opt::<i32>()).ok_or_else(damaged)?;
            let numbers =
                items.column_by_name("events").and_then(|c| c.as_primitive_opt::<Int64Type>()).ok_or_else(damaged)?;
            let counts = names.iter().zip(numbers.values()).map(|(name, n)| (types.number(name), *n)).collect();
            let entity = entities.is_valid(row).then(|| entities.value(row));
            let running = Running { start: starts.value(row), last: lasts.value(row), events: events.value(row) };
            self.put(hash_of(&self.hasher, entity), entity, running, counts);
        }
        self.take_unsaved();
        Ok(())
    }
}

/// Event types by number. There are few, unless a contract takes every type that comes.
pub(super) type Types = Names;

impl Types {
    /// The list column of counts, each sorted by the name of the type.
    pub fn counts<'a>(&self, rows: impl Iterator<Item = &'a [(u32, i64)]>) -> Result<ListArray> {
        let mut by_name: Vec<u32> = (0..self.len() as u32).collect();
        by_name.sort_unstable_by(|a, b| self.name(*a).cmp(&self.name(*b)));
        let mut rank = vec![0u32; by_name.len()];
        by_name.iter().enumerate().for_each(|(r, n)| rank[*n as usize] = r as u32);
        let mut lengths = Vec::new();
        let mut flat: Vec<(u32, i64)> = Vec::new();
        for counts in rows {
            let from = flat.len();
            flat.extend(counts.iter().map(|(n, events)| (rank[*n as usize], *events)));
            flat[from..].sort_unstable();
            lengths.push(counts.len());
        }
        let DataType::List(item) = counts_field().data_type().clone() else {
            return Err(Error::Internal("counts are a list".to_string()));
        };
        let names: StringArray = flat.iter().map(|(rank, _)| self.name(by_name[*rank as usize])).collect();
        let events = Int64Array::from_iter_values(flat.iter().map(|(_, events)| *events));
        let items = StructArray::try_new(count_fields(), vec![Arc::new(names), Arc::new(events)], None)?;
        Ok(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(items), None)?)
    }
}

fn count_fields() -> Fields {
    vec![Field::new("event_type", DataType::Utf8, true), Field::new("events", DataType::Int64, false)].into()
}

/// `counts`: events by type.
pub(super) fn counts_field() -> Field {
    Field::new("counts", DataType::List(Arc::new(Field::new("item", DataType::Struct(count_fields()), false))), false)
}

/// A session that is over.
pub(super) struct Closed<'a> {
    pub id: [u8; 32],
    pub entity: Option<Cow<'a, str>>,
    pub running: Running,
    pub counts: Cow<'a, [(u32, i64)]>,
}

impl Closed<'_> {
    /// The session of a slot that was taken out.
    pub fn of(slot: Slot) -> Option<Self> {
        let running = slot.running?;
        Some(Self {
            id: hex(session_id(slot.entity.as_deref(), running.start)),
            entity: slot.entity.map(|entity| Cow::Owned(entity.into())),
            running,
            counts: Cow::Owned(slot.counts),
        })
    }
}

/// The counts of one session with those that came.
pub(super) fn add_counts(to: &mut Counts, more: &[(u32, i64)]) {
    for (n, events) in more {
        match to.iter_mut().find(|(known, _)| known == n) {
            Some((_, sum)) => *sum += events,
            None => to.push((*n, *events)),
        }
    }
}
