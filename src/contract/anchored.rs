//! Patterns that only say how a text begins, and which ASCII characters follow to its end: most of those that schemas have.
//! They need no engine.

use super::lanes;
use super::text::head_of;

/// `^`, literal characters, then perhaps one class of characters so many times, then perhaps `$`.
#[derive(Clone)]
pub struct Anchored {
    prefix: Box<[u8]>,
    /// The first 16 bytes of that as one number, and the bits of it that count.
    head: (u128, u128),
    rest: Rest,
}

#[derive(Clone)]
enum Rest {
    /// Anything.
    Open,
    /// Nothing.
    End,
    /// Bytes of a class, so many at least and at most.
    Class(Box<[bool; 256]>, usize, usize),
}

impl Anchored {
    /// The pattern, when it is of this form.
    pub fn of(pattern: &str) -> Option<Self> {
        let mut rest = pattern.strip_prefix('^')?.as_bytes();
        let literal = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"_-/:@,=#%& ".contains(b)).count();
        let prefix: Box<[u8]> = Box::from(&rest[..literal]);
        let head = (head_of(&prefix), lanes::first(prefix.len()));
        rest = &rest[literal..];
        let rest = match rest {
            [] => Rest::Open,
            [b'$'] => Rest::End,
            [b'[', inside @ ..] => {
                let end = inside.iter().position(|b| *b == b']')?;
                let times = inside[end + 1..].strip_suffix(b"$")?;
                let (least, most) = quantifier(times)?;
                Rest::Class(Box::new(class(&inside[..end])?), least, most)
            }
            _ => return None,
        };
        Some(Self { prefix, head, rest })
    }

    /// Whether a text matches; `head` is [`head_of`] it.
    #[inline]
    pub fn is_match(&self, text: &[u8], head: u128) -> bool {
        let Some((prefix, rest)) = text.split_at_checked(self.prefix.len()) else { return false };
        if head & self.head.1 != self.head.0 || prefix.len() > 16 && *prefix != *self.prefix {
            return false;
        }
        match &self.rest {
            Rest::Open => true,
            Rest::End => rest.is_empty(),
            Rest::Class(class, least, most) => {
                (*least..=*most).contains(&rest.len()) && rest.iter().all(|b| class[usize::from(*b)])
            }
        }
    }
}

fn class(mut inside: &[u8]) -> Option<[bool; 256]> {
    let mut class = [false; 256];
    if inside.is_empty() {
        return None;
    }
    while let Some((first, more)) = inside.split_first() {
        inside = more;
        match (first, more) {
            // A hyphen stands for itself at the end.
            (b'-', []) => class[usize::from(b'-')] = true,
            (low, [b'-', high, after @ ..]) => {
                let kinds = [u8::is_ascii_digit, u8::is_ascii_lowercase, u8::is_ascii_uppercase];
                if low > high || !kinds.iter().any(|kind| kind(low) && kind(high)) {
                    return None;
                }
                (*low..=*high).for_each(|b| class[usize::from(b)] = true);
                inside = after;
            }
            (b, _) if b.is_ascii_alphanumeric() || b"_.:/@+, ".contains(b) => class[usize::from(*b)] = true,
            _ => return None,
        }
    }
    Some(class)
}

fn quantifier(text: &[u8]) -> Option<(usize, usize)> {
    let number = |text: &[u8]| match text {
        [b'0'..=b'9', ..] if text.len() <= 3 => std::str::from_utf8(text).ok()?.parse::<usize>().ok(),
        _ => None,
    };
    match text {
        [] => Some((1, 1)),
        b"*" => Some((0, usize::MAX)),
        b"+" => Some((1, usize::MAX)),
        b"?" => Some((0, 1)),
        [b'{', inside @ .., b'}'] => match inside.iter().position(|b| *b == b',') {
            None => number(inside).map(|n| (n, n)),
            Some(comma) => {
                let least = number(&inside[..comma])?;
                let most = if comma + 1 == inside.len() { usize::MAX } else { number(&inside[comma + 1..])? };
                (least <= most).then_some((least, most))
            }
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_patterns_are_known() {
        for known in ["^[A-Za-z0-9_-]*$", "^[A-Z]{2}$", "^/", "^user_[0-9]+$", "^v$", "^[ab]$", "^x[0-9]{1,}$"] {
            assert!(Anchored::of(known).is_some(), "{known}");
        }
        for other in [
            "a",
            "^a*",
            "^a|b",
            "^[^a]$",
            "^[a",
            "^[a]",
            "^[z-a]$",
            "^[a-Z]$",
            "^[]$",
            "^[a]{2,1}$",
            "^.$",
            "^é$",
            "^\\d$",
        ] {
            assert!(Anchored::of(other).is_none(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn it_says_what_the_engine_does(
            pattern in r"\^[a-c_/-]{0,2}(\$|\[[a-c_0-9.-]{1,4}\](|\*|\+|\?|\{[0-3]\}|\{[0-2],\}|\{[0-2],[0-4]\})\$|)",
            texts in prop::collection::vec("[a-c_/0-9.-]{0,5}|[a-c\n\u{e9}]{0,3}", 1..20),
        ) {
            let Some(own) = Anchored::of(&pattern) else { return Ok(()) };
            let engine = regex::bytes::Regex::new(&pattern).unwrap();
            for text in texts {
                let head = head_of(text.as_bytes());
                prop_assert_eq!(own.is_match(text.as_bytes(), head), engine.is_match(text.as_bytes()), "{} {:?}", pattern, text);
            }
        }
    }
}
