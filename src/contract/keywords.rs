//! The keywords of JSON Schema by what becomes of them, and where local references lead.

use percent_encoding::percent_decode_str;

use super::nearest::nearest;
use super::node::array_index;
use super::problem::tokens;
use super::source::{Data, Node};

/// The draft that contracts speak.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Keywords that the `jsonschema` crate judges.
pub const FALLBACK: &[&str] = &[
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependencies",
    "propertyNames",
    "contains",
    "minContains",
    "maxContains",
    "patternProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
];

/// Keywords that say nothing of what is valid.
pub const ANNOTATIONS: &[&str] = &[
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
    "$id",
    "$defs",
    "definitions",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
];

/// Keywords that the fast path knows, to guess at mistyped ones.
pub const KEYWORDS: &[&str] = &[
    "type",
    "enum",
    "const",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "properties",
    "additionalProperties",
    "required",
    "dependentRequired",
    "minProperties",
    "maxProperties",
    "$ref",
];

/// ` (did you mean x?)` for a mistyped word.
pub fn hint(word: &str, options: &[&str]) -> String {
    nearest(word, options.iter().copied()).map(|option| format!(" (did you mean {option}?)")).unwrap_or_default()
}

/// The nodes from the root to what the pointer of a local reference leads to.
pub fn way<'a>(root: &'a Node, fragment: &str) -> Option<Vec<&'a Node>> {
    let decoded = percent_decode_str(fragment).decode_utf8().ok()?;
    let mut way = vec![root];
    let mut at = root;
    for token in tokens(&decoded)? {
        at = match &at.data {
            Data::Array(items) => items.get(array_index(&token)?)?,
            _ => at.get(&token)?,
        };
        way.push(at);
    }
    Some(way)
}

/// What a `$ref` of this schema leads to, when it is a local pointer.
pub fn target<'a>(root: &'a Node, schema: &Node) -> Option<&'a Node> {
    let fragment = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
    way(root, fragment)?.pop()
}
