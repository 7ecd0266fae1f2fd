//! Parquet and lakes in Python.

use std::collections::HashMap;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::errors::to_python;
use super::gate::{OnInterrupt, enter};
use super::table::Given;
use crate::lake::{Lake, LakeOptions, StorageSecrets, StorageSpec};
use crate::sinks::parquet::{Existing, ExportOptions, write_parquet as export};
use crate::stream::inspect::live_files;
use crate::{Error, Result};

/// Secrets of a storage by their names.
pub type Secrets = HashMap<String, String>;

/// The same as the engine takes them.
pub fn storage_secrets(secrets: Option<Secrets>) -> Result<StorageSecrets> {
    let mut all = StorageSecrets::default();
    secrets.unwrap_or_default().into_iter().try_for_each(|(name, value)| all.set(&name, value))?;
    Ok(all)
}

/// How a lake is opened, of the JSON of `storage` and the secrets beside it.
fn options(storage: Option<&str>, secrets: Option<Secrets>) -> Result<LakeOptions> {
    let storage: StorageSpec = match storage {
        Some(text) => serde_json::from_str(text).map_err(|e| Error::settings("storage", e))?,
        None => StorageSpec::default(),
    };
    Ok(LakeOptions { create: false, storage, secrets: storage_secrets(secrets)?, ..LakeOptions::default() })
}

/// A lake's objects, for readers of Python.
#[pyclass(frozen, module = "penstock._core")]
pub struct LakeObjects {
    lake: Lake,
}

#[pymethods]
impl LakeObjects {
    #[new]
    #[pyo3(signature = (lake, *, storage=None, storage_secrets=None))]
    fn new(py: Python<'_>, lake: &str, storage: Option<&str>, storage_secrets: Option<Secrets>) -> PyResult<Self> {
        let open = || Lake::open(lake, &options(storage, storage_secrets)?);
        Ok(Self { lake: open().map_err(|e| to_python(py, e))? })
    }

    /// Size of an object in bytes, and when it was written, in microseconds since 1970; none when there is none.
    fn head(&self, py: Python<'_>, path: &str) -> PyResult<Option<(u64, i64)>> {
        let found = py.detach(|| self.lake.head(path)).map_err(|e| to_python(py, e))?;
        Ok(found.map(|meta| (meta.size, meta.modified_us)))
    }

    /// Some bytes of an object.
    fn read(&self, py: Python<'_>, path: &str, start: u64, end: u64) -> PyResult<Py<PyBytes>> {
        let read =
            || self.lake.get_range(path, start..end)?.ok_or_else(|| Error::lake(path, "is not there (any more)"));
        let bytes = py.detach(read).map_err(|e| to_python(py, e))?;
        Ok(PyBytes::new(py, &bytes).unbind())
    }

    /// Path and size of every object below a prefix.
    fn list(&self, py: Python<'_>, prefix: &str) -> PyResult<Vec<(String, u64)>> {
        let found = py.detach(|| self.lake.list(prefix, None)).map_err(|e| to_python(py, e))?;
        Ok(found.into_iter().map(|meta| (meta.path, meta.size)).collect())
    }

    /// Writes, reads and removes an object, and makes sure that a second put-if-absent is refused.
    fn probe(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.lake.probe()).map_err(|e| to_python(py, e))
    }

    /// What was asked of the bucket so far, as JSON.
    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        serde_json::to_string(&self.lake.stats()).map_err(|e| to_python(py, Error::Internal(e.to_string())))
    }

    fn __repr__(&self) -> String {
        format!("LakeObjects({:?})", self.lake.url())
    }
}

/// Writes rows as Parquet files; gives the files' paths below the folder.
#[pyfunction]
#[pyo3(signature = (rows, path, *, partition_by, name=None, replace=false, storage=None, storage_secrets=None))]
#[expect(clippy::too_many_arguments, reason = "they are the keywords of one call")]
pub fn write_parquet(
    py: Python<'_>,
    rows: Given,
    path: PathBuf,
    partition_by: Vec<String>,
    name: Option<String>,
    replace: bool,
    storage: Option<String>,
    storage_secrets: Option<Secrets>,
) -> PyResult<Vec<String>> {
    let (schema, batches) = rows.stream()?;
    let Some(folder) = path.to_str().map(str::to_owned) else {
        return Err(to_python(py, Error::lake(path.display().to_string(), "is not UTF-8; choose another name")));
    };
    enter(py, OnInterrupt::Wait, move |stop| {
        let LakeOptions { storage, secrets, .. } = self::options(storage.as_deref(), storage_secrets)?;
        let mut options = ExportOptions { partition_by, storage, secrets, ..ExportOptions::default() };
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
#[pyo3(signature = (lake, layer, *, pipeline=None, storage=None, storage_secrets=None))]
pub fn read_lake(
    py: Python<'_>,
    lake: PathBuf,
    layer: String,
    pipeline: Option<String>,
    storage: Option<String>,
    storage_secrets: Option<Secrets>,
) -> PyResult<String> {
    enter(py, OnInterrupt::Abandon, move |_| {
        let options = options(storage.as_deref(), storage_secrets)?;
        let files = live_files(&lake.to_string_lossy(), &options, &layer, pipeline.as_deref())?;
        serde_json::to_string(&files).map_err(|e| Error::Internal(e.to_string()))
    })
}
