//! What the allocator of the process does with large blocks, for Python.

use pyo3::prelude::*;

/// Has the allocator give large blocks back, in the whole process: for a process that is Penstock's own.
#[pyfunction]
pub fn give_back_large_blocks() {
    crate::memory::give_back();
}
