//! A user's function as the transform of a pipeline.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use pyo3::prelude::*;
use pyo3_arrow::input::AnyRecordBatch;

use super::calls::attach;
use super::table::Table;
use crate::stream::transform::Transform;
use crate::{Error, Result};

/// A callable that takes a [`Table`] and gives Arrow rows.
#[derive(Debug)]
pub struct Function(pub Py<PyAny>);

impl Transform for Function {
    fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let wrong = |py: Python<'_>, error: &PyErr| Error::Data(error.value(py).to_string());
        let rows = attach(|py| {
            let made = self.0.call1(py, (Table::new(rows.schema(), vec![rows.clone()]),));
            let made = made.map_err(|e| wrong(py, &e))?;
            let reader = made.extract::<AnyRecordBatch>(py).map_err(|e| wrong(py, &e))?.into_reader();
            let reader = reader.map_err(|e| wrong(py, &e))?;
            let schema = reader.schema();
            let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
            Ok(concat_batches(&schema, &batches)?)
        });
        rows.unwrap_or(Err(Error::Interrupted))
    }
}
