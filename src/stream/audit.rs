//! The audit: the ledger counted again from what lies in the lake, with nothing taken on trust.

use std::collections::{BTreeMap, HashSet};

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rayon::prelude::*;
use serde::Serialize;

use super::journal::Journal;
use super::ledger::{Counts, Ledger};
use super::log::{FileEntry, Kind, Snapshot};
use super::run::open_lake;
use super::spec::PipelineSpec;
use super::state;
use super::store::Store;
use crate::error::{Error, Result};

/// How many positions are held in memory at once; more are counted in several passes.
const POSITIONS_A_PASS: u64 = 16_000_000;

/// What the audit found.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// The ledger as the newest commit has it.
    #[serde(flatten)]
    pub ledger: Ledger,
    /// Whether the ledger balances and every check passed.
    pub balanced: bool,
    /// The same, counted from files, plans and state.
    pub recount: Counts,
    /// What was checked.
    pub checks: Vec<Check>,
    /// Data files that no commit names: left over by a run that was killed before its commit. Readers of the log
    /// never see them.
    pub uncommitted_files: Vec<String>,
}

/// One thing that was checked.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it holds.
    pub passed: bool,
    /// The numbers.
    pub detail: String,
}

/// Counts a pipeline's ledger again.
///
/// # Errors
/// [`Error::Checkpoint`] when the log or a file that it names is missing or damaged, [`Error::Lake`] when the lake
/// cannot be read or has no such pipeline.
pub fn audit(spec: &PipelineSpec) -> Result<Audit> {
    let lake = open_lake(spec, false)?;
    audit_store(&lake, &spec.name)
}

/// [`audit`] over any store.
///
/// # Errors
/// As [`audit`].
pub fn audit_store(store: &dyn Store, pipeline: &str) -> Result<Audit> {
    let journal = Journal::new(store, pipeline);
    let Some(live) = journal.live()? else {
        return Err(Error::lake(
            crate::lake::layout::control(pipeline),
            "nothing was committed yet: there is nothing to audit. Run the pipeline first",
        ));
    };
    let ledger = live.last.ledger.clone();
    let counted = &ledger.counts;
    let with_bronze = live.files.values().any(|f| f.layer == "bronze/events");
    let mut checks = vec![];
    let mut check = |name, passed: bool, detail: String| checks.push(Check { name, passed, detail });

    let layers = Layers::read(store, &live)?;
    check(
        "files are whole",
        true,
        format!("{} files, {} bytes", live.files.len(), live.files.values().map(|f| f.bytes).sum::<u64>()),
    );
    let (planned, gaps) = planned_events(&journal)?;
    check(
        "offsets follow on one another",
        gaps.is_empty(),
        if gaps.is_empty() { "no gap, no overlap".into() } else { gaps.join("; ") },
    );
    check("events planned = consumed", planned == counted.consumed, format!("{planned} = {}", counted.consumed));

    let pending = pending_rows(store, &live)?;
    let dead = layers.rows("dead_letters");
    let silver = if live.files.values().any(|f| f.layer == "silver/events") { layers.rows("silver/events") } else { 0 };
    let late = layers.codes.get("late").copied().unwrap_or_default();
    let mut recount = Counts {
        consumed: planned,
        silver,
        pending,
        rejected: dead - late,
        late,
        bronze: layers.rows("bronze/events"),
        dead_letters: dead,
        sessions: layers.rows("silver/sessions"),
        ..Counts::default()
    };
    for code in crate::verdict::Code::ALL {
        if let Some(n) = layers.codes.get(code.as_str()).filter(|_| code.as_str() != "late") {
            recount.rejected_by_code.insert(*code, *n);
        }
    }
    let silver_kept = silver == counted.silver;
    recount.duplicate = planned - silver - pending - recount.rejected - late;
    check("Silver rows = silver", silver_kept, format!("{silver} = {}", counted.silver));
    check("held events = pending", pending == counted.pending, format!("{pending} = {}", counted.pending));
    check(
        "dead letters = rejected + late",
        dead == counted.rejected + counted.late,
        format!("{dead} = {} + {}", counted.rejected, counted.late),
    );
    check("dead letters by code", recount.rejected_by_code == counted.rejected_by_code, format!("{:?}", layers.codes));
    check(
        "the rest are duplicates",
        recount.duplicate == counted.duplicate,
        format!("{} = {}", recount.duplicate, counted.duplicate),
    );
    check(
        "session rows = sessions",
        recount.sessions == counted.sessions,
        format!("{} = {}", recount.sessions, counted.sessions),
    );
    if with_bronze {
        check(
            "Bronze rows = consumed",
            recount.bronze == counted.consumed,
            format!("{} = {}", recount.bronze, counted.consumed),
        );
    }
    let places = Places::count(store, &live, with_bronze)?;
    check("no position is in Bronze twice", places.bronze_twice == 0, format!("{} twice", places.bronze_twice));
    check("no event is in two places", places.settled_twice == 0, format!("{} twice", places.settled_twice));
    if with_bronze {
        check("what is settled is in Bronze", places.not_in_bronze == 0, format!("{} are not", places.not_in_bronze));
    }
    check("the ledger balances", counted.balanced(), format!("{} consumed", counted.consumed));

    let mut uncommitted_files = vec![];
    for layer in ["bronze/", "silver/", "dead_letters/", "gold/"] {
        let ours = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with(&format!("{pipeline}-")));
        let strays =
            store.list(layer, None)?.into_iter().filter(|o| ours(&o.path) && !live.files.contains_key(&o.path));
        uncommitted_files.extend(strays.map(|o| o.path));
    }
    let balanced = checks.iter().all(|c| c.passed);
    Ok(Audit { ledger, balanced, recount, checks, uncommitted_files })
}

/// Rows of each layer by the files' own footers, and dead letters by code.
struct Layers {
    rows: BTreeMap<String, i64>,
    codes: BTreeMap<String, i64>,
}

impl Layers {
    fn read(store: &dyn Store, live: &Snapshot) -> Result<Self> {
        let read = live
            .files
            .values()
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|file| {
                let bytes = get(store, file)?;
                let builder = open(file, bytes)?;
                let rows = builder.metadata().file_metadata().num_rows();
                if rows as u64 != file.rows {
                    return Err(damaged(file, format!("has {rows} rows, and had {} when it was written", file.rows)));
                }
                let mut codes = BTreeMap::new();
                if file.layer == "dead_letters" {
                    for batch in columns(file, builder, &["code"])? {
                        for code in text(&batch, "code")?.iter().flatten() {
                            *codes.entry(code.to_owned()).or_insert(0) += 1;
                        }
                    }
                }
                Ok((file.layer.clone(), rows, codes))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut layers = Self { rows: BTreeMap::new(), codes: BTreeMap::new() };
        for (layer, rows, codes) in read {
            *layers.rows.entry(layer).or_default() += rows;
            for (code, n) in codes {
                *layers.codes.entry(code).or_default() += n;
            }
        }
        Ok(layers)
    }

    fn rows(&self, layer: &str) -> i64 {
        self.rows.get(layer).copied().unwrap_or_default()
    }
}

/// Events in all plans, and where the ranges of a partition do not follow on one another.
fn planned_events(journal: &Journal<'_>) -> Result<(i64, Vec<String>)> {
    let mut ends: BTreeMap<(String, i32), i64> = BTreeMap::new();
    let mut events = 0;
    let mut gaps = vec![];
    let last = journal.head()?.commit.map_or(0, |c| c.number);
    // What a void epoch planned was planned again by another.
    let void: HashSet<u64> =
        journal.commits(None)?.into_iter().filter(|c| c.kind == Kind::Void).map(|c| c.number).collect();
    for plan in journal.plans()?.into_iter().filter(|p| p.number <= last && !void.contains(&p.number)) {
        events += plan.ticks.iter().map(|t| t.events as i64).sum::<i64>();
        for range in plan.ticks.iter().flat_map(|t| &t.ranges) {
            let end = ends.entry((range.topic.clone(), range.partition)).or_insert(range.from);
            if *end != range.from {
                gaps.push(format!("epoch {}: {} goes on at {} after {end}", plan.number, range.topic, range.from));
            }
            *end = range.to;
        }
    }
    Ok((events, gaps))
}

/// Held events, counted from the state itself: rows that were added less those that the watermark has passed.
fn pending_rows(store: &dyn Store, live: &Snapshot) -> Result<i64> {
    let watermark = live.last.watermark.unwrap_or(i64::MIN);
    let mut pending = 0;
    for file in live.last.state.iter().filter(|f| f.table.starts_with("sessions/pending")) {
        let rows = state::read(store, file)?;
        let times = rows.column_by_name("event_time").ok_or_else(|| Error::Internal("no event_time".into()))?;
        let times = cast(times, &DataType::Int64)?;
        pending += times.as_primitive::<Int64Type>().values().iter().filter(|t| **t >= watermark).count() as i64;
    }
    Ok(pending)
}

/// Where positions lie, counted over all files.
#[derive(Default)]
struct Places {
    bronze_twice: u64,
    settled_twice: u64,
    not_in_bronze: u64,
}

impl Places {
    fn count(store: &dyn Store, live: &Snapshot, with_bronze: bool) -> Result<Self> {
        let rows: u64 = live.files.values().map(|f| f.rows).sum();
        let passes = rows.div_ceil(POSITIONS_A_PASS).max(1);
        let mut places = Self::default();
        for pass in 0..passes {
            let mut bronze = HashSet::new();
            let mut settled = HashSet::new();
            for file in live.files.values() {
                let (names, into, twice) = match file.layer.as_str() {
                    "bronze/events" => (["topic", "partition", "offset"], &mut bronze, &mut places.bronze_twice),
                    "silver/events" => (["_topic", "_partition", "_offset"], &mut settled, &mut places.settled_twice),
                    "dead_letters" => (["topic", "partition", "offset"], &mut settled, &mut places.settled_twice),
                    _ => continue,
                };
                for batch in columns(file, open(file, get(store, file)?)?, &names)? {
                    let topics = text(&batch, names[0])?;
                    let partitions = column(&batch, names[1])?.as_primitive::<Int32Type>().clone();
                    let offsets = column(&batch, names[2])?.as_primitive::<Int64Type>().clone();
                    for row in 0..batch.num_rows() {
                        let position = position(topics.value(row), partitions.value(row), offsets.value(row));
                        if position as u64 % passes == pass && !into.insert(position) {
                            *twice += 1;
                        }
                    }
                }
            }
            if with_bronze {
                places.not_in_bronze += settled.difference(&bronze).count() as u64;
            }
        }
        Ok(places)
    }
}

fn position(topic: &str, partition: i32, offset: i64) -> u128 {
    let seed = (offset as u64).rotate_left(17) ^ (partition as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    xxhash_rust::xxh3::xxh3_128_with_seed(topic.as_bytes(), seed) ^ (u128::from(offset as u64) << 64)
}

fn get(store: &dyn Store, file: &FileEntry) -> Result<Bytes> {
    let bytes = store.get(&file.path)?.ok_or_else(|| damaged(file, "missing".into()))?;
    if bytes.len() as u64 != file.bytes {
        return Err(damaged(file, format!("has {} bytes, and had {} when it was written", bytes.len(), file.bytes)));
    }
    Ok(bytes)
}

fn open(file: &FileEntry, bytes: Bytes) -> Result<ParquetRecordBatchReaderBuilder<Bytes>> {
    ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| damaged(file, e.to_string()))
}

fn columns(
    file: &FileEntry,
    builder: ParquetRecordBatchReaderBuilder<Bytes>,
    names: &[&str],
) -> Result<Vec<RecordBatch>> {
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let reader =
        builder.with_projection(mask).with_batch_size(65_536).build().map_err(|e| damaged(file, e.to_string()))?;
    reader.map(|b| b.map_err(|e| damaged(file, e.to_string()))).collect()
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    batch.column_by_name(name).map(AsRef::as_ref).ok_or_else(|| Error::Data(format!("column {name} is missing")))
}

fn text(batch: &RecordBatch, name: &str) -> Result<StringArray> {
    Ok(cast(column(batch, name)?, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn damaged(file: &FileEntry, reason: String) -> Error {
    Error::checkpoint(
        &file.path,
        format!("{reason}. The commit that names it stands; bring the file back from a backup"),
    )
}
