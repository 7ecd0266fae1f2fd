//! The engine's threads, safe over a fork.
//!
//! A child process inherits the memory of its parent, but none of its threads: work handed to an inherited pool would
//! wait for ever. Airflow forks its workers after imports, so the pool belongs to the process that made it, and a child
//! makes its own.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

/// The threads of this process.
///
/// # Errors
/// [`Error::Internal`] when the system gives no threads.
pub fn pool() -> Result<Arc<ThreadPool>> {
    let mut held = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some((_, pool)) = held.as_ref().filter(|(owner, _)| *owner == process) {
        return Ok(pool.clone());
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads())
        .thread_name(|i| format!("penstock-{i}"))
        .build()
        .map_err(|e| Error::Internal(format!("cannot start threads: {e}")))?;
    let pool = Arc::new(pool);
    // The parent's pool has no threads here; dropping it would wait for them.
    if let Some(inherited) = held.replace((process, pool.clone())) {
        std::mem::forget(inherited);
    }
    Ok(pool)
}

/// As many as there are processors, or as the environment says; two at least: one may wait for a database's driver in Python,
/// which asks the engine for the lake's log meanwhile.
fn threads() -> usize {
    let told = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    told.or_else(|| std::thread::available_parallelism().map(std::num::NonZero::get).ok()).unwrap_or(2).max(2)
}

/// Runs work on the engine's threads.
///
/// # Errors
/// What the work answers, or [`Error::Internal`] when the system gives no threads.
pub fn run<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    pool()?.install(work)
}
