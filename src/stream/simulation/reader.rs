//! A reader of the log that looks at every commit: no event twice, none missing up to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use super::topic::{Is, Topic};
use crate::stream::ledger::Counts;
use crate::stream::log::{Commit, FileEntry, Kind, parse};

/// What of a Silver row is compared: what the pipeline made of it, and where it came from.
const SILVER: &[&str] =
    &["event_time", "entity", "session_id", "session_start", "session_seq", "_topic", "_partition", "_offset"];
/// What is read of Bronze, of dead letters and of their settlement.
const BRONZE: &[&str] = &["partition", "offset"];
const DEAD: &[&str] = &["partition", "offset", "code"];
const SETTLED: &[&str] = &["partition", "offset", "became"];

/// Partition and offset.
pub type Position = (i32, i64);

/// A data file that counts, and what was read in it: each position with a text.
#[derive(Clone)]
struct File {
    entry: FileEntry,
    rows: Arc<Vec<(Position, String)>>,
}

/// Rows by position, with what is said of each.
type Rows = BTreeMap<Position, String>;

/// What a reader has seen so far.
#[derive(Clone)]
pub struct Reader {
    truth: Arc<BTreeMap<Position, Is>>,
    /// Whether no event can be late.
    on_time: bool,
    /// Whether it looks at the log alone, and not into the files.
    log_alone: bool,
    next: u64,
    /// How far each partition was read.
    reached: BTreeMap<i32, i64>,
    files: BTreeMap<String, File>,
    bronze: Rows,
    silver: Rows,
    /// Dead letters, with their first problem.
    pub dead: Rows,
    /// Dead letters that found another place.
    settled: Rows,
    /// Sessions, as text.
    pub sessions: BTreeSet<String>,
    /// How often state was written whole, when there was some before.
    pub merges: u64,
    /// Entries that are no epochs.
    pub entries: u64,
    /// The last commit.
    pub last: Option<Commit>,
}

/// The rows of a data file: these columns, all when none is named.
fn rows(bytes: Bytes, names: &[&str]) -> Result<Vec<RecordBatch>, String> {
    let read = || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        let columns = match names {
            [] => ProjectionMask::all(),
            names => ProjectionMask::columns(builder.parquet_schema(), names.iter().copied()),
        };
        builder.with_projection(columns).build()?.collect::<Result<Vec<_>, _>>().map_err(Into::into)
    };
    read().map_err(|e: ParquetError| format!("cannot be read: {e}"))
}

fn positions(rows: &RecordBatch, partition: &str, offset: &str) -> Vec<Position> {
    let partitions = rows[partition].as_primitive::<Int32Type>();
    let offsets = rows[offset].as_primitive::<Int64Type>();
    partitions.values().iter().copied().zip(offsets.values().iter().copied()).collect()
}

/// Rows as text.
fn texts(rows: &RecordBatch) -> Vec<String> {
    let options = arrow::util::display::FormatOptions::default().with_null("∅");
    // Times as numbers.
    let plain: Vec<_> = rows
        .columns()
        .iter()
        .map(|c| match c.data_type() {
            DataType::Timestamp(..) => cast(c, &DataType::Int64).expect("a time is a number"),
            _ => c.clone(),
        })
        .collect();
    let columns: Vec<_> = plain
        .iter()
        .map(|c| arrow::util::display::ArrayFormatter::try_new(c.as_ref(), &options).expect("a type that can be shown"))
        .collect();
    (0..rows.num_rows())
        .map(|row| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|"))
        .collect()
}

/// What stands in a file: positions and a text each; sessions have a text alone.
fn content(layer: &str, bytes: Bytes) -> Result<Vec<(Position, String)>, String> {
    let names = match layer {
        "bronze/events" => BRONZE,
        "silver/events" => SILVER,
        "dead_letters" => DEAD,
        "settled" => SETTLED,
        "silver/sessions" => &[],
        layer if layer.starts_with("gold/") => &["window_start"],
        other => return Err(format!("{other} is no layer that the reader knows")),
    };
    let mut found = vec![];
    for rows in rows(bytes, names)? {
        let text = |name: &str| rows[name].as_string::<i32>().iter().map(|t| t.unwrap_or("∅").to_owned()).collect();
        let nothing = || vec![String::new(); rows.num_rows()];
        let (at, texts): (Vec<Position>, Vec<String>) = match layer {
            "bronze/events" => (positions(&rows, "partition", "offset"), nothing()),
            "silver/events" => (positions(&rows, "_partition", "_offset"), texts(&rows)),
            "dead_letters" => (positions(&rows, "partition", "offset"), text("code")),
            "settled" => (positions(&rows, "partition", "offset"), text("became")),
            "silver/sessions" => (vec![(0, 0); rows.num_rows()], texts(&rows)),
            _ => (vec![(0, 0); rows.num_rows()], nothing()),
        };
        found.extend(at.into_iter().zip(texts));
    }
    Ok(found)
}

impl Reader {
    /// A reader of a topic's lake.
    pub fn new(topic: &Topic, on_time: bool) -> Self {
        Self {
            truth: Arc::new(topic.truth()),
            on_time,
            log_alone: false,
            next: 0,
            reached: BTreeMap::new(),
            files: BTreeMap::new(),
            bronze: Rows::new(),
            silver: Rows::new(),
            dead: Rows::new(),
            settled: Rows::new(),
            sessions: BTreeSet::new(),
            merges: 0,
            entries: 0,
            last: None,
        }
    }

    /// One that does not look into the files.
    pub fn of_the_log(mut self) -> Self {
        self.log_alone = true;
        self
    }

    /// Looks at a commit the moment that it was put.
    pub fn look(&mut self, get: &dyn Fn(&str) -> Option<Bytes>, path: &str, bytes: &Bytes) -> Result<(), String> {
        let commit: Commit = parse(path, bytes).map_err(|e| e.to_string())?;
        if commit.number != self.next {
            return Err(format!("{path} was put, and {} is due", self.next));
        }
        self.next += 1;
        if commit.kind == Kind::Void && (!commit.files.is_empty() || commit.counts != Counts::default()) {
            return Err(format!("{path} is void, and counts files or events"));
        }
        self.entries += u64::from(!matches!(commit.kind, Kind::Run | Kind::Void));
        for file in &commit.state {
            if get(&file.path).is_none_or(|b| b.len() as u64 != file.bytes) {
                return Err(format!("{path} counts the state {}, which is not there", file.path));
            }
        }
        for file in &commit.removed {
            let known = self.files.remove(&file.path).ok_or_else(|| format!("{path} removes {}", file.path))?;
            self.forget(&known);
        }
        for entry in &commit.files {
            let Some(bytes) = get(&entry.path) else {
                return Err(format!("{path} counts {}, which is not there", entry.path));
            };
            if bytes.len() as u64 != entry.bytes {
                return Err(format!("{path} counts {} with another size", entry.path));
            }
            let rows = if self.log_alone { vec![] } else { content(&entry.layer, bytes)? };
            if !self.log_alone && rows.len() as u64 != entry.rows {
                return Err(format!("{path}: {} has {} rows, not {}", entry.path, rows.len(), entry.rows));
            }
            let file = File { entry: entry.clone(), rows: Arc::new(rows) };
            self.take(&file).map_err(|law| format!("{path}, {}: {law}", entry.path))?;
            if self.files.insert(entry.path.clone(), file).is_some() {
                return Err(format!("{path} counts {} twice", entry.path));
            }
        }
        let whole = commit.state.first().is_some_and(|f| f.epoch == commit.number);
        self.merges += u64::from(whole && self.last.as_ref().is_some_and(|c| !c.state.is_empty()));
        if !self.log_alone {
            self.judge(&commit).map_err(|law| format!("{path}: {law}"))?;
        }
        self.last = Some(commit);
        Ok(())
    }

    fn table(&mut self, layer: &str) -> Option<&mut Rows> {
        match layer {
            "bronze/events" => Some(&mut self.bronze),
            "silver/events" => Some(&mut self.silver),
            "dead_letters" => Some(&mut self.dead),
            "settled" => Some(&mut self.settled),
            _ => None,
        }
    }

    fn forget(&mut self, file: &File) {
        for (at, text) in file.rows.iter() {
            if let Some(table) = self.table(&file.entry.layer) {
                table.remove(at);
            } else {
                self.sessions.remove(text);
            }
        }
    }

    fn take(&mut self, file: &File) -> Result<(), String> {
        let layer = file.entry.layer.as_str();
        for (at, text) in file.rows.iter() {
            if let Some(table) = self.table(layer) {
                if table.insert(*at, text.clone()).is_some() {
                    return Err(format!("{at:?} is in {layer} twice"));
                }
                if !self.truth.contains_key(at) {
                    return Err(format!("{at:?} is no record of the topic"));
                }
            } else if layer == "silver/sessions" && !self.sessions.insert(text.clone()) {
                return Err(format!("the session {text} was written twice"));
            }
        }
        Ok(())
    }

    /// Whether what was read up to this commit is all there, once, and nothing more.
    fn judge(&mut self, commit: &Commit) -> Result<(), String> {
        for partition in &commit.partitions {
            let before = self.reached.insert(partition.partition, partition.position);
            if before > Some(partition.position) {
                return Err(format!("partition {} went back from {before:?}", partition.partition));
            }
        }
        let mut keys = BTreeMap::new();
        for at in self.silver.keys() {
            let Some(key) = self.key(at) else { return Err(format!("{at:?} is in Silver, and is no event")) };
            if let Some(other) = keys.insert(key, at) {
                return Err(format!("the event k{key} is in Silver twice, by {other:?} and {at:?}"));
            }
        }
        for (at, code) in &self.dead {
            let is = &self.truth[at];
            if (*is == Is::Dirt) == (code == "late") || self.on_time && code == "late" {
                return Err(format!("{at:?} is {is:?}, and a dead letter for {code}"));
            }
        }
        let watermark = commit.watermark.unwrap_or(i64::MIN);
        let mut held = 0;
        for (at, is) in self.truth.iter() {
            let read = self.reached.get(&at.0).is_some_and(|to| at.1 < *to);
            if read != self.bronze.contains_key(at) {
                let says = if read { "is missing from Bronze" } else { "is in Bronze before its time" };
                return Err(format!("{at:?} ({is:?}) {says}"));
            }
            let (silver, dead) = (self.silver.contains_key(at), self.is_dead(at));
            match is {
                _ if silver && dead => return Err(format!("{at:?} is in Silver, and a dead letter")),
                _ if (silver || dead) && !read => return Err(format!("{at:?} ({is:?}) is there before its time")),
                _ if silver || dead || !read => {}
                Is::Event { key, .. } if keys.contains_key(key) => held += 1,
                Is::Event { time, .. } if *time >= watermark => held += 1,
                is => return Err(format!("{at:?} ({is:?}) is nowhere, though the watermark is at {watermark}")),
            }
        }
        let counts = &commit.ledger.counts;
        let dead = self.dead.keys().filter(|at| self.is_dead(at));
        for (what, ledger, found) in [
            ("consumed", counts.consumed, self.bronze.len()),
            ("silver", counts.silver, self.silver.len()),
            ("dead letters", counts.rejected + counts.late, dead.clone().count()),
            ("late", counts.late, dead.filter(|at| self.dead[at] == "late").count()),
            ("settled", counts.settled, self.settled.len()),
            ("sessions", counts.sessions, self.sessions.len()),
            ("pending and duplicate", counts.pending + counts.duplicate, held),
        ] {
            if ledger != found as i64 {
                return Err(format!("the ledger says {ledger} {what}, and {found} are found"));
            }
        }
        if !counts.balanced() {
            return Err(format!("the ledger does not balance: {counts:?}"));
        }
        Ok(())
    }

    /// Whether a position is a dead letter that found no other place.
    fn is_dead(&self, at: &Position) -> bool {
        self.dead.contains_key(at) && !self.settled.contains_key(at)
    }

    /// What must hold once all is drained: every event is in Silver once, or was late.
    pub fn drained(&self) -> Result<(), String> {
        if self.bronze.len() != self.truth.len() {
            return Err(format!("{} of {} records were read in the end", self.bronze.len(), self.truth.len()));
        }
        if let Some(pending) = self.last.as_ref().map(|c| c.ledger.counts.pending).filter(|n| *n != 0) {
            return Err(format!("{pending} events are held in the end"));
        }
        let keys = |rows: &Rows| rows.keys().filter_map(|at| self.key(at)).collect::<BTreeSet<u32>>();
        let (silver, late) = (keys(&self.silver), keys(&self.dead));
        let all: BTreeSet<u32> = self.truth.keys().filter_map(|at| self.key(at)).collect();
        match all.iter().find(|key| !silver.contains(key) && !late.contains(key)) {
            Some(key) => Err(format!("the event k{key} is nowhere in the end")),
            None => Ok(()),
        }
    }

    /// What must hold once the late events were replayed: none is late any more.
    pub fn replayed(&self) -> Result<(), String> {
        self.drained()?;
        match self.dead.iter().find(|(at, code)| *code == "late" && self.is_dead(at)) {
            Some((at, _)) => Err(format!("{at:?} is late still")),
            None => Ok(()),
        }
    }

    fn key(&self, at: &Position) -> Option<u32> {
        match self.truth.get(at) {
            Some(Is::Event { key, .. }) => Some(*key),
            _ => None,
        }
    }

    /// The rows of Silver by key, without the position where another partition has the same event.
    pub fn silver_rows(&self) -> BTreeMap<u32, String> {
        let mut partitions: BTreeMap<u32, BTreeSet<i32>> = BTreeMap::new();
        for at in self.truth.keys() {
            if let Some(key) = self.key(at) {
                partitions.entry(key).or_default().insert(at.0);
            }
        }
        let rows = self.silver.iter().filter_map(|(at, text)| Some((self.key(at)?, text)));
        rows.map(|(key, text)| match partitions[&key].len() {
            1 => (key, text.clone()),
            _ => (key, text.rsplitn(4, '|').last().unwrap_or_default().to_owned()),
        })
        .collect()
    }

    /// The files that count, by path.
    pub fn files(&self) -> BTreeMap<String, FileEntry> {
        self.files.iter().map(|(path, file)| (path.clone(), file.entry.clone())).collect()
    }
}
