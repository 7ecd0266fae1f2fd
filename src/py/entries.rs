//! The commands over the log in Python: replay, backfill, compaction, retention, reset, manifest.

use std::sync::Arc;

use pyo3::prelude::*;
use serde::de::DeserializeOwned;

use super::gate::OnInterrupt;
use super::lake::Secrets;
use super::stream::{Watcher, json, over, over_apart, spec};
use super::transform::Function;
use crate::stream::entries::retention as retentions;
use crate::stream::entries::{backfill as backfills, command, compact as compaction, judge::Means, replay as replays};
use crate::stream::transform::Transform;
use crate::{Error, Result};

fn options<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::settings("options", e))
}

fn means<'a>(secret: Option<&'a [u8]>, transform: Option<Py<PyAny>>) -> Means<'a> {
    Means { secret, transform: transform.map(|t| Arc::new(Function(t)) as Arc<dyn Transform>) }
}

/// Judges dead letters again; gives JSON: a list, what was done in each log of the pipeline. So do the next three.
#[pyfunction]
#[pyo3(signature = (spec_json, options_json, *, transform=None, secret=None, storage_secrets=None))]
pub fn replay(
    py: Python<'_>,
    spec_json: &str,
    options_json: String,
    transform: Option<Py<PyAny>>,
    secret: Option<Vec<u8>>,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over_apart(py, OnInterrupt::Wait, spec, move |spec, stop| {
        let (options, watcher) = (options(&options_json)?, Watcher::new(None, stop));
        let means = means(secret.as_deref(), transform);
        json(&command::over(spec, &watcher, |work| replays::replay(work, spec, &options, &means))?)
    })
}

/// Makes days of Silver anew; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, options_json, *, transform=None, secret=None, storage_secrets=None))]
pub fn backfill(
    py: Python<'_>,
    spec_json: &str,
    options_json: String,
    transform: Option<Py<PyAny>>,
    secret: Option<Vec<u8>>,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over_apart(py, OnInterrupt::Wait, spec, move |spec, stop| {
        let (options, watcher) = (options(&options_json)?, Watcher::new(None, stop));
        let means = means(secret.as_deref(), transform);
        json(&command::over(spec, &watcher, |work| backfills::backfill(work, spec, &options, &means))?)
    })
}

/// Puts small files together; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, options_json, *, storage_secrets=None))]
pub fn compact(
    py: Python<'_>,
    spec_json: &str,
    options_json: String,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over(py, OnInterrupt::Wait, spec, move |spec, stop| {
        let (options, watcher) = (options(&options_json)?, Watcher::new(None, stop));
        json(&command::over(spec, &watcher, |work| compaction::compact(work, &options))?)
    })
}

/// Throws away what is old; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, options_json, *, storage_secrets=None))]
pub fn retention(
    py: Python<'_>,
    spec_json: &str,
    options_json: String,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over(py, OnInterrupt::Wait, spec, move |spec, stop| {
        let (options, watcher) = (options(&options_json)?, Watcher::new(None, stop));
        json(&command::over(spec, &watcher, |work| retentions::retention(work, &options))?)
    })
}

/// Removes everything that a pipeline has in its lake; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, *, dry_run, storage_secrets=None))]
pub fn reset(py: Python<'_>, spec_json: &str, dry_run: bool, storage_secrets: Option<Secrets>) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over(py, OnInterrupt::Wait, spec, move |spec, stop| {
        let watcher = Watcher::new(None, stop);
        json(&command::reset_all(spec, &watcher, dry_run)?)
    })
}

/// The files that count, of one commit; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, layers, *, storage_secrets=None))]
pub fn manifest(
    py: Python<'_>,
    spec_json: &str,
    layers: Vec<String>,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over(py, OnInterrupt::Abandon, spec, move |spec, _| json(&command::manifest(spec, &layers)?))
}
