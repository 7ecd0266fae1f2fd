//! Which way an event goes on the fast path is guessed from a glance at its text, and found true or false at the end.

use memchr::memmem::Finder;

use super::compile::{Compiled, Version};
use super::fast::{MOST_TAPS, Scan, Scratch};
use super::json;
use super::judge::{Read, find_type};
use super::node::Kind;
use super::output::Output;
use super::pii::Secret;
use super::plan::{Message, Plan, Tap};
use super::quick::Literal;

/// Finds a property by its name in quotes, at the first place where the text has it.
#[derive(Debug)]
pub struct Glance {
    quoted: Literal,
    finder: Finder<'static>,
}

impl Glance {
    /// For the property at this place of a plan's taps.
    pub fn new(plan: &Plan, tap: Option<usize>) -> Option<Self> {
        let name = plan.taps.get(tap?)?.last()?;
        let quoted = Literal::new(&format!("\"{name}\""));
        let finder = Finder::new(quoted.bytes()).into_owned();
        Some(Self { quoted, finder })
    }

    /// The property with this string.
    pub fn before(&self, value: &str) -> Literal {
        Literal::new(&format!("{}:\"{value}\"", String::from_utf8_lossy(self.quoted.bytes())))
    }

    /// The text of the scalar (of strings what stands between the quotes); `at` is where the property was the last time.
    #[inline]
    fn look<'t>(&self, text: &'t [u8], at: &mut usize) -> Option<&'t [u8]> {
        if !self.quoted.is_at(text, *at) {
            *at = self.finder.find(text)?;
        }
        let mut pos = json::skip_space(text, *at + self.quoted.bytes().len());
        if text.get(pos) != Some(&b':') {
            return None;
        }
        pos = json::skip_space(text, pos + 1);
        match text.get(pos)? {
            b'"' => json::string(text, pos + 1).ok().map(|(end, _)| &text[pos + 1..end]),
            _ => json::number(text, pos).ok().map(|(end, _)| &text[pos..end]),
        }
    }
}

/// The fast path over the rows of one piece.
pub struct Speculation<'a> {
    compiled: &'a Compiled,
    secret: Option<&'a Secret>,
    max_depth: usize,
    latest: Option<i64>,
    scratch: Scratch,
    orders: Vec<Vec<u8>>,
    /// For each version the numbers that its type's name and its own have in their columns; 0 where they are not known.
    numbers: Vec<(u16, u16)>,
    type_at: usize,
    version_at: usize,
    last: usize,
    name: Vec<u8>,
}

impl<'a> Speculation<'a> {
    /// Begins a piece.
    pub fn new(compiled: &'a Compiled, secret: Option<&'a Secret>, max_depth: usize, latest: Option<i64>) -> Self {
        let versions = compiled.types.iter().flat_map(|t| &t.versions);
        let orders: Vec<_> = versions.map(|v| vec![u8::MAX; v.program.as_ref().map_or(0, |p| p.guesses)]).collect();
        Self {
            compiled,
            secret,
            max_depth,
            latest,
            scratch: Scratch::default(),
            numbers: vec![(0, 0); orders.len()],
            orders,
            type_at: 0,
            version_at: 0,
            last: 0,
            name: Vec::new(),
        }
    }

    /// Reads an event into row `row`. When it cannot, nothing of it is left there.
    #[inline]
    pub(super) fn row(&mut self, text: &[u8], message: &Message<'_>, row: usize, out: &mut Output) -> Option<Read> {
        let mut kind = self.glance_type(text, message)?;
        let mut version = self.glance_version(text, message, kind)?;
        for _ in 0..2 {
            let chosen = self.compiled.types.get(kind)?.versions.get(version)?;
            match self.accept(text, message, row, out, kind, chosen) {
                Ok(read) => return Some(read),
                Err(told) => {
                    out.truncate(row);
                    match told {
                        // The glance fell on something else: now that the event has been read, it is known.
                        Some(truth) if truth != (kind, version) => (kind, version) = truth,
                        _ => return None,
                    }
                }
            }
        }
        None
    }

    #[inline]
    fn glance_type(&mut self, text: &[u8], message: &Message<'_>) -> Option<usize> {
        let compiled = self.compiled;
        // Mostly it is the type of the event before, at the same place.
        if let Some(announced) = compiled.types.get(self.last).and_then(|last| last.announced.as_ref())
            && announced.is_at(text, self.type_at)
        {
            return Some(self.last);
        }
        let name = match &compiled.glance {
            Some(glance) => glance.look(text, &mut self.type_at)?,
            None => {
                self.name.clear();
                compiled.plan.event_type(&[], message, &mut self.name).ok()?;
                self.name.as_slice()
            }
        };
        if compiled.types[self.last].name.as_bytes() == name {
            return Some(self.last);
        }
        self.last = find_type(compiled, name)?.0;
        Some(self.last)
    }

    #[inline]
    fn glance_version(&mut self, text: &[u8], message: &Message<'_>, kind: usize) -> Option<usize> {
        let kind = self.compiled.types.get(kind)?;
        if kind.versions.len() == 1 {
            return Some(0);
        }
        let name = match &kind.glance {
            Some(glance) => glance.look(text, &mut self.version_at)?,
            None => {
                self.name.clear();
                kind.versions[0].plan.version(&[], message, &mut self.name).ok()?;
                self.name.as_slice()
            }
        };
        kind.versions.iter().position(|v| v.name.as_bytes() == name)
    }

    /// Reads the event as if it were of this type and version. The error says what it is, where that came out.
    fn accept(
        &mut self,
        text: &[u8],
        message: &Message<'_>,
        row: usize,
        out: &mut Output,
        kind: usize,
        version: &Version,
    ) -> Result<Read, Option<(usize, usize)>> {
        let program = version.program.as_ref().map_err(|_| None)?;
        let scanned = Scan {
            text,
            program,
            rules: &version.rules,
            order: &mut self.orders[version.id],
            max_depth: self.max_depth,
            secret: self.secret,
            row,
            scratch: &mut self.scratch,
        }
        .event(&mut out.columns);
        if scanned.is_err() {
            return Err(None);
        }
        self.roles(text, message, row, out, kind, version)
    }

    /// What the roles read.
    fn taps<'t>(&self, text: &'t [u8]) -> [Tap<'t>; MOST_TAPS] {
        self.scratch.taps.map(|place| place.map(|(kind, from, to)| (kind, &text[from as usize..to as usize])))
    }

    /// Where the string is that a role reads, where it is one without escapes.
    #[inline(always)]
    fn plain(&self, tap: Option<usize>) -> Option<(usize, usize)> {
        match self.scratch.taps.get(tap?) {
            Some(Some((Kind::String, from, to))) => Some((*from as usize, *to as usize)),
            _ => None,
        }
    }

    /// Whether a role reads this string, given in its quotes.
    #[inline(always)]
    fn reads(&self, text: &[u8], tap: Option<usize>, quoted: &Literal) -> bool {
        self.plain(tap)
            .is_some_and(|(from, to)| to - from + 2 == quoted.bytes().len() && quoted.is_at(text, from.wrapping_sub(1)))
    }

    #[inline]
    fn roles(
        &mut self,
        text: &[u8],
        message: &Message<'_>,
        row: usize,
        out: &mut Output,
        kind: usize,
        version: &Version,
    ) -> Result<Read, Option<(usize, usize)>> {
        let (plan, compiled) = (&version.plan, self.compiled);
        let told = |_| None;
        let expected = &compiled.types[kind];
        // Mostly each role is a string of the event, and type and version are what they were guessed to be.
        if !self.reads(text, version.taps.event_type, &expected.quoted) {
            let mut name = std::mem::take(&mut self.name);
            name.clear();
            plan.event_type(&self.taps(text), message, &mut name).map_err(told)?;
            if expected.name.as_bytes() != name.as_slice() {
                let (truth, found) = find_type(compiled, &name).ok_or(None)?;
                if truth != kind {
                    return Err((found.versions.len() == 1).then_some((truth, 0)));
                }
            }
            out.event_type.text(row, &name);
            self.name = name;
        } else {
            let number = &mut self.numbers[version.id].0;
            *number = out.event_type.text_again(row, *number, expected.name.as_bytes());
        }
        if plan.has_version() && !self.reads(text, version.taps.version, &version.quoted) {
            let mut name = Vec::new();
            if plan.version(&self.taps(text), message, &mut name).map_err(told)? && version.name.as_bytes() != name {
                let truth = expected.versions.iter().position(|v| v.name.as_bytes() == name);
                return Err(truth.map(|version| (kind, version)));
            }
        }
        let number = &mut self.numbers[version.id].1;
        *number = out.version.text_again(row, *number, version.name.as_bytes());
        let time = match version.taps.time.and_then(|tap| self.scratch.taps[tap]) {
            // It was read as a date-time a moment ago.
            Some((Kind::String, from, _)) if from == self.scratch.time.0 => self.scratch.time.1,
            _ => plan.event_time(&self.taps(text), message).map_err(told)?,
        };
        if self.latest.is_some_and(|latest| time > latest) {
            return Err(None);
        }
        out.event_time(row, time);
        let secret = self.secret;
        match self.plain(version.taps.key) {
            Some((from, to)) => out.key.text_part(row, text, from, to),
            None => {
                let taps = self.taps(text);
                out.key.try_text_with(row, |key| plan.key(&taps, message, secret, key)).map_err(told)?;
            }
        }
        if let (Some(out), true) = (&mut out.entity, plan.has_entity()) {
            match self.plain(version.taps.entity) {
                Some((from, to)) => out.text_part(row, text, from, to),
                None => {
                    let taps = self.taps(text);
                    let entity = |entity: &mut Vec<u8>| plan.entity(&taps, message, secret, entity).map(|_| ());
                    out.try_text_with(row, entity).map_err(told)?;
                }
            }
        }
        if let Some(extra) = self.scratch.extra.end() {
            out.extra.text(row, extra);
        }
        let event_type = if kind < compiled.named { kind as u16 } else { u16::MAX };
        Ok(Read { event_type, event_time: Some(time) })
    }
}
