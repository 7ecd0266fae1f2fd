//! A look at a pipeline from outside: its log, its state, its layers.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use serde::Serialize;

use super::change::Change;
use super::journal::Journal;
use super::ledger::Counts;
use super::log::{Commit, FileEntry, Kind, StateFile};
use super::partitions::Partitions;
use super::run::open_lake;
use super::samples::{self, Sample};
use super::shards;
use super::spec::PipelineSpec;
use super::state;
use super::store::Store;
use crate::error::{Error, Result};
use crate::lake::{Lake, LakeOptions};
use crate::sources::lake::{column, numbers, text, times};
use crate::sources::{PartitionState, Unread};

/// A pipeline as its newest commit has it.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The newest commit, without its lists of files.
    pub last: Entry,
    /// The sums since the pipeline began.
    #[serde(flatten)]
    pub counts: Counts,
    /// Whether every event is accounted for.
    pub balanced: bool,
    /// The watermark, in microseconds since the Unix epoch.
    pub watermark: Option<i64>,
    /// An epoch that was planned and not committed: a run is at work on it, or was killed.
    pub planned: Option<u64>,
    /// The source's partitions: how far each was read.
    pub partitions: Vec<PartitionState>,
    /// The partitions' event time.
    pub watermarks: Vec<PartitionMark>,
    /// Some dead letters of each code that is not settled, the newest first.
    pub samples: Vec<Sample>,
    /// Lines without an end, left unread.
    pub unread: Vec<Unread>,
    /// The tables of state, with the files that make them up.
    pub state: Vec<StateFile>,
    /// Files, rows and bytes by layer.
    pub layers: BTreeMap<String, LayerSize>,
    /// The newest epochs, newest last.
    pub epochs: Vec<Entry>,
    /// The shards one by one, where the pipeline has any: all else is their sum.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardLook>,
}

/// A shard of a pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct ShardLook {
    /// Its number, from 1.
    pub shard: u32,
    /// Its newest commit; none when it has committed nothing yet.
    pub last: Option<Entry>,
    /// Its sums.
    #[serde(flatten)]
    pub counts: Counts,
    /// Its watermark.
    pub watermark: Option<i64>,
    /// An epoch of its that was planned and not committed.
    pub planned: Option<u64>,
}

/// An entry of the log.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The shard whose log it stands in; 0 where the pipeline has none.
    #[serde(skip_serializing_if = "is_zero")]
    pub shard: u32,
    /// Its number.
    pub number: u64,
    /// What it is.
    pub kind: Kind,
    /// The term that committed it.
    pub term: u64,
    /// When, in microseconds since the Unix epoch.
    pub committed_at: i64,
    /// The contract, by digest.
    pub contract: String,
    /// What became of its events.
    pub counts: Counts,
    /// How many files it put.
    pub files: usize,
    /// What changed of contract and settings with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// How far event time has come in a partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionMark {
    /// The topic, or the path of a file.
    pub topic: String,
    /// The number.
    pub partition: i32,
    /// The newest event time, in microseconds since the Unix epoch.
    pub highest: Option<i64>,
    /// The newest event time less the lateness: below it, nothing is waited for.
    pub watermark: Option<i64>,
    /// Whether it counts as idle, or is finished, and holds nothing back.
    pub holds_back: bool,
}

/// How large a layer is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LayerSize {
    /// Files.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(shard: &u32) -> bool {
    *shard == 0
}

impl Entry {
    fn new(shard: u32, commit: &Commit) -> Self {
        Self {
            shard,
            number: commit.number,
            kind: commit.kind,
            term: commit.term,
            committed_at: commit.committed_at,
            contract: commit.contract.clone(),
            counts: commit.counts.clone(),
            files: commit.files.len(),
            change: commit.change.clone(),
        }
    }
}

/// Looks at a pipeline; `epochs` is how many of the newest entries are listed, `samples` how many dead letters of a code.
///
/// # Errors
/// [`Error::Lake`] when there is no such pipeline, [`Error::Checkpoint`] when its log is damaged or too new.
pub fn inspect(spec: &PipelineSpec, epochs: usize, samples: usize) -> Result<Inspection> {
    let lake = open_lake(spec, false)?;
    let (mut whole, mut looks): (Option<Inspection>, Vec<ShardLook>) = (None, vec![]);
    for journal in shards::journals(&lake, &spec.name)? {
        let found = inspect_log(&journal, spec.watermark.lateness_us, epochs, samples)?;
        looks.push(ShardLook::new(journal.shard(), found.as_ref()));
        whole = match (whole, found) {
            (Some(sum), Some(one)) => Some(sum.with(one)),
            (sum, one) => sum.or(one),
        };
    }
    let mut whole = whole.ok_or_else(|| {
        Error::lake(&spec.lake, format!("pipeline {} has committed nothing yet; run it first", spec.name))
    })?;
    looks.retain(|look| look.shard > 0);
    whole.shards = looks;
    whole.epochs.sort_by_key(|entry| (entry.committed_at, entry.shard, entry.number));
    whole.epochs.drain(..whole.epochs.len().saturating_sub(epochs));
    Ok(whole)
}

impl ShardLook {
    fn new(shard: u32, found: Option<&Inspection>) -> Self {
        Self {
            shard,
            last: found.map(|one| one.last.clone()),
            counts: found.map(|one| one.counts.clone()).unwrap_or_default(),
            watermark: found.and_then(|one| one.watermark),
            planned: found.and_then(|one| one.planned),
        }
    }
}

impl Inspection {
    /// Together with another shard.
    fn with(mut self, other: Self) -> Self {
        if other.last.committed_at > self.last.committed_at {
            self.last = other.last;
        }
        self.counts.add(&other.counts);
        self.balanced &= other.balanced;
        // What has no watermark has read nothing yet.
        self.watermark = self.watermark.into_iter().chain(other.watermark).min();
        self.planned = self.planned.or(other.planned);
        self.partitions.extend(other.partitions);
        self.watermarks.extend(other.watermarks);
        self.samples.extend(other.samples);
        self.unread.extend(other.unread);
        self.state.extend(other.state);
        for (name, size) in other.layers {
            let layer = self.layers.entry(name).or_default();
            layer.files += size.files;
            layer.rows += size.rows;
            layer.bytes += size.bytes;
        }
        self.epochs.extend(other.epochs);
        self
    }
}

/// Looks at one log; none when nothing is committed in it.
fn inspect_log(journal: &Journal<'_>, lateness: i64, epochs: usize, samples: usize) -> Result<Option<Inspection>> {
    let shard = journal.shard();
    let head = journal.head()?;
    let Some(live) = journal.live()? else { return Ok(None) };
    let mut layers: BTreeMap<String, LayerSize> = BTreeMap::new();
    for file in live.files.values() {
        let layer = layers.entry(file.layer.clone()).or_default();
        layer.files += 1;
        layer.rows += file.rows;
        layer.bytes += file.bytes;
    }
    let from = (live.last.number + 1).saturating_sub(epochs as u64);
    let entries =
        (from..=live.last.number).map(|n| Ok(Entry::new(shard, &journal.commit(n)?))).collect::<Result<Vec<_>>>()?;
    Ok(Some(Inspection {
        balanced: live.last.ledger.counts.balanced(),
        counts: live.last.ledger.counts.clone(),
        watermark: live.last.watermark,
        planned: head.plan.map(|p| p.number()),
        partitions: Partitions::read(journal.store(), &live.last)?.all(),
        watermarks: watermarks(journal.store(), lateness, &live.last)?,
        samples: samples::find(journal.store(), &live, samples)?,
        unread: live.last.unread.clone(),
        state: live.last.state.clone(),
        layers,
        last: Entry::new(shard, &live.last),
        epochs: entries,
        shards: vec![],
    }))
}

fn watermarks(store: &dyn Store, lateness: i64, last: &Commit) -> Result<Vec<PartitionMark>> {
    let mut found = BTreeMap::new();
    for file in last.state.iter().filter(|f| f.table == "watermark/partitions") {
        let rows = state::read(store, file)?;
        let (topics, partitions) = (text(&rows, "topic")?, numbers(&rows, "partition")?);
        let highest = times(&rows, "highest")?;
        let flag = |name: &str| Ok::<_, Error>(column(&rows, name)?.as_boolean().clone());
        let (idle, finished) = (flag("idle")?, flag("finished")?);
        for row in 0..rows.num_rows() {
            let (topic, partition) = (topics.value(row).to_owned(), partitions.value(row) as i32);
            let highest = highest.is_valid(row).then(|| highest.value(row));
            let watermark = highest.map(|h| h.saturating_sub(lateness));
            let holds_back = !idle.value(row) && !finished.value(row);
            let mark = PartitionMark { topic: topic.clone(), partition, highest, watermark, holds_back };
            found.insert((topic, partition), mark);
        }
    }
    Ok(found.into_values().collect())
}

/// What one log entry did to the files of the lake, for loads that follow the log.
#[derive(Debug, Clone, Serialize)]
pub struct LogEntry {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub kind: Kind,
    /// Files that came.
    pub files: Vec<FileEntry>,
    /// Files that went.
    pub removed: Vec<FileEntry>,
    /// The source's partitions that moved, as they stand after it.
    pub partitions: Vec<PartitionState>,
}

/// The numbers of a pipeline's shards; none where it has none.
///
/// # Errors
/// [`Error::Lake`] when the lake is not there, [`Error::Checkpoint`] when the pipeline's identity is damaged.
pub fn shard_numbers(spec: &PipelineSpec) -> Result<Vec<u32>> {
    let lake = open_lake(spec, false)?;
    let numbers = shards::journals(&lake, &spec.name)?.iter().map(Journal::shard).collect::<Vec<_>>();
    Ok(numbers.into_iter().filter(|number| *number > 0).collect())
}

/// The log entries after `since` (all when not given), oldest first; of one shard, where the pipeline has any.
///
/// # Errors
/// As [`inspect`].
pub fn entries(spec: &PipelineSpec, shard: u32, since: Option<u64>) -> Result<Vec<LogEntry>> {
    let lake = open_lake(spec, false)?;
    let commits = Journal::of_shard(&lake, &spec.name, shard).commits(since)?;
    let entry = |c: Commit| LogEntry {
        number: c.number,
        kind: c.kind,
        files: c.files,
        removed: c.removed,
        partitions: c.partitions,
    };
    Ok(commits.into_iter().map(entry).collect())
}

/// The data files of a layer that count, of one pipeline or of all in the lake.
///
/// # Errors
/// [`Error::Lake`] when the lake or the pipeline is not there.
pub fn live_files(
    lake_url: &str,
    options: &LakeOptions,
    layer: &str,
    pipeline: Option<&str>,
) -> Result<Vec<FileEntry>> {
    let lake = Lake::open(lake_url, options)?;
    let mut found = vec![];
    for object in lake.list("_penstock/", None)? {
        if let Some(name) = object.path.strip_prefix("_penstock/").and_then(|p| p.strip_suffix("/pipeline.json")) {
            found.push(name.to_owned());
        }
    }
    let wanted: Vec<String> = match pipeline {
        Some(name) if found.iter().any(|f| f == name) => vec![name.to_owned()],
        Some(name) => {
            let there = if found.is_empty() {
                "no pipeline has written here".into()
            } else {
                format!("there are: {}", found.join(", "))
            };
            return Err(Error::lake(lake_url, format!("has no pipeline {name}; {there}")));
        }
        None if found.is_empty() => {
            return Err(Error::lake(lake_url, "is no lake of Penstock: no pipeline has written here"));
        }
        None => found,
    };
    let mut files = vec![];
    for name in wanted {
        for journal in shards::journals(&lake, &name)? {
            if let Some(live) = journal.live()? {
                files.extend(live.files.into_values().filter(|f| f.layer == layer));
            }
        }
    }
    Ok(files)
}
