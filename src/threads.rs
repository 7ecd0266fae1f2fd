//! The engine's threads, safe over a fork.
//!
//! A child process inherits the memory of its parent, but none of its threads: work handed to an inherited pool would
//! wait for ever. Airflow forks its workers after imports, so pools belong to the process that made them, and a child
//! makes its own.
//!
//! Work holds a thread of its pool until it ends. Where it calls Python, and Python calls the engine again, the inner
//! call would wait for a thread that the outer one holds: on a machine of one processor, for ever. So the shared pool is
//! for work that never calls Python, and work that does has a pool to itself.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

struct Pools {
    process: u32,
    shared: Option<Arc<ThreadPool>>,
    /// Those that were somebody's own, and are nobody's now.
    idle: Vec<Arc<ThreadPool>>,
}

static POOLS: Mutex<Option<Pools>> = Mutex::new(None);

/// Looks into the pools of this process.
fn with<T>(look: impl FnOnce(&mut Pools) -> T) -> T {
    let mut held = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    // The parent's pools have no threads here; dropping them would wait for those.
    std::mem::forget(held.take_if(|pools| pools.process != process));
    look(held.get_or_insert_with(|| Pools { process, shared: None, idle: vec![] }))
}

fn make() -> Result<Arc<ThreadPool>> {
    let pool = ThreadPoolBuilder::new().thread_name(|i| format!("penstock-{i}")).build();
    pool.map(Arc::new).map_err(|e| Error::Internal(format!("cannot start threads: {e}")))
}

fn shared() -> Result<Arc<ThreadPool>> {
    with(|pools| match &pools.shared {
        Some(pool) => Ok(pool.clone()),
        None => Ok(pools.shared.insert(make()?).clone()),
    })
}

/// Runs work that never calls Python on the engine's threads.
///
/// # Errors
/// What the work answers, or [`Error::Internal`] when the system gives no threads.
pub fn run<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    shared()?.install(work)
}

/// Runs work that may call Python on threads that nobody else waits for.
///
/// # Errors
/// What the work answers, or [`Error::Internal`] when the system gives no threads.
pub fn run_apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = match with(|pools| pools.idle.pop()) {
        Some(pool) => pool,
        None => make()?,
    };
    let result = pool.install(work);
    with(|pools| pools.idle.push(pool));
    result
}
