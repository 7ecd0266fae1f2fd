//! Failures on purpose, at named places of the epoch protocol.
//!
//! `PENSTOCK_FAILPOINT=name[@n]=error|panic|kill[,…]` makes the n-th passage (the first unless told) of a place fail: with an
//! error, a panic, or the end of the process by SIGKILL, as if the machine had lost power. They are compiled into every
//! build, so that people can drill their own pipeline with the very binary that they run; without the variable a
//! passage costs one comparison.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use crate::contract::nearest::nearest;
use crate::error::{Error, Result};

/// The places that can fail, in the order in which an epoch passes them.
pub const PLACES: &[&str] = &[
    "term.before",
    "term.after",
    "read.before",
    "read.after",
    "spill.before",
    "spill.after",
    "plan.before",
    "plan.after",
    "files.before",
    "upload.part",
    "upload.complete",
    "files.between",
    "state.before",
    "state.between",
    "files.after",
    "sink.before",
    "sink.after",
    "commit.before",
    "commit.after",
    "load.begin",
    "load.staged",
    "load.applied",
    "load.recorded",
    "load.committed",
    "snapshot.before",
    "snapshot.after",
    "offsets.before",
    "offsets.after",
    "entry.files.before",
    "entry.files.after",
    "entry.plan.before",
    "entry.plan.after",
    "entry.commit.before",
    "entry.commit.after",
    "entry.trash.before",
    "entry.trash.after",
    "sweep.before",
    "sweep.between",
    "sweep.after",
    "void.before",
    "void.after",
    "void.removing",
    "void.removed",
];

#[derive(Clone, Copy)]
enum Action {
    Error,
    Panic,
    Kill,
    Stop,
}

/// What a process is sent that is to end, or to stand still, at once.
#[derive(Debug, Clone, Copy)]
enum Signal {
    Kill,
    Stop,
}

struct Armed {
    action: Action,
    left: u64,
}

const VARIABLE: &str = "PENSTOCK_FAILPOINT";

/// What is armed; or why that cannot be.
type Asked = Option<Result<Mutex<HashMap<String, Armed>>, String>>;

fn armed() -> &'static Asked {
    static ARMED: OnceLock<Asked> = OnceLock::new();
    ARMED.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| parse(&text).map(Mutex::new)))
}

fn parse(text: &str) -> Result<HashMap<String, Armed>, String> {
    let mut armed = HashMap::new();
    for part in text.split(',').filter(|p| !p.trim().is_empty()) {
        let (place, action) = part.trim().split_once('=').unwrap_or((part.trim(), "error"));
        let (name, nth) = place.split_once('@').unwrap_or((place, "1"));
        if !PLACES.contains(&name) {
            return Err(format!("there is no place '{name}'; {}", near(name)));
        }
        let action = match action {
            "error" => Action::Error,
            "panic" => Action::Panic,
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            other => return Err(format!("nothing is '{other}'; {name} can be error, panic, kill or stop")),
        };
        let left = nth.parse().ok().filter(|n| *n > 0);
        let left = left.ok_or_else(|| format!("'{nth}' is no passage of {name}; they are counted from 1"))?;
        armed.insert(name.to_owned(), Armed { action, left });
    }
    Ok(armed)
}

/// The places that may have been meant: those of the same step, else all.
fn near(name: &str) -> String {
    let step = |place: &str| place.split('.').next().unwrap_or_default().to_owned();
    let steps: Vec<String> = PLACES.iter().map(|place| step(place)).collect();
    let meant = nearest(&step(name), steps.iter().map(String::as_str));
    let of_step = PLACES.iter().filter(|place| Some(step(place).as_str()) == meant);
    let places: Vec<&str> = if meant.is_some() { of_step.copied().collect() } else { PLACES.to_vec() };
    let hint = nearest(name, PLACES.iter().copied()).map(|n| format!("did you mean '{n}'? ")).unwrap_or_default();
    format!("{hint}There are: {}", places.join(", "))
}

/// Passes the place `name`, and fails there if that was asked for.
///
/// # Errors
/// [`Error::Internal`] naming the place, when it is armed with `error`; [`Error::Settings`] when the variable names what is
/// not there.
pub fn pass(name: &'static str) -> Result<()> {
    let Some(asked) = armed() else { return Ok(()) };
    let armed = asked.as_ref().map_err(|reason| Error::settings(VARIABLE, reason))?;
    debug_assert!(PLACES.contains(&name), "{name} is not in PLACES");
    let action = {
        let mut places = armed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(place) = places.get_mut(name) else { return Ok(()) };
        place.left = place.left.saturating_sub(1);
        if place.left > 0 {
            return Ok(());
        }
        let action = place.action;
        places.remove(name);
        action
    };
    eprintln!("failpoint {name}");
    match action {
        Action::Error => Err(Error::Internal(format!("failpoint {name}"))),
        Action::Panic => panic!("failpoint {name}"),
        Action::Kill => signal(Signal::Kill),
        Action::Stop => signal(Signal::Stop),
    }
}

/// The same for a name that comes from Python.
///
/// # Errors
/// As [`pass`]; [`Error::Internal`] when there is no such place.
pub fn pass_named(name: &str) -> Result<()> {
    let place = PLACES.iter().find(|place| **place == name);
    pass(place.ok_or_else(|| Error::Internal(format!("there is no failpoint {name}")))?)
}

/// Sends a signal to this very thread. The thread does not pass: before it comes back from the system, it stands still, and
/// all others with it, until the process is continued.
#[cfg(unix)]
fn signal(signal: Signal) -> Result<()> {
    let number = match signal {
        Signal::Kill => libc::SIGKILL,
        Signal::Stop => libc::SIGSTOP,
    };
    // SAFETY: `raise` takes a number and touches no memory; neither of the two signals can have a handler.
    match unsafe { libc::raise(number) } {
        0 => Ok(()),
        _ => Err(Error::Internal(format!("failpoint: {signal:?}: {}", std::io::Error::last_os_error()))),
    }
}

/// There are no such signals here.
#[cfg(not(unix))]
fn signal(signal: Signal) -> Result<()> {
    Err(Error::Internal(format!("failpoint: {signal:?} needs a Unix")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_passage_fails() {
        let armed = parse("plan.after@3=kill, commit.before=panic,read.before").unwrap();
        assert_eq!(armed["plan.after"].left, 3);
        assert!(matches!(armed["plan.after"].action, Action::Kill));
        assert!(matches!(armed["commit.before"].action, Action::Panic));
        assert!(matches!(armed["read.before"].action, Action::Error));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let said = |text: &str| parse(text).err().unwrap();
        let places = "There are: plan.before, plan.after";
        assert_eq!(
            said("plan.aftr=kill"),
            format!("there is no place 'plan.aftr'; did you mean 'plan.after'? {places}")
        );
        assert!(said("nowhere").ends_with(&PLACES.join(", ")));
        assert_eq!(said("plan.after=explode"), "nothing is 'explode'; plan.after can be error, panic, kill or stop");
        assert_eq!(said("plan.after@0=kill"), "'0' is no passage of plan.after; they are counted from 1");
    }
}
