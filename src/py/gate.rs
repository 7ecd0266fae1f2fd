//! The one gate between Python and the engine: it lets go of the GIL, answers Ctrl-C, turns errors into exceptions.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::calls::{attach, left_behind};
use super::errors::to_python;
use super::logs;
use crate::{Error, Result, threads};

/// How long Python's signal handlers may have to wait.
const TICK: Duration = Duration::from_millis(20);
/// How long work that writes may take to stop.
const PATIENCE: Duration = Duration::from_millis(9_500);

/// Says whether Python was asked to stop.
#[derive(Clone, Default)]
pub struct Stop(Arc<OnceLock<Instant>>);

impl Stop {
    /// Whether to stop at the next good moment.
    pub fn asked(&self) -> bool {
        self.0.get().is_some()
    }

    /// How long ago it was asked to.
    pub fn asked_for(&self) -> Option<Duration> {
        self.0.get().map(Instant::elapsed)
    }

    fn ask(&self) {
        self.0.get_or_init(Instant::now);
    }

    /// [`Error::Interrupted`] when asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.asked() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// What becomes of the work when Python is interrupted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It has nothing but its result: leave it behind.
    Abandon,
    /// It writes: wait until it has stopped by itself, unless that takes ten seconds, or Python is interrupted again.
    Wait,
    /// The same, and what it gives says itself that it was asked to stop.
    Told,
}

/// Runs `work` on the engine's threads without the GIL, while this thread lets Python's signal handlers run. It must not
/// call Python, which may call the engine again: that would wait for the threads that `work` holds.
pub fn enter<T: Send + 'static>(
    py: Python<'_>,
    on_interrupt: OnInterrupt,
    work: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    enter_beside(py, on_interrupt, move |stop| threads::run(|| work(stop)))
}

/// The same on threads that no other call waits for: for work that calls Python.
pub fn enter_apart<T: Send + 'static>(
    py: Python<'_>,
    on_interrupt: OnInterrupt,
    work: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    enter_beside(py, on_interrupt, move |stop| threads::run_apart(|| work(stop)))
}

/// The same on a thread of its own: for work that waits for others more than it computes.
pub fn enter_beside<T: Send + 'static>(
    py: Python<'_>,
    on_interrupt: OnInterrupt,
    work: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let stop = Stop::default();
    let theirs = stop.clone();
    let (send, receive) = channel();
    let receive = Mutex::new(receive);
    let worker = std::thread::Builder::new().name("penstock-call".into()).spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&theirs)));
        // The caller may have gone.
        let _ = send.send(result.unwrap_or_else(|panic| Err(Error::Internal(panic_text(panic.as_ref())))));
    });
    let worker = worker.map_err(|e| to_python(py, Error::Internal(format!("cannot start a thread: {e}"))))?;
    let mut interrupt: Option<PyErr> = None;
    loop {
        let waited = wait(py, &receive);
        let said = logs::hand_over(py);
        match waited {
            Ok(result) => {
                let _ = worker.join();
                return match (interrupt.or(said.err()), result) {
                    (Some(interrupt), Err(Error::Interrupted)) => Err(interrupt),
                    // It was done before it could stop. What comes after it is not wanted.
                    (Some(interrupt), Ok(_)) if on_interrupt != OnInterrupt::Told || !stop.asked() => Err(interrupt),
                    (_, Ok(value)) => Ok(value),
                    (_, Err(error)) => Err(to_python(py, error)),
                };
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(to_python(py, Error::Internal("the engine's thread ended without an answer".into())));
            }
        }
        if let Err(error) = said.and_then(|()| py.check_signals()) {
            // Who asks twice does not want to wait.
            if on_interrupt == OnInterrupt::Abandon || stop.asked() {
                left_behind();
                return Err(error);
            }
            stop.ask();
            interrupt = Some(error);
        }
        if stop.asked_for().is_some_and(|since| since > PATIENCE)
            && let Some(interrupt) = interrupt.take()
        {
            // It is in a durable step that takes long. Whatever that leaves, it leaves as a kill would: nothing is lost.
            left_behind();
            return Err(interrupt);
        }
    }
}

fn wait<T: Send>(py: Python<'_>, receive: &Mutex<Receiver<T>>) -> std::result::Result<T, RecvTimeoutError> {
    py.detach(|| receive.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(TICK))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}

/// Tells a callback of Python's how many events there were so far. One that raises ends the work.
pub fn tell(callback: Option<&Py<PyAny>>, events: u64) -> Result<()> {
    let Some(callback) = callback else { return Ok(()) };
    let text = format!(r#"{{"event": "progress", "events": {events}}}"#);
    let told = attach(|py| match callback.call1(py, (text,)) {
        Ok(_) => Ok(()),
        Err(error) => {
            error.write_unraisable(py, None);
            Err(Error::Interrupted)
        }
    });
    told.unwrap_or(Err(Error::Interrupted))
}
