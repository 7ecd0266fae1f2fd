//! The operators of a pipeline and their state, put together from the settings that shape rows.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::spec::Shape;
use crate::dedup::Deduplicator;
use crate::error::Result;
use crate::sessions::{SessionSettings, Sessionizer};
use crate::state::{StateParts, Stateful};
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
        })
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

    fn each(&mut self) -> Vec<(String, &mut dyn Stateful)> {
        let mut all: Vec<(String, &mut dyn Stateful)> =
            vec![(String::new(), &mut self.watermark), (String::new(), &mut self.dedup)];
        if let Some(sessions) = &mut self.sessions {
            all.push((String::new(), sessions));
        }
        for (name, windows) in &mut self.windows {
            all.push((format!("{name}."), windows));
        }
        all
    }

    /// What changed since the last call, table by table.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be put into Arrow.
    pub fn delta(&mut self) -> Result<StateParts> {
        self.collect(|operator| operator.delta())
    }

    /// All state, table by table.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be put into Arrow.
    pub fn snapshot(&mut self) -> Result<StateParts> {
        self.collect(|operator| operator.snapshot())
    }

    fn collect(&mut self, of: impl Fn(&mut dyn Stateful) -> Result<StateParts>) -> Result<StateParts> {
        let mut parts = vec![];
        for (prefix, operator) in self.each() {
            parts.extend(of(operator)?.into_iter().map(|(table, rows)| (format!("{prefix}{table}"), rows)));
        }
        Ok(parts)
    }

    /// Takes in the tables that one epoch wrote.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a table does not fit the pipeline any more.
    pub fn load(&mut self, parts: StateParts) -> Result<()> {
        for (prefix, operator) in self.each() {
            let own: StateParts = parts
                .iter()
                .filter_map(|(table, rows)| Some((table.strip_prefix(&prefix)?.to_owned(), rows.clone())))
                .collect();
            operator.load(&own)?;
        }
        Ok(())
    }
}
