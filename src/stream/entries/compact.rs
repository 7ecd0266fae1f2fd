//! Compaction: small files of a partition become one, row for row in the same order.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::output::{Output, Table};
use super::sweep::sweep;
use super::{ATTEMPTS, Draft, Work};
use crate::error::{Error, Result};
use crate::lake::layout::{self, Partition};
use crate::sources::lake::StoredFile;
use crate::stream::log::{FileEntry, Kind, Snapshot};
use crate::time::MINUTE;

/// What is compacted.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompactOptions {
    /// Nothing younger is touched, in microseconds.
    pub min_age_us: i64,
    /// About so many bytes a file has afterwards; a file that has a quarter of it is left alone.
    pub target_bytes: u64,
    /// These layers; all when empty.
    pub layers: Vec<String>,
    /// Says what would be done, and does nothing.
    pub dry_run: bool,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self { min_age_us: 10 * MINUTE, target_bytes: 128 << 20, layers: vec![], dry_run: false }
    }
}

/// What compaction did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CompactReport {
    /// The numbers of the log entries.
    pub entries: Vec<u64>,
    /// Files that were put together.
    pub files_before: u64,
    /// Files that they became.
    pub files_after: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes before.
    pub bytes_before: u64,
    /// Their bytes now.
    pub bytes_after: u64,
    /// Files that no commit named any more, moved to the trash.
    pub swept: u64,
    /// By layer: files before and after.
    pub layers: BTreeMap<String, (u64, u64)>,
}

/// Files that become one.
struct Bin {
    layer: String,
    partition: Partition,
    files: Vec<FileEntry>,
}

/// So many bytes of input go into one log entry, about.
const AN_ENTRY: u64 = 1 << 30;

/// Puts the small files of each partition together.
///
/// # Errors
/// [`Error::Lake`] and [`Error::Checkpoint`] when the lake cannot be used, [`Error::Interrupted`].
pub fn compact(work: &mut Work<'_>, options: &CompactOptions) -> Result<CompactReport> {
    let mut report = CompactReport::default();
    let mut attempts = 0;
    loop {
        let base = work.base()?;
        if attempts == 0 && report.entries.is_empty() && !options.dry_run {
            report.swept = sweep(work, &base)?;
        }
        let bins = bins(work, &base, options)?;
        let mut size = 0;
        let room = |bin: &&Bin| {
            let fits = size < AN_ENTRY || options.dry_run;
            size += bin.files.iter().map(|f| f.bytes).sum::<u64>();
            fits
        };
        let now: Vec<&Bin> = bins.iter().take_while(room).collect();
        if now.is_empty() {
            return Ok(report);
        }
        if options.dry_run {
            now.iter().for_each(|bin| report.count(&bin.files, &[]));
            return Ok(report);
        }
        work.renew();
        let mut output = Output::default();
        let mut draft = Draft::new(Kind::Compact, format!("{} partitions", now.len()));
        for bin in &now {
            merge(work, bin, &mut output)?;
            draft.removed.extend(bin.files.iter().cloned());
        }
        draft.added = output.files;
        match work.commit(base.last.number, &draft, &mut |_| Ok(true))? {
            Some(commit) => {
                attempts = 0;
                report.entries.push(commit.number);
                report.count(&draft.removed, &draft.added);
            }
            None if attempts < ATTEMPTS => {
                work.discard(&draft.added)?;
                attempts += 1;
            }
            None => {
                work.discard(&draft.added)?;
                return Err(Error::lake(
                    work.journal.control(),
                    "other entries of the log keep taking the same files away; is another compaction at work? Try again later",
                ));
            }
        }
    }
}

impl CompactReport {
    fn count(&mut self, before: &[FileEntry], after: &[FileEntry]) {
        self.files_before += before.len() as u64;
        self.files_after += after.len() as u64;
        self.rows += before.iter().map(|f| f.rows).sum::<u64>();
        self.bytes_before += before.iter().map(|f| f.bytes).sum::<u64>();
        self.bytes_after += after.iter().map(|f| f.bytes).sum::<u64>();
        for file in before {
            self.layers.entry(file.layer.clone()).or_default().0 += 1;
        }
        for file in after {
            self.layers.entry(file.layer.clone()).or_default().1 += 1;
        }
    }
}

/// What is to be put together: files of one partition with the same columns, in the order of their paths.
fn bins(work: &Work<'_>, base: &Snapshot, options: &CompactOptions) -> Result<Vec<Bin>> {
    let mut partitions: BTreeMap<(String, Partition), Vec<FileEntry>> = BTreeMap::new();
    let asked = |layer: &str| options.layers.is_empty() || options.layers.iter().any(|l| l == layer);
    for file in base.files.values().filter(|f| asked(&f.layer) && f.bytes < options.target_bytes / 4) {
        let key = (file.layer.clone(), layout::partition_of(&file.path));
        partitions.entry(key).or_default().push(file.clone());
    }
    partitions.retain(|_, files| files.len() > 1);
    let ages = ages(work, &partitions)?;
    let mut bins = vec![];
    for ((layer, partition), files) in partitions {
        let old =
            |f: &FileEntry| options.min_age_us <= 0 || ages.get(&f.path).is_some_and(|age| *age >= options.min_age_us);
        let mut by_schema: Vec<(StoredFile, Vec<FileEntry>)> = vec![];
        let candidates: Vec<FileEntry> = files.into_iter().filter(old).collect();
        if candidates.len() < 2 {
            continue;
        }
        for file in candidates {
            work.stop_if_asked()?;
            let stored = StoredFile::open(work.store(), &file)?;
            let like = by_schema
                .iter_mut()
                .find(|(first, _)| first.parquet_schema().root_schema() == stored.parquet_schema().root_schema());
            match like {
                Some((_, files)) => files.push(file),
                None => by_schema.push((stored, vec![file])),
            }
        }
        for (_, files) in by_schema {
            let mut bin: Vec<FileEntry> = vec![];
            let mut close = |bin: &mut Vec<FileEntry>| {
                let files = std::mem::take(bin);
                if files.len() > 1 {
                    bins.push(Bin { layer: layer.clone(), partition: partition.clone(), files });
                }
            };
            for file in files {
                if bin.iter().map(|f| f.bytes).sum::<u64>() + file.bytes > options.target_bytes {
                    close(&mut bin);
                }
                bin.push(file);
            }
            close(&mut bin);
        }
    }
    Ok(bins)
}

/// How old the files are, in microseconds.
fn ages(work: &Work<'_>, partitions: &BTreeMap<(String, Partition), Vec<FileEntry>>) -> Result<HashMap<String, i64>> {
    let now = work.clock.now();
    let mut layers: Vec<&str> = partitions.keys().map(|(layer, _)| layer.as_str()).collect();
    layers.dedup();
    let mut ages = HashMap::new();
    for layer in layers {
        for object in work.store().list(&format!("{layer}/"), None)? {
            ages.insert(object.path, now - object.modified_us);
        }
    }
    Ok(ages)
}

fn merge(work: &Work<'_>, bin: &Bin, output: &mut Output) -> Result<()> {
    let mut table: Option<Table> = None;
    let mut rows = 0;
    for file in &bin.files {
        let stored = StoredFile::open(work.store(), file)?;
        let table = table.get_or_insert_with(|| Table::new(&bin.layer, stored.schema()));
        stored.read(work.store(), None, None, &mut |batch| {
            rows += batch.num_rows() as u64;
            output.write(work, table, &bin.partition, &batch)
        })?;
    }
    let expected: u64 = bin.files.iter().map(|f| f.rows).sum();
    if rows != expected {
        return Err(Error::Internal(format!("compaction read {rows} of {expected} rows in {}", bin.layer)));
    }
    table.map_or(Ok(()), |table| output.close(work, table))
}
