//! `contract.yaml` and the schema files beside it, read and found in order, or refused with file, line and reason.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::keywords::DIALECT;
use super::nearest::suggestion;
use super::roles::Roles;
use super::source::{Data, File, Node};
use crate::error::{Error, Result};

/// A contract as it is written.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// The contract's own file, for messages.
    pub file: Arc<PathBuf>,
    /// The event types, in the order of the file.
    pub types: Vec<TypeSpec>,
    /// The roles that hold for all types.
    pub roles: Roles,
    /// The whole as one JSON text, schemas inlined.
    pub text: String,
}

/// An event type as it is written.
#[derive(Debug, Clone)]
pub struct TypeSpec {
    /// Its name; `*` takes every type not named.
    pub name: String,
    /// Its roles: those of the contract, and what is set again here.
    pub roles: Roles,
    /// Its versions, in the order of the file.
    pub versions: Vec<VersionSpec>,
}

/// A version of an event type as it is written.
#[derive(Debug, Clone)]
pub struct VersionSpec {
    /// Its name.
    pub name: String,
    /// The file of the schema, and the schema.
    pub schema: File,
}

const KEYS: [&str; 4] = ["name", "description", "roles", "events"];

impl Spec {
    /// Reads a contract file.
    pub fn load(path: &Path) -> Result<Self> {
        Self::read(&File::read(path)?)
    }

    /// Reads a contract from text; schema paths are relative to the folder of `origin`.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        Self::read(&File::parse(text, origin)?)
    }

    fn read(file: &File) -> Result<Self> {
        let root = &file.root;
        let Data::Object(entries) = &root.data else {
            return Err(file.error(
                root.line,
                format!("a contract is a mapping with name, roles and events, not {}", root.kind()),
            ));
        };
        if let Some((key, _)) = entries.iter().find(|(k, _)| !KEYS.contains(&k.text.as_str())) {
            return Err(file
                .error(key.line, format!("there is no '{}' in a contract{}", key.text, suggestion(&key.text, KEYS))));
        }
        let part = |key: &str| root.get(key).ok_or_else(|| file.error(root.line, format!("'{key}' is missing")));
        let name_node = part("name")?;
        let name = match name_node.as_str() {
            Some(text) if !text.trim().is_empty() => text.to_owned(),
            _ => return Err(file.error(name_node.line, "name is the name of the contract, as text")),
        };
        let roles_node = part("roles")?;
        let roles = Roles::read(roles_node, None).map_err(|(line, reason)| file.error(line, reason))?;
        let events = part("events")?;
        if events.entries().is_empty() {
            return Err(file.error(events.line, "events is a mapping of event type to its versions, at least one"));
        }
        let mut types = Vec::new();
        let mut canonical = Map::new();
        for (key, value) in events.entries() {
            let (spec, text) = TypeSpec::read(file, &key.text, key.line, value, &roles)?;
            types.push(spec);
            canonical.insert(key.text.clone(), text);
        }
        let text = json!({"name": name, "roles": roles_node.to_value(), "events": canonical}).to_string();
        Ok(Self { name, file: file.path.clone(), types, roles, text })
    }
}

impl TypeSpec {
    fn read(file: &File, name: &str, line: usize, node: &Node, roles: &Roles) -> Result<(Self, Value)> {
        let Data::Object(entries) = &node.data else {
            let reason = format!(
                "event type '{name}' is a mapping of version to schema ({{v1: schemas/{name}.json}}), not {}",
                node.kind()
            );
            return Err(file.error(node.line, reason));
        };
        let own = match node.get("roles") {
            Some(own) => Roles::read(own, Some(roles)).map_err(|(line, reason)| file.error(line, reason))?,
            None => roles.clone(),
        };
        if let Some(role) = own.missing() {
            let reason =
                format!("event type '{name}' has no role {role}: set it under roles, for all types or inside this one");
            return Err(file.error(line, reason));
        }
        let mut versions = Vec::new();
        let mut canonical = Map::new();
        for (key, value) in entries {
            if key.text == "roles" {
                canonical.insert("roles".into(), value.to_value());
                continue;
            }
            let schema = read_schema(file, value)?;
            check_schema(&schema)?;
            canonical.insert(key.text.clone(), schema.root.to_value());
            versions.push(VersionSpec { name: key.text.clone(), schema });
        }
        if versions.is_empty() {
            return Err(
                file.error(line, format!("event type '{name}' has no version: add one, like v1: schemas/{name}.json"))
            );
        }
        if versions.len() > 1 && own.get("schema_version").is_none() {
            let reason = format!(
                "event type '{name}' has {} versions, but there is no role schema_version to tell them apart",
                versions.len()
            );
            return Err(file.error(line, reason));
        }
        Ok((Self { name: name.to_owned(), roles: own, versions }, Value::Object(canonical)))
    }
}

/// A schema: inline, or a path beside the contract.
fn read_schema(file: &File, node: &Node) -> Result<File> {
    let Some(path) = node.as_str() else {
        return match &node.data {
            Data::Object(_) | Data::Bool(_) => Ok(File { path: file.path.clone(), root: node.clone() }),
            _ => {
                Err(file
                    .error(node.line, format!("a version is a JSON Schema or the path of one, not {}", node.kind())))
            }
        };
    };
    let relative = Path::new(path);
    let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside || path.is_empty() {
        return Err(file.error(
            node.line,
            format!("'{path}' leads out of the contract's folder: schema files lie beside the contract"),
        ));
    }
    let folder = file.path.parent().map(Path::to_owned).unwrap_or_default();
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    let full = folder.join(relative);
    let real =
        full.canonicalize().map_err(|e| file.error(node.line, format!("schema file '{path}' cannot be read: {e}")))?;
    // A symbolic link may lead anywhere.
    let root = folder
        .canonicalize()
        .map_err(|e| file.error(node.line, format!("the contract's folder cannot be read: {e}")))?;
    if !real.starts_with(&root) {
        return Err(file.error(
            node.line,
            format!("'{path}' leads out of the contract's folder: schema files lie beside the contract"),
        ));
    }
    File::read(&full).map_err(|e| match e {
        Error::Contract { file: at, line: None, reason } => {
            file.error(node.line, format!("schema file {}: {reason}", at.display()))
        }
        other => other,
    })
}

/// Holds a schema against the metaschema of draft 2020-12.
fn check_schema(file: &File) -> Result<()> {
    if let Some(dialect) = file.root.get("$schema")
        && dialect.as_str().is_none_or(|d| d.trim_end_matches('#') != DIALECT)
    {
        let reason = format!("$schema: contracts speak draft 2020-12 ({DIALECT})");
        return Err(file.error(dialect.line, reason));
    }
    let value = file.root.to_value();
    // The deepest complaint says most about what is wrong.
    let worst = jsonschema::draft202012::meta::validator()
        .iter_errors(&value)
        .map(|e| (e.instance_path().as_str().to_owned(), e.to_string()))
        .max_by_key(|(at, _)| at.matches('/').count());
    match worst {
        Some((at, reason)) => {
            let reason: String = reason.chars().take(300).collect();
            let place = if at.is_empty() { String::new() } else { format!("{at}: ") };
            Err(file.error(file.root.line_of(&at), format!("is no JSON Schema: {place}{reason}")))
        }
        None => Ok(()),
    }
}
