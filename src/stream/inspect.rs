//! A look at a pipeline from outside: its log, its state, its layers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::change::Change;
use super::journal::Journal;
use super::ledger::Counts;
use super::log::{Commit, FileEntry, Kind, StateFile};
use super::partitions::Partitions;
use super::run::open_lake;
use super::spec::PipelineSpec;
use crate::error::{Error, Result};
use crate::lake::{Lake, LakeOptions};
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
    /// Lines without an end, left unread.
    pub unread: Vec<Unread>,
    /// The tables of state, with the files that make them up.
    pub state: Vec<StateFile>,
    /// Files, rows and bytes by layer.
    pub layers: BTreeMap<String, LayerSize>,
    /// The newest epochs, newest last.
    pub epochs: Vec<Entry>,
}

/// An entry of the log.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
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

impl From<&Commit> for Entry {
    fn from(commit: &Commit) -> Self {
        Self {
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

/// Looks at a pipeline; `epochs` is how many of the newest entries are listed.
///
/// # Errors
/// [`Error::Lake`] when there is no such pipeline, [`Error::Checkpoint`] when its log is damaged or too new.
pub fn inspect(spec: &PipelineSpec, epochs: usize) -> Result<Inspection> {
    let lake = open_lake(spec, false)?;
    let journal = Journal::new(&lake, &spec.name);
    let head = journal.head()?;
    let Some(live) = journal.live()? else {
        return Err(Error::lake(&spec.lake, format!("pipeline {} has committed nothing yet; run it first", spec.name)));
    };
    let mut layers: BTreeMap<String, LayerSize> = BTreeMap::new();
    for file in live.files.values() {
        let layer = layers.entry(file.layer.clone()).or_default();
        layer.files += 1;
        layer.rows += file.rows;
        layer.bytes += file.bytes;
    }
    let from = (live.last.number + 1).saturating_sub(epochs as u64);
    let entries =
        (from..=live.last.number).map(|n| Ok(Entry::from(&journal.commit(n)?))).collect::<Result<Vec<_>>>()?;
    Ok(Inspection {
        balanced: live.last.ledger.counts.balanced(),
        counts: live.last.ledger.counts.clone(),
        watermark: live.last.watermark,
        planned: head.plan.map(|p| p.number()),
        partitions: Partitions::read(&lake, &live.last)?.all(),
        unread: live.last.unread.clone(),
        state: live.last.state.clone(),
        layers,
        last: Entry::from(&live.last),
        epochs: entries,
    })
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
}

/// The log entries after `since` (all when not given), oldest first.
///
/// # Errors
/// As [`inspect`].
pub fn entries(spec: &PipelineSpec, since: Option<u64>) -> Result<Vec<LogEntry>> {
    let lake = open_lake(spec, false)?;
    let commits = Journal::new(&lake, &spec.name).commits(since)?;
    let entry = |c: Commit| LogEntry { number: c.number, kind: c.kind, files: c.files, removed: c.removed };
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
        if let Some(live) = Journal::new(&lake, &name).live()? {
            files.extend(live.files.into_values().filter(|f| f.layer == layer));
        }
    }
    Ok(files)
}
