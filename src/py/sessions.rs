//! Sessions in Python.

use pyo3::prelude::*;
use pyo3_arrow::input::AnyRecordBatch;

use super::gate::{OnInterrupt, enter};
use super::table::{Table, batches};
use crate::sessions::{self, SessionSettings};

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
        let settings = SessionSettings { gap: gap_us, max_duration: max_duration_us };
        let (schema, rows) = sessions::sessionize(&schema, &rows, &entity, &at, settings)?;
        Ok(Table::new(schema, rows))
    })
}
