//! Calls into Python by threads of the engine, which end before Python does.
//!
//! Work that was left behind (Python was interrupted twice, or it did not stop in time) goes on, and may want to call
//! Python while the interpreter ends: that crashes the process. So nobody calls it from the moment on that Python begins to
//! exit, and whoever is in a call is waited for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How long the calls that are under way at the exit may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether they have.
const TICK: Duration = Duration::from_millis(1);
/// The exit code of a process that was interrupted.
#[cfg(unix)]
const INTERRUPTED: std::ffi::c_int = 130;

/// How many calls are under way. No locks: a child of a fork inherits what is here as it is.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
/// Whether work was left behind.
static LEFT_BEHIND: AtomicBool = AtomicBool::new(false);
/// Whether Python has begun to exit.
static ENDED: AtomicBool = AtomicBool::new(false);

struct UnderWay;

impl Drop for UnderWay {
    fn drop(&mut self) {
        // In the child of a call that forks, none is counted.
        let one_less = |count: usize| Some(count.saturating_sub(1));
        let _ = UNDER_WAY.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    }
}

/// Work goes on that nobody waits for any more.
pub fn left_behind() {
    LEFT_BEHIND.store(true, Ordering::SeqCst);
}

/// Calls Python from a thread of the engine. None when Python has begun to exit: nobody may call it any more.
pub fn attach<T>(call: impl FnOnce(Python<'_>) -> T) -> Option<T> {
    UNDER_WAY.fetch_add(1, Ordering::SeqCst);
    let _under_way = UnderWay;
    if ENDED.load(Ordering::SeqCst) { None } else { Some(Python::attach(call)) }
}

/// Has Python say when it begins to exit, and when it has forked.
///
/// # Errors
/// Whatever Python raises.
pub fn listen(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    py.import("atexit")?.call_method1("register", (wrap_pyfunction!(end, module)?,))?;
    let Some(register) = py.import("os")?.getattr_opt("register_at_fork")? else { return Ok(()) };
    let known = PyDict::new(py);
    known.set_item("after_in_child", wrap_pyfunction!(forked, module)?)?;
    register.call((), Some(&known)).map(drop)
}

/// A child has none of its parent's threads, nor their calls.
#[pyfunction]
fn forked() {
    UNDER_WAY.store(0, Ordering::SeqCst);
    LEFT_BEHIND.store(false, Ordering::SeqCst);
}

/// From now on nobody calls Python; calls that are under way are waited for. One of work that was left behind may hold
/// Python's own end up for ever, so the process ends here then; so it does when it is interrupted once more.
#[pyfunction]
fn end(py: Python<'_>) {
    ENDED.store(true, Ordering::SeqCst);
    let since = Instant::now();
    while UNDER_WAY.load(Ordering::SeqCst) > 0 {
        if since.elapsed() > PATIENCE || py.check_signals().is_err() {
            if LEFT_BEHIND.load(Ordering::SeqCst) {
                leave(py);
            }
            return;
        }
        py.detach(|| std::thread::sleep(TICK));
    }
}

/// Ends the process without Python's own end, which a thread that is in a call would crash.
fn leave(py: Python<'_>) {
    for name in ["stdout", "stderr"] {
        // Who reads them may have gone.
        let _ = py.import("sys").and_then(|sys| sys.getattr(name)?.call_method0("flush"));
    }
    #[cfg(unix)]
    // SAFETY: it takes a number and ends the process; nothing of ours runs after it.
    unsafe {
        libc::_exit(INTERRUPTED)
    }
}
