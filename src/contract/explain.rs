//! What a contract accepts and how, for people.

use serde_json::{Value, json};

use super::Contract;
use super::columns::{Shape, outline};
use super::compile::Version;
use super::nearest::nearest;
use super::roles::{ROLES, Role, Roles, Source, Unit};

/// What a contract accepts: for each event type and version the path that it takes and why, what it requires, and the
/// columns that it fills.
pub(super) fn explain(contract: &Contract) -> Value {
    let compiled = contract.compiled();
    let mut types = serde_json::Map::new();
    for (spec, kind) in
        contract.spec().types.iter().filter_map(|s| Some((s, compiled.types.iter().find(|t| t.name == s.name)?)))
    {
        let mut versions = serde_json::Map::new();
        for version in &kind.versions {
            versions.insert(version.name.clone(), explain_version(version, &spec.roles));
        }
        types.insert(kind.name.clone(), json!({"roles": explain_roles(&spec.roles), "versions": versions}));
    }
    let columns: Vec<Value> =
        compiled.columns.iter().map(|c| json!({"name": c.name, "type": c.kind.describe()})).collect();
    json!({
        "name": contract.name(),
        "digest": contract.digest(),
        "needs_secret": contract.needs_secret(),
        "event_types": types,
        "columns": columns,
    })
}

fn explain_version(version: &Version, roles: &Roles) -> Value {
    let (path, why) = match (&version.fallback, &version.program) {
        (Some(_), _) => {
            let reasons = version.rules.fallback.iter();
            let why = reasons.map(|r| format!("{} (line {}, {})", r.what, r.line, r.pointer)).collect::<Vec<_>>();
            ("fallback", why)
        }
        (None, Ok(_)) => ("fast", Vec::new()),
        (None, Err(why)) => ("exact", vec![why.clone()]),
    };
    let root = version.rules.get(version.rules.root);
    let object = root.object.as_deref();
    let mut lines = Vec::new();
    outline(&version.shape, "", &mut lines);
    let columns: Vec<Value> = lines
        .into_iter()
        .map(|(pointer, column, kind)| json!({"pointer": pointer, "column": column, "type": kind}))
        .collect();
    json!({
        "path": path,
        "why": why,
        "ignored": version.rules.ignored.iter().map(|r| format!("{} (line {})", r.what, r.line)).collect::<Vec<_>>(),
        "schema": version.file.path.display().to_string(),
        "required": object.map(|o| o.required.clone()).unwrap_or_default(),
        "undeclared_roles": undeclared(roles, &version.shape),
        "unknown_properties": if object.is_some_and(|o| o.closed) { "refused" } else { "kept in _extra" },
        "columns": columns,
    })
}

/// The roles that are read from a property that the schema does not declare, with the nearest one that it does. A schema
/// that declares none leaves all open.
fn undeclared(roles: &Roles, shape: &Shape) -> Vec<Value> {
    let properties = ROLES.iter().filter_map(|name| Some((*name, roles.get(name)?))).flat_map(|(name, role)| {
        role.parts.iter().filter_map(move |part| match part {
            Source::Property { tokens, pointer, .. } => Some((name, tokens, pointer)),
            _ => None,
        })
    });
    let missing = properties.filter_map(|(role, tokens, pointer)| {
        let (above, near) = missing(shape, tokens)?;
        let near = near.map(|name| {
            let tokens = tokens[..above].iter().map(String::as_str).chain([name]);
            tokens.map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect::<String>()
        });
        Some(json!({"role": role, "pointer": pointer, "nearest": near}))
    });
    missing.collect()
}

/// How many steps of a way are declared before one that is not, and the declared name most like that one. None when all
/// are, or when what is there is left open.
fn missing<'a>(mut shape: &'a Shape, tokens: &[String]) -> Option<(usize, Option<&'a str>)> {
    for (at, token) in tokens.iter().enumerate() {
        let Shape::Struct(properties) = shape else { return None };
        if properties.is_empty() {
            return None;
        }
        match properties.iter().find(|p| p.name == *token) {
            Some(property) => shape = &property.shape,
            None => return Some((at, nearest(token, properties.iter().map(|p| p.name.as_str())))),
        }
    }
    None
}

fn explain_roles(roles: &Roles) -> Value {
    let mut all = serde_json::Map::new();
    for name in ROLES {
        if let Some(role) = roles.get(name) {
            all.insert(name.to_owned(), Value::String(describe(role)));
        }
    }
    Value::Object(all)
}

/// A role in words.
pub(super) fn describe(role: &Role) -> String {
    let parts: Vec<String> = role
        .parts
        .iter()
        .map(|part| match part {
            Source::Property { pointer, unit: None, .. } => pointer.clone(),
            Source::Property { pointer, unit: Some(unit), .. } => {
                let unit = match unit {
                    Unit::Seconds => "seconds",
                    Unit::Milliseconds => "milliseconds",
                    Unit::Microseconds => "microseconds",
                };
                format!("{pointer} in {unit}")
            }
            Source::Const(text) => format!("always '{text}'"),
            Source::Header(name) => format!("header '{name}'"),
            Source::Topic(map) => {
                let map: Vec<String> = map.iter().map(|(topic, kind)| format!("{topic}: {kind}")).collect();
                format!("by topic ({})", map.join(", "))
            }
            Source::KafkaTimestamp => "the message's timestamp".to_owned(),
            Source::KafkaPosition => "the message's position".to_owned(),
        })
        .collect();
    if role.composite { format!("[{}]", parts.join(", ")) } else { parts.join("") }
}
