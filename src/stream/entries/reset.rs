//! Reset: a pipeline as if it had never run. For tests and demos.

use serde::Serialize;

use super::Work;
use super::sweep::LAYERS;
use crate::error::{Error, Result};
use crate::lake::layout;
use crate::stream::store::Store;

/// What was removed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ResetReport {
    /// Data files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects of the log, the state and the contracts.
    pub control: u64,
    /// Whether nothing was done.
    pub dry_run: bool,
}

impl ResetReport {
    /// Takes in what was removed of another log.
    pub fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.control += other.control;
    }
}

/// Removes everything that the pipeline, or this shard of it, has in the lake, for good. A run that is at work ends with
/// its next step, because a newer term was taken; the terms stay.
///
/// # Errors
/// [`Error::Lake`] when there is no such pipeline, or the lake refuses; then it is done again from where it was.
pub fn reset(work: &Work<'_>, dry_run: bool) -> Result<ResetReport> {
    let journal = &work.journal;
    let control = journal.control();
    let mut objects = work.store().list(&control, None)?;
    if objects.is_empty() {
        return Err(Error::lake(control, format!("there is no pipeline {}; nothing to reset", journal.pipeline())));
    }
    let mut report = ResetReport { control: objects.len() as u64, dry_run, ..ResetReport::default() };
    let ours = |path: &str| layout::writer(journal.pipeline(), work.journal.shard(), path).is_some();
    let trash = LAYERS.map(layout::trash);
    let mut data = vec![];
    for layer in LAYERS.iter().map(|l| (*l).to_owned()).chain(trash) {
        data.extend(work.store().list(&layer, None)?.into_iter().filter(|o| ours(&o.path)));
    }
    report.files = data.len() as u64;
    report.bytes = data.iter().map(|o| o.size).sum();
    if dry_run {
        return Ok(report);
    }
    journal.take_term(work.clock)?;
    objects = work.store().list(&control, None)?;
    // The terms stay: a run that is still at work looks for the one above its own, and finds it.
    objects.retain(|o| !o.path[control.len()..].starts_with("terms/"));
    // The newest entries of the log go first: whatever is left when this is killed is a shorter log, and the identity
    // goes last.
    let rank = |path: &str| match path.strip_prefix(&control).and_then(|p| p.split('/').next()) {
        Some("snapshots") => 0,
        Some("epochs") => 1,
        Some("pipeline.json") => 3,
        _ => 2,
    };
    objects.sort_by(|a, b| rank(&a.path).cmp(&rank(&b.path)).then(b.path.cmp(&a.path)));
    let (log, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(|o| rank(&o.path) < 2);
    for object in log.into_iter().chain(data).chain(rest) {
        work.stop_if_asked()?;
        work.store().delete(&object.path)?;
    }
    Ok(report)
}

/// Removes what the shards of a pipeline share: contracts, and last what it keeps for ever; how many objects.
///
/// # Errors
/// [`Error::Lake`] when the lake refuses.
pub fn reset_rest(store: &dyn Store, pipeline: &str, dry_run: bool) -> Result<u64> {
    let control = layout::control(pipeline);
    let in_log = |path: &str| path[control.len()..].split('/').next().is_some_and(|first| first.parse::<u32>().is_ok());
    let mut objects = store.list(&control, None)?;
    objects.retain(|object| !in_log(&object.path));
    if !dry_run {
        objects.sort_by_key(|object| object.path == layout::pipeline(pipeline));
        objects.iter().try_for_each(|object| store.delete(&object.path))?;
    }
    Ok(objects.len() as u64)
}
