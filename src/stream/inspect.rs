//! A look at a pipeline from outside: its log, its state, its layers.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde::Serialize;

use super::change::Change;
use super::journal::Journal;
use super::ledger::Counts;
use super::log::{Commit, FileEntry, Kind, Snapshot, StateFile};
use super::operators::Operators;
use super::partitions::Partitions;
use super::run::{contract_of, open_lake};
use super::spec::PipelineSpec;
use super::state;
use super::store::Store;
use crate::error::{Error, Result};
use crate::lake::{Lake, LakeOptions};
use crate::sources::lake::{StoredFile, column, numbers, text, times};
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

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The first problem's code.
    pub code: String,
    /// Where in the document that was found, as a JSON Pointer.
    pub pointer: String,
    /// What it is.
    pub message: String,
    /// The beginning of what stood there.
    pub value: Option<String>,
    /// Where the event came from.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
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

/// Looks at a pipeline; `epochs` is how many of the newest entries are listed, `samples` how many dead letters of a code.
///
/// # Errors
/// [`Error::Lake`] when there is no such pipeline, [`Error::Checkpoint`] when its log is damaged or too new.
pub fn inspect(spec: &PipelineSpec, epochs: usize, samples: usize) -> Result<Inspection> {
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
        watermarks: watermarks(&lake, spec, &live.last)?,
        samples: sample(&lake, &live, samples)?,
        unread: live.last.unread.clone(),
        state: live.last.state.clone(),
        layers,
        last: Entry::from(&live.last),
        epochs: entries,
    })
}

fn watermarks(store: &dyn Store, spec: &PipelineSpec, last: &Commit) -> Result<Vec<PartitionMark>> {
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
            let watermark = highest.map(|h| h.saturating_sub(spec.watermark.lateness_us));
            let holds_back = !idle.value(row) && !finished.value(row);
            let mark = PartitionMark { topic: topic.clone(), partition, highest, watermark, holds_back };
            found.insert((topic, partition), mark);
        }
    }
    Ok(found.into_values().collect())
}

/// Some dead letters of each code, out of as few files as that takes, the newest first.
fn sample(store: &dyn Store, live: &Snapshot, each: usize) -> Result<Vec<Sample>> {
    let counts = &live.last.ledger.counts;
    let mut wanted: BTreeMap<String, usize> = counts
        .rejected_by_code
        .iter()
        .map(|(code, count)| (code.as_str().to_owned(), *count))
        .chain([("late".to_owned(), counts.late)])
        .filter(|(_, count)| *count > 0)
        .map(|(code, count)| (code, each.min(usize::try_from(count).unwrap_or(usize::MAX))))
        .filter(|(_, want)| *want > 0)
        .collect();
    let mut files: Vec<&FileEntry> = live.files.values().filter(|f| f.layer == "dead_letters").collect();
    // Names hold the epoch.
    files.sort_by(|a, b| b.path.rsplit('/').next().cmp(&a.path.rsplit('/').next()));
    let columns = ["code", "problems", "topic", "partition", "offset"];
    let mut found = vec![];
    for file in files {
        if wanted.is_empty() {
            break;
        }
        StoredFile::open(store, file)?.read(store, Some(&columns), None, &mut |rows| {
            let codes = text(&rows, "code")?;
            for row in (0..rows.num_rows()).rev() {
                let Some(left) = wanted.get_mut(codes.value(row)) else { continue };
                *left -= 1;
                if *left == 0 {
                    wanted.remove(codes.value(row));
                }
                found.push(letter(&rows, row, codes.value(row))?);
            }
            Ok(())
        })?;
    }
    found.sort_by(|a, b| (&a.code, &b.topic, b.partition, b.offset).cmp(&(&b.code, &a.topic, a.partition, a.offset)));
    Ok(found)
}

fn letter(rows: &RecordBatch, row: usize, code: &str) -> Result<Sample> {
    let problems = column(rows, "problems")?.as_list::<i32>().value(row);
    let problems = problems.as_struct();
    let of = |name: &str| {
        let column = cast(problems.column_by_name(name)?, &DataType::Utf8).ok()?;
        let column = column.as_string::<i32>();
        (!column.is_empty() && column.is_valid(0)).then(|| column.value(0).to_owned())
    };
    Ok(Sample {
        code: code.to_owned(),
        pointer: of("pointer").unwrap_or_default(),
        message: of("message").unwrap_or_default(),
        value: of("value"),
        topic: text(rows, "topic")?.value(row).to_owned(),
        partition: numbers(rows, "partition")?.value(row) as i32,
        offset: numbers(rows, "offset")?.value(row),
    })
}

/// A table of the state: its files put together, so that of what was saved more than once only the newest stands.
///
/// # Errors
/// As [`inspect`]; [`Error::Settings`] when there is no such table, naming those that are.
pub fn state_table(spec: &PipelineSpec, table: &str) -> Result<RecordBatch> {
    let lake = open_lake(spec, false)?;
    let journal = Journal::new(&lake, &spec.name);
    let Some(last) = journal.head()?.commit else {
        return Err(Error::lake(&spec.lake, format!("pipeline {} has committed nothing yet; run it first", spec.name)));
    };
    let files: Vec<&StateFile> = last.state.iter().filter(|f| f.table == table).collect();
    if files.is_empty() {
        let tables: BTreeSet<&str> = last.state.iter().map(|f| f.table.as_str()).collect();
        let tables: Vec<&str> = tables.into_iter().collect();
        return Err(Error::settings("table", format!("there is no {table}; there are: {}", tables.join(", "))));
    }
    let saved = files.into_iter().map(|f| state::read(&lake, f)).collect::<Result<Vec<_>>>()?;
    if table == super::partitions::TABLE {
        return super::partitions::combine(&saved);
    }
    // The state is that of the contract and the settings that the commit was made with.
    let origin = journal.origin(&last)?;
    let shape = origin.as_ref().map_or_else(|| spec.shape(), |o| o.shape.clone());
    let text = origin.map_or_else(|| Ok(spec.contract_text.clone()), |o| journal.contract(&o.contract))?;
    let contract = contract_of(&text, &spec.contract_path, &shape)?;
    Operators::new(&shape, &contract.schema())?.combine(table, &saved)
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
