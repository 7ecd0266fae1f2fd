//! Contract and schema files as a tree that remembers its lines, read from JSON or YAML.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Value};

use super::json;
use super::node::{Doc, Dom, Kind};
use crate::error::{Error, Result};

/// A value with the line that it starts on.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub data: Data,
    /// The line, counted from 1.
    pub line: usize,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as the text of a JSON number.
    Number(String),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Node>),
    /// An object, in the order of the file.
    Object(Vec<(Key, Node)>),
}

/// A key of an object with its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The key.
    pub text: String,
    /// The line, counted from 1.
    pub line: usize,
}

/// A file (or the text of one) and what stands in it.
#[derive(Debug, Clone)]
pub struct File {
    /// Its path, for messages.
    pub path: Arc<PathBuf>,
    /// What stands in it.
    pub root: Node,
}

/// How deep contract and schema files may nest.
const MAX_DEPTH: usize = 200;
/// How many values a file may come to once its YAML aliases are written out.
const MAX_NODES: usize = 2_000_000;

impl Node {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.data {
            Data::Object(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The entries of an object; none of anything else.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.data {
            Data::Object(entries) => entries,
            _ => &[],
        }
    }

    /// The items of an array; none of anything else.
    pub fn items(&self) -> &[Node] {
        match &self.data {
            Data::Array(items) => items,
            _ => &[],
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::String(text) => Some(text),
            _ => None,
        }
    }

    /// What this is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.data {
            Data::Null => "null",
            Data::Bool(_) => "a boolean",
            Data::Number(_) => "a number",
            Data::String(_) => "a string",
            Data::Array(_) => "a list",
            Data::Object(_) => "a mapping",
        }
    }

    /// The value as `serde_json` has it, numbers with the text that they came with.
    pub fn to_value(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(b) => Value::Bool(*b),
            Data::Number(text) => text.parse().map_or(Value::Null, Value::Number),
            Data::String(text) => Value::String(text.clone()),
            Data::Array(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Data::Object(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    map.insert(key.text.clone(), value.to_value());
                }
                Value::Object(map)
            }
        }
    }

    /// A tree made from a value, all on line 1.
    pub fn from_value(value: &Value) -> Node {
        let data = match value {
            Value::Null => Data::Null,
            Value::Bool(b) => Data::Bool(*b),
            Value::Number(n) => Data::Number(n.to_string()),
            Value::String(s) => Data::String(s.clone()),
            Value::Array(items) => Data::Array(items.iter().map(Node::from_value).collect()),
            Value::Object(map) => {
                Data::Object(map.iter().map(|(k, v)| (Key { text: k.clone(), line: 1 }, Node::from_value(v))).collect())
            }
        };
        Node { data, line: 1 }
    }

    /// The line of the value (or, where there is none, of the nearest one around it) that a JSON Pointer leads to.
    pub fn line_of(&self, pointer: &str) -> usize {
        let mut at = self;
        for token in pointer.split('/').skip(1).map(|t| t.replace("~1", "/").replace("~0", "~")) {
            let next = match &at.data {
                Data::Object(_) => at.get(&token),
                Data::Array(items) => token.parse::<usize>().ok().and_then(|i| items.get(i)),
                _ => None,
            };
            let Some(next) = next else { break };
            at = next;
        }
        at.line
    }
}

impl File {
    /// Reads a file; `.json` as JSON, everything else as YAML.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| failed(path, None, format!("cannot be read: {e}")))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
            failed(path, Some(line), "is not UTF-8".into())
        })?;
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let root = if json { parse_json(&text, path)? } else { parse_yaml(&text, path)? };
        Ok(Self { path: Arc::new(path.to_owned()), root })
    }

    /// Reads text that is JSON or YAML.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let json = text.trim_start().starts_with(['{', '[']);
        let root = match json.then(|| parse_json(text, origin)) {
            Some(Ok(root)) => root,
            // A flow mapping of YAML starts like JSON; when it is neither, YAML's reason is no better than JSON's.
            Some(Err(error)) => parse_yaml(text, origin).map_err(|_| error)?,
            None => parse_yaml(text, origin)?,
        };
        Ok(Self { path: Arc::new(origin.to_owned()), root })
    }

    /// An error at a line of this file.
    pub fn error(&self, line: usize, reason: impl Into<String>) -> Error {
        failed(&self.path, Some(line), reason.into())
    }
}

fn failed(path: &Path, line: Option<usize>, reason: String) -> Error {
    Error::Contract { file: path.to_owned(), line, reason }
}

fn parse_json(text: &str, path: &Path) -> Result<Node> {
    let bytes = text.as_bytes();
    let mut dom = Dom::default();
    let line_at = |at: usize| 1 + bytes[..at.min(bytes.len())].iter().filter(|b| **b == b'\n').count();
    dom.parse(bytes).map_err(|e| failed(path, Some(line_at(e.at)), format!("is not JSON: {}", e.what)))?;
    let mut lines = Lines { text: bytes, at: 0, line: 1 };
    if dom.depth > MAX_DEPTH {
        return Err(failed(path, None, format!("nests deeper than {MAX_DEPTH}")));
    }
    let doc = dom.doc(bytes);
    Ok(from_doc(&doc, doc.root(), &mut lines))
}

struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of a slice of the text; slices come in order.
    fn of(&mut self, slice: &[u8]) -> usize {
        let at = (slice.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize).min(self.text.len());
        if at > self.at {
            self.line += self.text[self.at..at].iter().filter(|b| **b == b'\n').count();
            self.at = at;
        }
        self.line
    }
}

fn from_doc(doc: &Doc<'_>, id: u32, lines: &mut Lines<'_>) -> Node {
    let line = lines.of(doc.raw(id));
    let data = match doc.kind(id) {
        Kind::Null => Data::Null,
        Kind::False => Data::Bool(false),
        Kind::True => Data::Bool(true),
        Kind::Integer | Kind::Number => Data::Number(String::from_utf8_lossy(doc.text(id)).into_owned()),
        Kind::String | Kind::Escaped => Data::String(doc.string(id).into_owned()),
        Kind::Array => Data::Array(doc.items(id).map(|i| from_doc(doc, i, lines)).collect()),
        Kind::Object => {
            let mut entries: Vec<(Key, Node)> = Vec::new();
            for (key, value) in doc.properties(id) {
                let line = lines.of(doc.raw(key));
                entries.push((Key { text: doc.string(key).into_owned(), line }, from_doc(doc, value, lines)));
            }
            Data::Object(entries)
        }
    };
    Node { data, line }
}

fn parse_yaml(text: &str, path: &Path) -> Result<Node> {
    let mut reader = Yaml { parser: Parser::new_from_str(text), path, anchors: Vec::new(), nodes: 0 };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::StreamEnd => break,
            _ if root.is_some() => return Err(reader.failed(&span, "holds more than one document".into())),
            other => root = Some(reader.node(other, &span, 0)?),
        }
    }
    root.ok_or_else(|| failed(path, Some(1), "is empty".into()))
}

struct Yaml<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    path: &'a Path,
    anchors: Vec<(usize, Node)>,
    nodes: usize,
}

impl<'a> Yaml<'a> {
    fn failed(&self, span: &Span, reason: String) -> Error {
        failed(self.path, Some(span.start.line()), reason)
    }

    fn next(&mut self) -> Result<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(e)) => Err(failed(self.path, Some(e.marker().line()), format!("is not YAML: {}", e.info()))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(self.failed(span, format!("nests deeper than {MAX_DEPTH}, or is too long")));
        }
        let line = span.start.line();
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.is_some_and(|t| t.suffix == "str");
                let data = if style == ScalarStyle::Plain && !text_tag {
                    plain(&text).map_err(|reason| self.failed(span, reason))?
                } else {
                    Data::String(text.into_owned())
                };
                (Node { data, line }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, &span, depth + 1)?),
                    }
                }
                (Node { data: Data::Array(items), line }, anchor)
            }
            Event::MappingStart(anchor, _) => (self.mapping(line, depth)?, anchor),
            Event::Alias(id) => {
                let node = self.anchors.iter().rev().find(|(anchor, _)| *anchor == id).map(|(_, node)| node.clone());
                let mut node = node.ok_or_else(|| self.failed(span, "an alias (*) has no anchor (&)".into()))?;
                self.nodes += size(&node);
                node.line = line;
                (node, 0)
            }
            _ => return Err(self.failed(span, "is not YAML: a value is missing".into())),
        };
        if anchor > 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    fn mapping(&mut self, line: usize, depth: usize) -> Result<Node> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ..) => Key { text: text.into_owned(), line: span.start.line() },
                _ => return Err(self.failed(&span, "a key has to be plain text".into())),
            };
            if let Some((before, _)) = entries.iter().find(|(k, _)| k.text == key.text) {
                let reason = format!("'{}' stands here twice (first on line {})", key.text, before.line);
                return Err(self.failed(&span, reason));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, &span, depth + 1)?;
            entries.push((key, value));
        }
        Ok(Node { data: Data::Object(entries), line })
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.data {
        Data::Array(items) => items.iter().map(size).sum(),
        Data::Object(entries) => entries.iter().map(|(_, v)| size(v)).sum(),
        _ => 0,
    }
}

/// A plain scalar by YAML's core schema; numbers keep their digits.
fn plain(text: &str) -> Result<Data, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Data::Null,
        "true" | "True" | "TRUE" => Data::Bool(true),
        "false" | "False" | "FALSE" => Data::Bool(false),
        _ => match number(text) {
            Some(Ok(number)) => Data::Number(number),
            Some(Err(())) => return Err(format!("{text} is no number that JSON can write")),
            None => Data::String(text.to_owned()),
        },
    })
}

/// A YAML number as JSON writes it; `Err` for those that JSON has not.
fn number(text: &str) -> Option<Result<String, ()>> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u128::from_str_radix(hex, 16).ok().map(|n| Ok(n.to_string()));
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u128::from_str_radix(octal, 8).ok().map(|n| Ok(n.to_string()));
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if matches!(rest, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(Err(()));
    }
    if !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (int, frac) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if int.is_empty() && frac.is_empty() || !int.bytes().chain(frac.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let int = int.trim_start_matches('0');
    let int = if int.is_empty() { "0" } else { int };
    let point = if frac.is_empty() { "" } else { "." };
    let out = format!("{sign}{int}{point}{frac}{exponent}");
    matches!(json::number(out.as_bytes(), 0), Ok((end, _)) if end == out.len()).then_some(Ok(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_give_one_tree() {
        let yaml = "a: 1\nb:\n  - x\n  - {c: 1.50, d: '2'}\ne: ~\nf: *no\n";
        assert!(File::parse(yaml, Path::new("x.yaml")).is_err());
        let yaml = "a: &k 1\nb:\n  - x\n  - {c: 1.50, d: '2'}\ne: ~\nf: *k\n";
        let json = r#"{"a":1,"b":["x",{"c":1.50,"d":"2"}],"e":null,"f":1}"#;
        let a = File::parse(yaml, Path::new("x.yaml")).unwrap().root;
        let b = File::parse(json, Path::new("x.json")).unwrap().root;
        assert_eq!(a.to_value(), b.to_value());
        assert_eq!(a.line_of("/b/1/d"), 4);
        assert_eq!(a.to_value().to_string(), json);
    }

    #[test]
    fn errors_name_their_line() {
        for (text, line) in [("a: 1\nb: [\n", 3), ("a: 1\na: 2\n", 2), ("{\n\"a\": 1,\n\"b\" 2}", 3), ("a: .inf", 1)] {
            let Error::Contract { line: Some(found), .. } = File::parse(text, Path::new("x.yaml")).unwrap_err() else {
                panic!("no line: {text}")
            };
            assert_eq!(found, line, "{text}");
        }
    }

    #[test]
    fn yaml_numbers_keep_their_digits() {
        for (yaml, json) in
            [("12.50", "12.50"), ("+1", "1"), ("007", "7"), (".5", "0.5"), ("1.", "1"), ("0x1F", "31"), ("1e3", "1e3")]
        {
            assert_eq!(plain(yaml), Ok(Data::Number(json.into())), "{yaml}");
        }
        for text in ["1.2.3", "2015-01-01", "1_000", "v1", "-", "."] {
            assert_eq!(plain(text), Ok(Data::String(text.into())), "{text}");
        }
    }
}
