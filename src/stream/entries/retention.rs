//! Retention: files that are older than they are to be kept leave the lake, once nothing in them is open any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sweep::sweep;
use super::{ATTEMPTS, Draft, Work, settled};
use crate::error::{Error, Result};
use crate::lake::layout;
use crate::sources::lake::StoredFile;
use crate::stream::log::{FileEntry, Kind, Snapshot};
use crate::time::{DAY, date_of, days_from_civil};

/// What is kept for how long.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionOptions {
    /// Microseconds that `bronze`, `silver` (with its sessions), `dead_letters` and `gold` are kept, from the end of the
    /// partition's day; what is not named is kept for ever.
    pub keep_us: BTreeMap<String, i64>,
    /// Says what would go, and does nothing.
    pub dry_run: bool,
}

/// What retention took.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RetentionReport {
    /// The number of the log entry, if anything went.
    pub entries: Vec<u64>,
    /// What went, by layer.
    pub expired: BTreeMap<String, Taken>,
    /// What is old enough and stays, by layer: dead letters that are not settled, events that are still held.
    pub held_back: BTreeMap<String, Taken>,
    /// Files that no commit named any more, moved to the trash.
    pub swept: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// Files, rows and bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Files.
    pub files: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// The days they were of, before this one.
    pub before: Option<String>,
}

/// The names that may be given.
const GROUPS: [&str; 4] = ["bronze", "silver", "dead_letters", "gold"];

/// Throws away what is old.
///
/// # Errors
/// [`Error::Settings`] for a layer that is none; lake and checkpoint errors as they come.
pub fn retention(work: &mut Work<'_>, options: &RetentionOptions) -> Result<RetentionReport> {
    for (name, keep) in &options.keep_us {
        if !GROUPS.contains(&name.as_str()) {
            let reason = format!("is no layer whose age can be limited; these are: {}", GROUPS.join(", "));
            return Err(Error::settings(format!("retention.{name}"), reason));
        }
        if *keep <= 0 {
            return Err(Error::settings(format!("retention.{name}"), "must be more than nothing"));
        }
    }
    let mut swept = None;
    for _ in 0..=ATTEMPTS {
        work.stop_if_asked()?;
        let base = work.base()?;
        let mut report = RetentionReport { dry_run: options.dry_run, ..RetentionReport::default() };
        if !options.dry_run {
            report.swept = match swept {
                Some(swept) => swept,
                None => *swept.insert(sweep(work, &base)?),
            };
        }
        let gone = choose(work, &base, options, &mut report)?;
        if gone.is_empty() || options.dry_run {
            return Ok(report);
        }
        work.renew();
        let mut draft = Draft::new(Kind::Retention, options.note());
        for file in &gone {
            *draft.counts.expired.entry(file.layer.clone()).or_default() += file.rows as i64;
        }
        let now = work.clock.now();
        for layer in draft.counts.expired.keys() {
            let keep = options.keep(layer).unwrap_or_default();
            draft.expired_before.push((layer.clone(), cutoff(now, keep)));
        }
        draft.removed = gone;
        if let Some(commit) = work.commit(base.last.number, &draft, &mut |_| Ok(true))? {
            report.entries.push(commit.number);
            return Ok(report);
        }
    }
    Err(Error::lake(
        work.journal.control(),
        "other entries of the log keep taking the same files away. Try again later; nothing was changed",
    ))
}

impl RetentionOptions {
    fn keep(&self, layer: &str) -> Option<i64> {
        let group = layer.split('/').next().unwrap_or(layer);
        self.keep_us.get(group).copied()
    }

    fn note(&self) -> String {
        let days: Vec<_> = self.keep_us.iter().map(|(name, keep)| format!("{name} {}h", keep / (DAY / 24))).collect();
        days.join(", ")
    }
}

/// The beginning of the first day that is kept.
fn cutoff(now: i64, keep: i64) -> i64 {
    now.saturating_sub(keep).div_euclid(DAY) * DAY
}

fn choose(
    work: &Work<'_>,
    base: &Snapshot,
    options: &RetentionOptions,
    report: &mut RetentionReport,
) -> Result<Vec<FileEntry>> {
    let now = work.clock.now();
    let index = settled::Index::read(work.store(), base)?;
    let watermark = base.last.watermark.unwrap_or(i64::MIN);
    let holds = base.last.ledger.counts.pending > 0;
    let mut gone = vec![];
    for file in base.files.values() {
        let Some(keep) = options.keep(&file.layer) else { continue };
        let Some(day) = day_of(&file.path) else { continue };
        if day >= cutoff(now, keep) {
            continue;
        }
        let open = match file.layer.as_str() {
            // What the stream still holds lies nowhere else for good.
            "bronze/events" => holds && file.max_event_time.is_none_or(|t| t >= watermark),
            "silver/events" | "silver/sessions" => file.max_event_time.is_some_and(|t| t >= watermark),
            "dead_letters" => !all_settled(work, file, &index)?,
            _ => false,
        };
        let into = if open { &mut report.held_back } else { &mut report.expired };
        let taken = into.entry(file.layer.clone()).or_default();
        taken.files += 1;
        taken.rows += file.rows;
        taken.bytes += file.bytes;
        taken.before = Some(date_of(cutoff(now, keep)));
        if !open {
            gone.push(file.clone());
        }
    }
    Ok(gone)
}

fn all_settled(work: &Work<'_>, file: &FileEntry, index: &settled::Index) -> Result<bool> {
    let mut all = true;
    let names = ["topic", "partition", "offset", "epoch"];
    StoredFile::open(work.store(), file)?.read(work.store(), Some(&names), None, &mut |batch| {
        all &= index.which(&batch)?.into_iter().all(|settled| settled);
        Ok(())
    })?;
    Ok(all)
}

/// The day of a file's partition, in microseconds since the Unix epoch.
fn day_of(path: &str) -> Option<i64> {
    let partition = layout::partition_of(path);
    let mut parts = partition.get("date")?.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    Some(days_from_civil(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?) * DAY)
}
