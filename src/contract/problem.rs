//! What is wrong with an event: found where it stands, said in the same words by every path.

use serde_json::Value;

use super::node::{Doc, Id, Kind};
use super::number::Decimal;
use crate::verdict::{Code, Problem};

/// A problem with the place in the document by which it is ordered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The kind of problem.
    pub code: Code,
    /// The node that is wrong, or the object from which something is missing.
    pub node: Id,
    /// JSON Pointer to what is wrong.
    pub pointer: String,
    /// What is wrong, for people.
    pub message: String,
    /// The first 200 characters of the value.
    pub value: Option<String>,
}

/// Problems in order: by code, then as the document has them; what is said twice is said once.
pub fn finish(mut found: Vec<Found>) -> Vec<Problem> {
    found.sort();
    found.dedup_by(|b, a| a.code == b.code && a.pointer == b.pointer && a.message == b.message);
    found
        .into_iter()
        .map(|f| Problem { code: f.code, pointer: f.pointer, message: f.message, value: f.value })
        .collect()
}

/// Appends a reference token to a JSON Pointer.
pub fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for c in token.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

/// The reference tokens of a JSON Pointer; none when it is not one.
pub fn tokens(pointer: &str) -> Option<Vec<String>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    let rest = pointer.strip_prefix('/')?;
    rest.split('/')
        .map(|token| {
            let mut out = String::with_capacity(token.len());
            let mut chars = token.chars();
            while let Some(c) = chars.next() {
                match (c, if c == '~' { chars.next() } else { None }) {
                    ('~', Some('0')) => out.push('~'),
                    ('~', Some('1')) => out.push('/'),
                    ('~', _) => return None,
                    (c, _) => out.push(c),
                }
            }
            Some(out)
        })
        .collect()
}

/// The types of JSON Schema, in the order of their bits.
pub const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// The bit of a node's type; a whole number is an integer however it is written.
pub fn type_bit(doc: &Doc<'_>, id: Id) -> u8 {
    match doc.kind(id) {
        Kind::Null => 1,
        Kind::True | Kind::False => 2,
        Kind::Integer => 4,
        Kind::Number if Decimal::parse(doc.text(id)).is_integer() => 4,
        Kind::Number => 8,
        Kind::String | Kind::Escaped => 16,
        Kind::Array => 32,
        Kind::Object => 64,
    }
}

/// The types of a set, in words.
pub fn list(types: u8) -> String {
    let names: Vec<&str> = (0..7).filter(|i| types & (1 << i) != 0).map(|i| TYPES[i]).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

/// `type`: what is there, and which types the schema names.
pub fn wrong_type(actual: u8, wanted: u8) -> String {
    format!("is of type {}, must be {}", list(actual), list(wanted))
}

/// A schema's value in a message, not endlessly long.
fn short(value: &Value) -> String {
    let text = match value {
        Value::Number(n) => canonical(&n.to_string()),
        other => other.to_string(),
    };
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn canonical(number: &str) -> String {
    Decimal::parse(number.as_bytes()).canonical()
}

/// `enum`.
pub fn not_in_enum(options: &Value) -> String {
    format!("must be one of {}", short(options))
}

/// `const`.
pub fn not_const(value: &Value) -> String {
    format!("must be {}", short(value))
}

/// A keyword that bounds a number; `limit` is its JSON text.
pub fn out_of_bounds(keyword: &str, limit: &str) -> String {
    let how = match keyword {
        "minimum" => "at least",
        "maximum" => "at most",
        "exclusiveMinimum" => "above",
        "exclusiveMaximum" => "below",
        _ => "a multiple of",
    };
    format!("must be {how} {}", canonical(limit))
}

/// A keyword that bounds a length or a count.
pub fn out_of_counts(keyword: &str, limit: u64) -> String {
    let how = if keyword.starts_with("min") { "at least" } else { "at most" };
    match keyword {
        "minLength" | "maxLength" => format!("must be {how} {limit} characters long"),
        "minItems" | "maxItems" => format!("must have {how} {limit} items"),
        _ => format!("must have {how} {limit} properties"),
    }
}

/// `uniqueItems`.
pub const NOT_UNIQUE: &str = "must have no two equal items";
/// `required`, `dependentRequired`.
pub const MISSING: &str = "is missing";
/// A property or item that the schema does not let in.
pub const UNEXPECTED: &str = "is not expected here";

/// `format`.
pub fn not_format(name: &str) -> String {
    format!("is no valid {name}")
}

/// `pattern`.
pub fn no_match(pattern: &str) -> String {
    format!("does not match the pattern {pattern}")
}

/// A text in a message, not endlessly long.
pub fn short_text(text: &str) -> String {
    text.chars().take(200).collect()
}
