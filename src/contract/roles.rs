//! The roles of a contract: which part of an event is its type, its time, its key, its entity, its version.

use super::nearest::suggestion;
use super::problem::tokens;
use super::source::{Data, Node};

/// The roles, by their names in the contract.
pub const ROLES: [&str; 5] = ["event_type", "event_time", "idempotency_key", "entity", "schema_version"];

/// Where a role, or one part of a composite one, is read.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A property of the event; a number of this many digits after the point of a second (a unit) or a date-time.
    Property {
        /// The way to it.
        tokens: Vec<String>,
        /// The same as a JSON Pointer.
        pointer: String,
        /// What its number counts; none for a date-time.
        unit: Option<Unit>,
    },
    /// The same for every event.
    Const(String),
    /// A header of the message.
    Header(String),
    /// By the topic that the message came from.
    Topic(Vec<(String, String)>),
    /// The broker's time.
    KafkaTimestamp,
    /// Where the message lies.
    KafkaPosition,
}

/// The unit of a time that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
}

/// A role.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    /// Its parts; one, unless it is a composite.
    pub parts: Vec<Source>,
    /// Whether it was written as a list.
    pub composite: bool,
    /// The line of the contract.
    pub line: usize,
}

/// The roles that hold for an event type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Roles {
    roles: [Option<Role>; 5],
}

/// The line and the reason of a role that is wrong.
pub type Fault = (usize, String);

impl Roles {
    /// Reads a `roles` mapping over what holds already.
    pub fn read(node: &Node, over: Option<&Roles>) -> Result<Self, Fault> {
        let Data::Object(entries) = &node.data else {
            return Err((node.line, format!("roles is a mapping of role to JSON Pointer, not {}", node.kind())));
        };
        let mut roles = over.cloned().unwrap_or_default();
        for (key, value) in entries {
            let Some(at) = ROLES.iter().position(|r| *r == key.text) else {
                return Err((key.line, format!("there is no role '{}'{}", key.text, suggestion(&key.text, ROLES))));
            };
            if over.is_some() && key.text == "event_type" {
                return Err((key.line, "event_type cannot be set again inside an event type".into()));
            }
            roles.roles[at] = Some(Role::read(ROLES[at], value)?);
        }
        Ok(roles)
    }

    /// A role by its name.
    pub fn get(&self, name: &str) -> Option<&Role> {
        ROLES.iter().position(|r| *r == name).and_then(|at| self.roles[at].as_ref())
    }

    /// The first role that has to be there and is not.
    pub fn missing(&self) -> Option<&'static str> {
        (0..3).find(|at| self.roles[*at].is_none()).map(|at| ROLES[at])
    }

    /// Whether the top-level property `name` is the role of that name.
    pub fn is_own_property(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Role { parts, composite: false, .. })
            if matches!(parts.as_slice(), [Source::Property { tokens, .. }] if *tokens == [name]))
    }
}

impl Role {
    fn read(name: &'static str, node: &Node) -> Result<Self, Fault> {
        let parts = match &node.data {
            Data::Array(_) if !matches!(name, "idempotency_key" | "entity") => {
                return Err((node.line, format!("{name} cannot be a composite: only idempotency_key and entity can")));
            }
            Data::Array(items) if items.is_empty() => return Err((node.line, format!("{name} is an empty list"))),
            Data::Array(items) => items.iter().map(|item| Source::read(name, item)).collect::<Result<_, _>>()?,
            _ => vec![Source::read(name, node)?],
        };
        Ok(Self { parts, composite: matches!(node.data, Data::Array(_)), line: node.line })
    }
}

impl Source {
    fn read(role: &'static str, node: &Node) -> Result<Self, Fault> {
        let wrong = |line: usize, reason: &str| Err((line, format!("{role}: {reason}")));
        let (key, value) = match &node.data {
            Data::String(text) => return Self::property(role, text, node.line, None),
            Data::Object(entries) => match entries.as_slice() {
                [] => return wrong(node.line, "is empty"),
                entries => {
                    const KEYS: [&str; 6] = ["path", "unit", "const", "header", "topic", "kafka"];
                    if let Some((key, _)) = entries.iter().find(|(k, _)| !KEYS.contains(&k.text.as_str())) {
                        let reason = format!("there is no '{}' here{}", key.text, suggestion(&key.text, KEYS));
                        return wrong(key.line, &reason);
                    }
                    let (first, second) = (&entries[0], entries.get(1));
                    match (node.get("path"), second) {
                        (Some(path), _) => {
                            let unit = node.get("unit").map(|u| unit(role, u)).transpose()?;
                            if let Some((key, _)) =
                                entries.iter().find(|(k, _)| !matches!(k.text.as_str(), "path" | "unit"))
                            {
                                return wrong(key.line, "path cannot be together with this");
                            }
                            let Some(text) = path.as_str() else { return wrong(path.line, "path is a JSON Pointer") };
                            return Self::property(role, text, path.line, unit);
                        }
                        (None, Some((key, _))) => {
                            return wrong(key.line, "only one of const, header, topic, kafka can be set");
                        }
                        (None, None) => (&first.0, &first.1),
                    }
                }
            },
            _ => return wrong(node.line, &format!("is a JSON Pointer like /id, not {}", node.kind())),
        };
        let source = match (key.text.as_str(), &value.data) {
            ("const", Data::String(text)) => Source::Const(text.clone()),
            ("const", Data::Number(text)) => Source::Const(text.clone()),
            ("header", Data::String(text)) => Source::Header(text.clone()),
            ("topic", Data::Object(entries)) if !entries.is_empty() => {
                let mut map = Vec::new();
                for (topic, kind) in entries {
                    match kind.as_str() {
                        Some(kind) => map.push((topic.text.clone(), kind.to_owned())),
                        None => return wrong(kind.line, "topic maps each topic to the name of an event type"),
                    }
                }
                Source::Topic(map)
            }
            ("kafka", Data::String(text)) if text == "timestamp" => Source::KafkaTimestamp,
            ("kafka", Data::String(text)) if text == "position" => Source::KafkaPosition,
            ("kafka", _) => return wrong(value.line, "kafka is timestamp or position"),
            ("unit", _) => return wrong(key.line, "unit needs a path: {path: /ts, unit: ms}"),
            (key, _) => return wrong(value.line, &format!("{key} cannot be {}", value.kind())),
        };
        let fits = match &source {
            Source::Const(_) => role != "event_time",
            Source::Topic(_) => role == "event_type",
            Source::KafkaTimestamp => role == "event_time",
            Source::KafkaPosition => role == "idempotency_key",
            _ => true,
        };
        if !fits {
            return wrong(key.line, &format!("cannot be read from {}", key.text));
        }
        Ok(source)
    }

    fn property(role: &'static str, text: &str, line: usize, unit: Option<Unit>) -> Result<Self, Fault> {
        match tokens(text) {
            Some(tokens) if !tokens.is_empty() => Ok(Source::Property { tokens, pointer: text.to_owned(), unit }),
            _ => {
                let reason = format!(
                    "{role}: '{text}' is no JSON Pointer; did you mean '/{}'?",
                    text.trim_start_matches('/').replace('.', "/")
                );
                Err((line, reason))
            }
        }
    }
}

fn unit(role: &str, node: &Node) -> Result<Unit, Fault> {
    if role != "event_time" {
        return Err((node.line, format!("{role}: only event_time has a unit")));
    }
    match node.as_str() {
        Some("s") => Ok(Unit::Seconds),
        Some("ms") => Ok(Unit::Milliseconds),
        Some("us") => Ok(Unit::Microseconds),
        _ => Err((node.line, "event_time: unit is s, ms or us".into())),
    }
}
