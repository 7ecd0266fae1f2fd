//! How the roles of an event are read, once it is known which they are.

use super::columns::{Pii, Shape};
use super::date_time::{YEARS, date_time};
use super::json;
use super::node::Kind;
use super::number::Decimal;
use super::pii::{Secret, plain_into};
use super::problem;
use super::roles::{Fault, Roles, Source, Unit};
use crate::verdict::Code;

/// What is known of a message beside its value.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// The topic, or the path of a file.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The broker's time.
    pub timestamp: Option<i64>,
    /// The headers.
    pub headers: &'a [(String, Option<Vec<u8>>)],
}

/// A scalar of the event that a role reads; of strings the text without quotes.
pub type Tap<'a> = Option<(Kind, &'a [u8])>;

/// How the roles of one version are read: the properties that have to be looked up, once each, and what is made of them.
#[derive(Debug)]
pub struct Plan {
    /// The properties, as reference tokens.
    pub taps: Vec<Vec<String>>,
    event_type: Vec<Part>,
    event_time: Vec<Part>,
    key: (Vec<Part>, bool),
    entity: Option<(Vec<Part>, bool)>,
    version: Option<Vec<Part>>,
}

/// What a role cannot be read from, though the schema lets nothing else in there: the role, and why.
///
/// `find` tells the types that the schema lets in at a property; none when it says nothing of it.
pub fn impossible(roles: &Roles, find: impl Fn(&[String]) -> Option<u8>) -> Option<Fault> {
    for name in super::roles::ROLES {
        let Some(role) = roles.get(name) else { continue };
        for source in &role.parts {
            let Source::Property { tokens, pointer, unit } = source else { continue };
            let wanted = match (name, unit) {
                ("event_time", Some(_)) => 4 | 8,
                ("event_type" | "event_time", None) => TEXT,
                ("schema_version", _) => SCALAR & !2,
                _ => SCALAR,
            };
            let Some(types) = find(tokens) else { continue };
            if types == 0 {
                return Some((role.line, format!("{name}: the schema does not let {pointer} in")));
            }
            if types & wanted == 0 {
                let hint = if name == "event_time" && types & 12 != 0 {
                    format!("; {{path: {pointer}, unit: ms}} reads a number")
                } else {
                    String::new()
                };
                let is = problem::list(types);
                return Some((
                    role.line,
                    format!(
                        "{name}: {pointer} is of type {is} by the schema, and cannot be read as {}{hint}",
                        problem::list(wanted)
                    ),
                ));
            }
        }
    }
    None
}

#[derive(Debug)]
struct Part {
    source: Source,
    tap: usize,
    hash: bool,
}

/// A role that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The kind of problem.
    pub code: Code,
    /// Where.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
}

const TEXT: u8 = 16;
const SCALAR: u8 = 2 | 4 | 8 | 16;

impl Plan {
    /// The plan for the roles of an event type, whose properties take the marks of `shape`.
    ///
    /// # Errors
    /// A mark that leaves a role without a value.
    pub fn new(roles: &Roles, shape: Option<&Shape>) -> Result<Self, Fault> {
        let mut taps: Vec<Vec<String>> = Vec::new();
        let mut parts = |name: &str| -> Result<Option<(Vec<Part>, bool)>, Fault> {
            let Some(role) = roles.get(name) else { return Ok(None) };
            let mut parts = Vec::new();
            for source in &role.parts {
                let (mut tap, mut hash) = (usize::MAX, false);
                if let Source::Property { tokens, pointer, .. } = source {
                    tap = taps.iter().position(|t| t == tokens).unwrap_or_else(|| {
                        taps.push(tokens.clone());
                        taps.len() - 1
                    });
                    match shape.and_then(|s| s.pii_at(tokens)) {
                        None => {}
                        Some(Pii::Hash) if matches!(name, "idempotency_key" | "entity") => hash = true,
                        Some(mark) => {
                            let mark = format!("{mark:?}").to_lowercase();
                            let instead = if matches!(name, "idempotency_key" | "entity") {
                                "; hash keeps it usable"
                            } else {
                                ""
                            };
                            return Err((
                                role.line,
                                format!(
                                    "{name}: {pointer} is marked x-penstock-pii: {mark}, so the role would have no value{instead}"
                                ),
                            ));
                        }
                    }
                }
                parts.push(Part { source: source.clone(), tap, hash });
            }
            Ok(Some((parts, role.composite)))
        };
        let event_type = parts("event_type")?.unwrap_or_default().0;
        let event_time = parts("event_time")?.unwrap_or_default().0;
        let key = parts("idempotency_key")?.unwrap_or_default();
        let entity = parts("entity")?;
        let version = parts("schema_version")?.map(|v| v.0);
        Ok(Self { taps, event_type, event_time, key, entity, version })
    }

    /// Whether anything has to be hashed.
    pub fn has_hash(&self) -> bool {
        self.key.0.iter().chain(self.entity.iter().flat_map(|e| &e.0)).any(|p| p.hash)
    }

    /// Whether there is a role `schema_version`.
    pub fn has_version(&self) -> bool {
        self.version.is_some()
    }

    /// Whether there is a role `entity`.
    pub fn has_entity(&self) -> bool {
        self.entity.is_some()
    }

    /// The top-level property that is the entity as it stands, unless it is marked as personal.
    pub fn entity_property(&self) -> Option<&str> {
        let (parts, composite) = self.entity.as_ref()?;
        if *composite { None } else { property(parts) }
    }

    /// The top-level property with the date-time that is the event time.
    pub fn time_property(&self) -> Option<&str> {
        property(&self.event_time)
    }

    /// The place in `taps` of the event type, where it is a property.
    pub fn event_type_tap(&self) -> Option<usize> {
        self.event_type.first().map(|p| p.tap).filter(|t| *t < self.taps.len())
    }

    /// The place in `taps` of the event time, where it is a property with a date-time.
    pub fn event_time_tap(&self) -> Option<usize> {
        match self.event_time.first()? {
            Part { source: Source::Property { unit: None, .. }, tap, .. } => Some(*tap),
            _ => None,
        }
    }

    /// The place in `taps` of the schema version, where it is a property.
    pub fn version_tap(&self) -> Option<usize> {
        self.version.as_ref()?.first().map(|p| p.tap).filter(|t| *t < self.taps.len())
    }

    /// The place in `taps` of the key, where it is a property as it stands.
    pub fn key_tap(&self) -> Option<usize> {
        as_it_stands(&self.key)
    }

    /// The place in `taps` of the entity, where it is a property as it stands.
    pub fn entity_tap(&self) -> Option<usize> {
        as_it_stands(self.entity.as_ref()?)
    }

    /// Appends the event type.
    pub fn event_type(&self, taps: &[Tap<'_>], message: &Message<'_>, out: &mut Vec<u8>) -> Result<(), Unreadable> {
        single(&self.event_type, TEXT, taps, message, None, out)
    }

    /// Appends the schema version; false where there is no such role.
    pub fn version(&self, taps: &[Tap<'_>], message: &Message<'_>, out: &mut Vec<u8>) -> Result<bool, Unreadable> {
        match &self.version {
            Some(parts) => single(parts, SCALAR & !2, taps, message, None, out).map(|()| true),
            None => Ok(false),
        }
    }

    /// Appends the idempotency key.
    pub fn key(
        &self,
        taps: &[Tap<'_>],
        message: &Message<'_>,
        secret: Option<&Secret>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        text(&self.key, taps, message, secret, out)
    }

    /// Appends the entity; false where there is no such role.
    pub fn entity(
        &self,
        taps: &[Tap<'_>],
        message: &Message<'_>,
        secret: Option<&Secret>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Unreadable> {
        match &self.entity {
            Some(entity) => text(entity, taps, message, secret, out).map(|()| true),
            None => Ok(false),
        }
    }

    /// The event time in microseconds.
    pub fn event_time(&self, taps: &[Tap<'_>], message: &Message<'_>) -> Result<i64, Unreadable> {
        let Some(part) = self.event_time.first() else { return Err(missing("")) };
        match &part.source {
            Source::KafkaTimestamp => {
                let unreadable = |code, message: &str| Unreadable { code, message: message.into(), ..missing("") };
                let time = message.timestamp;
                let time = time.ok_or_else(|| unreadable(Code::MissingField, "the message has no timestamp"))?;
                let outside =
                    || unreadable(Code::NotRepresentable, "the message's timestamp is no time that a column can hold");
                YEARS.contains(&time).then_some(time).ok_or_else(outside)
            }
            Source::Property { pointer, unit, .. } => {
                let Some((kind, text)) = taps.get(part.tap).copied().flatten() else { return Err(missing(pointer)) };
                let fail = |code: Code, message: String| Err(Unreadable { code, pointer: pointer.clone(), message });
                match unit {
                    None => {
                        if !kind.is_string() {
                            return fail(Code::WrongType, problem::wrong_type(bit(kind, text), TEXT));
                        }
                        let micros = match kind {
                            Kind::String => date_time(text),
                            _ => {
                                let mut plain = Vec::new();
                                json::unescape_into(text, &mut plain);
                                date_time(&plain)
                            }
                        };
                        micros.map_or_else(|| fail(Code::BadFormat, problem::not_format("date-time")), Ok)
                    }
                    Some(_) if !kind.is_number() => fail(Code::WrongType, problem::wrong_type(bit(kind, text), 4 | 8)),
                    Some(unit) => {
                        let shift = match unit {
                            Unit::Seconds => 6,
                            Unit::Milliseconds => 3,
                            Unit::Microseconds => 0,
                        };
                        let micros = Decimal::parse(text).floor_scaled(shift);
                        let micros = micros.filter(|micros| YEARS.contains(micros));
                        micros.map_or_else(
                            || fail(Code::NotRepresentable, "is no time that a column can hold".into()),
                            Ok,
                        )
                    }
                }
            }
            Source::Header(name) => {
                let text = header(name, message)?;
                date_time(text.as_bytes()).ok_or_else(|| Unreadable {
                    code: Code::BadFormat,
                    pointer: String::new(),
                    message: format!("header '{name}' {}", problem::not_format("date-time")),
                })
            }
            _ => Err(missing("")),
        }
    }

    /// The pointer of the event time, for problems with it; empty where it is no property.
    pub fn event_time_pointer(&self) -> &str {
        match self.event_time.first().map(|p| &p.source) {
            Some(Source::Property { pointer, .. }) => pointer,
            _ => "",
        }
    }

    /// The pointer of the event type.
    pub fn event_type_pointer(&self) -> &str {
        match self.event_type.first().map(|p| &p.source) {
            Some(Source::Property { pointer, .. }) => pointer,
            _ => "",
        }
    }

    /// The pointer of the schema version.
    pub fn version_pointer(&self) -> &str {
        match self.version.as_ref().and_then(|v| v.first()).map(|p| &p.source) {
            Some(Source::Property { pointer, .. }) => pointer,
            _ => "",
        }
    }
}

fn as_it_stands((parts, composite): &(Vec<Part>, bool)) -> Option<usize> {
    match parts.first()? {
        Part { source: Source::Property { .. }, tap, hash: false } if !composite => Some(*tap),
        _ => None,
    }
}

fn property(parts: &[Part]) -> Option<&str> {
    match parts {
        [Part { source: Source::Property { tokens, unit: None, .. }, hash: false, .. }] => match tokens.as_slice() {
            [name] => Some(name),
            _ => None,
        },
        _ => None,
    }
}

fn missing(pointer: &str) -> Unreadable {
    Unreadable { code: Code::MissingField, pointer: pointer.to_owned(), message: problem::MISSING.to_owned() }
}

/// The bit of a scalar's type.
fn bit(kind: Kind, text: &[u8]) -> u8 {
    match kind {
        Kind::Null => 1,
        Kind::True | Kind::False => 2,
        Kind::Integer => 4,
        Kind::Number if Decimal::parse(text).is_integer() => 4,
        Kind::Number => 8,
        Kind::String | Kind::Escaped => 16,
        Kind::Array => 32,
        Kind::Object => 64,
    }
}

fn header<'a>(name: &str, message: &Message<'a>) -> Result<&'a str, Unreadable> {
    let unreadable = |code: Code, what: &str| Unreadable {
        code,
        pointer: String::new(),
        message: format!("header '{name}' {what}"),
    };
    // Of two headers of one name the last counts, as with keys.
    let found = message.headers.iter().rev().find(|(n, _)| n == name);
    let value = found.and_then(|(_, value)| value.as_deref());
    let value = value.ok_or_else(|| unreadable(Code::MissingField, "is missing"))?;
    std::str::from_utf8(value).map_err(|_| unreadable(Code::BadFormat, "is not UTF-8"))
}

fn text(
    (parts, composite): &(Vec<Part>, bool),
    taps: &[Tap<'_>],
    message: &Message<'_>,
    secret: Option<&Secret>,
    out: &mut Vec<u8>,
) -> Result<(), Unreadable> {
    if !composite {
        return single(parts, SCALAR, taps, message, secret, out);
    }
    let mut plain = Vec::new();
    out.push(b'[');
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        plain.clear();
        single(std::slice::from_ref(part), SCALAR, taps, message, secret, &mut plain)?;
        let kind = taps.get(part.tap).copied().flatten().map(|(kind, _)| kind);
        if kind.is_some_and(|k| !k.is_string()) && !part.hash {
            out.extend_from_slice(&plain);
        } else {
            json::quote_into(&String::from_utf8_lossy(&plain), out);
        }
    }
    out.push(b']');
    Ok(())
}

fn single(
    parts: &[Part],
    wanted: u8,
    taps: &[Tap<'_>],
    message: &Message<'_>,
    secret: Option<&Secret>,
    out: &mut Vec<u8>,
) -> Result<(), Unreadable> {
    let Some(part) = parts.first() else { return Err(missing("")) };
    match &part.source {
        Source::Property { pointer, .. } => {
            let Some((kind, text)) = taps.get(part.tap).copied().flatten() else { return Err(missing(pointer)) };
            let is = bit(kind, text);
            if is & wanted == 0 {
                let message = problem::wrong_type(is, wanted);
                return Err(Unreadable { code: Code::WrongType, pointer: pointer.clone(), message });
            }
            if part.hash {
                let mut plain = Vec::new();
                plain_into(kind, text, &mut plain);
                if let Some(secret) = secret {
                    secret.hash_into(&plain, out);
                }
            } else {
                plain_into(kind, text, out);
            }
        }
        Source::Const(text) => out.extend_from_slice(text.as_bytes()),
        Source::Header(name) => out.extend_from_slice(header(name, message)?.as_bytes()),
        Source::Topic(map) => match map.iter().find(|(topic, _)| topic == message.topic) {
            Some((_, kind)) => out.extend_from_slice(kind.as_bytes()),
            None => {
                return Err(Unreadable {
                    code: Code::UnknownEventType,
                    pointer: String::new(),
                    message: format!("the contract names no event type for the topic '{}'", message.topic),
                });
            }
        },
        Source::KafkaPosition => {
            out.extend_from_slice(format!("{}/{}/{}", message.topic, message.partition, message.offset).as_bytes());
        }
        Source::KafkaTimestamp => return Err(missing("")),
    }
    Ok(())
}
