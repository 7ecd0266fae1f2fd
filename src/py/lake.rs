//! Parquet and lakes in Python.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::errors::to_python;
use super::gate::{OnInterrupt, enter};
use super::table::Given;
use crate::Error;
use crate::sinks::parquet::{Existing, ExportOptions, write_parquet as export};
use crate::stream::inspect::live_files;

/// Writes rows as Parquet files; gives the files' paths below the folder.
#[pyfunction]
#[pyo3(signature = (rows, path, *, partition_by, name=None, replace=false))]
pub fn write_parquet(
    py: Python<'_>,
    rows: Given,
    path: PathBuf,
    partition_by: Vec<String>,
    name: Option<String>,
    replace: bool,
) -> PyResult<Vec<String>> {
    let (schema, batches) = rows.stream()?;
    let Some(folder) = path.to_str().map(str::to_owned) else {
        return Err(to_python(py, Error::lake(path.display().to_string(), "is not UTF-8; choose another name")));
    };
    enter(py, OnInterrupt::Wait, move |stop| {
        let mut options = ExportOptions { partition_by, ..ExportOptions::default() };
        options.existing = if replace { Existing::Replace } else { Existing::Refuse };
        if let Some(name) = name {
            options.name = name;
        }
        let batches = batches.map(|batch| {
            stop.check()?;
            batch
        });
        let files = export(&schema, batches, &folder, options)?;
        Ok(files.into_iter().map(|(path, _)| path).collect())
    })
}

/// The data files of a layer that the log counts, as JSON.
#[pyfunction]
#[pyo3(signature = (lake, layer, *, pipeline=None))]
pub fn read_lake(py: Python<'_>, lake: PathBuf, layer: String, pipeline: Option<String>) -> PyResult<String> {
    enter(py, OnInterrupt::Abandon, move |_| {
        let files = live_files(&lake.to_string_lossy(), &layer, pipeline.as_deref())?;
        serde_json::to_string(&files).map_err(|e| Error::Internal(e.to_string()))
    })
}
