//! The source as its broker has it now, beside what a pipeline has read of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::audit::Check;
use super::log::Kind;
use super::partitions::Partitions;
use super::run::open_lake;
use super::shards;
use super::spec::PipelineSpec;
#[cfg(feature = "kafka")]
use super::spec::SourceSpec;
use crate::error::{Error, Result};
use crate::sources::{PartitionState, Range, Watch};

/// A partition: what the broker holds of it, and how far it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionEnd {
    /// The topic.
    pub topic: String,
    /// The number.
    pub partition: i32,
    /// The oldest offset that is there.
    pub low: i64,
    /// Behind the newest.
    pub end: i64,
    /// Where reading goes on; none where nothing was read.
    pub position: Option<i64>,
    /// Offsets that are not yet read.
    pub lag: i64,
    /// The first offset that is as new as was asked; none where nothing is, or where nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<i64>,
}

/// What the broker holds.
pub trait Broker {
    /// The oldest offset and the end of each partition, of those that were read and of those that came since.
    ///
    /// # Errors
    /// When it cannot be asked, or has another topic of the name.
    fn ends(&mut self, read: &[PartitionState]) -> Result<BTreeMap<(String, i32), (i64, i64)>>;

    /// The first offset of each partition with a message of this time or newer (microseconds); none where there is none.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn since(&mut self, micros: i64) -> Result<BTreeMap<(String, i32), Option<i64>>>;

    /// How many messages it has of a range.
    ///
    /// # Errors
    /// When they cannot be read.
    fn count(&mut self, range: &Range) -> Result<u64>;
}

#[cfg(feature = "kafka")]
fn open<'a>(spec: &PipelineSpec, watch: &'a dyn Watch) -> Result<Option<Box<dyn Broker + 'a>>> {
    use crate::sources::kafka::{Kafka, KafkaSettings};
    let SourceSpec::Kafka(kafka) = &spec.source else { return Ok(None) };
    let settings = KafkaSettings::new(kafka, &spec.source_secrets.0)?;
    Ok(Some(Box::new(Kafka::new(settings, watch)?)))
}

#[cfg(not(feature = "kafka"))]
fn open<'a>(_: &PipelineSpec, _: &'a dyn Watch) -> Result<Option<Box<dyn Broker + 'a>>> {
    Ok(None)
}

/// What the broker holds of each partition; nothing where the source has no broker.
///
/// # Errors
/// As the lake and the broker; [`Error::Interrupted`].
pub fn ends(spec: &PipelineSpec, watch: &dyn Watch) -> Result<Vec<PartitionEnd>> {
    let lake = open_lake(spec, false)?;
    let Some(mut broker) = open(spec, watch)? else { return Ok(vec![]) };
    let mut read = vec![];
    for journal in shards::journals(&lake, &spec.name)? {
        if let Some(commit) = journal.head()?.commit {
            read.extend(Partitions::read(&lake, &commit)?.all());
        }
    }
    let found = broker.ends(&read)?.into_iter().map(|((topic, partition), (low, end))| {
        let state = read.iter().find(|s| s.topic == topic && s.partition == partition);
        let position = state.map(|s| s.position);
        let lag = (end - position.unwrap_or(low).max(low)).max(0);
        PartitionEnd { topic, partition, low, end, position, lag, reached: None }
    });
    Ok(found.collect())
}

/// The same without a lake, and whether each partition has a message of this time (microseconds) or newer.
///
/// # Errors
/// As the broker; [`Error::Interrupted`].
pub fn reached(spec: &PipelineSpec, micros: i64, watch: &dyn Watch) -> Result<Vec<PartitionEnd>> {
    let Some(mut broker) = open(spec, watch)? else { return Ok(vec![]) };
    let ends = broker.ends(&[])?;
    let since = broker.since(micros)?;
    let found = ends.into_iter().map(|((topic, partition), (low, end))| {
        let reached = since.get(&(topic.clone(), partition)).copied().flatten();
        PartitionEnd { topic, partition, low, end, position: None, lag: end - low, reached }
    });
    Ok(found.collect())
}

/// Counts against the broker: that what was read is what it has, as far as it still has it.
///
/// # Errors
/// As [`ends`]; [`Error::Settings`] where the source has no broker.
pub fn audit(spec: &PipelineSpec, watch: &dyn Watch) -> Result<Vec<Check>> {
    let lake = open_lake(spec, false)?;
    let Some(mut broker) = open(spec, watch)? else {
        return Err(Error::settings("broker", "the source of this pipeline is files: there is no broker to ask"));
    };
    let (mut read, mut plans) = (vec![], vec![]);
    for journal in shards::journals(&lake, &spec.name)? {
        let commits = journal.commits(None)?;
        let Some(last) = commits.last() else { continue };
        read.extend(Partitions::read(&lake, last)?.all());
        let void: BTreeSet<u64> = commits.iter().filter(|c| c.kind == Kind::Void).map(|c| c.number).collect();
        plans.extend(journal.plans()?.into_iter().filter(|p| p.number <= last.number && !void.contains(&p.number)));
    }
    let held = broker.ends(&read)?;

    let (mut beyond, mut gone) = (vec![], vec![]);
    for state in read.iter().filter(|s| !s.finished) {
        let place = format!("{} {}", state.topic, state.partition);
        match held.get(&(state.topic.clone(), state.partition)) {
            None => beyond.push(format!("{place} is not there")),
            Some((_, end)) if state.position > *end => {
                beyond.push(format!("{place} was read to {}, and ends at {end}", state.position));
            }
            Some((low, _)) if state.position < *low => {
                gone.push(format!("{place}: {} to {} are gone", state.position, low - 1));
            }
            Some(_) => {}
        }
    }
    let (mut planned, mut ranges, mut unknown) = (0, BTreeMap::<(String, i32), Vec<Range>>::new(), 0);
    for plan in plans {
        for tick in &plan.ticks {
            let low = |r: &Range| held.get(&(r.topic.clone(), r.partition)).map_or(i64::MAX, |(low, _)| *low);
            if tick.ranges.iter().any(|r| r.from < low(r)) {
                unknown += tick.events;
                continue;
            }
            planned += tick.events;
            for range in tick.ranges.iter().filter(|r| r.from < r.to) {
                let of = ranges.entry((range.topic.clone(), range.partition)).or_default();
                match of.last_mut() {
                    Some(before) if before.to == range.from => before.to = range.to,
                    _ => of.push(range.clone()),
                }
            }
        }
    }
    let mut counted = 0;
    for range in ranges.values().flatten() {
        counted += broker.count(range)?;
    }
    let detail = |wrong: Vec<String>, right: String| if wrong.is_empty() { right } else { wrong.join("; ") };
    let partitions = format!("{} partitions", held.len());
    let since = if unknown > 0 { format!("; {unknown} more are gone there by retention") } else { String::new() };
    Ok(vec![
        Check {
            name: "the broker has what was read",
            passed: beyond.is_empty(),
            detail: detail(beyond, partitions.clone()),
        },
        Check { name: "nothing unread is gone", passed: gone.is_empty(), detail: detail(gone, partitions) },
        Check {
            name: "messages in the broker = events planned",
            // A compacted topic keeps the newest of each key alone.
            passed: counted <= planned,
            detail: match planned.saturating_sub(counted) {
                0 => format!("{counted} = {planned}{since}"),
                fewer => format!("{counted}, and {planned} when they were read: compaction took {fewer}{since}"),
            },
        },
    ])
}
