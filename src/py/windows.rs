//! Windows in Python.

use pyo3::prelude::*;
use pyo3_arrow::input::AnyRecordBatch;

use super::gate::{OnInterrupt, enter};
use super::table::{Table, batches, some};
use crate::windows::{self, Aggregate, WindowSpec};

/// Aggregates events over windows of time.
#[pyfunction]
#[pyo3(signature = (events, *, at, size_us, slide_us, by, aggregates))]
pub fn aggregate_windows(
    py: Python<'_>,
    events: AnyRecordBatch,
    at: String,
    size_us: i64,
    slide_us: Option<i64>,
    by: Vec<String>,
    aggregates: Vec<(String, String)>,
) -> PyResult<Table> {
    let (schema, rows) = batches(events)?;
    enter(py, OnInterrupt::Abandon, move |_| {
        let aggregates = aggregates
            .into_iter()
            .map(|(name, text)| Ok((name, Aggregate::parse(&text)?)))
            .collect::<crate::Result<_>>()?;
        let spec = WindowSpec { name: "windows".into(), size: size_us, slide: slide_us, by, from: vec![], aggregates };
        Ok(Table::of(vec![windows::aggregate_windows(&some(schema, rows), &at, spec)?]))
    })
}
