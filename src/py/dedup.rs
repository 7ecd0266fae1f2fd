//! Deduplication in Python.

use pyo3::prelude::*;

use super::gate::{OnInterrupt, enter};
use super::table::{Given, Table};
use crate::dedup;

/// Keeps the first of equal keys.
#[pyfunction]
#[pyo3(signature = (events, *, key, at, horizon_us))]
pub fn deduplicate(
    py: Python<'_>,
    events: Given,
    key: Vec<String>,
    at: Option<String>,
    horizon_us: Option<i64>,
) -> PyResult<Table> {
    let (schema, rows) = events.rows()?;
    enter(py, OnInterrupt::Abandon, move |_| {
        let (kept, _) = {
            let key: Vec<&str> = key.iter().map(String::as_str).collect();
            dedup::deduplicate_rows(&rows, &key, at.as_deref(), horizon_us)?
        };
        Ok(Table::new(schema, kept))
    })
}
