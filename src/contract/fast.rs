//! The fast path: from bytes to column builders in one pass. It can only accept. Whatever is unusual (a problem, a key
//! that comes twice, an escaped key) ends in [`Bail`]: the row is taken back and judged exactly.

use super::append::{append, representable};
use super::builders::{Builder, Values};
use super::date_time::Day;
use super::exact;
use super::extra::Extra;
use super::json;
use super::node::{Dom, Kind};
use super::pii::Secret;
use super::problem::Found;
use super::program::{Array, Key, Leaf, Node, NodeId, Object, Program};
use super::rules::{RuleId, Rules};

/// Not for the fast path: judge exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bail;

impl From<json::Syntax> for Bail {
    fn from(_: json::Syntax) -> Self {
        Bail
    }
}

pub(super) type Fast<T> = Result<T, Bail>;

/// The most properties that roles may read on the fast path.
pub const MOST_TAPS: usize = 12;

/// More undeclared properties of one object than this are looked through for equal ones exactly.
const MOST_UNKNOWN: usize = 24;

/// What the fast path writes on; used again for each event.
#[derive(Debug)]
pub struct Scratch {
    dom: Dom,
    pub(super) plain: Vec<u8>,
    unknown: Vec<(u32, u32)>,
    found: Vec<Found>,
    /// Undeclared properties.
    pub extra: Extra,
    /// The scalars that roles read: kind and place.
    pub taps: [Option<(Kind, u32, u32)>; MOST_TAPS],
    /// The last date-time met: where it starts, and its microseconds.
    pub time: (u32, i64),
    /// The day of the last one of the common form.
    pub(super) day: Day,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            dom: Dom::default(),
            plain: Vec::new(),
            unknown: Vec::new(),
            found: Vec::new(),
            extra: Extra::default(),
            taps: [None; MOST_TAPS],
            time: (0, 0),
            day: Day::default(),
        }
    }
}

/// How far an object has been read.
struct Place {
    pos: usize,
    /// The bits of the keys that have come.
    seen: u128,
    /// The guess of what comes next.
    before: usize,
}

/// One event on the fast path.
pub struct Scan<'a> {
    /// The text, which is UTF-8.
    pub text: &'a [u8],
    /// The way to go.
    pub program: &'a Program,
    /// What the schema says.
    pub rules: &'a Rules,
    /// Which key came after which, the last time.
    pub order: &'a mut [u8],
    /// The deepest nesting.
    pub max_depth: usize,
    /// What personal properties are hashed with.
    pub secret: Option<&'a Secret>,
    /// The row to write.
    pub row: usize,
    /// What is written on.
    pub scratch: &'a mut Scratch,
}

impl Scan<'_> {
    /// Reads a whole event into the columns.
    pub fn event(&mut self, columns: &mut [Builder]) -> Fast<()> {
        self.scratch.taps = [None; MOST_TAPS];
        self.scratch.time = (0, 0);
        self.scratch.unknown.clear();
        self.scratch.extra.begin();
        let start = json::skip_space(self.text, 0);
        let Some(object) = &self.program.node(self.program.root).object else { return Err(Bail) };
        if self.text.get(start) != Some(&b'{') {
            return Err(Bail);
        }
        let end = self.object(object, start, Some(columns), self.row, 1)?;
        self.end(end)
    }

    /// Checks a whole text that goes into no columns.
    pub fn check(&mut self) -> Fast<()> {
        self.scratch.unknown.clear();
        let start = json::skip_space(self.text, 0);
        let end = self.value(self.program.node(self.program.root), start, None, 0, 0)?;
        self.end(end)
    }

    fn end(&self, end: usize) -> Fast<()> {
        if json::skip_space(self.text, end) == self.text.len() { Ok(()) } else { Err(Bail) }
    }

    /// Reads the value at `pos`; gives where it ends. `depth` is that of what it stands in.
    fn value(&mut self, node: &Node, pos: usize, into: Option<&mut Builder>, row: usize, depth: usize) -> Fast<usize> {
        if node.general {
            return self.general(node, pos, into, row, depth);
        }
        match self.text.get(pos) {
            Some(b'"') => self.string(node, pos, into, row),
            Some(b'-' | b'0'..=b'9') => self.number(node, pos, into, row),
            Some(b'{') => match &node.object {
                Some(object) if node.types & 64 != 0 => {
                    self.tap(node, Kind::Object, pos, pos);
                    match into {
                        None => self.object(object, pos, None, row, depth + 1),
                        Some(builder) => {
                            builder.present(row);
                            let Values::Struct(fields, _) = &mut builder.data else { return Err(Bail) };
                            self.object(object, pos, Some(fields), row, depth + 1)
                        }
                    }
                }
                _ => self.general(node, pos, into, row, depth),
            },
            Some(b'[') => match &node.array {
                Some(array) if node.types & 32 != 0 => {
                    self.tap(node, Kind::Array, pos, pos);
                    self.array(array, pos, into, row, depth + 1)
                }
                _ => self.general(node, pos, into, row, depth),
            },
            Some(b't') => self.word(node, pos, b"true", Kind::True, 2, into, row),
            Some(b'f') => self.word(node, pos, b"false", Kind::False, 2, into, row),
            Some(b'n') => self.word(node, pos, b"null", Kind::Null, 1, into, row),
            _ => Err(Bail),
        }
    }

    #[inline(always)]
    pub(super) fn tap(&mut self, node: &Node, kind: Kind, start: usize, end: usize) {
        if let Some(tap) = node.tap {
            self.scratch.taps[tap as usize] = Some((kind, start as u32, end as u32));
        }
    }

    /// A value by way of a document: what is said of it cannot be told in one pass, or nothing is said at all.
    #[inline(never)]
    fn general(
        &mut self,
        node: &Node,
        pos: usize,
        into: Option<&mut Builder>,
        row: usize,
        depth: usize,
    ) -> Fast<usize> {
        let scratch = &mut *self.scratch;
        let end = scratch.dom.parse_value(self.text, pos)?;
        if depth + scratch.dom.depth > self.max_depth {
            return Err(Bail);
        }
        let doc = scratch.dom.doc(self.text);
        if let Some(tap) = node.tap {
            let (start, end) = doc.place(doc.root());
            scratch.taps[tap as usize] = Some((doc.kind(doc.root()), start, end));
        }
        for (tokens, tap) in &node.below {
            if let Some(id) = doc.find(tokens) {
                let (start, end) = doc.place(id);
                scratch.taps[*tap as usize] = Some((doc.kind(id), start, end));
            }
        }
        if node.rule != RuleId::MAX && !self.rules.get(node.rule).is_open() {
            exact::check_value(doc, doc.root(), self.rules, node.rule, &mut scratch.found);
        }
        if let Some(shape) = &node.shape {
            representable(shape, doc, doc.root(), &mut String::new(), &mut scratch.found);
        }
        if !scratch.found.is_empty() {
            scratch.found.clear();
            return Err(Bail);
        }
        if let (Some(into), Some(shape)) = (into, &node.shape) {
            append(shape, doc, doc.root(), into, row, self.secret, &mut scratch.extra);
        }
        Ok(end)
    }

    fn array(
        &mut self,
        array: &Array,
        pos: usize,
        into: Option<&mut Builder>,
        row: usize,
        depth: usize,
    ) -> Fast<usize> {
        if depth > self.max_depth {
            return Err(Bail);
        }
        let mut count = 0usize;
        let mut into = into;
        let mut items = match &mut into {
            None => None,
            Some(builder) => {
                builder.reach(row);
                match &mut builder.data {
                    Values::List(_, items, _) => Some(&mut **items),
                    _ => return Err(Bail),
                }
            }
        };
        let mut pos = json::skip_space(self.text, pos + 1);
        if self.text.get(pos) == Some(&b']') {
            pos += 1;
        } else {
            loop {
                let id = array.prefix.get(count).copied().unwrap_or(array.rest);
                let at = items.as_ref().map_or(0, |i| i.len());
                let node = self.program.node(id);
                let nested = items.is_some() && matches!(node.leaf, Leaf::Nested);
                if nested {
                    self.scratch.extra.enter_item(self.text.get(pos) == Some(&b'{'), count as u32);
                }
                pos = self.value(node, pos, items.as_deref_mut(), at, depth)?;
                if nested {
                    self.scratch.extra.leave();
                }
                if let Some(items) = items.as_deref_mut() {
                    items.reach(at + 1);
                }
                count += 1;
                pos = json::skip_space(self.text, pos);
                match self.text.get(pos) {
                    Some(b',') => pos = json::skip_space(self.text, pos + 1),
                    Some(b']') => {
                        pos += 1;
                        break;
                    }
                    _ => return Err(Bail),
                }
            }
        }
        if let Some((min, max)) = array.count
            && !(min..=max).contains(&(count as u64))
        {
            return Err(Bail);
        }
        if let Some(builder) = into {
            builder.end_list(row);
        }
        Ok(pos)
    }

    fn object(
        &mut self,
        object: &Object,
        pos: usize,
        mut fields: Option<&mut [Builder]>,
        row: usize,
        depth: usize,
    ) -> Fast<usize> {
        if depth > self.max_depth {
            return Err(Bail);
        }
        let text = self.text;
        let first_unknown = self.scratch.unknown.len();
        let mut place = Place { pos: json::skip_space(text, pos + 1), seen: 0, before: object.guess };
        if text.get(place.pos) != Some(&b'}') {
            loop {
                let after_value = match fields.as_deref_mut() {
                    Some(fields) => self.common(object, fields, row, &mut place)?,
                    None => false,
                };
                if !after_value {
                    self.member(object, &mut place, fields.as_deref_mut(), row, depth, first_unknown)?;
                }
                place.pos = json::skip_space(text, place.pos);
                match text.get(place.pos) {
                    Some(b',') => place.pos = json::skip_space(text, place.pos + 1),
                    Some(b'}') => break,
                    _ => return Err(Bail),
                }
            }
        }
        let (pos, seen) = (place.pos + 1, place.seen);
        let unknown = self.scratch.unknown.len() - first_unknown;
        if unknown > 0 {
            self.scratch.unknown.truncate(first_unknown);
        }
        if seen & object.required != object.required {
            return Err(Bail);
        }
        for (key, others) in &object.dependent {
            if seen >> key & 1 == 1 && seen & others != *others {
                return Err(Bail);
            }
        }
        if let Some((min, max)) = object.count
            && !(min..=max).contains(&(u64::from(seen.count_ones()) + unknown as u64))
        {
            return Err(Bail);
        }
        Ok(pos)
    }

    /// Reads on while properties come in the order of the last time, in their common forms and without white space between:
    /// mostly all of an event. Tells whether it stopped after a value (else before a key); `place` is where.
    #[inline(never)]
    fn common(&mut self, object: &Object, fields: &mut [Builder], row: usize, place: &mut Place) -> Fast<bool> {
        let (text, program) = (self.text, self.program);
        let Place { mut pos, mut seen, mut before } = *place;
        let after_value = loop {
            let guess = object.keys.get(usize::from(self.order[before])).filter(|key| key.quoted.is_at(text, pos));
            let Some(key) = guess.filter(|key| !key.odd && seen & key.bit == 0) else { break false };
            let value = pos + key.quoted.bytes().len();
            let mut field = fields.get_mut(key.slot);
            let Some(end) = self.quick(program.node(key.node), value, &mut field, row)? else { break false };
            seen |= key.bit;
            before = object.guess + key.place + 1;
            pos = end;
            if text.get(pos) != Some(&b',') || text.get(pos + 1) != Some(&b'"') {
                break true;
            }
            pos += 1;
        };
        *place = Place { pos, seen, before };
        Ok(after_value)
    }

    /// Reads any one property, up to the end of its value.
    #[inline(never)]
    fn member(
        &mut self,
        object: &Object,
        place: &mut Place,
        fields: Option<&mut [Builder]>,
        row: usize,
        depth: usize,
        first_unknown: usize,
    ) -> Fast<()> {
        let (text, start) = (self.text, place.pos);
        // Events of one kind have their keys in one order: try the key that came next the last time.
        let guess = object.keys.get(usize::from(self.order[place.before]));
        let (key, end, colon) = match guess.filter(|key| key.quoted.is_at(text, start)) {
            Some(key) => {
                let colon = start + key.quoted.bytes().len() - 1;
                (Some(key), colon, colon)
            }
            None => self.key(object, start, place.before)?,
        };
        let value = json::skip_space(text, colon + 1);
        if let Some(key) = key {
            if place.seen & key.bit != 0 || key.forbidden {
                return Err(Bail);
            }
            place.seen |= key.bit;
            place.before = object.guess + key.place + 1;
            place.pos = if key.extra {
                self.unknown(key.node, (start, end), value, depth)?
            } else {
                let field = fields.and_then(|fields| fields.get_mut(key.slot));
                self.property(self.program.node(key.node), (start, end), value, field, row, depth)?
            };
            return Ok(());
        }
        if object.closed {
            return Err(Bail);
        }
        let name = &text[start + 1..end - 1];
        let others = &self.scratch.unknown[first_unknown..];
        let same = |(from, to): &(u32, u32)| &text[*from as usize..*to as usize] == name;
        if others.len() >= MOST_UNKNOWN || others.iter().any(same) {
            return Err(Bail);
        }
        self.scratch.unknown.push((start as u32 + 1, end as u32 - 1));
        place.pos = if object.extra {
            self.unknown(object.additional.unwrap_or(NodeId::MAX), (start, end), value, depth)?
        } else if let Some(node) = object.additional {
            self.value(self.program.node(node), value, None, row, depth)?
        } else {
            self.skip(value, depth)?
        };
        Ok(())
    }

    /// Reads a value with the key at `place` that has to take the long way.
    #[inline(never)]
    fn property(
        &mut self,
        node: &Node,
        place: (usize, usize),
        pos: usize,
        mut into: Option<&mut Builder>,
        row: usize,
        depth: usize,
    ) -> Fast<usize> {
        if let Some(end) = self.quick(node, pos, &mut into, row)? {
            return Ok(end);
        }
        if into.is_none() || node.leaf != Leaf::Nested {
            return self.value(node, pos, into, row, depth);
        }
        let object = self.text.get(pos) == Some(&b'{');
        self.scratch.extra.enter_property(object, (place.0 as u32, place.1 as u32));
        let end = self.value(node, pos, into, row, depth)?;
        self.scratch.extra.leave();
        Ok(end)
    }

    /// Reads the key at `pos` that was not the one expected after `before`. Gives it where it is known, its end after the
    /// quote, and the colon.
    #[inline(never)]
    fn key<'p>(&mut self, object: &'p Object, pos: usize, before: usize) -> Fast<(Option<&'p Key>, usize, usize)> {
        let text = self.text;
        if text.get(pos) != Some(&b'"') {
            return Err(Bail);
        }
        let (end, escaped) = json::string(text, pos + 1)?;
        let colon = json::skip_space(text, end + 1);
        if escaped || text.get(colon) != Some(&b':') {
            return Err(Bail);
        }
        let key = object.find(&text[pos + 1..end]);
        if let Some(place) = key {
            self.order[before] = place as u8;
        }
        Ok((key.map(|place| &object.keys[place]), end + 1, colon))
    }

    /// A value that goes to `_extra`, under the key whose place is given with its quotes.
    fn unknown(&mut self, id: NodeId, key: (usize, usize), pos: usize, depth: usize) -> Fast<usize> {
        let key = (key.0 as u32, key.1 as u32);
        let text = self.text;
        let node = (id != NodeId::MAX).then(|| self.program.node(id));
        if matches!(text.get(pos), Some(b'{' | b'[')) {
            let end = match node {
                Some(node) => self.general(node, pos, None, 0, depth)?,
                None => self.skip(pos, depth)?,
            };
            // What was read last is still in the document.
            let scratch = &mut *self.scratch;
            let doc = scratch.dom.doc(text);
            scratch.extra.property(text, key, |out| doc.compact_into(doc.root(), out));
            return Ok(end);
        }
        let end = match node {
            Some(node) => self.value(node, pos, None, 0, depth)?,
            None => match text.get(pos) {
                Some(b'"') => json::string(text, pos + 1)?.0 + 1,
                Some(b'-' | b'0'..=b'9') => json::number(text, pos)?.0,
                Some(b't') => json::literal(text, pos, b"true")?,
                Some(b'f') => json::literal(text, pos, b"false")?,
                Some(b'n') => json::literal(text, pos, b"null")?,
                _ => return Err(Bail),
            },
        };
        self.scratch.extra.property(text, key, |out| out.extend_from_slice(&text[pos..end]));
        Ok(end)
    }

    /// A value of which nothing is said.
    fn skip(&mut self, pos: usize, depth: usize) -> Fast<usize> {
        let end = self.scratch.dom.parse_value(self.text, pos)?;
        if depth + self.scratch.dom.depth > self.max_depth {
            return Err(Bail);
        }
        Ok(end)
    }
}
