//! Sessions in Python.

use arrow::array::RecordBatch;
use pyo3::prelude::*;

use super::gate::{OnInterrupt, enter};
use super::table::{Given, Table};
use crate::sessions;

/// Numbers the events of each entity's sessions.
#[pyfunction]
#[pyo3(signature = (events, *, entity, at, gap_us, max_duration_us))]
pub fn sessionize(
    py: Python<'_>,
    events: Given,
    entity: String,
    at: String,
    gap_us: i64,
    max_duration_us: Option<i64>,
) -> PyResult<Table> {
    let (schema, mut rows) = events.rows()?;
    enter(py, OnInterrupt::Abandon, move |_| {
        if rows.is_empty() {
            rows.push(RecordBatch::new_empty(schema.clone()).into());
        }
        let rows = sessions::sessionize_rows(&rows, &entity, &at, gap_us, max_duration_us)?;
        Ok(Table::new(sessions::with_sessions(&schema), rows))
    })
}
