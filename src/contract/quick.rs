//! What the fast path takes without detours: the common forms of common values, told when the contract is compiled.

use serde_json::Value;

use super::formats::Format;
use super::lanes;
use super::program::Leaf;
use super::rules::{ANY, Allowed, Rule, StringRule, Test};

/// Bytes that are looked for in one place, sixteen at a time.
#[derive(Debug)]
pub struct Literal {
    bytes: Box<[u8]>,
    /// The first 16 bytes as one number, and the bits of it that count.
    head: (u128, u128),
    /// The same of the next 16.
    next: (u128, u128),
}

impl Literal {
    /// These bytes.
    pub fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        Self { bytes: bytes.into(), head: masked(bytes), next: masked(bytes.get(16..).unwrap_or_default()) }
    }

    /// The bytes.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the text has them at `at`.
    #[inline(always)]
    pub fn is_at(&self, text: &[u8], at: usize) -> bool {
        let Some(chunk) = lanes::chunk_at(text, at) else { return self.is_near_the_end(text, at) };
        if !lanes::is_under(chunk, self.head) {
            return false;
        }
        if self.bytes.len() <= 16 {
            return true;
        }
        match lanes::chunk_at(text, at + 16) {
            Some(chunk) if self.bytes.len() <= 32 => lanes::is_under(chunk, self.next),
            _ => self.is_near_the_end(text, at),
        }
    }

    #[inline(never)]
    fn is_near_the_end(&self, text: &[u8], at: usize) -> bool {
        text.get(at..).is_some_and(|rest| rest.starts_with(&self.bytes))
    }
}

fn masked(text: &[u8]) -> (u128, u128) {
    let mut bytes = [0; 16];
    let mut mask = [0; 16];
    for (at, byte) in text.iter().take(16).enumerate() {
        bytes[at] = *byte;
        mask[at] = u8::MAX;
    }
    (u128::from_le_bytes(bytes), u128::from_le_bytes(mask))
}

/// Whether a string stands in JSON as it is.
fn is_plain(text: &str) -> bool {
    !text.bytes().any(|b| b == b'"' || b == b'\\' || b < 0x20)
}

/// Values that are taken without detours when they are of the common form.
#[derive(Debug)]
pub enum Quick {
    /// None.
    Nothing,
    /// Strings into a column of text.
    Text,
    /// Date-times into a column of times.
    Moment,
    /// Integers of this range into a column of integers.
    Whole(i64, i64),
    /// One string and no other, for roles alone.
    Constant(Literal),
    /// UUIDs, for roles alone.
    Uuid,
}

impl Quick {
    /// What can be taken so, of what a rule lets in on its way to a leaf.
    pub fn of(rule: Option<&Rule>, leaf: Leaf) -> Self {
        let types = rule.map_or(ANY, |rule| rule.types);
        let string = rule.and_then(|rule| rule.string.as_deref());
        let allowed = rule.map_or(&[][..], |rule| &rule.allowed);
        match leaf {
            Leaf::Text if types & 16 != 0 => Self::Text,
            Leaf::Nothing if types & 16 != 0 => match (string, allowed) {
                (None, [Allowed { values, .. }]) => match values.as_slice() {
                    [Value::String(only)] if is_plain(only) => Self::Constant(Literal::new(&format!("\"{only}\""))),
                    _ => Self::Nothing,
                },
                (Some(StringRule { min: None, max: None, pattern: None, format: Some(format) }), [])
                    if format.name == "uuid" =>
                {
                    Self::Uuid
                }
                _ => Self::Nothing,
            },
            Leaf::Timestamp if types & 16 != 0 && allowed.is_empty() => match string {
                None => Self::Moment,
                Some(StringRule { min: None, max: None, pattern: None, format })
                    if format.as_ref().is_none_or(Format::is_date_time) =>
                {
                    Self::Moment
                }
                _ => Self::Nothing,
            },
            Leaf::Int64 if types & 4 != 0 && allowed.is_empty() => {
                let (mut least, mut most) = (0, i64::MAX);
                for bound in rule.iter().flat_map(|rule| &rule.number) {
                    let Some((limit, 0)) = bound.small else { return Self::Nothing };
                    match bound.test {
                        Test::AtLeast => least = least.max(limit),
                        Test::AtMost => most = most.min(limit),
                        Test::Above => least = least.max(limit + 1),
                        Test::Below => most = most.min(limit - 1),
                        Test::MultipleOf => return Self::Nothing,
                    }
                }
                Self::Whole(least, most)
            }
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_literal_is_where_it_is(word in "[ab]{0,40}", text in "[ab]{0,60}", at in 0..64usize) {
            let text = format!("{text}{word}{text}");
            let literal = Literal::new(&word);
            for at in [at, text.len() / 2 - word.len() / 2] {
                let naive = text.as_bytes().get(at..).is_some_and(|rest| rest.starts_with(word.as_bytes()));
                prop_assert_eq!(literal.is_at(text.as_bytes(), at), naive);
            }
        }
    }
}
