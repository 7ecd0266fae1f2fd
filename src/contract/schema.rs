//! One JSON Schema as a validator of its own.

use std::path::Path;

use serde_json::Value;

use super::DEEPEST;
use super::exact;
use super::fallback::Fallback;
use super::fast::{Scan, Scratch};
use super::json::Syntax;
use super::node::Dom;
use super::problem::{Found, finish};
use super::program::Program;
use super::rules::{Reason, Rules};
use super::source::{File, Node};
use crate::error::{Error, Result};
use crate::verdict::Problem;

/// A JSON Schema that judges any JSON document, by the exact judge where its keywords allow it, and by the fallback.
#[derive(Debug)]
pub struct Validator {
    rules: Option<(Rules, Program)>,
    reasons: Vec<Reason>,
    fallback: Fallback,
}

/// Which judge to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// Our own, for schemas of the common keywords.
    Exact,
    /// The `jsonschema` crate.
    Fallback,
}

impl Validator {
    /// Compiles a schema. With `formats`, `format` is asserted; `registry` holds the schemas that it may refer to.
    ///
    /// # Errors
    /// [`Error::Contract`] when it is no schema of draft 2020-12.
    pub fn new(schema: &Value, formats: bool, registry: Option<&jsonschema::Registry<'_>>) -> Result<Self> {
        let fail = |reason: String| Error::Contract { file: "schema".into(), line: None, reason };
        let fallback =
            Fallback::compile(schema, formats, registry).map_err(|(at, reason)| fail(format!("{at}: {reason}")))?;
        let rules = Rules::compile(&Node::from_value(schema), formats).map_err(|(_, reason)| fail(reason))?;
        let reasons = rules.fallback.clone();
        let program = Program::new(&rules, None, &[]);
        Ok(Self { rules: reasons.is_empty().then_some((rules, program)), reasons, fallback })
    }

    /// The same from JSON text, numbers kept as they are written.
    ///
    /// # Errors
    /// As [`Validator::new`].
    pub fn from_text(schema: &str, formats: bool) -> Result<Self> {
        Self::new(&File::parse(schema, Path::new("schema"))?.root.to_value(), formats, None)
    }

    /// Why the exact judge cannot take this schema; empty when it can.
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// Every problem of a JSON text; none when the judge asked cannot take this schema.
    ///
    /// # Errors
    /// Where the text is not JSON.
    pub fn problems(&self, text: &[u8], judge: Judge) -> Result<Option<Vec<Problem>>, Syntax> {
        let mut dom = Dom::default();
        if let Err(e) = simdutf8::compat::from_utf8(text) {
            return Err(Syntax { at: e.valid_up_to(), what: "is not UTF-8" });
        }
        dom.parse(text)?;
        if dom.depth > DEEPEST {
            return Err(Syntax { at: 0, what: "nests too deep" });
        }
        let doc = dom.doc(text);
        let mut found: Vec<Found> = Vec::new();
        match (judge, &self.rules) {
            (Judge::Exact, None) => return Ok(None),
            (Judge::Exact, Some((rules, _))) => exact::check(doc, rules, &mut found),
            (Judge::Fallback, _) => self.fallback.check(doc, &mut found),
        }
        Ok(Some(finish(found)))
    }

    /// Whether the fast path accepts a text; when it does not, nothing is said.
    pub fn accepts(&self, text: &[u8]) -> bool {
        let Some((rules, program)) = &self.rules else { return false };
        let mut order = vec![u8::MAX; program.guesses];
        let mut scratch = Scratch::default();
        let scan = Scan {
            text,
            program,
            rules,
            order: &mut order,
            max_depth: DEEPEST,
            secret: None,
            row: 0,
            scratch: &mut scratch,
        };
        std::str::from_utf8(text).is_ok() && { scan }.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing() {
        let schema = r#"{"additionalProperties":false,"required":["b"],"properties":{"c":{}}}"#;
        let validator = Validator::from_text(schema, true).unwrap();
        let text = br#"{"b":null}"#;
        let exact = validator.problems(text, Judge::Exact).unwrap().unwrap();
        assert_eq!(exact.len(), 1);
        assert_eq!(validator.problems(text, Judge::Fallback).unwrap().unwrap(), exact);
    }
}
