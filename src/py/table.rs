//! Rows on their way to and from Python, by the Arrow PyCapsule interface.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StructArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatchReader;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};
use pyo3_arrow::ffi::{ArrayIterator, to_schema_pycapsule, to_stream_pycapsule};
use pyo3_arrow::input::AnyRecordBatch;
use rayon::prelude::*;

use super::errors::to_python;
use crate::packed::{self, Rows};
use crate::{Error, Result};

/// Rows made by the engine. Any Arrow library takes them as they are: `pyarrow.table(t)`, `polars.from_arrow(t)`,
/// `duckdb.from_arrow(t)`.
#[pyclass(module = "penstock._core", frozen)]
pub struct Table {
    /// The rows, packed.
    pub rows: Vec<Rows>,
    /// Their columns, as others see them.
    pub schema: SchemaRef,
}

impl Table {
    /// A table of rows with these columns.
    pub fn new<R: Into<Rows>>(schema: SchemaRef, rows: impl IntoIterator<Item = R>) -> Self {
        Self { rows: rows.into_iter().map(Into::into).collect(), schema }
    }

    /// A table of at least one batch.
    pub fn of(batches: Vec<RecordBatch>) -> Self {
        let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        Self::new(schema, batches)
    }

    /// Batch after batch, as others see them; each is made when it is asked for.
    pub fn plain(&self) -> impl Iterator<Item = Result<RecordBatch>> + use<> {
        let schema = self.schema.clone();
        self.rows.clone().into_iter().map(move |rows| packed::unpack(&schema, &rows.packed()?))
    }
}

/// Batches that come one after the other.
pub type Stream = Box<dyn Iterator<Item = crate::Result<RecordBatch>> + Send>;

/// Rows that a function is given: our own, which are taken as they are, or anybody's.
#[derive(FromPyObject)]
pub enum Given {
    /// Ours.
    Own(Py<Table>),
    /// Whatever speaks Arrow.
    Other(AnyRecordBatch),
}

impl Given {
    /// The columns, and all rows.
    pub fn rows(self) -> PyResult<(SchemaRef, Vec<Rows>)> {
        match self {
            Self::Own(table) => Ok((table.get().schema.clone(), table.get().rows.clone())),
            Self::Other(rows) => {
                let (schema, batches) = batches(rows)?;
                Ok((schema, batches.into_iter().map(Rows::from).collect()))
            }
        }
    }

    /// The columns, and batch after batch; our own are packed.
    pub fn stream(self) -> PyResult<(SchemaRef, Stream)> {
        Ok(match self {
            Self::Own(table) => {
                let rows = table.get().rows.clone();
                (table.get().schema.clone(), Box::new(packed_ahead(rows)))
            }
            Self::Other(rows) => {
                let reader = rows.into_reader()?;
                (reader.schema(), Box::new(reader.map(|batch| Ok(batch?))))
            }
        })
    }
}

/// So many rows are copied out of their batches together, on all cores.
const AHEAD: usize = 32 << 10;

/// The rows that count, batch after batch.
fn packed_ahead(rows: Vec<Rows>) -> impl Iterator<Item = Result<RecordBatch>> {
    let mut rest = rows.into_iter();
    let mut ready = VecDeque::new();
    std::iter::from_fn(move || {
        if ready.is_empty() {
            let (mut next, mut held) = (Vec::new(), 0);
            while held < AHEAD
                && let Some(rows) = rest.next()
            {
                held += rows.batch().num_rows();
                next.push(rows);
            }
            ready = next.into_par_iter().map(|rows| rows.packed()).collect::<Vec<_>>().into();
        }
        ready.pop_front()
    })
}

/// At least one batch, so that the columns are known when there are no rows.
pub fn some(schema: SchemaRef, batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    if batches.is_empty() { vec![RecordBatch::new_empty(schema)] } else { batches }
}

#[pymethods]
impl Table {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let field = Arc::new(
            Field::new_struct("", self.schema.fields().clone(), false).with_metadata(self.schema.metadata().clone()),
        );
        let arrays = self.plain().map(|batch| {
            let batch = batch.map_err(|e| ArrowError::ComputeError(e.to_string()))?;
            Ok(Arc::new(StructArray::from(batch)) as ArrayRef)
        });
        let reader = Box::new(ArrayIterator::new(arrays, field));
        Ok(to_stream_pycapsule(py, reader, requested_schema)?)
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        Ok(to_schema_pycapsule(py, self.schema.as_ref())?)
    }

    fn __len__(&self) -> usize {
        self.num_rows()
    }

    /// How many rows there are.
    #[getter]
    fn num_rows(&self) -> usize {
        self.rows.iter().map(Rows::len).sum()
    }

    /// The columns' names.
    #[getter]
    fn column_names<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.schema.fields().iter().map(|f| f.name()))
    }

    /// Name and type of each column.
    fn columns(&self) -> Vec<(String, String)> {
        self.schema.fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect()
    }

    fn __repr__(&self) -> String {
        let columns: Vec<_> = self.schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
        format!("penstock.Table({} rows; {})", self.num_rows(), columns.join(", "))
    }
}

/// Reads all rows that a Python object hands over.
pub fn batches(rows: AnyRecordBatch) -> PyResult<(SchemaRef, Vec<RecordBatch>)> {
    let reader = rows.into_reader()?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>();
    let batches = batches.map_err(|e| Python::attach(|py| to_python(py, Error::Data(e.to_string()))))?;
    Ok((schema, batches))
}
