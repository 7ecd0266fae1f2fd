//! The generator in Python.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::errors::to_python;
use super::gate::{OnInterrupt, enter_apart, tell};
use crate::Error;
use crate::generate::{GenerateOptions, Profile, generate_file};

/// Writes generated events to a file, or to standard output; gives the truth about them as JSON.
#[pyfunction]
#[pyo3(signature = (profile, options_json, path, *, on_progress=None))]
pub fn generate(
    py: Python<'_>,
    profile: &str,
    options_json: &str,
    path: Option<PathBuf>,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let profile = Profile::parse(profile).map_err(|e| to_python(py, e))?;
    let options: GenerateOptions =
        serde_json::from_str(options_json).map_err(|e| to_python(py, Error::settings("options", e)))?;
    let path = path.unwrap_or_else(|| PathBuf::from("/dev/stdout"));
    enter_apart(py, OnInterrupt::Wait, move |stop| {
        let mut progress = |events: u64| {
            stop.check()?;
            tell(on_progress.as_ref(), events)
        };
        let truth = generate_file(profile, &options, &path, &mut progress)?;
        serde_json::to_string(&truth).map_err(|e| Error::Internal(e.to_string()))
    })
}
