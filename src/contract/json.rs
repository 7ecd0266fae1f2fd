//! The lexical rules of JSON (RFC 8259) over bytes that are known to be UTF-8. Everything that reads JSON text here,
//! the fast path and the exact one alike, goes through these functions, so the two cannot disagree about what JSON is.

use super::lanes;

/// A place where the text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syntax {
    /// The byte.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

fn wrong<T>(at: usize, what: &'static str) -> Result<T, Syntax> {
    Err(Syntax { at, what })
}

/// The first byte from `pos` that is no white space.
#[inline(always)]
pub fn skip_space(text: &[u8], mut pos: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = text.get(pos) {
        pos += 1;
    }
    pos
}

/// The first byte from `pos` that ends a run of plain string characters: a quote, a backslash or a control character.
#[inline(always)]
pub fn plain_run(text: &[u8], mut pos: usize) -> usize {
    while let Some(chunk) = lanes::chunk_at(text, pos) {
        let found = lanes::special(chunk);
        if found != 0 {
            return pos + found.trailing_zeros() as usize;
        }
        pos += lanes::WIDTH;
    }
    while let Some(&b) = text.get(pos) {
        if b == b'"' || b == b'\\' || b < 0x20 {
            return pos;
        }
        pos += 1;
    }
    pos
}

/// Reads a string from the byte after its opening quote. Gives the place of the closing quote, and whether there is an
/// escape in it.
#[inline(always)]
pub fn string(text: &[u8], pos: usize) -> Result<(usize, bool), Syntax> {
    let end = plain_run(text, pos);
    match text.get(end) {
        Some(b'"') => Ok((end, false)),
        _ => string_with_escapes(text, end),
    }
}

/// The same, with the first 16 bytes of a string without escapes (zeros after a shorter one) where they are at hand.
#[inline(always)]
pub fn string_with_head(text: &[u8], pos: usize) -> Result<(usize, bool, Option<u128>), Syntax> {
    let Some(chunk) = lanes::chunk_at(text, pos) else {
        return string(text, pos).map(|(end, escaped)| (end, escaped, None));
    };
    let head = u128::from_le_bytes(*chunk);
    let found = lanes::special(chunk);
    if found == 0 {
        let (end, escaped) = string(text, pos + lanes::WIDTH)?;
        return Ok((end, escaped, (!escaped).then_some(head)));
    }
    let length = found.trailing_zeros() as usize;
    if text.get(pos + length) == Some(&b'"') {
        return Ok((pos + length, false, Some(head & lanes::first(length))));
    }
    string_with_escapes(text, pos + length).map(|(end, escaped)| (end, escaped, None))
}

#[inline(never)]
fn string_with_escapes(text: &[u8], mut pos: usize) -> Result<(usize, bool), Syntax> {
    let mut escaped = false;
    loop {
        pos = plain_run(text, pos);
        match text.get(pos) {
            Some(b'"') => return Ok((pos, escaped)),
            Some(b'\\') => {
                escaped = true;
                pos = escape(text, pos)?;
            }
            Some(_) => return wrong(pos, "a control character inside a string has to be escaped"),
            None => return wrong(pos, "the text ends inside a string"),
        }
    }
}

fn escape(text: &[u8], pos: usize) -> Result<usize, Syntax> {
    match text.get(pos + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(pos + 2),
        Some(b'u') => match hex4(text, pos + 2) {
            None => wrong(pos, "\\u needs four hexadecimal digits"),
            Some(0xd800..=0xdbff) => match (text.get(pos + 6), text.get(pos + 7), hex4(text, pos + 8)) {
                (Some(b'\\'), Some(b'u'), Some(0xdc00..=0xdfff)) => Ok(pos + 12),
                _ => wrong(pos, "a surrogate stands alone"),
            },
            Some(0xdc00..=0xdfff) => wrong(pos, "a surrogate stands alone"),
            Some(_) => Ok(pos + 6),
        },
        Some(_) => wrong(pos, "no such escape in a string"),
        None => wrong(pos + 1, "the text ends inside a string"),
    }
}

fn hex4(text: &[u8], pos: usize) -> Option<u32> {
    let mut value = 0;
    for b in text.get(pos..pos + 4)? {
        value = value * 16 + char::from(*b).to_digit(16)?;
    }
    Some(value)
}

/// Appends the meaning of the inside of a string (between its quotes, already found correct) to `out`.
pub fn unescape_into(inside: &[u8], out: &mut Vec<u8>) {
    let mut pos = 0;
    while pos < inside.len() {
        let next = memchr::memchr(b'\\', &inside[pos..]).map_or(inside.len(), |n| pos + n);
        out.extend_from_slice(&inside[pos..next]);
        let Some(kind) = inside.get(next + 1) else { return };
        pos = next + 2;
        let plain = match kind {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut code = hex4(inside, pos).unwrap_or(0xfffd);
                pos += 4;
                if (0xd800..0xdc00).contains(&code) {
                    let low = hex4(inside, pos + 2).unwrap_or(0xdc00);
                    code = 0x10000 + ((code - 0xd800) << 10) + (low.wrapping_sub(0xdc00) & 0x3ff);
                    pos += 6;
                }
                let mut buffer = [0; 4];
                let text = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer);
                out.extend_from_slice(text.as_bytes());
                continue;
            }
            other => *other,
        };
        out.push(plain);
    }
}

/// Reads a number from its first byte. Gives the byte after it, and whether it is written as a plain integer.
#[inline(always)]
pub fn number(text: &[u8], mut pos: usize) -> Result<(usize, bool), Syntax> {
    if text.get(pos) == Some(&b'-') {
        pos += 1;
    }
    match text.get(pos) {
        Some(b'0') => {
            pos += 1;
            if let Some(b'0'..=b'9') = text.get(pos) {
                return wrong(pos, "a number has no leading zeros");
            }
        }
        Some(b'1'..=b'9') => pos = digits(text, pos + 1),
        _ => return wrong(pos, "a number needs a digit here"),
    }
    let mut integer = true;
    if text.get(pos) == Some(&b'.') {
        integer = false;
        let start = pos + 1;
        pos = digits(text, start);
        if pos == start {
            return wrong(pos, "a number needs a digit after its point");
        }
    }
    if let Some(b'e' | b'E') = text.get(pos) {
        integer = false;
        pos += 1;
        if let Some(b'+' | b'-') = text.get(pos) {
            pos += 1;
        }
        let start = pos;
        pos = digits(text, start);
        if pos == start {
            return wrong(pos, "a number needs a digit in its exponent");
        }
    }
    Ok((pos, integer))
}

#[inline(always)]
fn digits(text: &[u8], mut pos: usize) -> usize {
    while let Some(b'0'..=b'9') = text.get(pos) {
        pos += 1;
    }
    pos
}

/// Reads `true`, `false` or `null` from its first byte; gives the byte after it.
#[inline(always)]
pub fn literal(text: &[u8], pos: usize, word: &'static [u8]) -> Result<usize, Syntax> {
    if text.len() >= pos + word.len() && &text[pos..pos + word.len()] == word {
        return Ok(pos + word.len());
    }
    wrong(pos, "no such word in JSON: only true, false and null")
}

/// Appends `text` as a JSON string, quotes included.
pub fn quote_into(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if (c as u32) < 0x20 => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_end_where_they_end() {
        assert_eq!(string(b"abc\" tail", 0), Ok((3, false)));
        assert_eq!(string(b"0123456789abcdef0\"", 0), Ok((17, false)));
        assert_eq!(string(br#"a\"b\\""#, 0), Ok((6, true)));
        assert_eq!(string(br#"\ud83d\ude00""#, 0), Ok((12, true)));
        for bad in
            [&b"abc"[..], b"a\nb\"", b"\\x\"", b"\\", b"\\u12\"", br#"\ud800""#, br#"\ud800\u0041""#, br#"\udc00""#]
        {
            assert!(string(bad, 0).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn escapes_mean_what_the_standard_says() {
        let mut out = Vec::new();
        unescape_into(br#"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z"#, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1f600}z");
    }

    #[test]
    fn numbers_follow_the_grammar() {
        for (good, integer) in
            [("0", true), ("-0", true), ("12", true), ("1.5", false), ("1e9", false), ("-1.0E-2", false)]
        {
            assert_eq!(number(good.as_bytes(), 0), Ok((good.len(), integer)), "{good}");
        }
        for bad in ["", "-", "01", "1.", ".5", "1e", "1e+", "+1", "NaN"] {
            assert!(number(bad.as_bytes(), 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_runs_stop_at_the_first_special_byte() {
        for (len, tail) in (0..40).flat_map(|len| [(len, 0), (len, 20)]) {
            for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
                let mut text = vec![0x80u8; len];
                text.push(special);
                text.extend_from_slice(&b"\"".repeat(tail));
                assert_eq!(plain_run(&text, 0), len);
            }
        }
    }

    proptest! {
        #[test]
        fn a_head_changes_no_string(text in r#"[a"\\u0\n\u{e9}]{0,40}|[ab]{10,36}["\\][ab"]{0,20}"#, pos in 0..44usize) {
            let text = text.as_bytes();
            let with = string_with_head(text, pos);
            prop_assert_eq!(with.map(|(end, escaped, _)| (end, escaped)), string(text, pos));
            if let Ok((end, escaped, Some(head))) = with {
                prop_assert!(!escaped);
                prop_assert_eq!(head, crate::contract::text::head_of(&text[pos..end]));
            }
        }
    }
}
