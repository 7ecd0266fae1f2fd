//! State that goes from one contract, or one set of settings, to the next.
//!
//! Held events take the columns of the new contract ([`crate::carry`]). Windows that changed begin anew, which they may
//! when none of them is open; the same holds for a pipeline that gives up its sessions.

use super::log::{Origin, StateFile};
use super::operators::Operators;
use super::spec::Shape;
use crate::contract::Contract;
use crate::error::{Error, Result};

/// The files of the state that the new settings can take up; `load` reads files into operators.
///
/// # Errors
/// [`Error::Settings`] when something is open that could not go on, saying what and how to close it first.
pub fn carry(
    then: &Origin,
    before: Option<&Contract>,
    shape: &Shape,
    now: &Contract,
    files: &[StateFile],
    load: impl Fn(Operators, &[StateFile]) -> Result<Operators>,
) -> Result<Vec<StateFile>> {
    let kept = |name: &str| {
        let find = |shape: &Shape| shape.windows.iter().find(|w| w.name == name).cloned();
        let same = find(&then.shape).is_some_and(|was| Some(was) == find(shape));
        // A window whose columns changed their types is another one, too.
        same && (before.is_none()
            || then.shape.transform == shape.transform && then.contract == now.digest()
            || columns_stay(name, &then.shape, before, shape, now))
    };
    let changed: Vec<&str> = then.shape.windows.iter().map(|w| w.name.as_str()).filter(|name| !kept(name)).collect();
    let sessions_end = then.shape.sessions.is_some() && shape.sessions.is_none();
    let of_window = |table: &str| changed.iter().any(|name| table.starts_with(&format!("{name}.windows/")));
    let gone = |table: &str| of_window(table) || sessions_end && table.starts_with("sessions/");
    let (going, staying): (Vec<StateFile>, Vec<StateFile>) = files.iter().cloned().partition(|f| gone(&f.table));
    match before {
        _ if going.is_empty() => {}
        Some(before) => {
            let operators = load(Operators::new(&then.shape, &before.schema())?, &going)?;
            let open = operators.windows.iter().find(|(name, w)| changed.contains(&name.as_str()) && !w.is_empty());
            if let Some((name, _)) = open {
                return Err(Error::settings(
                    format!("windows.{name}"),
                    format!(
                        "was changed or taken out while windows of it are open, which would never be finished. {WAY_OUT}"
                    ),
                ));
            }
            if sessions_end && operators.pending() > 0 {
                return Err(Error::settings(
                    "sessions",
                    format!("were taken out while {} events are held for them. {WAY_OUT}", operators.pending()),
                ));
            }
        }
        None => {
            return Err(Error::settings(
                "windows",
                "changed, and the contract that the state follows from is not there any more, so that nobody can say \
                 whether windows are open. Set the windows back, or bring the contract's text back",
            ));
        }
    }
    Ok(staying)
}

/// How to close what is open.
pub const WAY_OUT: &str = "Set it back and run once with `--drain`: that reads to the end of what is there now, lets go \
    all that is held, and closes what is open. Then change it";

/// Whether the columns that a window reads and makes kept their types.
fn columns_stay(name: &str, then: &Shape, before: Option<&Contract>, shape: &Shape, now: &Contract) -> bool {
    let columns = |shape: &Shape, contract: &Contract| {
        let operators = Operators::new(shape, &contract.schema()).ok()?;
        operators.windows.iter().find(|(n, _)| n == name).map(|(_, w)| w.schema())
    };
    before.and_then(|before| columns(then, before)).is_some_and(|was| Some(was) == columns(shape, now))
}
