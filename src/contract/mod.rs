//! Contracts: what a valid event is, and the columns that valid events come to.
//!
//! A contract names the roles of an event and gives each event type and version a JSON Schema (draft 2020-12). Valid
//! events go from bytes to column builders in one pass; everything else is judged exactly, problem by problem.

mod anchored;
pub mod append;
pub mod builders;
pub mod columns;
pub mod compile;
pub mod date_time;
pub mod diff;
pub mod exact;
mod explain;
pub mod extra;
pub mod fallback;
pub mod fast;
pub mod formats;
pub mod json;
pub mod judge;
#[cfg(test)]
mod judge_tests;
pub mod keywords;
pub mod lanes;
#[cfg(test)]
mod laws;
pub mod load;
#[cfg(test)]
mod mutants;
pub mod nearest;
pub mod node;
pub mod number;
mod output;
pub mod pattern;
pub mod pii;
pub mod plan;
pub mod problem;
pub mod program;
pub mod quick;
pub mod roles;
pub mod rules;
mod scalar;
pub mod schema;
pub mod source;
pub mod speculate;
pub mod text;
mod utf8;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use sha2::{Digest, Sha256};

pub use diff::{Breaks, Change, Diff, diff};
pub use judge::{JudgeRules, Judged, Rejected, events_of};

use crate::error::{Error, Result};
use crate::events::RawEvents;
use crate::packed;
use columns::outline;
use compile::Compiled;
use load::Spec;
use pii::Secret;
use roles::Source;

/// What an event may measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of one event.
    pub max_bytes: usize,
    /// The deepest nesting; the event itself is 1.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 1 << 20, max_depth: 64 }
    }
}

/// The deepest nesting that can be allowed.
const DEEPEST: usize = 512;

/// What a valid event is. Cheap to clone; judging needs no more than `&self`.
#[derive(Debug, Clone)]
pub struct Contract {
    spec: Arc<Spec>,
    compiled: Arc<Compiled>,
    limits: Limits,
    secret: Option<Secret>,
}

impl Contract {
    /// Loads a contract file, and the schema files that it names.
    ///
    /// # Errors
    /// [`Error::Contract`] with file, line and reason.
    pub fn load(path: &Path) -> Result<Self> {
        Self::of(Spec::load(path)?)
    }

    /// Reads a contract from YAML or JSON text; schema paths are relative to the folder of `origin`.
    ///
    /// # Errors
    /// As [`Contract::load`].
    pub fn from_text(text: &str, origin: &Path) -> Result<Self> {
        Self::of(Spec::parse(text, origin)?)
    }

    fn of(spec: Spec) -> Result<Self> {
        let compiled = compile::compile(&spec, true)?;
        Ok(Self { spec: Arc::new(spec), compiled: Arc::new(compiled), limits: Limits::default(), secret: None })
    }

    /// The same contract with other limits.
    ///
    /// # Errors
    /// [`Error::Settings`] for limits that make no sense.
    pub fn with_limits(mut self, limits: Limits) -> Result<Self> {
        if !(1..=DEEPEST).contains(&limits.max_depth) {
            return Err(Error::settings("contract.max_depth", format!("has to be 1 to {DEEPEST}")));
        }
        if !(1..=MOST_BYTES).contains(&limits.max_bytes) {
            return Err(Error::settings("contract.max_bytes", format!("has to be 1 to {MOST_BYTES}")));
        }
        self.limits = limits;
        Ok(self)
    }

    /// The same contract with `format` asserted (as by default) or as annotation only.
    ///
    /// # Errors
    /// As [`Contract::load`].
    pub fn with_format_assertion(mut self, assert: bool) -> Result<Self> {
        self.compiled = Arc::new(compile::compile(&self.spec, assert)?);
        Ok(self)
    }

    /// The same contract, every schema judged by the fallback.
    #[cfg(test)]
    pub(crate) fn judged_by_fallback(mut self) -> Result<Self> {
        let mut compiled = compile::compile(&self.spec, true)?;
        for version in compiled.types.iter_mut().flat_map(|t| &mut t.versions) {
            let built = fallback::Fallback::compile(&version.file.root.to_value(), true, None);
            version.fallback = Some(built.map_err(|(_, reason)| Error::Internal(reason))?);
        }
        self.compiled = Arc::new(compiled);
        Ok(self)
    }

    /// The same contract with the secret that personal properties are hashed with.
    pub fn with_secret(mut self, secret: Option<&[u8]>) -> Self {
        self.secret = secret.map(Secret::new);
        self
    }

    /// Whether judging needs a secret.
    pub fn needs_secret(&self) -> bool {
        self.compiled.needs_secret
    }

    /// The contract's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The whole contract as one JSON text, schemas inlined: read again, it is the same contract.
    pub fn text(&self) -> &str {
        &self.spec.text
    }

    /// The SHA-256 of [`Contract::text`], in hexadecimal digits.
    pub fn digest(&self) -> String {
        pii::hex(&Sha256::digest(self.spec.text.as_bytes()))
    }

    /// The columns of valid events: the roles, the typed columns, `_extra`.
    pub fn schema(&self) -> SchemaRef {
        self.compiled.schema.clone()
    }

    /// The event types that are named (without `*`).
    pub fn event_types(&self) -> Vec<&str> {
        self.compiled.types[..self.compiled.named].iter().map(|t| t.name.as_str()).collect()
    }

    /// The columns of which each alone tells entities apart: `entity`, and the property that it is read from where that is
    /// one column for all event types. None where an event type has no entity.
    pub fn entity_columns(&self) -> Option<Vec<String>> {
        let mut named = BTreeSet::new();
        for kind in &self.spec.types {
            let role = kind.roles.get("entity")?;
            let pointer = match role.parts.as_slice() {
                [Source::Property { pointer, .. }] if !role.composite => Some(pointer),
                _ => None,
            };
            let versions = self.compiled.types.iter().filter(|t| t.name == kind.name).flat_map(|t| &t.versions);
            for version in versions {
                let mut columns = vec![];
                outline(&version.shape, "", &mut columns);
                let own = columns.into_iter().find(|(place, ..)| Some(place) == pointer);
                named.insert(own.map(|(_, column, _)| column));
            }
        }
        let own = if named.len() == 1 { named.pop_first().flatten() } else { None };
        let mut columns = vec!["entity".to_owned()];
        columns.extend(own.filter(|column| column != "entity"));
        Some(columns)
    }

    /// What the contract accepts and how, for people: for each event type and version the path (`fast`, `exact`,
    /// `fallback`) and why, what is required, the columns.
    pub fn explain(&self) -> serde_json::Value {
        explain::explain(self)
    }

    /// Judges a piece of events, in order, on this thread.
    ///
    /// # Errors
    /// [`Error::Settings`] when a secret is needed and not there, [`Error::Data`] for more than 1 GiB at once.
    pub fn judge(&self, events: &RawEvents, rules: &JudgeRules) -> Result<Judged> {
        self.unpacked(judge::judge_by(self, events, rules, judge::Paths::All)?)
    }

    /// The same, text that repeats left packed ([`crate::packed`]).
    ///
    /// # Errors
    /// As [`Contract::judge`].
    pub fn judge_packed(&self, events: &RawEvents, rules: &JudgeRules) -> Result<Judged> {
        judge::judge_by(self, events, rules, judge::Paths::All)
    }

    fn unpacked(&self, mut judged: Judged) -> Result<Judged> {
        judged.valid = packed::unpack(&self.compiled.schema, &judged.valid)?;
        Ok(judged)
    }

    pub(crate) fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }
}

/// The largest event that can be allowed.
const MOST_BYTES: usize = 1 << 30;
