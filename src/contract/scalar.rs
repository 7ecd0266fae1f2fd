//! Strings, numbers and words on the fast path.

use super::builders::{Builder, Values};
use super::date_time::{common_date_time, date_time};
use super::exact;
use super::fast::{Bail, Fast, Scan};
use super::formats::is_uuid;
use super::json;
use super::lanes;
use super::node::Kind;
use super::number::{Decimal, power_of_ten, small_decimal, small_integer, to_f64};
use super::pii::{MASK, plain_into};
use super::program::{Leaf, Node};
use super::quick::Quick;
use super::rules::{Allowed, Bound, Rule, RuleId, Rules, StringRule, Test};
use super::text::{Found, TextBuilder, head_of};

impl Scan<'_> {
    /// The common cases, without detours: a string without escapes into a column of text, a date-time of the common form
    /// into one of times, a plain integer. None when it is none of them, and nothing has been done.
    #[inline(always)]
    pub(super) fn quick(
        &mut self,
        node: &Node,
        pos: usize,
        into: &mut Option<&mut Builder>,
        row: usize,
    ) -> Fast<Option<usize>> {
        let text = self.text;
        match &node.quick {
            Quick::Nothing => Ok(None),
            Quick::Constant(literal) => {
                if !literal.is_at(text, pos) {
                    return Ok(None);
                }
                let end = pos + literal.bytes().len();
                self.tap(node, Kind::String, pos + 1, end - 1);
                Ok(Some(end))
            }
            Quick::Uuid => {
                let rest = text.get(pos..).and_then(|rest| rest.first_chunk::<38>());
                let Some([b'"', inside @ .., b'"']) = rest else { return Ok(None) };
                if !is_uuid(inside) {
                    return Ok(None);
                }
                self.tap(node, Kind::String, pos + 1, pos + 37);
                Ok(Some(pos + 38))
            }
            Quick::Text => {
                let Some(into) = into else { return Ok(None) };
                let (Some(b'"'), Some(mut head)) = (text.get(pos), lanes::word_at(text, pos + 1)) else {
                    return Ok(None);
                };
                let found = lanes::special(&head.to_le_bytes());
                let length = found.trailing_zeros() as usize;
                into.reach(row);
                let Values::Text(column) = &mut into.data else { return Err(Bail) };
                let mut known = None;
                let end = if found != 0 {
                    if text.get(pos + 1 + length) != Some(&b'"') {
                        return Ok(None);
                    }
                    head &= lanes::first(length);
                    known = match column.push_known(head, length, node.check) {
                        Ok(()) => {
                            into.len += 1;
                            self.tap(node, Kind::String, pos + 1, pos + 1 + length);
                            return Ok(Some(pos + length + 2));
                        }
                        Err(known) => known,
                    };
                    pos + 1 + length
                } else {
                    json::plain_run(text, pos + 1 + lanes::WIDTH)
                };
                let (Some(b'"'), Some(plain)) = (text.get(end), text.get(pos + 1..end)) else { return Ok(None) };
                put_text(self.rules, node, column, plain, head, known)?;
                into.len += 1;
                self.tap(node, Kind::String, pos + 1, end);
                Ok(Some(end + 1))
            }
            Quick::Moment => {
                let Some(into) = into else { return Ok(None) };
                let rest = text.get(pos..).and_then(|rest| rest.first_chunk::<29>());
                let Some([b'"', time @ .., b'"']) = rest else { return Ok(None) };
                let Some(micros) = common_date_time(time, &mut self.scratch.day) else { return Ok(None) };
                self.tap(node, Kind::String, pos + 1, pos + 28);
                self.scratch.time = (pos as u32 + 1, micros);
                into.int(row, micros);
                Ok(Some(pos + 29))
            }
            Quick::Whole(least, most) => {
                let Some(into) = into else { return Ok(None) };
                let Some((value, length)) = whole(text, pos) else { return Ok(None) };
                if !(*least..=*most).contains(&value) {
                    return Ok(None);
                }
                let end = pos + length;
                self.tap(node, Kind::Integer, pos, end);
                into.int(row, value);
                Ok(Some(end))
            }
        }
    }

    #[inline(never)]
    pub(super) fn string(&mut self, node: &Node, pos: usize, into: Option<&mut Builder>, row: usize) -> Fast<usize> {
        let (end, escaped, head) = json::string_with_head(self.text, pos + 1)?;
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
        let head = head.unwrap_or_else(|| head_of(plain));
        let mut check = || -> Fast<()> {
            if node.rule != RuleId::MAX {
                time = check_text(self.rules.get(node.rule), plain, head)?;
            }
            Ok(())
        };
        match (node.leaf, into) {
            (Leaf::Text, Some(into)) => {
                check()?;
                into.text_with_head(row, plain, head);
                if let Some(micros) = time {
                    self.scratch.time = (pos as u32 + 1, micros);
                }
                Ok(end + 1)
            }
            (leaf, into) => {
                check()?;
                self.put_string(leaf, (pos, end), escaped, time, into, row)?;
                Ok(end + 1)
            }
        }
    }

    /// Puts a string that has been checked where it belongs, unless that is a column of text. `place`: its quotes.
    #[inline(always)]
    fn put_string(
        &mut self,
        leaf: Leaf,
        place: (usize, usize),
        escaped: bool,
        time: Option<i64>,
        into: Option<&mut Builder>,
        row: usize,
    ) -> Fast<()> {
        let (pos, end) = place;
        if let Some(micros) = time {
            self.scratch.time = (pos as u32 + 1, micros);
        }
        let plain = if escaped { self.scratch.plain.as_slice() } else { &self.text[pos + 1..end] };
        if let Some(into) = into {
            match leaf {
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
        Ok(())
    }

    #[inline]
    pub(super) fn number(&mut self, node: &Node, pos: usize, into: Option<&mut Builder>, row: usize) -> Fast<usize> {
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
    pub(super) fn word(
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
}

/// Puts a string into a column of text that is not known there, or not known to be what is said of it.
#[inline(never)]
fn put_text(
    rules: &Rules,
    node: &Node,
    column: &mut TextBuilder,
    plain: &[u8],
    head: u128,
    known: Option<Found>,
) -> Fast<()> {
    let found = known.unwrap_or_else(|| column.find(plain, head));
    if node.rule != RuleId::MAX && !column.has_passed(found, node.check) {
        check_text(rules.get(node.rule), plain, head)?;
    }
    column.push_found(found, node.check, plain, head);
    Ok(())
}

/// The number of up to 15 digits at `pos`, and how many they are; none for zeros before it, and when it goes on.
#[inline(always)]
fn whole(text: &[u8], pos: usize) -> Option<(i64, usize)> {
    let word = lanes::word_at(text, pos)?;
    let length = (!lanes::digits(&word.to_le_bytes())).trailing_zeros() as usize;
    let next = (word >> (8 * (length & 15))) as u8;
    if length == 0 || length > 15 || length > 1 && word as u8 == b'0' || matches!(next, b'.' | b'e' | b'E') {
        return None;
    }
    /// Eight digits, the first one in the lowest byte.
    #[inline(always)]
    fn eight(digits: u64) -> i64 {
        let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
        let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
        (fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff) as i64
    }
    const DIGITS: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let value = if length <= 8 {
        eight((word as u64) << (64 - 8 * length) & DIGITS)
    } else {
        let whole = word << (128 - 8 * length);
        eight(whole as u64 & DIGITS) * 100_000_000 + eight((whole >> 64) as u64 & DIGITS)
    };
    Some((value, length))
}

/// All that is said of a string; gives the microseconds when that includes `date-time`.
#[inline(never)]
fn check_text(rule: &Rule, plain: &[u8], head: u128) -> Fast<Option<i64>> {
    let time = match &rule.string {
        Some(said) => check_string(said, plain, head)?,
        None => None,
    };
    for allowed in &rule.allowed {
        if !allowed.values.iter().any(|v| v.as_str().is_some_and(|v| v.as_bytes() == plain)) {
            return Err(Bail);
        }
    }
    Ok(time)
}

/// What is said of a string; gives the microseconds when that includes `date-time`.
#[inline]
fn check_string(said: &StringRule, plain: &[u8], head: u128) -> Fast<Option<i64>> {
    if let Some(max) = said.max
        && plain.len() as u64 > max
        && characters(plain) > max
    {
        return Err(Bail);
    }
    // A character has at most four bytes.
    if let Some(min) = said.min
        && (plain.len() as u64) / 4 < min
        && ((plain.len() as u64) < min || characters(plain) < min)
    {
        return Err(Bail);
    }
    let mut time = None;
    if let Some(format) = &said.format {
        if format.is_date_time() {
            time = Some(date_time(plain).ok_or(Bail)?);
        } else if !format.accepts_bytes(plain, head) {
            return Err(Bail);
        }
    }
    match &said.pattern {
        Some(pattern) if !pattern.is_match_bytes(plain, head) => Err(Bail),
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
    if digits == limit_digits {
        return match bound.test {
            Test::AtLeast => value >= limit,
            Test::AtMost => value <= limit,
            Test::Above => value > limit,
            Test::Below => value < limit,
            Test::MultipleOf => limit != 0 && value % limit == 0,
        };
    }
    // Both as whole numbers of the finer of the two units.
    let scale = digits.max(limit_digits);
    let value = i128::from(value) * power_of_ten(scale - digits);
    let limit = i128::from(limit) * power_of_ten(scale - limit_digits);
    match bound.test {
        Test::AtLeast => value >= limit,
        Test::AtMost => value <= limit,
        Test::Above => value > limit,
        Test::Below => value < limit,
        Test::MultipleOf => limit != 0 && value % limit == 0,
    }
}

fn is_allowed_number(allowed: &Allowed, raw: &[u8]) -> bool {
    let value = Decimal::parse(raw);
    allowed.values.iter().any(|v| v.as_number().is_some_and(|n| Decimal::parse(n.as_str().as_bytes()) == value))
}
