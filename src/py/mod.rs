//! The bindings.
use pyo3::prelude::*;

/// The engine of Penstock.
#[pymodule]
fn _core(_m: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
