//! Pipelines in Python: run, audit, inspect, and the log for loads.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use serde::Serialize;

use super::calls::attach;
use super::errors::to_python;
use super::gate::{OnInterrupt, Stop, enter, enter_apart, enter_beside};
use super::lake::{Secrets, storage_secrets};
use super::sink::PySink;
use super::table::Table;
use super::transform::Function;
use crate::stream::sink::EpochSink;
use crate::stream::transform::Transform;
use crate::stream::{self, Event, Observer, PipelineSpec, RunOptions, audit as auditing, inspect as inspecting};
use crate::{Error, Result};

/// Tells Python what happens, and asks whether to stop.
pub(super) struct Watcher {
    callback: Option<Py<PyAny>>,
    stop: Stop,
}

impl Watcher {
    pub(super) fn new(callback: Option<Py<PyAny>>, stop: &Stop) -> Self {
        Self { callback, stop: stop.clone() }
    }
}

impl Observer for Watcher {
    fn event(&self, event: &Event) {
        let Some(callback) = &self.callback else { return };
        let Ok(text) = serde_json::to_string(event) else { return };
        // While Python exits nobody listens any more.
        let _ = attach(|py| {
            // A broken progress bar must not stop the pipeline; Python prints what went wrong.
            if let Err(error) = callback.call1(py, (text,)) {
                error.write_unraisable(py, None);
            }
        });
    }

    fn should_stop(&self) -> bool {
        self.stop.asked()
    }

    fn asked_for(&self) -> Option<Duration> {
        self.stop.asked_for()
    }
}

/// Runs `work` on a pipeline as [`enter`] does; errors name the lake, too.
pub(super) fn over<T: Send + 'static>(
    py: Python<'_>,
    on_interrupt: OnInterrupt,
    spec: PipelineSpec,
    work: impl FnOnce(&PipelineSpec, &Stop) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    enter(py, on_interrupt, move |stop| work(&spec, stop).map_err(|e| e.in_lake(&spec.lake)))
}

/// The same for work that calls Python: transforms, sinks, callbacks.
pub(super) fn over_apart<T: Send + 'static>(
    py: Python<'_>,
    on_interrupt: OnInterrupt,
    spec: PipelineSpec,
    work: impl FnOnce(&PipelineSpec, &Stop) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    enter_apart(py, on_interrupt, move |stop| work(&spec, stop).map_err(|e| e.in_lake(&spec.lake)))
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Internal(e.to_string()))
}

pub(super) fn spec(py: Python<'_>, text: &str, secrets: Option<Secrets>) -> PyResult<PipelineSpec> {
    let read = || {
        let storage_secrets = storage_secrets(secrets)?;
        Ok(PipelineSpec { storage_secrets, ..PipelineSpec::from_json(text)? })
    };
    read().map_err(|e| to_python(py, e))
}

/// Runs a pipeline; gives its ledger as JSON.
#[pyfunction]
#[pyo3(signature = (
    spec_json, *, until_caught_up, max_epochs=None, accept_gap=false, void=None, drain=false, transform=None,
    sinks=vec![], secret=None, source_secrets=None, storage_secrets=None, on_event=None
))]
#[allow(clippy::too_many_arguments)] // each a keyword in Python
pub fn run_pipeline(
    py: Python<'_>,
    spec_json: &str,
    until_caught_up: bool,
    max_epochs: Option<u64>,
    accept_gap: bool,
    void: Option<u64>,
    drain: bool,
    transform: Option<Py<PyAny>>,
    sinks: Vec<Py<PyAny>>,
    secret: Option<Vec<u8>>,
    source_secrets: Option<Secrets>,
    storage_secrets: Option<Secrets>,
    on_event: Option<Py<PyAny>>,
) -> PyResult<String> {
    let mut spec = spec(py, spec_json, storage_secrets)?;
    spec.source_secrets = stream::spec::Secrets(source_secrets.unwrap_or_default().into_iter().collect());
    let transform = transform.map(|t| Arc::new(Function(t)) as Arc<dyn Transform>);
    let sinks = sinks.into_iter().map(|s| PySink::new(py, s).map(|s| Arc::new(s) as Arc<dyn EpochSink>));
    let sinks = sinks.collect::<PyResult<Vec<_>>>()?;
    let options = RunOptions { until_caught_up, max_epochs, accept_gap, void, drain, transform, sinks };
    over_apart(py, OnInterrupt::Told, spec, move |spec, stop| {
        let watcher = Watcher::new(on_event, stop);
        let mut report = stream::run(spec, &options, secret.as_deref(), &watcher)?;
        // It may have had nothing left to do; whoever asked still does not want what comes after it.
        report.stopped |= stop.asked();
        json(&report)
    })
}

/// Counts a pipeline's ledger again from its files; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, *, storage_secrets=None))]
pub fn audit(py: Python<'_>, spec_json: &str, storage_secrets: Option<Secrets>) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over(py, OnInterrupt::Abandon, spec, move |spec, _| json(&auditing::audit(spec)?))
}

/// Looks at a pipeline from outside; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, *, epochs=10, samples=0, storage_secrets=None))]
pub fn inspect(
    py: Python<'_>,
    spec_json: &str,
    epochs: usize,
    samples: usize,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over(py, OnInterrupt::Abandon, spec, move |spec, _| json(&inspecting::inspect(spec, epochs, samples)?))
}

/// A table of a pipeline's state, as its newest commit has it.
#[pyfunction]
#[pyo3(signature = (spec_json, table, *, storage_secrets=None))]
pub fn state_table(
    py: Python<'_>,
    spec_json: &str,
    table: String,
    storage_secrets: Option<Secrets>,
) -> PyResult<Table> {
    let spec = spec(py, spec_json, storage_secrets)?;
    let rows = over(py, OnInterrupt::Abandon, spec, move |spec, _| stream::state_table::read(spec, &table))?;
    Ok(Table::of(vec![rows]))
}

/// The log entries after one (all after -1), oldest first, of a shard where the pipeline has any; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, since, *, shard=0, storage_secrets=None))]
pub fn lake_log(
    py: Python<'_>,
    spec_json: &str,
    since: i64,
    shard: u32,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    let spec = spec(py, spec_json, storage_secrets)?;
    let since = u64::try_from(since).ok();
    over(py, OnInterrupt::Abandon, spec, move |spec, _| json(&inspecting::entries(spec, shard, since)?))
}

/// The numbers of a pipeline's shards; empty where it has none.
#[pyfunction]
#[pyo3(signature = (spec_json, *, storage_secrets=None))]
pub fn lake_shards(py: Python<'_>, spec_json: &str, storage_secrets: Option<Secrets>) -> PyResult<Vec<u32>> {
    let spec = spec(py, spec_json, storage_secrets)?;
    over(py, OnInterrupt::Abandon, spec, move |spec, _| inspecting::shard_numbers(spec))
}

/// The places where a failure can be made on purpose.
#[pyfunction]
pub fn failpoints() -> Vec<&'static str> {
    crate::failpoint::PLACES.to_vec()
}

/// Passes a place of what is written in Python, and fails there if that was asked for.
#[pyfunction]
pub fn pass_failpoint(py: Python<'_>, name: &str) -> PyResult<()> {
    let name = name.to_owned();
    enter_beside(py, OnInterrupt::Abandon, move |_| crate::failpoint::pass_named(&name))
}
