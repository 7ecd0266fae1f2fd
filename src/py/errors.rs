//! The engine's errors as the exceptions of `penstock.errors`.

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;

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
        Error::Checkpoint { .. } => "CheckpointError",
        Error::Superseded { .. } => "SupersededError",
        Error::Ledger(_) => "LedgerError",
        Error::Forked(_) => "ForkedError",
        Error::Internal(_) => "InternalError",
    };
    let message = error.to_string();
    let raised = py
        .import("penstock.errors")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call1((message.clone(),)));
    match raised {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(message),
    }
}
