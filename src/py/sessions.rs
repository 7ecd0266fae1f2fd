//! Sessions in Python.

use pyo3::prelude::*;
use pyo3_arrow::input::AnyRecordBatch;

use super::gate::{OnInterrupt, enter};
use super::table::{Table, batches, some};
use crate::sessions;

/// Numbers the events of each entity's sessions.
#[pyfunction]
#[pyo3(signature = (events, *, entity, at, gap_us, max_duration_us))]
pub fn sessionize(
    py: Python<'_>,
    events: AnyRecordBatch,
    entity: String,
    at: String,
    gap_us: i64,
    max_duration_us: Option<i64>,
) -> PyResult<Table> {
    let (schema, rows) = batches(events)?;
    enter(py, OnInterrupt::Abandon, move |_| {
        let rows = some(schema, rows);
        let rows = sessions::sessionize(&rows, &entity, &at, gap_us, max_duration_us)?;
        Ok(Table::of(rows))
    })
}
