//! What the engine and its libraries say (`tracing`), handed to Python's `logging`.
//!
//! A thread of the engine never waits for Python: it puts its line into a bounded queue, and the gate, which waits with
//! the GIL in reach, empties it. What does not fit is counted, and the count is said.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that may wait for Python.
const WAITING: usize = 1024;
/// Characters of a line at most.
const LONGEST: usize = 2000;

/// A line, as Python's `logging` takes it.
struct Line {
    level: u8,
    target: &'static str,
    text: String,
}

struct Logs {
    send: SyncSender<Line>,
    receive: Mutex<Receiver<Line>>,
    dropped: AtomicU64,
    /// The lowest of Python's levels that is let through.
    level: AtomicUsize,
}

static LOGS: OnceLock<&'static Logs> = OnceLock::new();

/// Begins to listen. Called once, when the module is imported.
pub fn listen() {
    let (send, receive) = sync_channel(WAITING);
    let logs: &'static Logs = Box::leak(Box::new(Logs {
        send,
        receive: Mutex::new(receive),
        dropped: AtomicU64::new(0),
        level: AtomicUsize::new(30),
    }));
    if LOGS.set(logs).is_ok() {
        // Another subscriber may be there when the crate is used from Rust: then that one listens.
        let _ = tracing::subscriber::set_global_default(Listener(logs));
    }
}

/// Sets the lowest of Python's levels (10 debug, 20 info, 30 warning, 40 error) that is handed on.
#[pyfunction]
pub fn log_level(level: usize) {
    if let Some(logs) = LOGS.get() {
        logs.level.store(level, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Hands what waits to `logging`.
///
/// # Errors
/// What interrupts Python meanwhile; other exceptions of a handler are said and let go.
pub fn hand_over(py: Python<'_>) -> PyResult<()> {
    let Some(logs) = LOGS.get() else { return Ok(()) };
    let lines: Vec<Line> = {
        let receive = logs.receive.lock().unwrap_or_else(PoisonError::into_inner);
        receive.try_iter().take(WAITING).collect()
    };
    let dropped = logs.dropped.swap(0, Ordering::Relaxed);
    if lines.is_empty() && dropped == 0 {
        return Ok(());
    }
    match write(py, &lines, dropped) {
        // `logging` is Python code: a signal's handler runs there as anywhere.
        Err(error) if !error.is_instance_of::<PyException>(py) => Err(error),
        Err(error) => {
            error.write_unraisable(py, None);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn write(py: Python<'_>, lines: &[Line], dropped: u64) -> PyResult<()> {
    let logging = py.import("logging")?;
    let say = |target: &str, level: u8, text: &str| -> PyResult<()> {
        // The engine's own crate is `_core`; its libraries stand below it by their names.
        let name = target.strip_prefix("_core::").unwrap_or(target).replace("::", ".");
        let name = if name.starts_with("penstock") { name } else { format!("penstock.engine.{name}") };
        let logger = logging.call_method1("getLogger", (name,))?;
        logger.call_method1("log", (level, "%s", text)).map(|_| ())
    };
    for line in lines {
        say(line.target, line.level, &line.text)?;
    }
    if dropped > 0 {
        say(
            "penstock.logs",
            30,
            &format!("{dropped} lines were said faster than they could be written, and are left out"),
        )?;
    }
    Ok(())
}

fn python_level(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

struct Listener(&'static Logs);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && usize::from(python_level(*metadata.level())) >= self.0.level.load(Ordering::Relaxed)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        let line = Line { level: python_level(*metadata.level()), target: metadata.target(), text: text.0 };
        if self.0.send.try_send(line).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message, and after it the fields.
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if self.0.len() > LONGEST {
            return;
        }
        let mut said = String::new();
        let _ = match field.name() {
            "message" => write!(said, "{value:?}"),
            name => write!(said, " {name}={value:?}"),
        };
        if field.name() == "message" {
            self.0.insert_str(0, &said);
        } else {
            self.0.push_str(&said);
        }
        if let Some((end, _)) = self.0.char_indices().nth(LONGEST) {
            self.0.truncate(end);
        }
    }
}
