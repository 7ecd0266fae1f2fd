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

/// What is read of Bronze and of dead letters.
const BRONZE: &[&str] = &["partition", "offset"];
const DEAD: &[&str] = &["partition", "offset", "code"];

/// Partition and offset.
pub type Position = (i32, i64);

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
    files: BTreeMap<String, FileEntry>,
    bronze: BTreeSet<Position>,
    /// Silver: each position, and its row as text.
    pub silver: BTreeMap<Position, String>,
    /// Sessions, as text.
    pub sessions: BTreeSet<String>,
    keys: BTreeSet<u32>,
    /// Dead letters, with their first problem.
    pub dead: BTreeMap<Position, String>,
    /// Read, and neither in Silver nor a dead letter: pending or a duplicate.
    open: BTreeSet<Position>,
    /// How often state was written whole, when there was some before.
    pub merges: u64,
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
            bronze: BTreeSet::new(),
            silver: BTreeMap::new(),
            sessions: BTreeSet::new(),
            keys: BTreeSet::new(),
            dead: BTreeMap::new(),
            open: BTreeSet::new(),
            merges: 0,
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
        for file in &commit.state {
            if get(&file.path).is_none_or(|b| b.len() as u64 != file.bytes) {
                return Err(format!("{path} counts the state {}, which is not there", file.path));
            }
        }
        for file in &commit.files {
            let Some(bytes) = get(&file.path) else {
                return Err(format!("{path} counts {}, which is not there", file.path));
            };
            if bytes.len() as u64 != file.bytes || self.files.insert(file.path.clone(), file.clone()).is_some() {
                return Err(format!("{path} counts {} twice, or with another size", file.path));
            }
            if self.log_alone {
                continue;
            }
            let mut found = 0;
            let names = match file.layer.as_str() {
                "bronze/events" => BRONZE,
                "silver/events" => SILVER,
                "dead_letters" => DEAD,
                "silver/sessions" => &[],
                _ => &["window_start"],
            };
            let rows = rows(bytes, names).map_err(|e| format!("{path}, {}: {e}", file.path))?;
            for rows in rows {
                found += rows.num_rows() as u64;
                self.take(&file.layer, &rows).map_err(|law| format!("{path}, {}: {law}", file.path))?;
            }
            if found != file.rows {
                return Err(format!("{path}: {} has {found} rows, and the entry says {}", file.path, file.rows));
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

    fn take(&mut self, layer: &str, rows: &RecordBatch) -> Result<(), String> {
        match layer {
            "bronze/events" => {
                for at in positions(rows, "partition", "offset") {
                    if !self.truth.contains_key(&at) {
                        return Err(format!("{at:?} is no record of the topic"));
                    }
                    if !self.bronze.insert(at) {
                        return Err(format!("{at:?} is in Bronze twice"));
                    }
                    self.open.insert(at);
                }
            }
            "silver/events" => {
                for (at, text) in positions(rows, "_partition", "_offset").into_iter().zip(texts(rows)) {
                    let Some(Is::Event { key, .. }) = self.truth.get(&at) else {
                        return Err(format!("{at:?} is in Silver, and is no event"));
                    };
                    if !self.keys.insert(*key) {
                        return Err(format!("the event k{key} is in Silver twice, now by {at:?}"));
                    }
                    if self.silver.insert(at, text).is_some() || !self.open.remove(&at) {
                        return Err(format!("{at:?} came to Silver twice, or is not in Bronze"));
                    }
                }
            }
            "dead_letters" => {
                let codes = rows["code"].as_string::<i32>();
                for (at, code) in positions(rows, "partition", "offset").into_iter().zip(codes) {
                    let code = code.unwrap_or_default().to_owned();
                    let is = self.truth.get(&at).ok_or_else(|| format!("{at:?} is no record of the topic"))?;
                    if (*is == Is::Dirt) == (code == "late") || self.on_time && code == "late" {
                        return Err(format!("{at:?} is {is:?}, and a dead letter for {code}"));
                    }
                    if self.dead.insert(at, code).is_some() || !self.open.remove(&at) {
                        return Err(format!("{at:?} came to the dead letters twice, or is not in Bronze"));
                    }
                }
            }
            "silver/sessions" => {
                for text in texts(rows) {
                    if !self.sessions.insert(text.clone()) {
                        return Err(format!("the session {text} was written twice"));
                    }
                }
            }
            layer if layer.starts_with("gold/") => {}
            other => return Err(format!("{other} is no layer that the reader knows")),
        }
        Ok(())
    }

    /// Whether what was read up to this commit is all there, and nothing more.
    fn judge(&mut self, commit: &Commit) -> Result<(), String> {
        let reached = &mut self.reached;
        for partition in &commit.partitions {
            let before = reached.insert(partition.partition, partition.position);
            if before > Some(partition.position) {
                return Err(format!("partition {} went back from {before:?}", partition.partition));
            }
        }
        for (at, is) in self.truth.iter() {
            let read = reached.get(&at.0).is_some_and(|to| at.1 < *to);
            if read != self.bronze.contains(at) {
                let says = if read { "is missing from Bronze" } else { "is in Bronze before its time" };
                return Err(format!("{at:?} ({is:?}) {says}"));
            }
        }
        let watermark = commit.watermark.unwrap_or(i64::MIN);
        let mut settled = vec![];
        for at in &self.open {
            match &self.truth[at] {
                Is::Event { key, .. } if self.keys.contains(key) => settled.push(*at),
                Is::Event { time, .. } if *time >= watermark => {}
                is => return Err(format!("{at:?} ({is:?}) is nowhere, though the watermark is at {watermark}")),
            }
        }
        for at in settled {
            self.open.remove(&at);
        }
        let counts = &commit.ledger.counts;
        let held = self.bronze.len() - self.silver.len() - self.dead.len();
        for (what, ledger, found) in [
            ("consumed", counts.consumed, self.bronze.len()),
            ("silver", counts.silver, self.silver.len()),
            ("dead letters", counts.rejected + counts.late, self.dead.len()),
            ("late", counts.late, self.dead.values().filter(|c| *c == "late").count()),
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

    /// What must hold once all is drained: nothing is open, and every event is in Silver once or was late.
    pub fn settled(&self) -> Result<(), String> {
        if let Some(at) = self.open.iter().next() {
            return Err(format!("{at:?} ({:?}) is nowhere in the end", self.truth[at]));
        }
        if self.bronze.len() != self.truth.len() {
            return Err(format!("{} of {} records were read in the end", self.bronze.len(), self.truth.len()));
        }
        let late: BTreeSet<u32> = self.dead.keys().filter_map(|at| self.key(at)).collect();
        for is in self.truth.values() {
            if let Is::Event { key, .. } = is
                && !self.keys.contains(key)
                && !late.contains(key)
            {
                return Err(format!("the event k{key} is nowhere in the end"));
            }
        }
        Ok(())
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
        for (at, is) in self.truth.iter() {
            if let Is::Event { key, .. } = is {
                partitions.entry(*key).or_default().insert(at.0);
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
    pub fn files(&self) -> &BTreeMap<String, FileEntry> {
        &self.files
    }
}
