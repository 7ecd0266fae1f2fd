//! The audit: the ledger counted again from what lies in the lake, with nothing taken on trust.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use rayon::prelude::*;
use serde::Serialize;

use super::entries::settled::{self, Index, positions};
use super::entries::sweep::LAYERS;
use super::journal::Journal;
use super::ledger::{Counts, Ledger};
use super::log::{Kind, Snapshot};
use super::run::open_lake;
use super::shards;
use super::spec::PipelineSpec;
use super::state;
use super::store::Store;
use crate::error::{Error, Result};
use crate::lake::layout;
use crate::sources::Range;
use crate::sources::lake::{StoredFile, damaged, text};

/// How many positions are held in memory at once (16 bytes each); more are counted in several passes.
const POSITIONS_A_PASS: u64 = 4_000_000;

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
    let (mut found, mut empty) = (vec![], vec![]);
    for journal in shards::journals(store, pipeline)? {
        match audit_log(&journal)? {
            Some((audit, read)) => found.push((journal.shard(), audit, read)),
            None => empty.push(journal.shard()),
        }
    }
    sum(found, &empty).ok_or_else(|| {
        Error::lake(
            layout::control(pipeline),
            "nothing was committed yet: there is nothing to audit. Run the pipeline first",
        )
    })
}

/// A partition of the source.
type Partition = (String, i32);

/// The audits of all shards as one; none when there is none. `empty` are those that have committed nothing yet.
fn sum(found: Vec<(u32, Audit, Vec<Partition>)>, empty: &[u32]) -> Option<Audit> {
    let mut readers: BTreeMap<Partition, Vec<u32>> = BTreeMap::new();
    let mut whole: Option<Audit> = None;
    for (shard, mut audit, read) in found {
        if shard == 0 {
            return Some(audit);
        }
        for partition in read {
            readers.entry(partition).or_default().push(shard);
        }
        for check in &mut audit.checks {
            check.detail = format!("shard {shard}: {}", check.detail);
        }
        let Some(sum) = &mut whole else {
            whole = Some(audit);
            continue;
        };
        sum.ledger.add(&audit.ledger);
        sum.recount.add(&audit.recount);
        sum.balanced &= audit.balanced;
        sum.uncommitted_files.extend(audit.uncommitted_files);
        for check in audit.checks {
            match sum.checks.iter_mut().find(|c| c.name == check.name) {
                Some(same) => {
                    same.passed &= check.passed;
                    same.detail = format!("{}; {}", same.detail, check.detail);
                }
                None => sum.checks.push(check),
            }
        }
    }
    let mut whole = whole?;
    let twice: Vec<String> = readers
        .iter()
        .filter(|(_, shards)| shards.len() > 1)
        .map(|((topic, partition), shards)| format!("{topic} {partition} by {shards:?}"))
        .collect();
    let mut detail =
        if twice.is_empty() { format!("{} partitions, each by one", readers.len()) } else { twice.join("; ") };
    if !empty.is_empty() {
        detail = format!("{detail}; nothing was committed yet by shards {empty:?}");
    }
    whole.checks.push(Check { name: "no partition is read by two shards", passed: twice.is_empty(), detail });
    whole.balanced &= twice.is_empty();
    Some(whole)
}

/// Counts one log again, and says what partitions it reads; none when nothing is committed in it.
fn audit_log(journal: &Journal<'_>) -> Result<Option<(Audit, Vec<Partition>)>> {
    let store = journal.store();
    let Some(live) = journal.live()? else { return Ok(None) };
    let ledger = live.last.ledger.clone();
    let counted = &ledger.counts;
    let with_bronze = live.files.values().any(|f| f.layer == "bronze/events");
    let mut checks = vec![];
    let mut check = |name, passed: bool, detail: String| checks.push(Check { name, passed, detail });

    let there = Listing::read(journal, &live)?;
    let index = Index::read(store, &live)?;
    let layers = Layers::read(store, &live, &index)?;
    check(
        "files are whole",
        true,
        format!("{} files, {} bytes", live.files.len(), live.files.values().map(|f| f.bytes).sum::<u64>()),
    );
    let (planned, gaps, read) = planned_events(journal)?;
    check(
        "offsets follow on one another",
        gaps.is_empty(),
        if gaps.is_empty() { "no gap, no overlap".into() } else { gaps.join("; ") },
    );
    check("events planned = consumed", planned == counted.consumed, format!("{planned} = {}", counted.consumed));

    let pending = pending_rows(store, &live)?;
    let written = |layer: &str| layers.rows(layer) + counted.expired_of(layer);
    let dead = written("dead_letters");
    let silver = written("silver/events");
    let open: i64 = layers.codes.values().sum();
    let late = layers.codes.get("late").copied().unwrap_or_default();
    let mut recount = Counts {
        consumed: planned,
        silver,
        pending,
        rejected: open - late,
        late,
        bronze: written("bronze/events"),
        dead_letters: dead,
        settled: dead - open,
        sessions: written("silver/sessions"),
        expired: counted.expired.clone(),
        ..Counts::default()
    };
    for code in crate::verdict::Code::ALL {
        if let Some(n) = layers.codes.get(code.as_str()).filter(|_| code.as_str() != "late") {
            recount.rejected_by_code.insert(*code, *n);
        }
    }
    let expired = |layer: &str| match counted.expired_of(layer) {
        0 => String::new(),
        n => format!(", {n} of them expired"),
    };
    recount.duplicate = planned - silver - pending - recount.rejected - late;
    check(
        "Silver rows = silver",
        silver == counted.silver,
        format!("{silver}{} = {}", expired("silver/events"), counted.silver),
    );
    check("held events = pending", pending == counted.pending, format!("{pending} = {}", counted.pending));
    check(
        "dead letters = rejected + late + settled",
        dead == counted.rejected + counted.late + counted.settled && recount.settled == counted.settled,
        format!("{dead}{} = {} + {} + {}", expired("dead_letters"), counted.rejected, counted.late, counted.settled),
    );
    check(
        "settled positions = settled",
        written(settled::LAYER) == counted.settled,
        format!("{} = {}", written(settled::LAYER), counted.settled),
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
        format!("{}{} = {}", recount.sessions, expired("silver/sessions"), counted.sessions),
    );
    if with_bronze {
        check(
            "Bronze rows = consumed",
            recount.bronze == counted.consumed,
            format!("{}{} = {}", recount.bronze, expired("bronze/events"), counted.consumed),
        );
    }
    // What retention took from Bronze is not looked for there.
    let whole_bronze = with_bronze && counted.expired_of("bronze/events") == 0;
    let places = Places::count(store, &live, &index, whole_bronze)?;
    check("no position is in Bronze twice", places.bronze_twice == 0, format!("{} twice", places.bronze_twice));
    check("no event is in two places", places.settled_twice == 0, format!("{} twice", places.settled_twice));
    if whole_bronze {
        check("what is settled is in Bronze", places.not_in_bronze == 0, format!("{} are not", places.not_in_bronze));
    }
    check("the ledger balances", counted.balanced(), format!("{} consumed", counted.consumed));

    let balanced = checks.iter().all(|c| c.passed);
    Ok(Some((Audit { ledger, balanced, recount, checks, uncommitted_files: there.strays }, read)))
}

/// The data files that lie in the lake.
struct Listing {
    strays: Vec<String>,
}

impl Listing {
    /// Lists the layers, and reads every file that counts: each is there, byte for byte as it was written.
    fn read(journal: &Journal<'_>, live: &Snapshot) -> Result<Self> {
        let mut sizes: HashMap<String, u64> = HashMap::new();
        let mut strays = vec![];
        for layer in LAYERS {
            for object in journal.store().list(layer, None)? {
                if live.files.contains_key(&object.path) {
                    sizes.insert(object.path, object.size);
                } else if layout::writer(journal.pipeline(), journal.shard(), &object.path).is_some() {
                    strays.push(object.path);
                }
            }
        }
        for file in live.files.values() {
            match sizes.get(&file.path) {
                // An entry of the log that came meanwhile may have put it into the trash.
                None if journal.store().get_range(&layout::trash(&file.path), 0..1)?.is_some() => {}
                None => return Err(damaged(file, "missing")),
                Some(size) if *size != file.bytes => {
                    let reason = format!("has {size} bytes, and had {} when it was written", file.bytes);
                    return Err(damaged(file, reason));
                }
                Some(_) => {}
            }
        }
        let files: Vec<_> = live.files.values().filter(|file| file.digest.is_some()).collect();
        files.into_par_iter().with_max_len(1).try_for_each(|file| {
            let store = journal.store();
            let there = store.get(&file.path)?;
            match there.map_or_else(|| store.get(&layout::trash(&file.path)), |bytes| Ok(Some(bytes)))? {
                Some(bytes) if file.is_whole(&bytes) => Ok(()),
                Some(_) => Err(damaged(file, "is as long as it was when it was written, and holds other bytes")),
                None => Err(damaged(file, "missing")),
            }
        })?;
        Ok(Self { strays })
    }
}

/// Rows of each layer by the files' own footers, and open dead letters by code.
struct Layers {
    rows: BTreeMap<String, i64>,
    codes: BTreeMap<String, i64>,
}

impl Layers {
    fn read(store: &dyn Store, live: &Snapshot, settled: &Index) -> Result<Self> {
        let read = live
            .files
            .values()
            .collect::<Vec<_>>()
            .into_par_iter()
            .with_max_len(1)
            .map(|file| {
                let stored = StoredFile::open(store, file)?;
                let mut codes = BTreeMap::new();
                if file.layer == "dead_letters" {
                    let names = ["code", "topic", "partition", "offset", "epoch"];
                    stored.read(store, Some(&names), None, &mut |batch| {
                        let settled = settled.which(&batch)?;
                        let codes_of = text(&batch, "code")?;
                        for (code, _) in codes_of.iter().flatten().zip(settled).filter(|(_, settled)| !settled) {
                            *codes.entry(code.to_owned()).or_insert(0) += 1;
                        }
                        Ok(())
                    })?;
                }
                Ok((file.layer.clone(), file.rows as i64, codes))
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

/// Events in all plans, where the ranges of a partition do not follow on one another, and the partitions.
fn planned_events(journal: &Journal<'_>) -> Result<(i64, Vec<String>, Vec<Partition>)> {
    let mut ends: BTreeMap<Partition, i64> = BTreeMap::new();
    let mut events = 0;
    let mut gaps = vec![];
    let last = journal.head()?.commit.map_or(0, |c| c.number);
    // What a void epoch planned was planned again by another.
    let void: HashSet<u64> =
        journal.commits(None)?.into_iter().filter(|c| c.kind == Kind::Void).map(|c| c.number).collect();
    for plan in journal.plans()?.into_iter().filter(|p| p.number <= last && !void.contains(&p.number)) {
        events += plan.ticks.iter().map(|t| t.events as i64).sum::<i64>();
        // A loss that was accepted follows on what was read before, as if it had been read.
        let mut ranges: Vec<&Range> = plan.gaps.iter().chain(plan.ticks.iter().flat_map(|t| &t.ranges)).collect();
        ranges.sort_by_key(|r| (&r.topic, r.partition, r.from));
        for range in ranges {
            let end = ends.entry((range.topic.clone(), range.partition)).or_insert(range.from);
            if *end != range.from {
                gaps.push(format!("epoch {}: {} goes on at {} after {end}", plan.number, range.topic, range.from));
            }
            *end = range.to;
        }
    }
    Ok((events, gaps, ends.into_keys().collect()))
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
    fn count(store: &dyn Store, live: &Snapshot, index: &Index, with_bronze: bool) -> Result<Self> {
        let rows: u64 = live.files.values().map(|f| f.rows).sum();
        let passes = rows.div_ceil(POSITIONS_A_PASS).max(1);
        let mut places = Self::default();
        for pass in 0..passes {
            let (mut bronze, mut settled) = (vec![], vec![]);
            for file in live.files.values() {
                let (names, into) = match file.layer.as_str() {
                    "bronze/events" => (["topic", "partition", "offset"], &mut bronze),
                    "silver/events" => (["_topic", "_partition", "_offset"], &mut settled),
                    "dead_letters" => (["topic", "partition", "offset"], &mut settled),
                    _ => continue,
                };
                let letters = file.layer == "dead_letters";
                let mut columns = names.to_vec();
                columns.extend(letters.then_some("epoch"));
                StoredFile::open(store, file)?.read(store, Some(&columns), None, &mut |batch| {
                    let which = if letters { index.which(&batch)? } else { vec![false; batch.num_rows()] };
                    let found = positions(&batch, names)?.into_iter().zip(which);
                    into.extend(found.filter(|(p, gone)| !gone && *p as u64 % passes == pass).map(|(p, _)| p));
                    Ok(())
                })?;
            }
            places.bronze_twice += twice(&mut bronze);
            places.settled_twice += twice(&mut settled);
            if with_bronze {
                places.not_in_bronze += settled.iter().filter(|p| bronze.binary_search(p).is_err()).count() as u64;
            }
        }
        Ok(places)
    }
}

/// Sorts, leaves each once, and says how many there were too many.
fn twice(positions: &mut Vec<u128>) -> u64 {
    let all = positions.len();
    positions.par_sort_unstable();
    positions.dedup();
    (all - positions.len()) as u64
}
