//! Schemas with keywords that the fast path does not know, judged by the `jsonschema` crate. What it finds is said in
//! the words of the exact judge, so that the two cannot be told apart where both could judge.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::Location;
use jsonschema::{Keyword, ValidationError};
use serde_json::{Map, Number, Value};

use super::node::{Doc, Id, Kind};
use super::pattern::Pattern;
use super::problem::{self, Found, push_token, tokens, type_bit};
use crate::verdict::Code;

/// A schema compiled by the `jsonschema` crate.
pub struct Fallback {
    validator: jsonschema::Validator,
}

impl std::fmt::Debug for Fallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fallback")
    }
}

impl Fallback {
    /// Compiles a schema; nothing is fetched from anywhere, only what `registry` holds can be referred to.
    ///
    /// # Errors
    /// Where in the schema, and what is wrong with it.
    pub fn compile(
        schema: &Value,
        formats: bool,
        registry: Option<&jsonschema::Registry<'_>>,
    ) -> Result<Self, (String, String)> {
        let options = jsonschema::options()
            .should_ignore_unknown_formats(true)
            .with_keyword("pattern", pattern_keyword)
            .offline();
        let mut options = super::formats::install(options);
        if formats {
            // Otherwise the dialect decides; that of contracts has formats as annotations.
            options = options.should_validate_formats(true);
        }
        let built = match registry {
            Some(registry) => options.with_registry(registry).build(schema),
            None => options.build(schema),
        };
        match built {
            Ok(validator) => Ok(Self { validator }),
            Err(error) => Err((error.instance_path().as_str().to_owned(), error.to_string())),
        }
    }

    /// Appends every problem with the document.
    pub fn check(&self, doc: Doc<'_>, found: &mut Vec<Found>) {
        let value = to_value(&doc, doc.root());
        for error in self.validator.iter_errors(&value) {
            translate(&doc, &error, found);
        }
    }
}

struct PatternKeyword(Pattern);

impl<'i> Keyword<'i> for PatternKeyword {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) { Ok(()) } else { Err(ValidationError::custom(problem::no_match(&self.0.text))) }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        instance.as_str().is_none_or(|text| self.0.is_match(text))
    }
}

fn pattern_keyword<'a>(
    _: &'a Map<String, Value>,
    value: &'a Value,
    _: Location,
) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    match value.as_str().and_then(Pattern::any) {
        Some(pattern) => Ok(Box::new(PatternKeyword(pattern))),
        None => Err(ValidationError::custom("is no regular expression of ECMA-262")),
    }
}

/// The document as `serde_json` has it, numbers with their text.
fn to_value(doc: &Doc<'_>, id: Id) -> Value {
    match doc.kind(id) {
        Kind::Null => Value::Null,
        Kind::True => Value::Bool(true),
        Kind::False => Value::Bool(false),
        Kind::Integer | Kind::Number => {
            let text = String::from_utf8_lossy(doc.text(id));
            text.parse::<Number>().map_or(Value::Null, Value::Number)
        }
        Kind::String | Kind::Escaped => Value::String(doc.string(id).into_owned()),
        Kind::Array => Value::Array(doc.items(id).map(|item| to_value(doc, item)).collect()),
        Kind::Object => {
            Value::Object(doc.properties(id).map(|(k, v)| (doc.string(k).into_owned(), to_value(doc, v))).collect())
        }
    }
}

/// An error of the crate in our words.
fn translate(doc: &Doc<'_>, error: &ValidationError<'_>, found: &mut Vec<Found>) {
    use ValidationErrorKind as E;
    let pointer = error.instance_path().as_str();
    let Some(node) = tokens(pointer).and_then(|t| doc.find(&t)) else {
        let message = error.masked().to_string();
        found.push(Found { code: Code::Invalid, node: 0, pointer: pointer.to_owned(), message, value: None });
        return;
    };
    let mut push = |code: Code, message: String| {
        let value = Some(doc.excerpt(node));
        found.push(Found { code, node, pointer: pointer.to_owned(), message, value });
    };
    match error.kind() {
        E::Type { kind } => {
            let wanted = match kind {
                TypeKind::Single(one) => *one as u8,
                TypeKind::Multiple(set) => set.iter().fold(0, |bits, one| bits | one as u8),
            };
            push(Code::WrongType, problem::wrong_type(type_bit(doc, node), wanted));
        }
        E::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            // Beside additionalProperties: false the crate calls properties missing that are there but not declared.
            if doc.get(node, name).is_some() {
                return;
            }
            let mut pointer = pointer.to_owned();
            push_token(&mut pointer, name);
            let message = problem::MISSING.to_owned();
            found.push(Found { code: Code::MissingField, node, pointer, message, value: None });
        }
        E::Enum { options } => push(Code::NotAllowed, problem::not_in_enum(options)),
        E::Constant { expected_value } => push(Code::NotAllowed, problem::not_const(expected_value)),
        E::UniqueItems => push(Code::NotAllowed, problem::NOT_UNIQUE.to_owned()),
        E::Minimum { limit } => push(Code::OutOfRange, problem::out_of_bounds("minimum", &limit.to_string())),
        E::Maximum { limit } => push(Code::OutOfRange, problem::out_of_bounds("maximum", &limit.to_string())),
        E::ExclusiveMinimum { limit } => {
            push(Code::OutOfRange, problem::out_of_bounds("exclusiveMinimum", &limit.to_string()));
        }
        E::ExclusiveMaximum { limit } => {
            push(Code::OutOfRange, problem::out_of_bounds("exclusiveMaximum", &limit.to_string()));
        }
        E::MultipleOf { multiple_of } => {
            push(Code::OutOfRange, problem::out_of_bounds("multipleOf", &multiple_of.to_string()));
        }
        E::MinLength { limit } => push(Code::OutOfRange, problem::out_of_counts("minLength", *limit)),
        E::MaxLength { limit } => push(Code::OutOfRange, problem::out_of_counts("maxLength", *limit)),
        E::MinItems { limit } => push(Code::OutOfRange, problem::out_of_counts("minItems", *limit)),
        E::MaxItems { limit } => push(Code::OutOfRange, problem::out_of_counts("maxItems", *limit)),
        E::MinProperties { limit } => push(Code::OutOfRange, problem::out_of_counts("minProperties", *limit)),
        E::MaxProperties { limit } => push(Code::OutOfRange, problem::out_of_counts("maxProperties", *limit)),
        E::Format { format } => push(Code::BadFormat, problem::not_format(format)),
        E::Custom { message, .. } => push(Code::BadFormat, message.clone()),
        E::Pattern { pattern } => push(Code::BadFormat, problem::no_match(pattern)),
        E::AdditionalProperties { unexpected } | E::UnevaluatedProperties { unexpected } => {
            for name in unexpected {
                unexpected_property(doc, node, pointer, name, found);
            }
        }
        E::UnevaluatedItems { .. } => push(Code::UnexpectedField, "has items that no schema takes".to_owned()),
        E::AdditionalItems { limit } => {
            for (i, item) in doc.items(node).enumerate().skip(*limit) {
                let pointer = format!("{pointer}/{i}");
                let (value, message) = (Some(doc.excerpt(item)), problem::UNEXPECTED.to_owned());
                found.push(Found { code: Code::UnexpectedField, node: item, pointer, message, value });
            }
        }
        E::FalseSchema => match last_keyword(error.schema_path().as_str()) {
            // With no properties declared the crate stops at the first one.
            Some("additionalProperties") if doc.kind(node) == Kind::Object => {
                for (key, _) in doc.properties(node) {
                    unexpected_property(doc, node, pointer, &doc.string(key), found);
                }
            }
            Some("propertyNames") => push(Code::Invalid, "has names that propertyNames does not let in".to_owned()),
            _ => push(Code::UnexpectedField, problem::UNEXPECTED.to_owned()),
        },
        E::AnyOf { .. } => push(Code::Invalid, "matches none of the schemas of anyOf".to_owned()),
        E::OneOfNotValid { .. } => push(Code::Invalid, "matches none of the schemas of oneOf".to_owned()),
        E::OneOfMultipleValid { .. } => push(Code::Invalid, "matches more than one of the schemas of oneOf".to_owned()),
        E::Not { .. } => push(Code::Invalid, "matches the schema of not".to_owned()),
        E::Contains => push(Code::Invalid, "has not as many items that match contains as it should".to_owned()),
        E::PropertyNames { error } => {
            let name = problem::short_text(&error.instance().to_string());
            push(Code::Invalid, format!("has a name that propertyNames does not let in: {name}"));
        }
        E::BacktrackLimitExceeded { .. } | E::RegexEngineFailure { .. } => {
            push(Code::Invalid, "a pattern took too many steps".to_owned());
        }
        other => push(Code::Invalid, format!("does not keep to {}", other.keyword())),
    }
}

fn unexpected_property(doc: &Doc<'_>, object: Id, pointer: &str, name: &str, found: &mut Vec<Found>) {
    let node = doc.get(object, name).unwrap_or(object);
    let mut pointer = pointer.to_owned();
    push_token(&mut pointer, name);
    let (value, message) = (Some(doc.excerpt(node)), problem::UNEXPECTED.to_owned());
    found.push(Found { code: Code::UnexpectedField, node, pointer, message, value });
}

/// The last token of a schema's path, when it is a keyword and not the name of a property or definition.
fn last_keyword(path: &str) -> Option<&str> {
    let mut keyword = None;
    let mut tokens = path.split('/').skip(1);
    while let Some(token) = tokens.next() {
        keyword = Some(token);
        if matches!(token, "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas") {
            tokens.next()?;
            keyword = None;
        }
    }
    keyword
}
