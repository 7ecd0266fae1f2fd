//! What the commands over the log do: each opens the lake of a pipeline, and works there; in shards on one log after the
//! other.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Work;
use super::reset::{ResetReport, reset, reset_rest};
use crate::error::{Error, Result};
use crate::stream::log::FileEntry;
use crate::stream::run::{Observer, open_lake};
use crate::stream::shards;
use crate::stream::spec::PipelineSpec;
use crate::stream::store::{Clock, FixedClock, SystemClock};

/// What was done in one log.
#[derive(Debug, Clone, Serialize)]
pub struct Done<R> {
    /// Whose log it is: the shard's number, where the pipeline has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// What was done.
    #[serde(flatten)]
    pub report: R,
}

/// Opens the lake of a pipeline that was run before, and does something in each of its logs that has a commit.
///
/// # Errors
/// [`Error::Lake`] when it is not there, and whatever `command` answers. What was done in the logs before stays done.
pub fn over<R>(
    spec: &PipelineSpec,
    observer: &dyn Observer,
    mut command: impl FnMut(&mut Work<'_>) -> Result<R>,
) -> Result<Vec<Done<R>>> {
    let lake = open_lake(spec, false)?;
    let clock = clock_of(spec);
    let mut journals = shards::journals(&lake, &spec.name)?;
    if journals.len() > 1 {
        let begun = journals.iter().map(|j| Ok(j.head()?.commit.is_some())).collect::<Result<Vec<_>>>()?;
        // Where none has begun the first says so.
        let any = begun.contains(&true);
        let mut wanted = begun.into_iter().enumerate().map(|(at, begun)| if any { begun } else { at == 0 });
        journals.retain(|_| wanted.next().unwrap_or(false));
    }
    let mut done = vec![];
    for journal in journals {
        let shard = Some(journal.shard()).filter(|shard| *shard > 0);
        done.push(Done { shard, report: command(&mut Work::new(journal, clock.as_ref(), observer))? });
    }
    Ok(done)
}

/// Removes everything that the pipeline has in its lake, in whatever shards.
///
/// # Errors
/// As [`reset`].
pub fn reset_all(spec: &PipelineSpec, observer: &dyn Observer, dry_run: bool) -> Result<ResetReport> {
    let lake = open_lake(spec, false)?;
    let clock = clock_of(spec);
    let mut sum = ResetReport { dry_run, ..ResetReport::default() };
    for journal in shards::journals(&lake, &spec.name)? {
        if journal.shard() == 0 {
            return reset(&Work::new(journal, clock.as_ref(), observer), dry_run);
        }
        // A shard that never ran, or that a reset which was killed has removed.
        if !lake.list(&journal.control(), None)?.is_empty() {
            sum.add(&reset(&Work::new(journal, clock.as_ref(), observer), dry_run)?);
        }
    }
    // What the shards share goes last.
    sum.control += reset_rest(&lake, &spec.name, dry_run)?;
    Ok(sum)
}

fn clock_of(spec: &PipelineSpec) -> Box<dyn Clock> {
    match &spec.fixed {
        Some(fixed) => Box::new(FixedClock(fixed.clock_us)),
        None => Box::new(SystemClock),
    }
}

/// The files that count as of one commit.
#[derive(Debug, Clone, Serialize)]
pub struct Manifest {
    /// The pipeline.
    pub pipeline: String,
    /// The lake, as it was given.
    pub lake: String,
    /// The newest entry of the log.
    pub entry: u64,
    /// When it was committed, in microseconds since the Unix epoch.
    pub committed_at: i64,
    /// The newest entry of the log of each shard; `entry` is the one of them that was committed last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub shards: BTreeMap<u32, u64>,
    /// The files, by path.
    pub files: Vec<FileEntry>,
}

/// The files that count, of some layers or of all (when none is named).
///
/// # Errors
/// [`Error::Lake`] when the lake or the pipeline is not there, or has committed nothing.
pub fn manifest(spec: &PipelineSpec, layers: &[String]) -> Result<Manifest> {
    let lake = open_lake(spec, false)?;
    let asked = |f: &FileEntry| layers.is_empty() || layers.contains(&f.layer);
    let (mut newest, mut shards, mut files) = (None, BTreeMap::new(), vec![]);
    for journal in shards::journals(&lake, &spec.name)? {
        let Some(live) = journal.live()? else { continue };
        newest = newest.max(Some((live.last.committed_at, live.last.number)));
        if journal.shard() > 0 {
            shards.insert(journal.shard(), live.last.number);
        }
        files.extend(live.files.into_values().filter(asked));
    }
    let (committed_at, entry) = newest.ok_or_else(|| {
        Error::lake(&spec.lake, format!("pipeline {} has committed nothing yet; run it first", spec.name))
    })?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Manifest { pipeline: spec.name.clone(), lake: spec.lake.clone(), entry, committed_at, shards, files })
}
