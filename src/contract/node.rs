//! A light document of our own: one flat list of nodes over the text, which keeps what it came from. Numbers and
//! strings are never converted, so nothing is lost, and the last of two equal keys counts.

use std::borrow::Cow;
use std::collections::HashMap;

use super::json::{self, Syntax};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `false`
    False,
    /// `true`
    True,
    /// A number written with neither point nor exponent.
    Integer,
    /// Any other number.
    Number,
    /// A string without escapes.
    String,
    /// A string with escapes.
    Escaped,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl Kind {
    /// Whether this is a string.
    pub fn is_string(self) -> bool {
        matches!(self, Kind::String | Kind::Escaped)
    }

    /// Whether this is a number.
    pub fn is_number(self) -> bool {
        matches!(self, Kind::Integer | Kind::Number)
    }
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    /// A key that an equal one after it supersedes.
    dead: bool,
    /// The text: of strings without the quotes, of everything else all of it.
    start: u32,
    end: u32,
    /// The node after this one and all that is in it.
    next: u32,
    /// Items, or properties that count.
    count: u32,
}

/// The nodes of one document at a time; kept, so that the memory is used again.
#[derive(Debug, Default)]
pub struct Dom {
    nodes: Vec<Node>,
    stack: Vec<u32>,
    keys: Vec<(u64, Id)>,
    /// The deepest nesting met.
    pub depth: usize,
}

/// Place of a node in its document, in document order.
pub type Id = u32;

/// A document: nodes and the text that they point into.
#[derive(Clone, Copy)]
pub struct Doc<'a> {
    text: &'a [u8],
    nodes: &'a [Node],
}

impl Dom {
    /// Reads a whole text (which has to be UTF-8) as one JSON value.
    pub fn parse<'a>(&'a mut self, text: &'a [u8]) -> Result<Doc<'a>, Syntax> {
        let start = json::skip_space(text, 0);
        let end = self.parse_value(text, start)?;
        let end = json::skip_space(text, end);
        if end < text.len() {
            return Err(Syntax { at: end, what: "something follows the value" });
        }
        Ok(Doc { text, nodes: &self.nodes })
    }

    /// Reads the one value that starts at `start`; gives where it ends. [`Dom::doc`] is the document then.
    pub fn parse_value(&mut self, text: &[u8], start: usize) -> Result<usize, Syntax> {
        self.nodes.clear();
        self.stack.clear();
        self.depth = 0;
        if text.len() >= u32::MAX as usize {
            return Err(Syntax { at: 0, what: "longer than 4 GiB" });
        }
        let mut pos = start;
        'value: loop {
            let Some(&byte) = text.get(pos) else {
                return Err(Syntax { at: pos, what: "the text ends where a value should stand" });
            };
            match byte {
                b'"' => {
                    let (end, escaped) = json::string(text, pos + 1)?;
                    self.push(if escaped { Kind::Escaped } else { Kind::String }, pos + 1, end);
                    pos = end + 1;
                }
                b'{' | b'[' => {
                    let object = byte == b'{';
                    let id = self.nodes.len() as u32;
                    self.push(if object { Kind::Object } else { Kind::Array }, pos, pos);
                    self.stack.push(id);
                    self.depth = self.depth.max(self.stack.len());
                    pos = json::skip_space(text, pos + 1);
                    match text.get(pos) {
                        Some(b'}') if object => pos = self.close(text, pos),
                        Some(b']') if !object => pos = self.close(text, pos),
                        _ => {
                            if object {
                                pos = self.key(text, pos)?;
                            }
                            continue 'value;
                        }
                    }
                }
                b't' => pos = self.word(text, pos, b"true", Kind::True)?,
                b'f' => pos = self.word(text, pos, b"false", Kind::False)?,
                b'n' => pos = self.word(text, pos, b"null", Kind::Null)?,
                b'-' | b'0'..=b'9' => {
                    let (end, integer) = json::number(text, pos)?;
                    self.push(if integer { Kind::Integer } else { Kind::Number }, pos, end);
                    pos = end;
                }
                _ => return Err(Syntax { at: pos, what: "no JSON value starts like this" }),
            }
            // A value has ended: what comes next depends on what it stands in.
            loop {
                let Some(&top) = self.stack.last() else { return Ok(pos) };
                self.nodes[top as usize].count += 1;
                let object = self.nodes[top as usize].kind == Kind::Object;
                pos = json::skip_space(text, pos);
                match text.get(pos) {
                    Some(b',') => {
                        pos = json::skip_space(text, pos + 1);
                        if object {
                            pos = self.key(text, pos)?;
                        }
                        continue 'value;
                    }
                    Some(b'}') if object => pos = self.close(text, pos),
                    Some(b']') if !object => pos = self.close(text, pos),
                    Some(_) if object => return Err(Syntax { at: pos, what: "a comma or } should stand here" }),
                    Some(_) => return Err(Syntax { at: pos, what: "a comma or ] should stand here" }),
                    None => return Err(Syntax { at: pos, what: "the text ends inside an object or array" }),
                }
            }
        }
    }

    /// The document read last, over the same text.
    pub fn doc<'a>(&'a self, text: &'a [u8]) -> Doc<'a> {
        Doc { text, nodes: &self.nodes }
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) {
        let next = self.nodes.len() as u32 + 1;
        self.nodes.push(Node { kind, dead: false, start: start as u32, end: end as u32, next, count: 0 });
    }

    fn word(&mut self, text: &[u8], pos: usize, word: &'static [u8], kind: Kind) -> Result<usize, Syntax> {
        let end = json::literal(text, pos, word)?;
        self.push(kind, pos, end);
        Ok(end)
    }

    /// Reads a key and its colon; gives the first byte of the value.
    fn key(&mut self, text: &[u8], pos: usize) -> Result<usize, Syntax> {
        if text.get(pos) != Some(&b'"') {
            return Err(Syntax { at: pos, what: "a key in quotes should stand here" });
        }
        let (end, escaped) = json::string(text, pos + 1)?;
        self.push(if escaped { Kind::Escaped } else { Kind::String }, pos + 1, end);
        let colon = json::skip_space(text, end + 1);
        if text.get(colon) != Some(&b':') {
            return Err(Syntax { at: colon, what: "a colon should stand here" });
        }
        Ok(json::skip_space(text, colon + 1))
    }

    fn close(&mut self, text: &[u8], pos: usize) -> usize {
        if let Some(id) = self.stack.pop() {
            let next = self.nodes.len() as u32;
            let node = &mut self.nodes[id as usize];
            node.end = pos as u32 + 1;
            node.next = next;
            if node.kind == Kind::Object && node.count > 1 {
                self.bury_equal_keys(text, id);
            }
        }
        pos + 1
    }

    /// Marks each key that an equal one after it supersedes.
    fn bury_equal_keys(&mut self, text: &[u8], object: Id) {
        let mut keys = std::mem::take(&mut self.keys);
        keys.clear();
        let (mut id, end, mut escaped) = (object + 1, self.nodes[object as usize].next, false);
        while id < end {
            let key = self.nodes[id as usize];
            escaped |= key.kind == Kind::Escaped;
            keys.push((digest(&text[key.start as usize..key.end as usize]), id));
            id = self.nodes[id as usize + 1].next;
        }
        let buried = if escaped { self.bury_by_meaning(text, object) } else { self.bury_by_text(text, &mut keys) };
        self.nodes[object as usize].count -= buried;
        self.keys = keys;
    }

    /// For keys without escapes, given with their digests: most objects are settled by comparing those.
    fn bury_by_text(&mut self, text: &[u8], keys: &mut [(u64, Id)]) -> u32 {
        let nodes = &mut self.nodes;
        let key = |nodes: &[Node], id: Id| {
            let node = &nodes[id as usize];
            &text[node.start as usize..node.end as usize]
        };
        let mut buried = 0;
        if keys.len() <= 32 {
            for (at, (digest, id)) in keys.iter().enumerate() {
                let equal = |(other, later): &(u64, Id)| other == digest && key(nodes, *later) == key(nodes, *id);
                if keys[at + 1..].iter().any(equal) {
                    nodes[*id as usize].dead = true;
                    buried += 1;
                }
            }
        } else {
            keys.sort_unstable_by(|a, b| {
                a.0.cmp(&b.0).then_with(|| key(nodes, a.1).cmp(key(nodes, b.1))).then(a.1.cmp(&b.1))
            });
            for pair in keys.windows(2) {
                if pair[0].0 == pair[1].0 && key(nodes, pair[0].1) == key(nodes, pair[1].1) {
                    nodes[pair[0].1 as usize].dead = true;
                    buried += 1;
                }
            }
        }
        buried
    }

    #[inline(never)]
    fn bury_by_meaning(&mut self, text: &[u8], object: Id) -> u32 {
        let mut dead = Vec::new();
        let doc = Doc { text, nodes: &self.nodes };
        let mut last: HashMap<Cow<'_, str>, Id> = HashMap::new();
        for (key, _) in doc.all_properties(object) {
            if let Some(before) = last.insert(doc.string(key), key) {
                dead.push(before);
            }
        }
        for id in &dead {
            self.nodes[*id as usize].dead = true;
        }
        dead.len() as u32
    }
}

/// A number that is the same for equal keys, and mostly another for others.
#[inline]
fn digest(key: &[u8]) -> u64 {
    let length = (key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(first), Some(last)) => length ^ u64::from_le_bytes(*first) ^ u64::from_le_bytes(*last).rotate_left(23),
        _ => key.iter().fold(length, |digest, b| digest.rotate_left(8) ^ u64::from(*b)),
    }
}

impl<'a> Doc<'a> {
    /// The value that is the whole document.
    pub fn root(&self) -> Id {
        0
    }

    /// What a node is.
    pub fn kind(&self, id: Id) -> Kind {
        self.nodes[id as usize].kind
    }

    /// The text of a node: of strings without the quotes.
    pub fn text(&self, id: Id) -> &'a [u8] {
        let node = &self.nodes[id as usize];
        &self.text[node.start as usize..node.end as usize]
    }

    /// The text of a node as it stands in the document, quotes and all.
    pub fn raw(&self, id: Id) -> &'a [u8] {
        let node = &self.nodes[id as usize];
        let quote = usize::from(node.kind.is_string());
        &self.text[node.start as usize - quote..node.end as usize + quote]
    }

    /// Where the text of a node stands: of strings without the quotes.
    pub fn place(&self, id: Id) -> (u32, u32) {
        let node = &self.nodes[id as usize];
        (node.start, node.end)
    }

    /// The whole text.
    pub fn source(&self) -> &'a [u8] {
        self.text
    }

    /// How many items or properties a node has.
    pub fn count(&self, id: Id) -> usize {
        self.nodes[id as usize].count as usize
    }

    /// The meaning of a string.
    #[inline]
    pub fn string(&self, id: Id) -> Cow<'a, str> {
        let text = self.text(id);
        if self.kind(id) == Kind::Escaped {
            let mut out = Vec::with_capacity(text.len());
            json::unescape_into(text, &mut out);
            Cow::Owned(String::from_utf8(out).unwrap_or_default())
        } else {
            String::from_utf8_lossy(text)
        }
    }

    /// Items of an array.
    pub fn items(&self, id: Id) -> impl Iterator<Item = Id> + use<'a> {
        let nodes = self.nodes;
        let end = nodes[id as usize].next;
        let mut at = id + 1;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let item = at;
                at = nodes[at as usize].next;
                item
            })
        })
    }

    /// Properties of an object that count: key and value.
    pub fn properties(&self, id: Id) -> impl Iterator<Item = (Id, Id)> + use<'a> {
        let nodes = self.nodes;
        self.all_properties(id).filter(move |(key, _)| !nodes[*key as usize].dead)
    }

    fn all_properties(&self, id: Id) -> impl Iterator<Item = (Id, Id)> + use<'a> {
        let nodes = self.nodes;
        let object = nodes[id as usize].kind == Kind::Object;
        let end = if object { nodes[id as usize].next } else { 0 };
        let mut at = id + 1;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let key = at;
                at = nodes[at as usize + 1].next;
                (key, key + 1)
            })
        })
    }

    /// The value of a property.
    pub fn get(&self, object: Id, name: &str) -> Option<Id> {
        if self.kind(object) != Kind::Object {
            return None;
        }
        self.properties(object).find(|(key, _)| self.is_text(*key, name)).map(|(_, value)| value)
    }

    /// Whether a string means `text`.
    pub fn is_text(&self, id: Id, text: &str) -> bool {
        match self.kind(id) {
            Kind::String => self.text(id) == text.as_bytes(),
            Kind::Escaped => self.string(id) == text,
            _ => false,
        }
    }

    /// The node that a list of reference tokens leads to.
    pub fn find(&self, tokens: &[String]) -> Option<Id> {
        let mut at = self.root();
        for token in tokens {
            at = match self.kind(at) {
                Kind::Object => self.get(at, token)?,
                Kind::Array => self.items(at).nth(array_index(token)?)?,
                _ => return None,
            };
        }
        Some(at)
    }

    /// Appends a value as compact JSON text: no white space, superseded properties left out, everything else as it was
    /// written.
    pub fn compact_into(&self, id: Id, out: &mut Vec<u8>) {
        match self.kind(id) {
            Kind::Array => {
                out.push(b'[');
                for (n, item) in self.items(id).enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    self.compact_into(item, out);
                }
                out.push(b']');
            }
            Kind::Object => {
                out.push(b'{');
                for (n, (key, value)) in self.properties(id).enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(self.raw(key));
                    out.push(b':');
                    self.compact_into(value, out);
                }
                out.push(b'}');
            }
            _ => out.extend_from_slice(self.raw(id)),
        }
    }

    /// The first 200 characters of a value's text.
    pub fn excerpt(&self, id: Id) -> String {
        let raw = self.raw(id);
        // 200 characters are at most 800 bytes; cut there first, so that a value of megabytes costs nothing.
        let text = String::from_utf8_lossy(&raw[..raw.len().min(804)]);
        text.chars().take(200).collect()
    }
}

/// An array index as a JSON Pointer writes it.
pub fn array_index(token: &str) -> Option<usize> {
    if token.len() > 1 && token.starts_with('0') || token.starts_with('+') {
        return None;
    }
    token.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(text: &str) -> Result<String, Syntax> {
        let mut dom = Dom::default();
        let doc = dom.parse(text.as_bytes())?;
        let mut out = Vec::new();
        doc.compact_into(doc.root(), &mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        assert_eq!(
            compact(r#" { "a" : 1 , "b":[ ], "a": {"x":2 ,"\u0078": 3} } "#).unwrap(),
            r#"{"b":[],"a":{"\u0078":3}}"#
        );
        for (count, distinct) in [(30, 20), (80, 50)] {
            let many: Vec<String> = (0..count).map(|i| format!("\"key {}\":{i}", i % distinct)).collect();
            let text = compact(&format!("{{{}}}", many.join(","))).unwrap();
            let left: Vec<String> =
                (count - distinct..count).map(|i| format!("\"key {}\":{i}", i % distinct)).collect();
            assert_eq!(text, format!("{{{}}}", left.join(",")));
        }
    }

    #[test]
    fn broken_text_is_refused() {
        for bad in ["", "{", "[1,]", "{\"a\"}", "{\"a\":1,}", "1 2", "nul", "[1}", "{1:2}", "'a'", "[,1]", "\u{feff}{}"]
        {
            assert!(compact(bad).is_err(), "{bad}");
        }
        assert!(compact(&"[".repeat(100_000)).is_err());
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        let mut dom = Dom::default();
        assert!(dom.parse(deep.as_bytes()).is_ok());
        assert_eq!(dom.depth, 50_000);
    }

    #[test]
    fn pointers_lead_to_values() {
        let mut dom = Dom::default();
        let doc = dom.parse(br#"{"a":[{"b~/":1.50}],"e":"\n"}"#).unwrap();
        let id = doc.find(&["a".into(), "0".into(), "b~/".into()]).unwrap();
        assert_eq!(doc.raw(id), b"1.50");
        assert!(doc.find(&["a".into(), "00".into()]).is_none());
        assert_eq!(doc.string(doc.get(0, "e").unwrap()), "\n");
    }
}
