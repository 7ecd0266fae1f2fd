//! The engine's errors as the exceptions of `penstock.errors`, and back.

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::Error;

/// The exception that an error is raised as. The classes are plain Python, so that they can be pickled.
pub fn to_python(py: Python<'_>, error: Error) -> PyErr {
    let class = match &error {
        Error::Interrupted => return PyKeyboardInterrupt::new_err("interrupted"),
        Error::Contract { .. } => "ContractError",
        Error::Settings { .. } => "SettingsError",
        Error::Data(_) => "DataError",
        Error::Source { .. } => "SourceError",
        Error::Lake { .. } => "LakeError",
        Error::Spill { .. } => "SpillError",
        Error::Checkpoint { .. } => "CheckpointError",
        Error::Superseded { .. } => "SupersededError",
        Error::Raised { class, .. } => class.as_str(),
        Error::Ledger(_) => "LedgerError",
        Error::Forked(_) => "ForkedError",
        Error::Internal(_) => "InternalError",
    };
    let message = error.to_string();
    let raised = py
        .import("penstock.errors")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call((message.clone(),), Some(&known(py, &error)?)));
    match raised {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(message),
    }
}

/// The error that an exception is, which Python raised when the engine called it.
pub fn from_python(py: Python<'_>, error: &PyErr) -> Error {
    if error.is_instance_of::<PyKeyboardInterrupt>(py) {
        return Error::Interrupted;
    }
    let (raised, class) = (error.value(py), error.get_type(py));
    let class = class.name().map(|name| name.to_string()).unwrap_or_default();
    let message = raised.to_string();
    let known = |name: &str| raised.getattr(name).ok().and_then(|value| value.extract::<u64>().ok());
    let root = py.import("penstock.errors").and_then(|module| module.getattr("PenstockError"));
    if !root.and_then(|root| raised.is_instance(&root)).unwrap_or_default() {
        return Error::Internal(format!("{class}: {message}"));
    }
    match (class.as_str(), known("ours"), known("theirs")) {
        ("SupersededError", Some(ours), Some(theirs)) => {
            let holder = raised.getattr("holder").and_then(|holder| holder.extract()).unwrap_or_default();
            Error::Superseded { ours, theirs, holder }
        }
        _ => Error::Raised { class, message },
    }
}

/// What is known beside the message: the attributes of the exception.
fn known<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyDict>> {
    let known = PyDict::new(py);
    match error {
        Error::Contract { file, line, .. } => {
            known.set_item("file", file.to_string_lossy())?;
            known.set_item("line", line)?;
        }
        Error::Settings { name, .. } => known.set_item("name", name)?,
        Error::Superseded { ours, theirs, holder } => {
            known.set_item("ours", ours)?;
            known.set_item("theirs", theirs)?;
            known.set_item("holder", holder)?;
        }
        _ => {}
    }
    Ok(known)
}
