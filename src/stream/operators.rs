//! The operators of a pipeline and their state, put together from the settings that shape rows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::spec::Shape;
use crate::dedup::Deduplicator;
use crate::error::{Error, Result};
use crate::sessions::{SessionSettings, Sessionizer};
use crate::spill::{Budget, Usage};
use crate::state::{Change, Stateful};
use crate::watermark::Watermark;
use crate::windows::{Aggregate, WindowSpec, Windows};

/// Watermark, deduplication, sessions and windows of one pipeline.
pub struct Operators {
    /// How far event time has come.
    pub watermark: Watermark,
    /// Which keys were seen.
    pub dedup: Deduplicator,
    /// Held events and open sessions, where the pipeline has sessions.
    pub sessions: Option<Sessionizer>,
    /// Open windows, by the name of their table.
    pub windows: Vec<(String, Windows)>,
    budget: Option<Budget>,
    /// Windows' memory when it was last counted: it takes a look at each group.
    windows_memory: usize,
}

/// The columns of an accepted event: those of the contract, and its position.
pub fn event_schema(contract: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = contract.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("_topic", DataType::Utf8, false)));
    fields.push(Arc::new(Field::new("_partition", DataType::Int32, false)));
    fields.push(Arc::new(Field::new("_offset", DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

impl Operators {
    /// Operators without any state yet; `contract` has the columns that the contract gives.
    ///
    /// # Errors
    /// [`Error::Settings`] when a window names a column or aggregate that is not there.
    pub fn new(shape: &Shape, contract: &Schema) -> Result<Self> {
        let events = event_schema(shape.rows(contract)?.as_ref());
        let settings = shape.sessions.as_ref();
        let settings = settings.map(|s| SessionSettings { gap: s.gap_us, max_duration: s.max_duration_us });
        let sessions = settings.map(|s| Sessionizer::new(s, events.clone())).transpose()?;
        let windows = shape
            .windows
            .iter()
            .map(|w| {
                let aggregates = w
                    .aggregates
                    .iter()
                    .map(|(name, text)| Ok((name.clone(), Aggregate::parse(text)?)))
                    .collect::<Result<Vec<_>>>()?;
                let spec = WindowSpec {
                    name: w.name.clone(),
                    size: w.size_us,
                    slide: w.slide_us,
                    by: w.by.clone(),
                    from: w.from.clone(),
                    aggregates,
                };
                Ok((w.name.clone(), Windows::new(spec, &events)?))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            watermark: Watermark::new(shape.watermark.lateness_us),
            dedup: Deduplicator::new(Some(shape.deduplicate.horizon_us)),
            sessions,
            windows,
            budget: None,
            windows_memory: 0,
        })
    }

    /// The same operators, whose state takes no more memory than that: the rest is spilled.
    #[must_use]
    pub fn within(mut self, budget: Budget) -> Self {
        self.dedup = self.dedup.spilling_to(budget.spill.clone());
        self.sessions = self.sessions.map(|sessions| sessions.spilling_to(budget.spill.clone()));
        self.budget = Some(budget);
        self
    }

    /// The memory that state takes, in bytes.
    fn memory(&self) -> usize {
        self.dedup.memory() + self.sessions.as_ref().map_or(0, Sessionizer::memory) + self.windows_memory
    }

    /// The memory that state takes, in bytes, and what was spilled; windows are looked at anew.
    pub fn usage(&mut self) -> (u64, Usage) {
        self.windows_memory = self.windows.iter().map(|(_, windows)| windows.memory()).sum();
        (self.memory() as u64, self.budget.as_ref().map_or_else(Usage::default, |b| b.spill.usage()))
    }

    /// Spills until state takes no more memory than it may, as far as that goes: open sessions and open windows stay.
    ///
    /// # Errors
    /// [`Error::Spill`] when there is no room for it.
    pub fn keep_within(&mut self) -> Result<()> {
        let Some(limit) = self.budget.as_ref().map(|b| b.bytes) else { return Ok(()) };
        let held = self.sessions.as_ref().map_or(0, Sessionizer::held_memory);
        let keys = self.dedup.keys_memory();
        let used = held + keys;
        // What cannot be spilled has its share first, but never so much that the rest were spilled all the time.
        let room = limit.saturating_sub(self.memory() - used).max(limit / 4);
        if used <= room {
            return Ok(());
        }
        // Somewhat more than needed, so that there is room for a while.
        let mut over = used - room / 8 * 7;
        if held > keys {
            over = over.saturating_sub(self.spill_held(over)?);
        }
        if over > 0 {
            over = over.saturating_sub(self.dedup.spill(over)?);
        }
        if over > 0 {
            self.spill_held(over)?;
        }
        Ok(())
    }

    fn spill_held(&mut self, want: usize) -> Result<usize> {
        self.sessions.as_mut().map_or(Ok(0), |sessions| sessions.spill(want))
    }

    /// How many events are held.
    pub fn pending(&self) -> i64 {
        self.sessions.as_ref().map_or(0, |s| s.pending() as i64)
    }

    /// The lowest watermark at which something that is held comes out: an event, a session, a window.
    pub fn next_release(&self) -> Option<i64> {
        let sessions = self.sessions.iter().filter_map(Sessionizer::next_release);
        let windows = self.windows.iter().filter_map(|(_, windows)| windows.next_release());
        sessions.chain(windows).min()
    }

    /// Each operator, with the beginning of its tables' names, and how much of that is ours and not its own.
    fn each(&mut self) -> Vec<(String, usize, &mut dyn Stateful)> {
        let mut all: Vec<(String, usize, &mut dyn Stateful)> =
            vec![("watermark/".into(), 0, &mut self.watermark), ("dedup/".into(), 0, &mut self.dedup)];
        if let Some(sessions) = &mut self.sessions {
            all.push(("sessions/".into(), 0, sessions));
        }
        for (name, windows) in &mut self.windows {
            all.push((format!("{name}.windows/"), name.len() + 1, windows));
        }
        all
    }

    /// The operator that keeps a table, and the table's name there.
    fn keeper<'t>(&mut self, table: &'t str) -> Option<(&'t str, &mut dyn Stateful)> {
        let (_, ours, operator) = self.each().into_iter().find(|(prefix, ..)| table.starts_with(prefix))?;
        Some((&table[ours..], operator))
    }

    /// What changed since the last call, table by table.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be put into Arrow.
    pub fn delta(&mut self) -> Result<Vec<Change>> {
        self.changes(|_, operator| operator.delta())
    }

    /// All state as a change that takes the place of what was saved before.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be put into Arrow.
    pub fn whole(&mut self) -> Result<Vec<Change>> {
        self.changes(|_, operator| operator.whole())
    }

    /// What changed, and whole what was made by an older contract or other settings: held events, sessions, windows. Keys
    /// and watermark are the same under any.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be put into Arrow.
    pub fn carried(&mut self) -> Result<Vec<Change>> {
        let same = |prefix: &str| ["watermark/", "dedup/"].contains(&prefix);
        self.changes(|prefix, operator| if same(prefix) { operator.delta() } else { operator.whole() })
    }

    fn changes(&mut self, of: impl Fn(&str, &mut dyn Stateful) -> Result<Vec<Change>>) -> Result<Vec<Change>> {
        let mut all = vec![];
        for (prefix, ours, operator) in self.each() {
            let named = |change: Change| Change { table: format!("{}{}", &prefix[..ours], change.table), ..change };
            all.extend(of(&prefix, operator)?.into_iter().map(named));
        }
        Ok(all)
    }

    /// Takes a saved table in. What a pipeline no longer has (its sessions, a window) is left.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a table does not fit the pipeline any more.
    pub fn load(&mut self, table: &str, rows: RecordBatch) -> Result<()> {
        match self.keeper(table) {
            Some((table, operator)) => operator.load(&[(table.to_owned(), rows)]),
            None => Ok(()),
        }
    }

    /// The highest moment in a saved table whose rows expire.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the table is not what it should be.
    pub fn newest(&mut self, table: &str, rows: &RecordBatch) -> Result<Option<i64>> {
        self.keeper(table).map_or(Ok(None), |(table, operator)| operator.newest(table, rows))
    }

    /// Whether anything saved in a table up to the moment `newest` still counts. A table that nothing keeps (of a window
    /// that was taken out of the pipeline) does not.
    pub fn counts(&mut self, table: &str, newest: Option<i64>) -> bool {
        self.keeper(table).is_some_and(|(table, operator)| newest.is_none_or(|n| !operator.expired(table, n)))
    }

    /// Puts saved tables together, older ones first.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a table is not what it should be.
    pub fn combine(&mut self, table: &str, saved: &[RecordBatch]) -> Result<RecordBatch> {
        match self.keeper(table) {
            Some((own, operator)) => operator.combine(own, saved),
            None => Err(Error::Internal(format!("nothing keeps the table {table}"))),
        }
    }
}
