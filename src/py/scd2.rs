//! Histories of dimensions in Python.

use std::sync::Arc;

use arrow::array::RecordBatch;
use pyo3::prelude::*;
use pyo3_arrow::input::AnyRecordBatch;

use super::errors::to_python;
use super::gate::{OnInterrupt, enter};
use super::table::{Table, batches};
use crate::Error;
use crate::scd2::{self, Scd2Spec};

/// The columns of the position.
#[derive(FromPyObject)]
pub enum Order {
    /// One.
    One(String),
    /// Several, the first counts most.
    Several(Vec<String>),
}

impl Order {
    fn columns(self) -> Vec<String> {
        match self {
            Order::One(column) => vec![column],
            Order::Several(columns) => columns,
        }
    }
}

/// The history of a dimension with what confirmed its rows.
#[pyclass(module = "penstock._core", frozen)]
pub struct History {
    inner: Arc<scd2::History>,
}

#[pymethods]
impl History {
    /// From rows that have forgotten what confirmed them.
    #[staticmethod]
    #[pyo3(signature = (rows, *, key, at, tracked, op=None, order=None))]
    fn from_rows(
        py: Python<'_>,
        rows: AnyRecordBatch,
        key: Vec<String>,
        at: String,
        tracked: Vec<String>,
        op: Option<String>,
        order: Option<Order>,
    ) -> PyResult<Self> {
        let (_, rows) = batches(rows)?;
        let spec = Scd2Spec { key, at, tracked, op, order: order.map(Order::columns).unwrap_or_default() };
        enter(py, OnInterrupt::Abandon, move |_| Ok(Self { inner: Arc::new(scd2::History::from_rows(&rows, &spec)?) }))
    }

    /// From the points that [`Merge::points`] gave, of all entities or of just those that the next changes touch.
    #[staticmethod]
    #[pyo3(signature = (points, *, key, at, tracked, op=None, order=None))]
    fn from_points(
        py: Python<'_>,
        points: AnyRecordBatch,
        key: Vec<String>,
        at: String,
        tracked: Vec<String>,
        op: Option<String>,
        order: Option<Order>,
    ) -> PyResult<Self> {
        let (_, points) = batches(points)?;
        let spec = Scd2Spec { key, at, tracked, op, order: order.map(Order::columns).unwrap_or_default() };
        enter(py, OnInterrupt::Abandon, move |_| {
            Ok(Self { inner: Arc::new(scd2::History::from_points(&points, &spec)?) })
        })
    }

    /// From what `save` gave.
    #[staticmethod]
    fn load(py: Python<'_>, saved: AnyRecordBatch) -> PyResult<Self> {
        let (schema, saved) = batches(saved)?;
        enter(py, OnInterrupt::Abandon, move |_| {
            let saved = arrow::compute::concat_batches(&schema, &saved)?;
            Ok(Self { inner: Arc::new(scd2::History::from_batch(&saved)?) })
        })
    }

    /// Everything, as rows that `load` takes.
    fn save(&self, py: Python<'_>) -> PyResult<Table> {
        let inner = self.inner.clone();
        enter(py, OnInterrupt::Abandon, move |_| Ok(table(inner.to_batch()?)))
    }

    /// Without the confirmations before a moment (microseconds since the Unix epoch).
    fn settle(&self, py: Python<'_>, before: i64) -> PyResult<Self> {
        let inner = self.inner.clone();
        enter(py, OnInterrupt::Abandon, move |_| Ok(Self { inner: Arc::new(inner.settle(before)?) }))
    }

    #[getter]
    fn entities(&self) -> usize {
        self.inner.entities()
    }

    #[getter]
    fn change_points(&self) -> usize {
        self.inner.points()
    }

    fn __repr__(&self) -> String {
        format!("penstock.History({} entities, {} change points)", self.inner.entities(), self.inner.points())
    }
}

/// The outcome of a merge.
#[pyclass(module = "penstock._core", frozen)]
pub struct Merge {
    inner: Arc<scd2::Merge>,
}

impl Merge {
    fn rows(
        &self,
        py: Python<'_>,
        of: impl FnOnce(&scd2::Merge) -> crate::Result<RecordBatch> + Send + 'static,
    ) -> PyResult<Table> {
        let inner = self.inner.clone();
        enter(py, OnInterrupt::Abandon, move |_| Ok(table(of(&inner)?)))
    }
}

#[pymethods]
impl Merge {
    /// Every row of every entity.
    fn history(&self, py: Python<'_>) -> PyResult<Table> {
        self.rows(py, scd2::Merge::history)
    }

    /// The rows that a warehouse has to write.
    fn upserts(&self, py: Python<'_>) -> PyResult<Table> {
        self.rows(py, scd2::Merge::upserts)
    }

    /// The rows that a warehouse has to remove.
    fn removed(&self, py: Python<'_>) -> PyResult<Table> {
        self.rows(py, scd2::Merge::removed)
    }

    /// The change points of the entities that changed.
    fn points(&self, py: Python<'_>) -> PyResult<Table> {
        self.rows(py, scd2::Merge::points)
    }

    /// The keys of the entities that changed.
    fn changed_keys(&self, py: Python<'_>) -> PyResult<Table> {
        self.rows(py, scd2::Merge::changed_keys)
    }

    /// What the next merge takes as `current`.
    fn state(&self) -> History {
        History { inner: Arc::new(self.inner.state().clone()) }
    }

    /// What the merge did, as JSON.
    fn counts(&self, py: Python<'_>) -> PyResult<String> {
        serde_json::to_string(&self.inner.counts()).map_err(|e| to_python(py, Error::Internal(e.to_string())))
    }

    /// What a user should know of this merge.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.inner.notes().to_vec()
    }
}

/// What a merge goes on from.
#[derive(FromPyObject)]
pub enum Current<'py> {
    /// An earlier result.
    Merge(Bound<'py, Merge>),
    /// The state of an earlier result.
    History(Bound<'py, History>),
    /// Bare rows.
    Rows(AnyRecordBatch),
}

/// Merges changes into a history.
#[pyfunction]
#[pyo3(signature = (current, changes, *, key, at, tracked, op=None, order=None))]
#[allow(clippy::too_many_arguments)] // the options of one call, keyword-only in Python
pub fn scd2_merge(
    py: Python<'_>,
    current: Option<Current<'_>>,
    changes: AnyRecordBatch,
    key: Vec<String>,
    at: String,
    tracked: Vec<String>,
    op: Option<String>,
    order: Option<Order>,
) -> PyResult<Merge> {
    let (_, changes) = batches(changes)?;
    let (earlier, bare) = match current {
        None => (None, None),
        Some(Current::Merge(merge)) => (Some(Arc::new(merge.get().inner.state().clone())), None),
        Some(Current::History(history)) => (Some(history.get().inner.clone()), None),
        Some(Current::Rows(rows)) => (None, Some(batches(rows)?.1)),
    };
    let spec = Scd2Spec { key, at, tracked, op, order: order.map(Order::columns).unwrap_or_default() };
    enter(py, OnInterrupt::Abandon, move |_| {
        let bare = bare.map(|rows| scd2::History::from_rows(&rows, &spec)).transpose()?;
        let merged = scd2::merge(earlier.as_deref().or(bare.as_ref()), &changes, &spec)?;
        Ok(Merge { inner: Arc::new(merged) })
    })
}

/// Finds for each fact the row of its entity at its time; gives the facts' surrogate keys, and inferred rows for the
/// stretches that have none.
#[pyfunction]
#[pyo3(signature = (history, facts, *, key, at))]
pub fn scd2_point(
    py: Python<'_>,
    history: &History,
    facts: AnyRecordBatch,
    key: Vec<String>,
    at: String,
) -> PyResult<(Table, Table)> {
    let (_, facts) = batches(facts)?;
    let history = history.inner.clone();
    enter(py, OnInterrupt::Abandon, move |_| {
        let pointed = scd2::point(&history, &facts, &key, &at)?;
        let keys = RecordBatch::try_from_iter([
            ("surrogate_key", Arc::new(pointed.surrogate_key) as arrow::array::ArrayRef),
            ("is_inferred", Arc::new(pointed.is_inferred) as arrow::array::ArrayRef),
        ])?;
        Ok((table(keys), table(pointed.inferred)))
    })
}

fn table(rows: RecordBatch) -> Table {
    Table::of(vec![rows])
}
