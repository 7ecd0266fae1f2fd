//! A Python object as a sink of epochs.

use pyo3::prelude::*;

use super::calls::attach;
use super::errors::from_python;
use super::stream::json;
use crate::stream::sink::{EpochSink, SinkEpoch, Written};
use crate::{Error, Result};

/// An object with a `name`, and methods `write(epoch_json) -> bool` (false: it was told to forbid the epoch) and
/// `forbid(epoch, term) -> bool` (false: it holds the epoch).
#[derive(Debug)]
pub struct PySink {
    object: Py<PyAny>,
    name: String,
}

impl PySink {
    /// The sink that an object is.
    pub fn new(py: Python<'_>, object: Py<PyAny>) -> PyResult<Self> {
        let name = object.getattr(py, "name")?.extract(py)?;
        Ok(Self { object, name })
    }

    fn ask(&self, work: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>>) -> Result<bool> {
        let answer = attach(|py| {
            let answer = work(py).and_then(|answer| answer.extract::<bool>(py));
            answer.map_err(|error| from_python(py, &error))
        });
        answer.unwrap_or(Err(Error::Interrupted))
    }
}

impl EpochSink for PySink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&self, epoch: &SinkEpoch<'_>) -> Result<Written> {
        let text = json(epoch)?;
        let held = self.ask(|py| self.object.call_method1(py, "write", (text,)))?;
        Ok(if held { Written::Held } else { Written::GivenUp })
    }

    fn forbid(&self, epoch: u64, term: u64) -> Result<bool> {
        self.ask(|py| self.object.call_method1(py, "forbid", (epoch, term)))
    }
}
