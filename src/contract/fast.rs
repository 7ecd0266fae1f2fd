//! The fast path: from bytes to column builders in one pass. It can only accept. Whatever is unusual (a problem, a key
//! that comes twice, an escaped key) ends in [`Bail`]: the row is taken back and judged exactly.

use super::append::{append, representable};
use super::builders::{Builder, Values};
use super::exact;
use super::extra::Extra;
use super::formats::date_time;
use super::json;
use super::node::{Dom, Kind};
use super::number::{Decimal, power_of_ten, small_decimal, small_integer, to_f64};
use super::pii::{MASK, Secret, plain_into};
use super::problem::Found;
use super::program::{Array, Leaf, Node, NodeId, Object, Program};
use super::rules::{Allowed, Bound, RuleId, Rules, StringRule};

/// Not for the fast path: judge exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bail;

impl From<json::Syntax> for Bail {
    fn from(_: json::Syntax) -> Self {
        Bail
    }
}

type Fast<T> = Result<T, Bail>;

/// The most properties that roles may read on the fast path.
pub const MOST_TAPS: usize = 12;

/// More undeclared properties of one object than this are looked through for equal ones exactly.
const MOST_UNKNOWN: usize = 24;

/// What the fast path writes on; used again for each event.
#[derive(Debug)]
pub struct Scratch {
    dom: Dom,
    plain: Vec<u8>,
    unknown: Vec<(u32, u32)>,
    found: Vec<Found>,
    /// Undeclared properties.
    pub extra: Extra,
    /// The scalars that roles read: kind and place.
    pub taps: [Option<(Kind, u32, u32)>; MOST_TAPS],
    /// The last date-time met: where it starts, and its microseconds.
    pub time: (u32, i64),
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
        }
    }
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
        let end = self.value(self.program.root, start, None, 0, 0)?;
        self.end(end)
    }

    fn end(&self, end: usize) -> Fast<()> {
        if json::skip_space(self.text, end) == self.text.len() { Ok(()) } else { Err(Bail) }
    }

    /// Reads the value at `pos`; gives where it ends. `depth` is that of what it stands in.
    #[inline]
    fn value(&mut self, id: NodeId, pos: usize, into: Option<&mut Builder>, row: usize, depth: usize) -> Fast<usize> {
        let node = self.program.node(id);
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
    fn tap(&mut self, node: &Node, kind: Kind, start: usize, end: usize) {
        if let Some(tap) = node.tap {
            self.scratch.taps[tap as usize] = Some((kind, start as u32, end as u32));
        }
    }

    #[inline]
    fn string(&mut self, node: &Node, pos: usize, into: Option<&mut Builder>, row: usize) -> Fast<usize> {
        let (end, escaped) = json::string(self.text, pos + 1)?;
        if node.types & 16 == 0 {
            return Err(Bail);
        }
        let raw = &self.text[pos + 1..end];
        let kind = if escaped { Kind::Escaped } else { Kind::String };
        self.tap(node, kind, pos + 1, end);
        let plain = if escaped {
            self.scratch.plain.clear();
            json::unescape_into(raw, &mut self.scratch.plain);
            self.scratch.plain.as_slice()
        } else {
            raw
        };
        let mut time = None;
        if node.rule != RuleId::MAX {
            let rule = self.rules.get(node.rule);
            if let Some(said) = &rule.string {
                time = check_string(said, plain)?;
            }
            for allowed in &rule.allowed {
                if !allowed.values.iter().any(|v| v.as_str().is_some_and(|v| v.as_bytes() == plain)) {
                    return Err(Bail);
                }
            }
        }
        if let Some(micros) = time {
            self.scratch.time = (pos as u32 + 1, micros);
        }
        if let Some(into) = into {
            match node.leaf {
                Leaf::Text => into.text(row, plain),
                Leaf::Timestamp => {
                    let micros = match time {
                        Some(micros) => micros,
                        None => date_time(plain).ok_or(Bail)?,
                    };
                    into.int(row, micros);
                }
                Leaf::Json => into.text(row, &self.text[pos..=end]),
                Leaf::Mask => into.text(row, MASK),
                Leaf::Hash => {
                    let secret = self.secret.ok_or(Bail)?;
                    into.text_with(row, |out| secret.hash_into(plain, out));
                }
                Leaf::Nothing => {}
                _ => return Err(Bail),
            }
        }
        Ok(end + 1)
    }

    #[inline]
    fn number(&mut self, node: &Node, pos: usize, into: Option<&mut Builder>, row: usize) -> Fast<usize> {
        let (end, integer) = json::number(self.text, pos)?;
        let raw = &self.text[pos..end];
        self.tap(node, if integer { Kind::Integer } else { Kind::Number }, pos, end);
        if node.types & 12 != 12 {
            let bit = if integer || Decimal::parse(raw).is_integer() { 4 } else { 8 };
            if node.types & bit == 0 {
                return Err(Bail);
            }
        }
        let mut small = None;
        if node.rule != RuleId::MAX {
            let rule = self.rules.get(node.rule);
            if !rule.number.is_empty() {
                small = small_decimal(raw);
                if !rule.number.iter().all(|bound| within(bound, raw, small)) {
                    return Err(Bail);
                }
            }
            if !rule.allowed.iter().all(|allowed| is_allowed_number(allowed, raw)) {
                return Err(Bail);
            }
        }
        if let Some(into) = into {
            match node.leaf {
                Leaf::Int64 => {
                    let value = small_integer(raw).or_else(|| Decimal::parse(raw).to_i64());
                    into.int(row, value.ok_or(Bail)?);
                }
                Leaf::Float64 => into.float(row, to_f64(raw).ok_or(Bail)?),
                Leaf::Decimal(precision, scale) => {
                    let value = match small.or_else(|| small_decimal(raw)) {
                        Some((mantissa, digits)) if digits <= u32::from(scale) => {
                            let value = i128::from(mantissa) * power_of_ten(u32::from(scale) - digits);
                            (value.unsigned_abs() < power_of_ten(u32::from(precision)) as u128).then_some(value)
                        }
                        _ => Decimal::parse(raw).to_decimal(precision, scale),
                    };
                    into.decimal(row, value.ok_or(Bail)?);
                }
                Leaf::Json => into.text(row, raw),
                Leaf::Mask => into.text(row, MASK),
                Leaf::Hash => {
                    let secret = self.secret.ok_or(Bail)?;
                    let plain = &mut self.scratch.plain;
                    plain.clear();
                    plain_into(Kind::Number, raw, plain);
                    into.text_with(row, |out| secret.hash_into(plain, out));
                }
                Leaf::Nothing => {}
                _ => return Err(Bail),
            }
        }
        Ok(end)
    }

    #[inline]
    #[allow(clippy::too_many_arguments)]
    fn word(
        &mut self,
        node: &Node,
        pos: usize,
        word: &'static [u8],
        kind: Kind,
        bit: u8,
        into: Option<&mut Builder>,
        row: usize,
    ) -> Fast<usize> {
        let end = json::literal(self.text, pos, word)?;
        self.tap(node, kind, pos, end);
        if node.types & bit == 0 {
            return Err(Bail);
        }
        if node.rule != RuleId::MAX {
            let same = |v: &serde_json::Value| match kind {
                Kind::Null => v.is_null(),
                Kind::True => v.as_bool() == Some(true),
                _ => v.as_bool() == Some(false),
            };
            if !self.rules.get(node.rule).allowed.iter().all(|allowed| allowed.values.iter().any(same)) {
                return Err(Bail);
            }
        }
        if let (Some(into), true) = (into, kind != Kind::Null) {
            match node.leaf {
                Leaf::Boolean => into.boolean(row, kind == Kind::True),
                Leaf::Json => into.text(row, word),
                Leaf::Mask => into.text(row, MASK),
                Leaf::Hash => {
                    let secret = self.secret.ok_or(Bail)?;
                    into.text_with(row, |out| secret.hash_into(word, out));
                }
                Leaf::Nothing => {}
                _ => return Err(Bail),
            }
        }
        Ok(end)
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
                let nested = items.is_some() && matches!(self.program.node(id).leaf, Leaf::Nested);
                if nested {
                    self.scratch.extra.enter_item(self.text.get(pos) == Some(&b'{'), count as u32);
                }
                pos = self.value(id, pos, items.as_deref_mut(), at, depth)?;
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
        let mut seen = 0u128;
        let mut before = object.guess;
        let mut pos = json::skip_space(text, pos + 1);
        if text.get(pos) == Some(&b'}') {
            pos += 1;
        } else {
            loop {
                if text.get(pos) != Some(&b'"') {
                    return Err(Bail);
                }
                let start = pos + 1;
                // Events of one kind have their keys in one order: try the key that came next the last time.
                let guess = self.order[before] as usize;
                let (key, end) = match object.keys.get(guess) {
                    Some(key) if text[start..].starts_with(&key.quoted) => (Some(guess), start + key.quoted.len()),
                    _ => {
                        let (end, escaped) = json::string(text, start)?;
                        if escaped {
                            return Err(Bail);
                        }
                        let key = object.find(&text[start..end]);
                        if let Some(key) = key {
                            self.order[before] = key as u8;
                        }
                        (key, end + 1)
                    }
                };
                pos = end;
                if text.get(pos) != Some(&b':') {
                    pos = json::skip_space(text, pos);
                    if text.get(pos) != Some(&b':') {
                        return Err(Bail);
                    }
                }
                pos = json::skip_space(text, pos + 1);
                match key {
                    Some(at) => {
                        let key = &object.keys[at];
                        let bit = 1u128 << at;
                        if seen & bit != 0 || key.forbidden {
                            return Err(Bail);
                        }
                        seen |= bit;
                        before = object.guess + at + 1;
                        if key.extra {
                            pos = self.unknown(key.node, (start - 1, end), pos, depth)?;
                        } else {
                            let field = match (&mut fields, key.slot) {
                                (Some(fields), Some(slot)) => fields.get_mut(slot),
                                _ => None,
                            };
                            let nested = field.is_some() && self.program.node(key.node).leaf == Leaf::Nested;
                            if nested {
                                let place = (start as u32 - 1, end as u32);
                                self.scratch.extra.enter_property(text.get(pos) == Some(&b'{'), place);
                            }
                            pos = self.value(key.node, pos, field, row, depth)?;
                            if nested {
                                self.scratch.extra.leave();
                            }
                        }
                    }
                    None => {
                        if object.closed {
                            return Err(Bail);
                        }
                        let name = &text[start..end - 1];
                        let others = &self.scratch.unknown[first_unknown..];
                        let same = |(from, to): &(u32, u32)| &text[*from as usize..*to as usize] == name;
                        if others.len() >= MOST_UNKNOWN || others.iter().any(same) {
                            return Err(Bail);
                        }
                        self.scratch.unknown.push((start as u32, end as u32 - 1));
                        pos = if object.extra {
                            let node = object.additional.unwrap_or(NodeId::MAX);
                            self.unknown(node, (start - 1, end), pos, depth)?
                        } else if let Some(node) = object.additional {
                            self.value(node, pos, None, row, depth)?
                        } else {
                            self.skip(pos, depth)?
                        };
                    }
                }
                // Mostly the next byte is a comma with a quote after it.
                if text.get(pos) == Some(&b',') {
                    pos += 1;
                    if text.get(pos) != Some(&b'"') {
                        pos = json::skip_space(text, pos);
                    }
                    continue;
                }
                pos = json::skip_space(text, pos);
                match text.get(pos) {
                    Some(b',') => pos = json::skip_space(text, pos + 1),
                    Some(b'}') => {
                        pos += 1;
                        break;
                    }
                    _ => return Err(Bail),
                }
            }
        }
        let unknown = self.scratch.unknown.len() - first_unknown;
        self.scratch.unknown.truncate(first_unknown);
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
            Some(_) => self.value(id, pos, None, 0, depth)?,
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

/// What is said of a string; gives the microseconds when that includes `date-time`.
#[inline]
fn check_string(said: &StringRule, plain: &[u8]) -> Fast<Option<i64>> {
    if let Some(max) = said.max
        && plain.len() as u64 > max
        && characters(plain) > max
    {
        return Err(Bail);
    }
    if let Some(min) = said.min
        && ((plain.len() as u64) < min || characters(plain) < min)
    {
        return Err(Bail);
    }
    let mut time = None;
    if let Some(format) = &said.format {
        if format.is_date_time() {
            time = Some(date_time(plain).ok_or(Bail)?);
        } else if !std::str::from_utf8(plain).is_ok_and(|text| format.accepts(text)) {
            return Err(Bail);
        }
    }
    match &said.pattern {
        Some(pattern) if !pattern.is_match_bytes(plain) => Err(Bail),
        _ => Ok(time),
    }
}

/// How many code points there are in UTF-8.
fn characters(plain: &[u8]) -> u64 {
    plain.iter().filter(|b| **b & 0xc0 != 0x80).count() as u64
}

#[inline]
fn within(bound: &Bound, raw: &[u8], small: Option<(i64, u32)>) -> bool {
    let (Some((value, digits)), Some((limit, limit_digits))) = (small, bound.small) else {
        return exact::within(bound, raw);
    };
    // Both as whole numbers of the finer of the two units.
    let scale = digits.max(limit_digits);
    let value = i128::from(value) * power_of_ten(scale - digits);
    let limit = i128::from(limit) * power_of_ten(scale - limit_digits);
    match bound.keyword {
        "minimum" => value >= limit,
        "maximum" => value <= limit,
        "exclusiveMinimum" => value > limit,
        "exclusiveMaximum" => value < limit,
        _ => limit != 0 && value % limit == 0,
    }
}

fn is_allowed_number(allowed: &Allowed, raw: &[u8]) -> bool {
    let value = Decimal::parse(raw);
    allowed.values.iter().any(|v| v.as_number().is_some_and(|n| Decimal::parse(n.as_str().as_bytes()) == value))
}
