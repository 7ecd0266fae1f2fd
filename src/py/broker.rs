//! The broker of a pipeline in Python.

use pyo3::prelude::*;

use super::gate::OnInterrupt;
use super::lake::Secrets;
use super::stream::{Watcher, json, over, spec};
use crate::stream::broker as brokers;
use crate::stream::run::Watching;
use crate::stream::spec::Secrets as Hidden;

/// What the broker holds of each partition, or with `audit` whether that is what was read, or with `at` (microseconds)
/// from which offset on it is as new as that, whatever was read; gives JSON.
#[pyfunction]
#[pyo3(signature = (spec_json, *, audit=false, at=None, source_secrets=None, storage_secrets=None))]
pub fn broker(
    py: Python<'_>,
    spec_json: &str,
    audit: bool,
    at: Option<i64>,
    source_secrets: Option<Secrets>,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    let mut spec = spec(py, spec_json, storage_secrets)?;
    spec.source_secrets = Hidden(source_secrets.unwrap_or_default().into_iter().collect());
    over(py, OnInterrupt::Wait, spec, move |spec, stop| {
        let watcher = Watcher::new(None, stop);
        let watch = Watching(&watcher);
        match at {
            Some(micros) => json(&brokers::reached(spec, micros, &watch)?),
            None if audit => json(&brokers::audit(spec, &watch)?),
            None => json(&brokers::ends(spec, &watch)?),
        }
    })
}
