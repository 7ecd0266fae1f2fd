//! What stands in the log of a pipeline: terms, plans, commits and snapshots, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::Xxh3Default;

use super::change::Change;
use super::ledger::{Counts, Ledger};
use super::spec::Shape;
use crate::error::{Error, Result};
use crate::sinks::parquet::DataFile;
use crate::sources::{PartitionState, Range, Unread};

/// The version of the log's format. A lake with a higher one was made by a newer Penstock.
pub const FORMAT: u32 = 1;

/// Who runs a pipeline. The newest term owns it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Term {
    /// Version of the format.
    pub format: u32,
    /// Counted from 1.
    pub number: u64,
    /// Random: tells our own put from another's when a reply was lost.
    pub id: String,
    /// The machine.
    pub host: String,
    /// The process.
    pub process: u32,
    /// Penstock's version.
    pub version: String,
    /// When it was taken, in microseconds since the Unix epoch.
    pub taken_at: i64,
}

impl Term {
    /// Host, process and version, for people.
    pub fn holder(&self) -> String {
        format!("process {} on {} (penstock {})", self.process, self.host, self.version)
    }
}

/// What a pipeline keeps for ever.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the format.
    pub format: u32,
    /// The pipeline's name.
    pub name: String,
    /// The key of the deduplication's hash, as 32 hex digits.
    pub key: String,
    /// When the pipeline was made.
    pub created_at: i64,
    /// In how many shards it runs; none: it has no shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
}

/// One tick of an epoch: what had just come, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "SavedTick")]
pub struct Tick {
    /// When it was read, in microseconds since the Unix epoch.
    pub arrival: i64,
    /// What was read: of each partition at most one stretch, by topic and partition. Events come in this order.
    pub ranges: Vec<Range>,
    /// How many events are in it.
    pub events: u64,
    /// How many bytes of values.
    pub bytes: u64,
}

/// A tick as it stands in a log; the first version had one range in each.
#[derive(Deserialize)]
struct SavedTick {
    arrival: i64,
    #[serde(default)]
    ranges: Vec<Range>,
    #[serde(default)]
    range: Option<Range>,
    events: u64,
    bytes: u64,
}

impl From<SavedTick> for Tick {
    fn from(saved: SavedTick) -> Self {
        let mut ranges = saved.ranges;
        ranges.extend(saved.range);
        Self { arrival: saved.arrival, ranges, events: saved.events, bytes: saved.bytes }
    }
}

/// What an epoch is going to do, put before its first durable write.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the format.
    pub format: u32,
    /// The epoch.
    pub number: u64,
    /// The term that planned it.
    pub term: u64,
    /// The term's random id.
    pub term_id: String,
    /// What is read, tick by tick.
    pub ticks: Vec<Tick>,
    /// The source's partitions that moved, as they stand after the epoch (in the first version all of them).
    pub partitions: Vec<PartitionState>,
    /// Partitions that are known from now on and not yet begun: they hold the watermark.
    #[serde(default)]
    pub waiting: Vec<(String, i32)>,
    /// Partitions that went before anything of them was read: they do not hold the watermark any more.
    #[serde(default)]
    pub gone: Vec<(String, i32)>,
    /// Whether the input ends here: sessions close and nothing stays pending.
    pub flush: bool,
    /// The partitions that are quiet for longer than `idle_timeout` now: they do not hold the watermark.
    #[serde(default)]
    pub idle: Vec<(String, i32)>,
    /// The partitions that were quiet and are no longer. In the first version there is none, and `idle` names all that are
    /// quiet.
    #[serde(default)]
    pub woken: Option<Vec<(String, i32)>>,
    /// Where the watermark moves to though nothing came, when every partition is quiet.
    #[serde(default)]
    pub idle_watermark: Option<i64>,
    /// The contract, by the digest of its text.
    pub contract: String,
    /// The settings that shape rows.
    pub shape: Shape,
    /// What changed of contract and settings since the entry before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// The fingerprint of the secret that personal properties are hashed with, where the contract has such.
    #[serde(default)]
    pub secret: Option<String>,
    /// Lines that were left unread because they have no end yet.
    #[serde(default)]
    pub unread: Vec<Unread>,
    /// Positions that are gone for ever, whose loss was accepted: the ranges go on behind them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Range>,
}

/// A data file of the lake.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path below the lake's root.
    pub path: String,
    /// `bronze/events`, `silver/events`, …
    pub layer: String,
    /// How many rows it has.
    pub rows: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// The lowest event time in it, in microseconds since the Unix epoch.
    pub min_event_time: Option<i64>,
    /// The highest event time in it.
    pub max_event_time: Option<i64>,
    /// What its bytes hash to (XXH3, 64 bits, hexadecimal); none in logs of older versions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
}

impl FileEntry {
    /// The entry of a file that is about to be put.
    pub fn of(layer: &str, file: &DataFile) -> Self {
        Self {
            path: file.path.clone(),
            layer: layer.to_owned(),
            rows: file.rows,
            bytes: file.content.len() as u64,
            min_event_time: file.min_time,
            max_event_time: file.max_time,
            digest: Some(digest_of(file.content.pieces())),
        }
    }

    /// Whether these are the bytes that were put, as far as the log says.
    pub fn is_whole(&self, bytes: &[u8]) -> bool {
        self.bytes == bytes.len() as u64 && self.digest.as_ref().is_none_or(|digest| *digest == digest_of(&[bytes]))
    }
}

fn digest_of(pieces: &[impl AsRef<[u8]>]) -> String {
    let mut hash = Xxh3Default::new();
    pieces.iter().for_each(|piece| hash.update(piece.as_ref()));
    format!("{:016x}", hash.digest())
}

/// A file of state that counts: what changed in a table, older files first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateFile {
    /// The table (`dedup/keys`).
    pub table: String,
    /// Its path below the lake's root.
    pub path: String,
    /// The epoch that wrote it.
    pub epoch: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// How many rows it has; 0 in entries of a version that did not say.
    #[serde(default)]
    pub rows: u64,
    /// The highest moment in it, in microseconds since the Unix epoch, where its rows expire.
    #[serde(default)]
    pub newest: Option<i64>,
}

/// What a log entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An epoch of the stream.
    Run,
    /// An epoch of the stream that was given up: nothing of it counts, and its ranges are read again in a later one.
    Void,
    /// Dead letters judged once more.
    Replay,
    /// A range of Silver made anew from Bronze.
    Backfill,
    /// Small files made into larger ones.
    Compact,
    /// Old files thrown away.
    Retention,
}

/// A log entry that is no epoch: what it is going to commit, whole. With this put, it counts: whoever meets it without
/// its commit puts the commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EntryPlan {
    /// Version of the format.
    pub format: u32,
    /// What kind of entry this is. A plan of an epoch has none.
    pub kind: Kind,
    /// The commit, as it is going to be put.
    pub commit: Commit,
}

/// What a number of the log is planned to be.
#[derive(Debug, Clone)]
pub enum Planned {
    /// An epoch of the stream.
    Run(Box<Plan>),
    /// Another entry.
    Entry(Box<EntryPlan>),
}

impl Planned {
    /// Parses either.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Header {
            #[serde(default)]
            kind: Option<Kind>,
        }
        // What is damaged or too new is said by the second look.
        match serde_json::from_slice::<Header>(bytes) {
            Ok(Header { kind: Some(_) }) => Ok(Self::Entry(Box::new(parse(path, bytes)?))),
            _ => Ok(Self::Run(Box::new(parse(path, bytes)?))),
        }
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        match self {
            Self::Run(plan) => plan.number,
            Self::Entry(entry) => entry.commit.number,
        }
    }

    /// The plan of an epoch, if it is one.
    pub fn run(self) -> Option<Plan> {
        match self {
            Self::Run(plan) => Some(*plan),
            Self::Entry(_) => None,
        }
    }
}

/// What the state of the operators follows from, beside the events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The contract, by digest.
    pub contract: String,
    /// The settings that shape rows.
    pub shape: Shape,
    /// A fingerprint of the secret that personal properties were hashed with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<String>,
}

/// What an epoch did. With this put, it counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    /// Version of the format.
    pub format: u32,
    /// The epoch.
    pub number: u64,
    /// What kind of entry this is.
    pub kind: Kind,
    /// The term that committed it.
    pub term: u64,
    /// The term's random id.
    pub term_id: String,
    /// What became of this epoch's events.
    pub counts: Counts,
    /// The sums since the pipeline began.
    pub ledger: Ledger,
    /// The watermark after it.
    pub watermark: Option<i64>,
    /// The data files that came.
    pub files: Vec<FileEntry>,
    /// The data files that went.
    #[serde(default)]
    pub removed: Vec<FileEntry>,
    /// The state that counts now, file after file.
    pub state: Vec<StateFile>,
    /// The source's partitions that moved. All of them stand in the state (`source/partitions`); in the first version they
    /// stood here.
    pub partitions: Vec<PartitionState>,
    /// The contract, by digest.
    pub contract: String,
    /// What the state that counts follows from. In the first version the epoch's plan alone said so.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// What changed of contract and settings with this epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// When it was committed, in microseconds since the Unix epoch.
    pub committed_at: i64,
    /// What an entry that is no epoch was asked for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Lines left unread.
    #[serde(default)]
    pub unread: Vec<Unread>,
}

/// All that a start or a reader needs of the entries up to one number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the format.
    pub format: u32,
    /// The last commit in it.
    pub last: Commit,
    /// The data files that count after it, by path.
    pub files: BTreeMap<String, FileEntry>,
}

/// Parses an object of the log, and says clearly when it is damaged or too new.
///
/// # Errors
/// [`Error::Checkpoint`] naming the object.
pub fn parse<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Header {
        format: u32,
    }
    let damaged = |e: serde_json::Error| {
        Error::checkpoint(
            path,
            format!("damaged ({e}). Nothing was changed; bring the object back from a backup or a replica of the lake"),
        )
    };
    let header: Header = serde_json::from_slice(bytes).map_err(damaged)?;
    if header.format > FORMAT {
        return Err(Error::checkpoint(
            path,
            format!(
                "made by a newer Penstock (format {}, this one knows up to {FORMAT}); upgrade this one, nothing was changed",
                header.format
            ),
        ));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Writes an object of the log.
///
/// # Errors
/// [`Error::Internal`] when it cannot be written as JSON, which cannot happen for the types of this module.
pub fn render<T: Serialize>(value: &T) -> Result<bytes::Bytes> {
    let mut text = serde_json::to_vec(value).map_err(|e| Error::Internal(e.to_string()))?;
    text.push(b'\n');
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_one_range_are_still_read() {
        let old = r#"{"arrival":1,"range":{"topic":"a","partition":0,"from":2,"to":5},"events":3,"bytes":9}"#;
        let tick: Tick = serde_json::from_str(old).unwrap();
        assert_eq!(tick.ranges.len(), 1);
        let again: Tick = serde_json::from_str(&serde_json::to_string(&tick).unwrap()).unwrap();
        assert_eq!(again, tick);
    }
}
