//! What the commands over the log do: each opens the lake of a pipeline, and works there.

use serde::Serialize;

use super::Work;
use crate::error::{Error, Result};
use crate::stream::journal::Journal;
use crate::stream::log::FileEntry;
use crate::stream::run::{Observer, open_lake};
use crate::stream::spec::PipelineSpec;
use crate::stream::store::{Clock, FixedClock, SystemClock};

/// Opens the lake of a pipeline that was run before, and does something in it.
///
/// # Errors
/// [`Error::Lake`] when it is not there, and whatever `command` answers.
pub fn over<R>(
    spec: &PipelineSpec,
    observer: &dyn Observer,
    command: impl FnOnce(&mut Work<'_>) -> Result<R>,
) -> Result<R> {
    let lake = open_lake(spec, false)?;
    let clock: Box<dyn Clock> = match &spec.fixed {
        Some(fixed) => Box::new(FixedClock(fixed.clock_us)),
        None => Box::new(SystemClock),
    };
    command(&mut Work::new(&lake, &spec.name, clock.as_ref(), observer))
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
    /// The files, by path.
    pub files: Vec<FileEntry>,
}

/// The files that count, of some layers or of all (when none is named).
///
/// # Errors
/// [`Error::Lake`] when the lake or the pipeline is not there, or has committed nothing.
pub fn manifest(spec: &PipelineSpec, layers: &[String]) -> Result<Manifest> {
    let lake = open_lake(spec, false)?;
    let live = Journal::new(&lake, &spec.name).live()?.ok_or_else(|| {
        Error::lake(&spec.lake, format!("pipeline {} has committed nothing yet; run it first", spec.name))
    })?;
    let asked = |f: &FileEntry| layers.is_empty() || layers.contains(&f.layer);
    Ok(Manifest {
        pipeline: spec.name.clone(),
        lake: spec.lake.clone(),
        entry: live.last.number,
        committed_at: live.last.committed_at,
        files: live.files.into_values().filter(asked).collect(),
    })
}
