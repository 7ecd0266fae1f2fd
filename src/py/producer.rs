//! The Kafka producer in Python.

use pyo3::prelude::*;
use serde::de::DeserializeOwned;

use super::calls::attach;
use super::errors::to_python;
use super::gate::{OnInterrupt, enter_beside};
use crate::generate::{GenerateOptions, Profile};
use crate::producer::{self, Embedded, Go, ProduceOptions, Sent, Target};
use crate::{Error, Result};

/// Sends generated events to a topic; gives what came of it as JSON. `on_progress` may answer "wait": it is asked
/// again soon, and nothing is sent until then. False stops it. Interrupted it stops too, and answers all the same.
#[pyfunction]
#[pyo3(signature = (profile, events_json, target_json, options_json, *, on_progress=None))]
pub fn produce(
    py: Python<'_>,
    profile: &str,
    events_json: &str,
    target_json: &str,
    options_json: &str,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let profile = Profile::parse(profile).map_err(|e| to_python(py, e))?;
    let events: GenerateOptions = read(py, "options", events_json)?;
    let target: Target = read(py, "target", target_json)?;
    let options: ProduceOptions = read(py, "options", options_json)?;
    enter_beside(py, OnInterrupt::Told, move |stop| {
        let mut progress = |sent: Sent| tell(on_progress.as_ref(), sent);
        let produced = producer::produce(profile, &events, &target, &options, &|| stop.asked(), &mut progress)?;
        serde_json::to_string(&produced).map_err(|e| Error::Internal(e.to_string()))
    })
}

fn read<T: DeserializeOwned>(py: Python<'_>, name: &str, text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|e| to_python(py, Error::settings(name, e)))
}

fn tell(callback: Option<&Py<PyAny>>, sent: Sent) -> Result<Go> {
    let Some(callback) = callback else { return Ok(Go::On) };
    let told = serde_json::to_value(sent).map(|mut told| {
        told["event"] = "progress".into();
        told.to_string()
    });
    let text = told.map_err(|e| Error::Internal(e.to_string()))?;
    let answer = attach(|py| match callback.call1(py, (text,)) {
        Ok(answer) if answer.extract::<bool>(py).is_ok_and(|go_on| !go_on) => Err(Error::Interrupted),
        Ok(answer) if answer.extract::<String>(py).is_ok_and(|said| said == "wait") => Ok(Go::Later),
        Ok(_) => Ok(Go::On),
        Err(error) => {
            error.write_unraisable(py, None);
            Err(Error::Interrupted)
        }
    });
    answer.unwrap_or(Err(Error::Interrupted))
}

/// A broker in this process, for demos.
#[pyclass(frozen, module = "penstock._core")]
pub struct EmbeddedKafka(std::sync::Mutex<Option<Embedded>>);

impl EmbeddedKafka {
    fn with<T>(&self, py: Python<'_>, what: impl FnOnce(&Embedded) -> Result<T>) -> PyResult<T> {
        let there = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = there.as_ref().map_or_else(|| Err(Error::Data("the embedded broker was stopped".into())), what);
        found.map_err(|e| to_python(py, e))
    }
}

#[pymethods]
impl EmbeddedKafka {
    /// The most that a partition keeps, in bytes as they were sent.
    #[classattr]
    const PARTITION_BYTES: u64 = Embedded::PARTITION_BYTES;

    /// Starts one.
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self(std::sync::Mutex::new(Some(Embedded::start().map_err(|e| to_python(py, e))?))))
    }

    /// Its address.
    #[getter]
    fn bootstrap(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, Embedded::bootstrap)
    }

    /// Makes a topic.
    #[pyo3(signature = (name, *, partitions))]
    fn create_topic(&self, py: Python<'_>, name: &str, partitions: i32) -> PyResult<()> {
        self.with(py, |broker| broker.create_topic(name, partitions))
    }

    /// Ends it; what it holds is gone.
    fn stop(&self, py: Python<'_>) {
        let there = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        py.detach(|| drop(there));
    }
}
