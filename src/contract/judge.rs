//! Judging events: each one accepted into the columns, or rejected with every reason there is.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};

use super::append::{append_object, representable};
use super::compile::{Compiled, EventType, Version};
use super::exact;
use super::extra::Extra;
use super::nearest::nearest;
use super::node::{Doc, Dom, Kind};
use super::output::Output;
use super::pii::Secret;
use super::plan::{Message, Plan, Tap, Unreadable};
use super::problem::{Found, finish};
use super::speculate::Speculation;
use super::utf8::Utf8;
use super::{Contract, Limits};
use crate::error::{Error, Result};
use crate::events::RawEvents;
use crate::verdict::{Code, Problem};

/// What is judged beside the contract.
#[derive(Debug, Clone, Copy, Default)]
pub struct JudgeRules {
    /// How far, in microseconds, an event's time may lie ahead of its arrival; not checked when none.
    pub max_future_skew: Option<i64>,
}

/// What became of a piece of events.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The valid events, in the columns of [`Contract::schema`]; of [`Contract::judge_packed`], some of them packed
    /// ([`crate::packed`]).
    pub valid: RecordBatch,
    /// For each valid event its row in the input, ascending.
    pub rows: Vec<u32>,
    /// The events that are not valid, ascending by row.
    pub rejected: Vec<Rejected>,
    /// For every row of the input the place of its type in [`Contract::event_types`]; `u16::MAX` for other types, and
    /// where it cannot be read.
    pub event_type: Vec<u16>,
    /// For every row of the input its event time, where it can be read.
    pub event_time: Vec<Option<i64>>,
}

/// An event that is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its row in the input.
    pub row: u32,
    /// What is wrong, in the order of the codes, then of the document.
    pub problems: Vec<Problem>,
    /// Its type, where it can be read.
    pub event_type: Option<String>,
    /// Its version, where it can be read.
    pub schema_version: Option<String>,
    /// Its key, where it can be read.
    pub idempotency_key: Option<String>,
    /// Its entity, where it can be read.
    pub entity: Option<String>,
}

/// More than this in one piece could overflow the 32-bit offsets of a column.
const MOST_BYTES: usize = 1 << 30;

/// Which paths may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paths {
    /// All of them.
    All,
    /// Only the exact one and the fallback, for the laws that say that nobody can tell.
    #[cfg(test)]
    NoFast,
}

pub(super) fn judge_by(contract: &Contract, events: &RawEvents, rules: &JudgeRules, paths: Paths) -> Result<Judged> {
    let compiled = contract.compiled();
    if compiled.needs_secret && contract.secret().is_none() {
        let reason = "the contract hashes personal properties (x-penstock-pii: hash), which needs a secret";
        return Err(Error::settings("pii.secret", reason));
    }
    let count = events.len();
    if u32::try_from(count).is_err() || events.values.iter().flatten().map(<[u8]>::len).sum::<usize>() > MOST_BYTES {
        return Err(Error::Data("more than 1 GiB of events in one piece; hand in fewer at once".into()));
    }
    let utf8 = Utf8::new(&events.values);
    let mut judge = Exact {
        compiled,
        limits: contract.limits(),
        secret: contract.secret(),
        latest: rules.max_future_skew.map(|skew| events.arrival.saturating_add(skew)),
        dom: Dom::default(),
        extra: Extra::default(),
    };
    let limits = contract.limits();
    let mut fast = Speculation::new(compiled, contract.secret(), limits.max_depth, judge.latest);
    let mut out = Output::new(compiled, count);
    let mut judged = Judged {
        valid: RecordBatch::new_empty(compiled.schema.clone()),
        rows: Vec::with_capacity(count),
        rejected: Vec::new(),
        event_type: vec![u16::MAX; count],
        event_time: vec![None; count],
    };
    for row in 0..count {
        let message = message(events, row);
        let at = judged.rows.len();
        let outcome = if events.values.is_null(row) {
            Err(Refusal::of(Code::NotAnObject, "is a tombstone: the message has no value"))
        } else if let Ok(at) = events.truncated.binary_search_by_key(&(row as u32), |t| t.row) {
            // Of this one only the beginning was carried.
            let reason = format!("is {} bytes long, {} are allowed", events.truncated[at].length, limits.max_bytes);
            Err(Refusal::of(Code::TooLarge, &reason))
        } else {
            let text = events.values.value(row);
            let utf8 = utf8.is_valid(&events.values, row, text);
            let quick = if paths == Paths::All && utf8 && text.len() <= limits.max_bytes {
                fast.row(text, &message, at, &mut out)
            } else {
                None
            };
            match quick {
                Some(read) => Ok(read),
                None => judge.row(text, utf8, &message, at, &mut out),
            }
        };
        let read = match outcome {
            Ok(read) => {
                judged.rows.push(row as u32);
                read
            }
            Err(refusal) => {
                let Refusal { found, read, event_type, schema_version, idempotency_key, entity } = *refusal;
                let problems = finish(found);
                judged.rejected.push(Rejected {
                    row: row as u32,
                    problems,
                    event_type,
                    schema_version,
                    idempotency_key,
                    entity,
                });
                read
            }
        };
        judged.event_type[row] = read.event_type;
        judged.event_time[row] = read.event_time;
    }
    judged.valid = out.finish(compiled, judged.rows.len())?;
    Ok(judged)
}

fn message(events: &RawEvents, row: usize) -> Message<'_> {
    Message {
        topic: &events.topic,
        partition: events.partition,
        offset: if events.offsets.is_null(row) { 0 } else { events.offsets.value(row) },
        timestamp: events.timestamps.as_ref().filter(|t| t.is_valid(row)).map(|t| t.value(row)),
        headers: events.headers.as_ref().and_then(|h| h.get(row)).map_or(&[], Vec::as_slice),
    }
}

/// What can be read of any event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub event_type: u16,
    pub event_time: Option<i64>,
}

const NOTHING: Read = Read { event_type: u16::MAX, event_time: None };

struct Refusal {
    found: Vec<Found>,
    read: Read,
    event_type: Option<String>,
    schema_version: Option<String>,
    idempotency_key: Option<String>,
    entity: Option<String>,
}

impl Refusal {
    fn new(found: Vec<Found>) -> Box<Self> {
        Box::new(Self {
            found,
            read: NOTHING,
            event_type: None,
            schema_version: None,
            idempotency_key: None,
            entity: None,
        })
    }

    fn of(code: Code, message: &str) -> Box<Self> {
        Self::new(vec![Found { code, node: 0, pointer: String::new(), message: message.to_owned(), value: None }])
    }
}

/// The exact way: a document, every problem.
struct Exact<'a> {
    compiled: &'a Compiled,
    limits: Limits,
    secret: Option<&'a Secret>,
    latest: Option<i64>,
    dom: Dom,
    extra: Extra,
}

impl Exact<'_> {
    fn row(
        &mut self,
        text: &[u8],
        utf8: bool,
        message: &Message<'_>,
        row: usize,
        out: &mut Output,
    ) -> Result<Read, Box<Refusal>> {
        if text.len() > self.limits.max_bytes {
            let reason = format!("is {} bytes long, {} are allowed", text.len(), self.limits.max_bytes);
            return Err(Refusal::of(Code::TooLarge, &reason));
        }
        if !utf8 {
            let at = simdutf8::compat::from_utf8(text).map_or_else(|e| e.valid_up_to(), |_| 0);
            return Err(malformed(text, at, "is not UTF-8"));
        }
        let mut dom = std::mem::take(&mut self.dom);
        let outcome = match dom.parse(text).map(|_| ()) {
            Err(syntax) => Err(malformed(text, syntax.at, syntax.what)),
            Ok(()) if dom.depth > self.limits.max_depth => {
                let reason = format!("nests {} deep, {} is allowed", dom.depth, self.limits.max_depth);
                Err(Refusal::of(Code::TooDeep, &reason))
            }
            Ok(()) => self.document(dom.doc(text), message, row, out),
        };
        self.dom = dom;
        outcome
    }

    fn document(
        &mut self,
        doc: Doc<'_>,
        message: &Message<'_>,
        row: usize,
        out: &mut Output,
    ) -> Result<Read, Box<Refusal>> {
        if doc.kind(doc.root()) != Kind::Object {
            let mut refusal = Refusal::of(Code::NotAnObject, "is JSON, but no object");
            refusal.found[0].value = Some(doc.excerpt(doc.root()));
            return Err(refusal);
        }
        let compiled = self.compiled;
        let taps = read_taps(&doc, &compiled.plan);
        let mut name = Vec::new();
        let event_time = compiled.plan.event_time(&taps, message).ok();
        if let Err(unreadable) = compiled.plan.event_type(&taps, message, &mut name) {
            let mut refusal = Refusal::new(vec![found(&doc, unreadable)]);
            refusal.read.event_time = event_time;
            return Err(refusal);
        }
        let name = String::from_utf8_lossy(&name).into_owned();
        let Some((index, kind)) = find_type(compiled, name.as_bytes()) else {
            let hint = nearest(&name, compiled.types.iter().map(|t| t.name.as_str()).filter(|n| *n != "*"));
            let hint = hint.map(|h| format!("; did you mean '{h}'?")).unwrap_or_default();
            let message = format!("the contract names no such event type{hint}");
            let pointer = compiled.plan.event_type_pointer().to_owned();
            let unknown = Unreadable { code: Code::UnknownEventType, pointer, message };
            let mut refusal = Refusal::new(vec![found(&doc, unknown)]);
            refusal.read.event_time = event_time;
            refusal.event_type = Some(name);
            return Err(refusal);
        };
        let mut found_all: Vec<Found> = Vec::new();
        let (version, version_name) = self.version(&doc, kind, message, &mut found_all);
        let judge_plan = version.map_or(&kind.versions[0].plan, |v| &v.plan);
        let taps = read_taps(&doc, judge_plan);
        let mut pointer = String::new();
        if let Some(version) = version {
            match &version.fallback {
                Some(fallback) => fallback.check(doc, &mut found_all),
                None => exact::check(doc, &version.rules, &mut found_all),
            }
            let mut unfit = Vec::new();
            representable(&version.shape, doc, doc.root(), &mut pointer, &mut unfit);
            unfit.retain(|u| !found_all.iter().any(|f| f.pointer == u.pointer));
            found_all.extend(unfit);
        }
        let mut role = |unreadable: Unreadable| {
            let covered = |f: &Found| !f.pointer.is_empty() && is_at_or_below(&unreadable.pointer, &f.pointer);
            if !found_all.iter().any(covered) {
                let new = found(&doc, unreadable);
                found_all.push(new);
            }
        };
        let (mut key, mut entity) = (Vec::new(), Vec::new());
        let key_ok = judge_plan.key(&taps, message, self.secret, &mut key).map_err(&mut role).is_ok();
        let entity_ok = judge_plan.entity(&taps, message, self.secret, &mut entity).map_err(&mut role).unwrap_or(false);
        let event_time = judge_plan.event_time(&taps, message).map_err(&mut role).ok();
        if let (Some(time), Some(latest)) = (event_time, self.latest)
            && time > latest
        {
            let pointer = judge_plan.event_time_pointer().to_owned();
            let message = "lies further ahead of its arrival than max_future_skew allows".to_owned();
            let problem = found(&doc, Unreadable { code: Code::FutureEventTime, pointer, message });
            found_all.push(problem);
        }
        let event_type = if index < compiled.named { index as u16 } else { u16::MAX };
        let read = Read { event_type, event_time };
        let (Some(version), Some(time), true) = (version, event_time, found_all.is_empty()) else {
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
            return Err(Box::new(Refusal {
                found: found_all,
                read,
                event_type: Some(name),
                schema_version: version_name,
                idempotency_key: if key_ok { text(key) } else { None },
                entity: if entity_ok { text(entity) } else { None },
            }));
        };
        out.event_type.text(row, name.as_bytes());
        out.event_time(row, time);
        out.key.text(row, &key);
        if let (Some(out), true) = (&mut out.entity, entity_ok) {
            out.text(row, &entity);
        }
        out.version.text(row, version_name.as_deref().unwrap_or(&version.name).as_bytes());
        self.extra.begin();
        append_object(version.properties(), doc, doc.root(), &mut out.columns, row, self.secret, &mut self.extra);
        if let Some(extra) = self.extra.end() {
            out.extra.text(row, extra);
        }
        Ok(read)
    }

    /// The version that an event names, and its name as the event has it.
    fn version<'t>(
        &self,
        doc: &Doc<'_>,
        kind: &'t EventType,
        message: &Message<'_>,
        problems: &mut Vec<Found>,
    ) -> (Option<&'t Version>, Option<String>) {
        let plan = &kind.versions[0].plan;
        let taps = read_taps(doc, plan);
        let mut name = Vec::new();
        match plan.version(&taps, message, &mut name) {
            Ok(false) => (kind.versions.first(), None),
            Ok(true) => {
                let name = String::from_utf8_lossy(&name).into_owned();
                let version = kind.versions.iter().find(|v| v.name == name);
                if version.is_none() {
                    let there: Vec<&str> = kind.versions.iter().map(|v| v.name.as_str()).collect();
                    let message =
                        format!("the contract names no such version of {}; there is: {}", kind.name, there.join(", "));
                    let pointer = plan.version_pointer().to_owned();
                    problems.push(found(doc, Unreadable { code: Code::UnknownSchemaVersion, pointer, message }));
                }
                (version, Some(name))
            }
            Err(unreadable) => {
                problems.push(found(doc, unreadable));
                (None, None)
            }
        }
    }
}

fn malformed(text: &[u8], at: usize, what: &str) -> Box<Refusal> {
    let message = match text {
        // JSON never begins so; Confluent's serialisers do.
        [0, a, b, c, d, _, ..] => format!(
            "byte 0: is in Confluent's wire format (magic byte 0, schema {} of a schema registry), not plain JSON",
            u32::from_be_bytes([*a, *b, *c, *d])
        ),
        _ => format!("byte {at}: {what}"),
    };
    let mut refusal = Refusal::of(Code::MalformedJson, &message);
    let start: String = String::from_utf8_lossy(&text[..text.len().min(804)]).chars().take(200).collect();
    refusal.found[0].value = Some(start);
    refusal
}

/// The type that the contract has for a name.
pub(super) fn find_type<'c>(compiled: &'c Compiled, name: &[u8]) -> Option<(usize, &'c EventType)> {
    let named = compiled.types[..compiled.named].iter().position(|t| t.name.as_bytes() == name);
    named.or(compiled.wildcard).map(|at| (at, &compiled.types[at]))
}

fn read_taps<'d>(doc: &Doc<'d>, plan: &Plan) -> Vec<Tap<'d>> {
    plan.taps.iter().map(|tokens| doc.find(tokens).map(|id| (doc.kind(id), doc.text(id)))).collect()
}

/// A role's problem with its place in the document.
fn found(doc: &Doc<'_>, unreadable: Unreadable) -> Found {
    let mut tokens = super::problem::tokens(&unreadable.pointer).unwrap_or_default();
    let there = doc.find(&tokens).filter(|_| !tokens.is_empty());
    let value = there.map(|id| doc.excerpt(id));
    let node = there.unwrap_or_else(|| {
        // What is missing is missing from the nearest value around it.
        loop {
            if tokens.pop().is_none() {
                break doc.root();
            }
            if let Some(id) = doc.find(&tokens) {
                break id;
            }
        }
    });
    Found { code: unreadable.code, node, pointer: unreadable.pointer, message: unreadable.message, value }
}

/// Whether a pointer is another one, or leads into it.
fn is_at_or_below(pointer: &str, of: &str) -> bool {
    pointer.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A piece of events made of values alone, for the batch API and for tests.
pub fn events_of<'v>(values: impl IntoIterator<Item = Option<&'v [u8]>>) -> RawEvents {
    let values: arrow::array::BinaryViewArray = values.into_iter().collect();
    let offsets = (0..values.len() as i64).collect::<Vec<_>>().into();
    RawEvents {
        topic: Arc::from(""),
        partition: 0,
        offsets,
        values,
        timestamps: None,
        timestamp_type: None,
        keys: None,
        headers: None,
        truncated: Vec::new(),
        arrival: 0,
    }
}
