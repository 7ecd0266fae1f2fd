//! The generator in Python.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyBrokenPipeError;
use pyo3::prelude::*;

use super::errors::to_python;
use super::gate::{OnInterrupt, enter_apart, tell};
use crate::Error;
use crate::generate::{GenerateOptions, Profile, generate_file, generate_into};

/// Standard output, and whether its reader has gone.
struct Heard {
    out: io::Stdout,
    gone: Arc<AtomicBool>,
}

impl Heard {
    fn note<T>(&self, done: io::Result<T>) -> io::Result<T> {
        let gone = done.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        self.gone.fetch_or(gone, Ordering::Relaxed);
        done
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.out.write(bytes);
        self.note(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.out.flush();
        self.note(done)
    }
}

/// Writes generated events to a file, or to standard output; gives the truth about them as JSON. `BrokenPipeError` where
/// who read standard output has gone.
#[pyfunction]
#[pyo3(signature = (profile, options_json, path, *, on_progress=None))]
pub fn generate(
    py: Python<'_>,
    profile: &str,
    options_json: &str,
    path: Option<PathBuf>,
    on_progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let profile = Profile::parse(profile).map_err(|e| to_python(py, e))?;
    let options: GenerateOptions =
        serde_json::from_str(options_json).map_err(|e| to_python(py, Error::settings("options", e)))?;
    let gone = Arc::new(AtomicBool::new(false));
    let mut heard = Heard { out: io::stdout(), gone: Arc::clone(&gone) };
    let done = enter_apart(py, OnInterrupt::Wait, move |stop| {
        let mut progress = |events: u64| {
            stop.check()?;
            tell(on_progress.as_ref(), events)
        };
        let truth = match &path {
            Some(path) => generate_file(profile, &options, path, &mut progress)?,
            None => generate_into(profile, &options, "standard output", &mut heard, &mut progress)?,
        };
        serde_json::to_string(&truth).map_err(|e| Error::Internal(e.to_string()))
    });
    if gone.load(Ordering::Relaxed) {
        return Err(PyBrokenPipeError::new_err("who read standard output has gone"));
    }
    done
}
