//! `pattern`: the regular expressions of ECMA-262 on an engine that runs in linear time. What that engine cannot
//! express (look-around, back-references) is left to a backtracking one under a step limit.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::anchored::Anchored;
use super::text::head_of;

/// How often the backtracking engine may go back before it gives up; the text then counts as no match.
const BACKTRACK_LIMIT: usize = 100_000;

/// A compiled pattern.
#[derive(Clone)]
pub struct Pattern {
    /// As the schema has it.
    pub text: Arc<str>,
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Anchored(Anchored),
    Linear(Regex),
    Backtracking(Arc<jsonschema::Validator>),
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// The pattern on the linear engine; the reason why not otherwise.
    pub fn linear(text: &str) -> Result<Self, String> {
        if let Some(anchored) = Anchored::of(text) {
            return Ok(Self { text: text.into(), engine: Engine::Anchored(anchored) });
        }
        let translated = translate(text)?;
        let regex = RegexBuilder::new(&translated).build().map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => "comes to more than 10 MB when compiled".to_owned(),
            _ => "cannot be expressed in linear time".to_owned(),
        })?;
        Ok(Self { text: text.into(), engine: Engine::Linear(regex) })
    }

    /// The pattern on the engine that can take it; none when it is no regular expression.
    pub fn any(text: &str) -> Option<Self> {
        if let Ok(pattern) = Self::linear(text) {
            return Some(pattern);
        }
        let limit = jsonschema::PatternOptions::fancy_regex().backtrack_limit(BACKTRACK_LIMIT);
        let options = jsonschema::draft202012::options().with_pattern_options(limit).offline();
        let validator = options.build(&json!({"pattern": text})).ok()?;
        Some(Self { text: text.into(), engine: Engine::Backtracking(Arc::new(validator)) })
    }

    /// Whether there is a match anywhere in the text.
    pub fn is_match(&self, text: &str) -> bool {
        match &self.engine {
            Engine::Anchored(anchored) => anchored.is_match(text.as_bytes(), head_of(text.as_bytes())),
            Engine::Linear(regex) => regex.is_match(text.as_bytes()),
            Engine::Backtracking(validator) => validator.is_valid(&Value::String(text.to_owned())),
        }
    }

    /// The same for bytes that are known to be UTF-8; `head` is [`head_of`] them.
    #[inline]
    pub fn is_match_bytes(&self, text: &[u8], head: u128) -> bool {
        match &self.engine {
            Engine::Anchored(anchored) => anchored.is_match(text, head),
            Engine::Linear(regex) => regex.is_match(text),
            Engine::Backtracking(_) => std::str::from_utf8(text).is_ok_and(|text| self.is_match(text)),
        }
    }
}

const DIGIT: &str = "0-9";
const WORD: &str = "A-Za-z0-9_";
const SPACE: &str = r"\x{9}-\x{d}\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}";

type Input<'a> = Peekable<Chars<'a>>;

/// ECMA-262 (with the `u` flag, as JSON Schema has it) to the syntax of the `regex` crate.
fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut input = pattern.chars().peekable();
    while let Some(c) = input.next() {
        match c {
            '\\' => atom_escape(&mut input, &mut out)?,
            '[' => class(&mut input, &mut out)?,
            '(' => group(&mut input, &mut out)?,
            '.' => out.push_str(r"[^\n\r\x{2028}\x{2029}]"),
            '{' => quantifier(&mut input, &mut out)?,
            '^' | '$' | '|' | ')' | '*' | '+' | '?' => out.push(c),
            c => literal(c, &mut out),
        }
    }
    Ok(out)
}

fn literal(c: char, out: &mut String) {
    out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
}

fn code_point(c: char, out: &mut String) {
    out.push_str(&format!("\\x{{{:x}}}", c as u32));
}

fn group(input: &mut Input<'_>, out: &mut String) -> Result<(), String> {
    if input.peek() == Some(&'?') {
        input.next();
        match (input.next(), input.peek()) {
            (Some(':'), _) => {}
            (Some('<'), Some(c)) if !matches!(c, '=' | '!') => {
                // The name of a group says nothing about what matches.
                input.find(|c| *c == '>').ok_or("a group's name has no end")?;
            }
            (Some('=' | '!' | '<'), _) => return Err("look-around cannot be expressed in linear time".into()),
            _ => return Err("a group (?… of this kind is not known".into()),
        }
    }
    out.push_str("(?:");
    Ok(())
}

fn quantifier(input: &mut Input<'_>, out: &mut String) -> Result<(), String> {
    let mut text = String::new();
    for c in input.by_ref() {
        if c == '}' {
            let (low, high) = text.split_once(',').unwrap_or((&text, ""));
            let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
            if low.is_empty() || !digits(low) || !digits(high) {
                break;
            }
            out.push_str(&format!("{{{text}}}"));
            return Ok(());
        }
        text.push(c);
    }
    Err("a { stands alone".into())
}

/// An escape that stands for one character, inside a class or outside.
fn character_escape(c: char, input: &mut Input<'_>) -> Result<char, String> {
    let code = match c {
        't' => 9,
        'n' => 10,
        'v' => 11,
        'f' => 12,
        'r' => 13,
        '0' if !input.peek().is_some_and(char::is_ascii_digit) => 0,
        'c' => match input.next() {
            Some(letter) if letter.is_ascii_alphabetic() => letter as u32 % 32,
            _ => return Err("\\c needs a letter".into()),
        },
        'x' => hex(input, 2)?,
        'u' if input.peek() == Some(&'{') => {
            input.next();
            let digits: String = input.by_ref().take_while(|c| *c != '}').collect();
            u32::from_str_radix(&digits, 16).map_err(|_| "\\u{…} needs hexadecimal digits")?
        }
        'u' => {
            let high = hex(input, 4)?;
            if (0xd800..0xdc00).contains(&high) {
                if (input.next(), input.next()) != (Some('\\'), Some('u')) {
                    return Err("a surrogate stands alone".into());
                }
                let low = hex(input, 4)?;
                if !(0xdc00..0xe000).contains(&low) {
                    return Err("a surrogate stands alone".into());
                }
                0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
            } else {
                high
            }
        }
        c if c.is_ascii_alphanumeric() => return Err(format!("\\{c} is not known")),
        c if c.is_ascii() => c as u32,
        c => return Err(format!("\\{c} is not known")),
    };
    char::from_u32(code).ok_or_else(|| "a code point is out of range".into())
}

fn hex(input: &mut Input<'_>, digits: usize) -> Result<u32, String> {
    let mut value = 0;
    for _ in 0..digits {
        let digit = input.next().and_then(|c| c.to_digit(16)).ok_or("\\x and \\u need hexadecimal digits")?;
        value = value * 16 + digit;
    }
    Ok(value)
}

fn property(c: char, input: &mut Input<'_>) -> Result<String, String> {
    if input.next() != Some('{') {
        return Err("\\p needs braces".into());
    }
    let name: String = input.by_ref().take_while(|c| *c != '}').collect();
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '=')) {
        return Err("\\p{…} needs the name of a property".into());
    }
    Ok(format!("\\{c}{{{name}}}"))
}

/// The set of a class escape (`\d`), without brackets, and whether it is negated.
fn class_escape(c: char) -> Option<(&'static str, bool)> {
    Some(match c {
        'd' => (DIGIT, false),
        'D' => (DIGIT, true),
        'w' => (WORD, false),
        'W' => (WORD, true),
        's' => (SPACE, false),
        'S' => (SPACE, true),
        _ => return None,
    })
}

fn push_set((set, negated): (&str, bool), out: &mut String) {
    out.push_str(if negated { "[^" } else { "[" });
    out.push_str(set);
    out.push(']');
}

fn atom_escape(input: &mut Input<'_>, out: &mut String) -> Result<(), String> {
    let c = input.next().ok_or("the pattern ends in a backslash")?;
    if let Some(set) = class_escape(c) {
        push_set(set, out);
        return Ok(());
    }
    match c {
        'b' => out.push_str(r"(?-u:\b)"),
        'B' => return Err("\\B cannot be expressed over code points".into()),
        'p' | 'P' => out.push_str(&property(c, input)?),
        '1'..='9' | 'k' => return Err("a back-reference cannot be expressed in linear time".into()),
        '-' => return Err("\\- outside a class is not known".into()),
        c => code_point(character_escape(c, input)?, out),
    }
    Ok(())
}

fn class(input: &mut Input<'_>, out: &mut String) -> Result<(), String> {
    let negated = input.peek() == Some(&'^');
    if negated {
        input.next();
    }
    if input.peek() == Some(&']') {
        input.next();
        out.push_str(if negated { r"[\x{0}-\x{10ffff}]" } else { r"[^\x{0}-\x{10ffff}]" });
        return Ok(());
    }
    out.push_str(if negated { "[^" } else { "[" });
    while let Some(from) = class_atom(input, out)? {
        let Some(from) = from else { continue };
        // A range, unless the hyphen is the last of the class.
        let mut ahead = input.clone();
        if ahead.next() == Some('-') && ahead.peek() != Some(&']') {
            input.next();
            match class_atom(input, &mut String::new())? {
                Some(Some(to)) if from <= to => {
                    code_point(from, out);
                    out.push('-');
                    code_point(to, out);
                }
                _ => return Err("a range of a class has no right end".into()),
            }
        } else {
            code_point(from, out);
        }
    }
    out.push(']');
    Ok(())
}

/// One atom of a class: a character, or (`Some(None)`) a set that has been written out; `None` at the end of the class.
fn class_atom(input: &mut Input<'_>, out: &mut String) -> Result<Option<Option<char>>, String> {
    Ok(match input.next().ok_or("a class [ has no end")? {
        ']' => None,
        '\\' => {
            let c = input.next().ok_or("the pattern ends in a backslash")?;
            if let Some(set) = class_escape(c) {
                push_set(set, out);
                Some(None)
            } else if matches!(c, 'p' | 'P') {
                out.push_str(&property(c, input)?);
                Some(None)
            } else if c == 'b' {
                Some(Some('\u{8}'))
            } else {
                Some(Some(character_escape(c, input)?))
            }
        }
        c => Some(Some(c)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::linear(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}")).is_match(text)
    }

    #[test]
    fn classes_are_those_of_ecma() {
        assert!(matches(r"^\d$", "7") && !matches(r"^\d$", "\u{0667}"));
        assert!(matches(r"^\w$", "_") && !matches(r"^\w$", "é") && matches(r"^\W$", "é"));
        assert!(matches(r"^\s$", "\u{feff}") && matches(r"^\s$", "\u{a0}") && !matches(r"^\s$", "\u{85}"));
        assert!(!matches(r"^.$", "\u{2028}") && !matches("^.$", "\r") && matches("^.$", "\u{85}"));
        assert!(matches(r"^[^\S\n]+$", " \t") && !matches(r"^[^\S\n]+$", "\n"));
        assert!(!matches(r"^a$", "a\n"));
        assert!(matches(r"^\p{Letter}+$", "été") && matches(r"[\b]", "\u{8}"));
    }

    #[test]
    fn classes_have_no_set_operations() {
        assert!(matches(r"^[a&&b]+$", "a&b") && matches(r"^[[a]+$", "[a") && matches(r"^[a~~b-]+$", "~-"));
        assert!(!matches("[]", "x") && matches("^[^]$", "\n") && matches(r"^[\w-]+$", "a-b"));
    }

    #[test]
    fn escapes() {
        assert!(
            matches(r"^\u0041\x42\cC\0$", "AB\u{3}\0") && matches(r"^\ud83d\ude00$", "😀") && matches(r"^\/\.$", "/.")
        );
        assert!(matches(r"^(?<year>\d{4})-\d{2}$", "2015-01") && matches(r"^a{2,}?$", "aaa") && matches("^}]$", "}]"));
    }

    #[test]
    fn what_is_not_linear_goes_to_the_other_engine() {
        for pattern in [r"^(?=a)a$", r"(a)\1", r"(?<!x)a", r"\Ba"] {
            assert!(Pattern::linear(pattern).is_err(), "{pattern}");
        }
        assert!(Pattern::any(r"^(?=a)[a-c]+$").unwrap().is_match("abc"));
        assert!(!Pattern::any(r"^(?!a)[a-c]+$").unwrap().is_match("abc"));
        // Would take for ever without the limit.
        assert!(!Pattern::any(r"^(?=(a+)+$)\1b$").unwrap().is_match(&"a".repeat(60)));
        assert!(Pattern::any("(").is_none());
    }
}
