//! The event time up to which all events are taken to have come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};

use crate::columns::{moment_field, one_moment};
use crate::error::Result;
use crate::state::{self, Change, StateParts, Stateful, typed};

const PARTITIONS: &str = "watermark/partitions";
const META: &str = "watermark/meta";

/// Per partition the highest event time seen; of all that hold it, the minimum less the lateness, which never goes back.
#[derive(Debug, Clone)]
pub struct Watermark {
    lateness: i64,
    partitions: BTreeMap<Arc<str>, BTreeMap<i32, Partition>>,
    current: Option<i64>,
    highest: Option<i64>,
    unsaved: BTreeSet<(Arc<str>, i32)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Partition {
    highest: Option<i64>,
    idle: bool,
    finished: bool,
}

impl Watermark {
    /// A watermark that has seen nothing; `lateness` in microseconds.
    pub fn new(lateness: i64) -> Self {
        Self { lateness, partitions: BTreeMap::new(), current: None, highest: None, unsaved: BTreeSet::new() }
    }

    /// The highest event time of what has just been read from a partition. It is not idle any more.
    pub fn observe(&mut self, topic: &str, partition: i32, max_event_time: i64) {
        self.highest = self.highest.max(Some(max_event_time));
        self.change(topic, partition, |p| {
            p.highest = p.highest.max(Some(max_event_time));
            p.idle = false;
        });
    }

    /// A partition that is known and still to be read. Until its first event it counts as lowest: it holds the watermark.
    /// One that had been finished (a file that grew) counts again.
    pub fn open_partition(&mut self, topic: &str, partition: i32) {
        self.change(topic, partition, |p| p.finished = false);
    }

    /// A partition that has been read to its end for good leaves the minimum.
    pub fn finish_partition(&mut self, topic: &str, partition: i32) {
        self.change(topic, partition, |p| p.finished = true);
    }

    /// An idle partition leaves the minimum until it has something new.
    pub fn set_idle(&mut self, topic: &str, partition: i32, idle: bool) {
        self.change(topic, partition, |p| p.idle = idle);
    }

    /// The highest event time seen in a partition; none when it is unknown or has not begun.
    pub fn partition_time(&self, topic: &str, partition: i32) -> Option<i64> {
        self.partitions.get(topic)?.get(&partition)?.highest
    }

    /// Whether a partition is known.
    pub fn knows(&self, topic: &str, partition: i32) -> bool {
        self.partition(topic, partition).is_some()
    }

    /// Whether a partition counts as idle.
    pub fn is_idle(&self, topic: &str, partition: i32) -> bool {
        self.partition(topic, partition).is_some_and(|p| p.idle)
    }

    /// The partitions that are to be read and have not brought any event yet.
    pub fn unbegun(&self) -> impl Iterator<Item = (&str, i32)> {
        let all = self.partitions.iter().flat_map(|(topic, ps)| ps.iter().map(move |(n, p)| (&**topic, *n, p)));
        all.filter(|(_, _, p)| p.highest.is_none() && !p.finished).map(|(topic, n, _)| (topic, n))
    }

    fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.partitions.get(topic)?.get(&partition)
    }

    /// The watermark of the last commit.
    pub fn current(&self) -> Option<i64> {
        self.current
    }

    /// The highest event time seen in any partition.
    pub fn highest(&self) -> Option<i64> {
        self.highest
    }

    /// Takes in what was observed, at a commit. Where no partition holds the watermark (all idle or finished) it stays:
    /// [`Watermark::advance_to`] moves it on.
    pub fn advance(&mut self) -> Option<i64> {
        let holding = self.partitions.values().flat_map(BTreeMap::values).filter(|p| !p.idle && !p.finished);
        // A partition that has not begun is None, which is below every time.
        if let Some(lowest) = holding.map(|p| p.highest).min() {
            self.current = self.current.max(lowest.map(|t| t.saturating_sub(self.lateness)));
        }
        self.current
    }

    /// Moves the watermark on to `time` (the end of bounded input, the clock of an idle source); never back.
    pub fn advance_to(&mut self, time: i64) {
        self.current = self.current.max(Some(time));
    }

    fn change(&mut self, topic: &str, partition: i32, change: impl FnOnce(&mut Partition)) {
        if let Some(known) = self.partitions.get_mut(topic).and_then(|t| t.get_mut(&partition)) {
            let before = *known;
            change(known);
            if before == *known {
                return;
            }
        } else {
            let mut new = Partition::default();
            change(&mut new);
            self.partitions.entry(topic.into()).or_default().insert(partition, new);
        }
        if let Some((topic, _)) = self.partitions.get_key_value(topic) {
            self.unsaved.insert((topic.clone(), partition));
        }
    }

    fn tables<'a>(&'a self, partitions: impl Iterator<Item = (&'a Arc<str>, i32)>) -> Result<StateParts> {
        let rows: Vec<(&str, i32, Partition)> =
            partitions.map(|(topic, n)| (&**topic, n, self.partitions[topic][&n])).collect();
        let schema = Schema::new(vec![
            Field::new("topic", DataType::Utf8, false),
            Field::new("partition", DataType::Int32, false),
            moment_field("highest", true),
            Field::new("idle", DataType::Boolean, false),
            Field::new("finished", DataType::Boolean, false),
        ]);
        let highest: TimestampMicrosecondArray = rows.iter().map(|r| r.2.highest).collect();
        let partitions = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))),
                Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.1))),
                Arc::new(highest.with_timezone("UTC")),
                Arc::new(rows.iter().map(|r| Some(r.2.idle)).collect::<BooleanArray>()),
                Arc::new(rows.iter().map(|r| Some(r.2.finished)).collect::<BooleanArray>()),
            ],
        )?;
        let meta = RecordBatch::try_new(
            Arc::new(Schema::new(vec![moment_field("watermark", true), moment_field("highest", true)])),
            vec![one_moment(self.current), one_moment(self.highest)],
        )?;
        Ok(vec![(PARTITIONS.to_string(), partitions), (META.to_string(), meta)])
    }
}

impl Stateful for Watermark {
    fn delta(&mut self) -> Result<Vec<Change>> {
        let unsaved = std::mem::take(&mut self.unsaved);
        let parts = self.tables(unsaved.iter().map(|(topic, n)| (topic, *n)))?;
        Ok(parts.into_iter().map(|(table, rows)| Change { replaces: table == META, table, rows }).collect())
    }

    fn snapshot(&self) -> Result<StateParts> {
        self.tables(self.partitions.iter().flat_map(|(topic, ns)| ns.keys().map(move |n| (topic, *n))))
    }

    fn load(&mut self, parts: &[(String, RecordBatch)]) -> Result<()> {
        if let Some(batch) = state::table(parts, PARTITIONS) {
            let topics: &StringArray = typed(PARTITIONS, batch, "topic")?;
            let numbers: &Int32Array = typed(PARTITIONS, batch, "partition")?;
            let highest: &TimestampMicrosecondArray = typed(PARTITIONS, batch, "highest")?;
            let idle: &BooleanArray = typed(PARTITIONS, batch, "idle")?;
            let finished: &BooleanArray = typed(PARTITIONS, batch, "finished")?;
            for row in 0..batch.num_rows() {
                let partition = Partition {
                    highest: highest.is_valid(row).then(|| highest.value(row)),
                    idle: idle.value(row),
                    finished: finished.value(row),
                };
                self.partitions.entry(topics.value(row).into()).or_default().insert(numbers.value(row), partition);
            }
        }
        if let Some(batch) = state::table(parts, META) {
            self.current = moment_of(META, batch, "watermark")?;
            self.highest = moment_of(META, batch, "highest")?;
        }
        Ok(())
    }

    fn newest(&self, _: &str, _: &RecordBatch) -> Result<Option<i64>> {
        Ok(None)
    }

    fn expired(&self, _: &str, _: i64) -> bool {
        false
    }

    fn combine(&self, table: &str, saved: &[RecordBatch]) -> Result<RecordBatch> {
        state::latest(table, saved, ["topic", "partition"].into_iter(), None, |_| true)
    }
}

/// The one moment of a `…/meta` table.
pub(crate) fn moment_of(table: &str, batch: &RecordBatch, name: &str) -> Result<Option<i64>> {
    let array: &TimestampMicrosecondArray = typed(table, batch, name)?;
    Ok((array.len() == 1 && array.is_valid(0)).then(|| array.value(0)))
}

#[cfg(test)]
mod tests;
