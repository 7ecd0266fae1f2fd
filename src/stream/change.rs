//! Contract and settings that changed between two epochs: judged, recorded with the epoch, and refused where the state
//! cannot go with them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::log::Origin;
use super::spec::Shape;
use crate::contract::{self, Contract};
use crate::error::{Error, Result};

/// What changed of contract and settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The contract, if it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<ContractChange>,
    /// The settings that shape rows, those that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<SettingChange>,
}

/// A contract that took the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractChange {
    /// The digest of the one before.
    pub from: String,
    /// The digest of the one since.
    pub to: String,
    /// Whom it breaks.
    pub verdict: Compatibility,
    /// What changed, by event type and version.
    pub changes: Vec<contract::Change>,
}

/// Whom a contract that changed breaks, in the words of `penstock contract diff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compatibility {
    /// Nobody: old events are still accepted, and readers find what they know.
    Full,
    /// Readers: what was valid still is, but columns went or changed, or more is let in than before.
    Backward,
    /// Writers: what was valid may no longer be.
    Forward,
    /// Both.
    Incompatible,
    /// The text of the contract before is not there any more, or is none.
    Unknown,
}

impl std::fmt::Display for Compatibility {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::Incompatible => "incompatible",
            Self::Unknown => "unknown",
        })
    }
}

/// A setting that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SettingChange {
    /// Its name in the engine's form (`sessions.gap_us`).
    pub name: String,
    /// What it was.
    pub from: Value,
    /// What it is.
    pub to: Value,
}

impl Change {
    /// What changed; none when nothing did. `before` is the contract of then, where it can still be read.
    ///
    /// # Errors
    /// [`Error::Internal`] when a shape is no JSON.
    pub fn between(
        then: &Origin,
        before: Option<&Contract>,
        digest: &str,
        now: &Contract,
        shape: &Shape,
    ) -> Result<Option<Self>> {
        let contract = (then.contract != digest).then(|| {
            let (verdict, changes) = match before {
                None => (Compatibility::Unknown, vec![]),
                Some(before) => {
                    let diff = contract::diff(before, now);
                    let verdict = match (diff.backward, diff.forward) {
                        (true, true) => Compatibility::Full,
                        (true, false) => Compatibility::Backward,
                        (false, true) => Compatibility::Forward,
                        (false, false) => Compatibility::Incompatible,
                    };
                    (verdict, diff.changes)
                }
            };
            ContractChange { from: then.contract.clone(), to: digest.to_owned(), verdict, changes }
        });
        let json = |shape: &Shape| serde_json::to_value(shape).map_err(|e| Error::Internal(e.to_string()));
        let mut settings = vec![];
        compare("", &json(&then.shape)?, &json(shape)?, &mut settings);
        Ok((contract.is_some() || !settings.is_empty()).then_some(Self { contract, settings }))
    }
}

/// The settings that differ, object by object.
fn compare(name: &str, from: &Value, to: &Value, out: &mut Vec<SettingChange>) {
    if from == to {
        return;
    }
    let (Value::Object(a), Value::Object(b)) = (from, to) else {
        out.push(SettingChange { name: name.to_owned(), from: from.clone(), to: to.clone() });
        return;
    };
    let mut names: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
    names.sort();
    for key in names {
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        compare(&name, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), out);
    }
}
