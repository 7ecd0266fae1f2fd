//! Backfill: days of Silver made anew from Bronze by today's contract, as one batch, swapped in by one commit.
//!
//! Everything is parted into buckets on local disk (by entity, by key, by position), so that memory follows the bucket.
//! First Bronze is judged and laid beside the Silver there is; from both follows, entity by entity, which stretches of
//! time hold whole sessions ([`scope`]). In these all rows are replaced; everything else stays as it is, and a key that
//! stays there wins. Then each event's new place is held against its old one ([`settle`]), which moves the ledger and
//! settles dead letters. What the stream still works on, events that it holds and sessions that are open, is left to it.

mod fates;
mod gather;
mod rewrite;
mod scope;
mod settle;
mod shuffle;

use serde::{Deserialize, Serialize};

use super::judge::{Judge, Means};
use super::output::Output;
use super::{ATTEMPTS, Draft, Work, silver};
use crate::error::{Error, Result};
use crate::stream::log::{FileEntry, Kind, Snapshot};
use crate::stream::spec::{Layer, PipelineSpec};
use crate::time::{DAY, date_of};
use gather::Gathered;
use scope::{Scope, Window};
use shuffle::Folder;

/// What is made anew.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillOptions {
    /// The beginning of the first day, in microseconds since the Unix epoch.
    pub from_us: i64,
    /// The end of the last day.
    pub to_us: i64,
    /// Says what would change, and does nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a backfill did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BackfillReport {
    /// The number of the log entry.
    pub entries: Vec<u64>,
    /// The first day.
    pub from: String,
    /// The day after the last.
    pub to: String,
    /// Events of Bronze that were judged: those of the range and of its surroundings.
    pub judged: u64,
    /// Rows of Silver that were replaced.
    pub rows_before: u64,
    /// Rows that took their place.
    pub rows_after: u64,
    /// Sessions that were replaced.
    pub sessions_before: u64,
    /// Sessions that took their place.
    pub sessions_after: u64,
    /// Dead letters that are in Silver now.
    pub accepted: u64,
    /// Dead letters whose key Silver has.
    pub found_duplicate: u64,
    /// Events that were duplicates and are in Silver now.
    pub no_duplicate: u64,
    /// Rows of Silver that are duplicates now.
    pub duplicate: u64,
    /// Events that the contract no longer accepts: they are dead letters now.
    pub rejected: u64,
    /// Events of the range that were left to the stream: it holds them, or their session is open.
    pub left_to_stream: u64,
    /// Files that went.
    pub files_removed: u64,
    /// Files that came.
    pub files_added: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// Everything that the parts of a backfill share.
struct Backfill<'a> {
    work: &'a Work<'a>,
    judge: &'a Judge,
    base: &'a Snapshot,
    folder: &'a Folder,
    buckets: usize,
    dry_run: bool,
}

/// Bytes of Bronze, as they lie in its files, that make a bucket.
const A_BUCKET: u64 = 8 << 20;
/// So many buckets at most: each may have a file open.
const BUCKETS: u64 = 200;

/// Makes days of Silver anew.
///
/// # Errors
/// [`Error::Settings`] for a range that is none, or a pipeline without Bronze or Silver; [`Error::Lake`] when what the
/// range needs has expired, or others keep changing it; contract and checkpoint errors as they come.
pub fn backfill(
    work: &mut Work<'_>,
    spec: &PipelineSpec,
    options: &BackfillOptions,
    means: &Means<'_>,
) -> Result<BackfillReport> {
    if options.from_us >= options.to_us || options.from_us % DAY != 0 || options.to_us % DAY != 0 {
        return Err(Error::settings(
            "--from, --to",
            "are days, the second one after the first (it is not done itself)",
        ));
    }
    for (layer, name) in [(Layer::Bronze, "bronze"), (Layer::Silver, "silver")] {
        if !spec.layers.contains(&layer) {
            let reason = format!("has no {name}: a backfill makes Silver anew from Bronze, and needs both");
            return Err(Error::settings("layers", reason));
        }
    }
    for _ in 0..=ATTEMPTS {
        work.stop_if_asked()?;
        work.renew();
        let base = work.base()?;
        let judge = Judge::new(spec, &work.journal, means)?;
        not_expired(&judge, &base, options)?;
        if let Some(report) = attempt(work, &judge, &base, options)? {
            return Ok(report);
        }
    }
    Err(Error::lake(
        work.journal.control(),
        "the stream or other entries of the log keep changing what the backfill replaces. Try again later; nothing was changed",
    ))
}

/// Refuses a range whose Silver was thrown away: what was counted there would be counted again.
fn not_expired(judge: &Judge, base: &Snapshot, options: &BackfillOptions) -> Result<()> {
    let reach = judge.gap().map_or(0, |(gap, longest)| longest.unwrap_or(DAY).max(gap));
    match base.last.ledger.expired_before.get(silver::EVENTS) {
        Some(before) if options.from_us.saturating_sub(reach) < *before => {
            let first = date_of(before.saturating_add(reach).saturating_add(DAY - 1));
            Err(Error::settings(
                "--from",
                format!("Silver before {} has expired; begin with {first} or later", date_of(*before)),
            ))
        }
        _ => Ok(()),
    }
}

fn attempt(
    work: &Work<'_>,
    judge: &Judge,
    base: &Snapshot,
    options: &BackfillOptions,
) -> Result<Option<BackfillReport>> {
    let range = Window { from: options.from_us, to: options.to_us };
    let open = silver::open_sessions(work.store(), judge, &base.last)?;
    let open = open.into_iter().map(|(entity, start)| (scope::hash_of(entity.as_deref()), start)).collect();
    let mut scope = Scope::new(range, base.last.watermark, open, judge.gap().map(|(gap, _)| gap));
    let folder = Folder::new()?;
    let all = extent(base);
    let mut margin = judge.shape.deduplicate.horizon_us.max(judge.gap().map_or(0, |(gap, _)| gap)).saturating_add(DAY);
    loop {
        let mut window = range.wider(margin);
        if window.from <= all.from {
            window.from = i64::MIN;
        }
        if window.to >= all.to {
            window.to = i64::MAX;
        }
        let bytes: u64 =
            base.files.values().filter(|f| f.layer == "bronze/events" && window.touches(f)).map(|f| f.bytes).sum();
        let buckets = bytes.div_ceil(A_BUCKET).clamp(1, BUCKETS) as usize;
        let backfill = Backfill { work, judge, base, folder: &folder, buckets, dry_run: options.dry_run };
        let mut gathered = backfill.gather(&scope, window)?;
        if !backfill.find(&mut gathered, &mut scope, window)? {
            // A session reaches beyond what was read.
            scope.clear();
            margin = margin.saturating_mul(2);
            continue;
        }
        return backfill.replace(gathered, &scope, window, options);
    }
}

/// The stretch of time that Bronze and Silver have events of.
fn extent(base: &Snapshot) -> Window {
    let files = || base.files.values().filter(|f| f.layer == "bronze/events" || f.layer == silver::EVENTS);
    let from = files().filter_map(|f| f.min_event_time).min().unwrap_or(i64::MIN);
    let to = files().filter_map(|f| f.max_event_time).max().unwrap_or(i64::MAX);
    Window { from, to: to.saturating_add(1) }
}

impl<'a> Backfill<'a> {
    fn replace(
        &self,
        mut gathered: Gathered<'a>,
        scope: &Scope,
        window: Window,
        options: &BackfillOptions,
    ) -> Result<Option<BackfillReport>> {
        let mut report = BackfillReport {
            from: date_of(options.from_us),
            to: date_of(options.to_us),
            judged: gathered.judged,
            left_to_stream: gathered.left_to_stream,
            dry_run: self.dry_run,
            ..BackfillReport::default()
        };
        let mut output = Output::default();
        let mut draft = Draft::new(Kind::Backfill, format!("{} to {}", report.from, report.to));
        self.choose(&mut gathered, scope, window)?;
        let new_sessions = self.write_new(&mut gathered, scope, &mut output)?;
        let fates = self.fates(&mut gathered)?;
        fates.count(&mut draft.counts, &mut report);
        self.settle(&fates, window, &mut output)?;
        let rewritten = self.rewrite(scope, window, &mut output)?;
        report.sessions_before = rewritten.sessions;
        report.sessions_after = new_sessions;
        draft.counts.sessions = new_sessions as i64 - rewritten.sessions as i64;
        draft.removed = rewritten.removed;
        draft.added = output.files;
        report.files_removed = draft.removed.len() as u64;
        report.files_added = draft.added.len() as u64;
        if self.dry_run || (draft.removed.is_empty() && draft.added.is_empty()) {
            return Ok(Some(report));
        }
        let committed = silver::commit(self.work, self.judge, &self.base.last, &mut draft, &fates.new_keys)?;
        Ok(committed.map(|number| {
            report.entries.push(number);
            report
        }))
    }

    /// The files of a layer that touch a window.
    fn files(&self, layer: &str, window: Window) -> Vec<&FileEntry> {
        self.base.files.values().filter(|f| f.layer == layer && window.touches(f)).collect()
    }
}
