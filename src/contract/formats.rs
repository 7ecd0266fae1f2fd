//! The formats of JSON Schema. The common ones are checked by hand; the rest are the `jsonschema` crate's own checks, so
//! that every path gives one answer.

use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::lanes::{self, WIDTH};
use crate::time::{DAY, HOUR, MINUTE, SECOND, days_from_civil};

/// Formats that are asserted; any other name is an annotation.
pub const KNOWN: &[&str] = &[
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "idn-email",
    "hostname",
    "idn-hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uri-reference",
    "iri",
    "iri-reference",
    "uuid",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "regex",
];

/// A format that can be checked.
#[derive(Clone)]
pub struct Format {
    /// Its name in the schema.
    pub name: &'static str,
    check: Check,
}

#[derive(Clone)]
enum Check {
    DateTime,
    Date,
    Time,
    Uuid,
    Ipv4,
    Ipv6,
    Uri(Arc<jsonschema::Validator>),
    Other(Arc<jsonschema::Validator>),
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Format {
    /// The format of this name; none when it is not one of the standard's.
    pub fn of(name: &str) -> Option<Self> {
        let name = KNOWN.iter().copied().find(|known| *known == name)?;
        let check = match name {
            "date-time" => Check::DateTime,
            "date" => Check::Date,
            "time" => Check::Time,
            "uuid" => Check::Uuid,
            "ipv4" => Check::Ipv4,
            "ipv6" => Check::Ipv6,
            "uri" => Check::Uri(Arc::new(from_crate(name)?)),
            _ => Check::Other(Arc::new(from_crate(name)?)),
        };
        Some(Self { name, check })
    }

    /// Whether this is `date-time`.
    pub fn is_date_time(&self) -> bool {
        matches!(self.check, Check::DateTime)
    }

    /// The same for bytes that are known to be UTF-8.
    #[inline]
    pub fn accepts_bytes(&self, text: &[u8]) -> bool {
        match &self.check {
            Check::DateTime => date_time(text).is_some(),
            Check::Date => date(text).is_some(),
            Check::Time => full_time(text).is_some(),
            Check::Uuid => uuid(text),
            Check::Ipv4 => ipv4(text),
            Check::Uri(_) if common_uri(text) => true,
            _ => std::str::from_utf8(text).is_ok_and(|text| self.accepts(text)),
        }
    }

    /// Whether a text is of this format.
    pub fn accepts(&self, text: &str) -> bool {
        match &self.check {
            Check::DateTime => date_time(text.as_bytes()).is_some(),
            Check::Date => date(text.as_bytes()).is_some(),
            Check::Time => full_time(text.as_bytes()).is_some(),
            Check::Uuid => uuid(text.as_bytes()),
            Check::Ipv4 => ipv4(text.as_bytes()),
            Check::Ipv6 => Ipv6Addr::from_str(text).is_ok(),
            Check::Uri(_) if common_uri(text.as_bytes()) => true,
            Check::Uri(validator) | Check::Other(validator) => validator.is_valid(&Value::String(text.to_owned())),
        }
    }
}

fn from_crate(name: &str) -> Option<jsonschema::Validator> {
    jsonschema::draft202012::options().should_validate_formats(true).offline().build(&json!({"format": name})).ok()
}

/// The options of the crate with our own checks in the place of its own, which take a full stop for a digit in dates
/// and times.
pub fn install<R>(options: jsonschema::ValidationOptions<'_, R>) -> jsonschema::ValidationOptions<'_, R> {
    options
        .with_format("date-time", |text: &str| date_time(text.as_bytes()).is_some())
        .with_format("date", |text: &str| date(text.as_bytes()).is_some())
        .with_format("time", |text: &str| full_time(text.as_bytes()).is_some())
}

#[inline]
fn two(text: &[u8], at: usize) -> Option<u32> {
    let (a, b) = (text.get(at)?.wrapping_sub(b'0'), text.get(at + 1)?.wrapping_sub(b'0'));
    (a < 10 && b < 10).then(|| u32::from(a) * 10 + u32::from(b))
}

/// The days since 1970-01-01 of a `full-date` of RFC 3339.
#[inline]
pub fn date(text: &[u8]) -> Option<i64> {
    if text.len() != 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let year = two(text, 0)? * 100 + two(text, 2)?;
    let (month, day) = (two(text, 5)?, two(text, 8)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    (1..=last).contains(&day).then(|| days_from_civil(i64::from(year), month, day))
}

/// The microseconds since the Unix epoch of a `date-time` of RFC 3339. What is finer than a microsecond is cut off; a
/// leap second is the second after it.
#[inline]
pub fn date_time(text: &[u8]) -> Option<i64> {
    if let Some(micros) = <&[u8; 27]>::try_from(text).ok().and_then(common_date_time) {
        return Some(micros);
    }
    let days = date(text.get(..10)?)?;
    if !matches!(text.get(10)?, b'T' | b't') {
        return None;
    }
    Some(days * DAY + full_time(&text[11..])?)
}

/// The same of `2024-12-17T00:00:03.567016Z`, where the day is one that every month has; eight characters at a time. None
/// is no answer.
#[inline]
pub fn common_date_time(text: &[u8; 27]) -> Option<i64> {
    /// Eight characters as they have to be, 0 for any digit; and what takes a byte that is none of them beyond 127.
    const fn form(form: &[u8; 8]) -> (u64, u64) {
        let (mut guard, mut at) = ([0x7f; 8], 0);
        while at < 8 {
            if form[at] == b'0' {
                guard[at] = 0x76;
            }
            at += 1;
        }
        (u64::from_le_bytes(*form), u64::from_le_bytes(guard))
    }
    /// Each of the eight characters with the one after it as a number of two digits.
    #[inline(always)]
    fn eight(text: &[u8; 27], at: usize, (form, guard): (u64, u64)) -> Option<u64> {
        // A digit is a byte below 10 now, and what has to be there is 0. A carry only follows on a byte that is wrong.
        let word = u64::from_le_bytes(*text[at..].first_chunk()?) ^ form;
        let wrong = (word.wrapping_add(guard) | word) & 0x8080_8080_8080_8080;
        (wrong == 0).then(|| (word * 10).wrapping_add(word >> 8))
    }
    const DATE: (u64, u64) = form(b"0000-00-");
    const HOURS: (u64, u64) = form(b"00T00:00");
    const SECONDS: (u64, u64) = form(b":00.0000");
    const REST: (u64, u64) = form(b".000000Z");
    let two = |word: u64, at: u32| (word >> (8 * at)) as u8;
    let (date, hours) = (eight(text, 0, DATE)?, eight(text, 8, HOURS)?);
    let (seconds, rest) = (eight(text, 16, SECONDS)?, eight(text, 19, REST)?);
    let (month, day) = (two(date, 5), two(hours, 0));
    let (hour, minute, second) = (two(hours, 3), two(hours, 6), two(seconds, 1));
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let year = i64::from(two(date, 0)) * 100 + i64::from(two(date, 2));
    let clock = i64::from(hour) * HOUR + i64::from(minute) * MINUTE + i64::from(second) * SECOND;
    let micros = i64::from(two(rest, 1)) * 10_000 + i64::from(two(rest, 3)) * 100 + i64::from(two(rest, 5));
    Some(days_from_civil(year, u32::from(month), u32::from(day)) * DAY + clock + micros)
}

/// The microseconds since midnight UTC of the day of a `full-time` of RFC 3339 (negative, or beyond a day, where its
/// offset leads to another day).
#[inline]
fn full_time(text: &[u8]) -> Option<i64> {
    if *text.get(2)? != b':' || *text.get(5)? != b':' {
        return None;
    }
    let (hour, minute, second) = (two(text, 0)?, two(text, 3)?, two(text, 6)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 8;
    let mut micros = 0;
    if text.get(at) == Some(&b'.') {
        at += 1;
        let start = at;
        let mut scale = 100_000;
        while let Some(digit @ b'0'..=b'9') = text.get(at) {
            micros += i64::from(digit - b'0') * scale;
            scale /= 10;
            at += 1;
        }
        if at == start {
            return None;
        }
    }
    let offset = match text.get(at)? {
        b'Z' | b'z' if text.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if text.len() == at + 6 && text[at + 3] == b':' => {
            let (hours, minutes) = (two(text, at + 1)?, two(text, at + 4)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = i64::from(hours) * HOUR + i64::from(minutes) * MINUTE;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let time = i64::from(hour) * HOUR + i64::from(minute) * MINUTE + i64::from(second) * SECOND - offset;
    // A leap second is the last of a day of UTC.
    (second < 60 || time.rem_euclid(DAY) == 0).then_some(time + micros)
}

/// Whether a text is a URI of the common form: a scheme, `://`, a host, then perhaps a path and a query, without
/// percent-encoding. False is no answer.
#[inline]
fn common_uri(text: &[u8]) -> bool {
    const IN_PATH: [bool; 256] = {
        let (mut table, mut byte, mut more) = ([false; 256], 0, b"-._~!$&'()*+,;=:@/?".as_slice());
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        while let [first, rest @ ..] = more {
            table[*first as usize] = true;
            more = rest;
        }
        table
    };
    let ends = |text: &[u8], within: fn(&u8) -> bool| text.iter().position(|b| !within(b)).unwrap_or(text.len());
    let scheme = ends(text, u8::is_ascii_lowercase);
    let Some(rest) = text[scheme..].strip_prefix(b"://") else { return false };
    let host = ends(rest, |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    let path = &rest[host..];
    scheme > 0 && host > 0 && matches!(path, [] | [b'/', ..]) && path.iter().all(|b| IN_PATH[usize::from(*b)])
}

/// Whether a text is four numbers up to 255 with full stops between them, none with a zero before it.
#[inline]
fn ipv4(text: &[u8]) -> bool {
    // 1.1.1.1 to 255.255.255.255
    if !(7..=15).contains(&text.len()) {
        return false;
    }
    let mut chunk = [0; WIDTH];
    chunk[..text.len()].copy_from_slice(text);
    let mut dots = lanes::equal(&chunk, b'.');
    if dots.count_ones() != 3 || (dots | lanes::digits(&chunk)) + 1 != 1 << text.len() {
        return false;
    }
    let mut start = 0;
    for _ in 0..4 {
        let end = if dots == 0 { text.len() } else { dots.trailing_zeros() as usize };
        dots &= dots.wrapping_sub(1);
        let fits = match text.get(start..end) {
            Some([_]) => true,
            Some([first, _]) => *first != b'0',
            Some([first, second, third]) => {
                *first == b'1' || *first == b'2' && (*second < b'5' || *second == b'5' && *third <= b'5')
            }
            _ => false,
        };
        if !fits {
            return false;
        }
        start = end + 1;
    }
    true
}

/// Whether a text is 32 hexadecimal digits with hyphens where a UUID has them.
#[inline]
fn uuid(text: &[u8]) -> bool {
    text.try_into().is_ok_and(is_uuid)
}

/// The same of as many bytes as a UUID has.
#[inline]
pub fn is_uuid(text: &[u8; 36]) -> bool {
    let (Some(head), Some(middle), Some(tail)) =
        (lanes::chunk_at(text, 0), lanes::chunk_at(text, 16), lanes::chunk_at(text, 20))
    else {
        return false;
    };
    // Every byte is a digit but the four that are hyphens.
    let digits = u64::from(lanes::hex(head)) | u64::from(lanes::hex(middle)) << 16 | u64::from(lanes::hex(tail)) << 20;
    const HYPHENS: u64 = 1 << 8 | 1 << 13 | 1 << 18 | 1 << 23;
    digits == (1 << 36) - 1 - HYPHENS && text[8] == b'-' && text[13] == b'-' && text[18] == b'-' && text[23] == b'-'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn date_times_become_microseconds() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2015-01-01T00:00:00.123456789Z", 1_420_070_400_123_456),
            ("2015-01-01t01:00:00+01:00", 1_420_070_400_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("1969-12-31T23:59:59.9-00:00", -100_000),
        ] {
            assert_eq!(date_time(text.as_bytes()), Some(micros), "{text}");
        }
        assert_eq!(date_time(b"2024-12-17T23:59:03.567016Z"), Some(1_734_479_943_567_016));
        for bad in [
            "2024-12-17T23:59:03.56701\u{fa}",
            "2015-02-29T00:00:00Z",
            "2015-01-01 00:00:00Z",
            "2015-01-01T24:00:00Z",
            "2016-12-31T22:59:60Z",
            "2015-01-01T00:00:00",
        ] {
            assert_eq!(date_time(bad.as_bytes()), None, "{bad}");
        }
    }

    /// Texts near the edge of a format: a right one with a few characters changed.
    fn near(seeds: &'static [&'static str]) -> impl Strategy<Value = String> {
        let change = (
            any::<prop::sample::Index>(),
            prop::sample::select("0123456789-:.TtZz+ abfF٣/".chars().collect::<Vec<_>>()),
            0..3,
        );
        (prop::sample::select(seeds), prop::collection::vec(change, 0..4)).prop_map(|(seed, changes)| {
            let mut chars: Vec<char> = seed.chars().collect();
            for (at, c, how) in changes {
                let at = at.index(chars.len() + 1);
                match how {
                    0 if at < chars.len() => chars[at] = c,
                    1 => chars.insert(at, c),
                    _ if at < chars.len() => _ = chars.remove(at),
                    _ => {}
                }
            }
            chars.into_iter().collect()
        })
    }

    const SEEDS: &[&str] = &[
        "2024-12-17T00:00:03.567016Z",
        "2024-02-29T23:59:59.000001Z",
        "2015-01-01T00:00:00Z",
        "2024-02-29T23:59:60+00:00",
        "1999-12-31T12:34:56.789-11:30",
        "2016-12-31T15:59:60-08:00",
        "2015-01-01",
        "12:34:56.789-11:30",
        "2eb8aa08-aa98-11ea-b4aa-73b441d16380",
        "192.168.0.255",
        "::ffff:192.168.0.1",
        "fe80::1",
    ];

    proptest! {
        #[test]
        fn own_checks_say_what_the_crate_says(text in near(SEEDS)) {
            for name in ["date-time", "date", "time", "uuid", "ipv4", "ipv6"] {
                let bytes = text.as_bytes();
                let mut theirs = from_crate(name).unwrap().is_valid(&json!(text));
                // The crate takes some other characters for digits in dates and times.
                theirs &= match name {
                    "date-time" => {
                        bytes.len() > 19 && digits(&bytes[..10], &[4, 7]) && digits(&bytes[11..19], &[2, 5]) && tail(&bytes[19..])
                    },
                    "date" => digits(bytes, &[4, 7]),
                    "time" => bytes.len() > 8 && digits(&bytes[..8], &[2, 5]) && tail(&bytes[8..]),
                    _ => true,
                };
                prop_assert_eq!(Format::of(name).unwrap().accepts(&text), theirs, "{} {}", name, text);
            }
        }
    }

    proptest! {
        #[test]
        fn the_common_way_says_what_the_general_one_does(text in near(&["2024-12-17T00:00:03.567016Z"])) {
            let text = text.as_bytes();
            let general = date(text.get(..10).unwrap_or_default()).and_then(|days| {
                let clock = full_time(text.get(11..)?).filter(|_| matches!(text[10], b'T' | b't'))?;
                Some(days * DAY + clock)
            });
            let common = <&[u8; 27]>::try_from(text).ok().and_then(common_date_time);
            prop_assert!(common.is_none() || common == general);
            prop_assert_eq!(date_time(text), general);
        }

        #[test]
        fn common_uris_are_uris(
            text in near(&["https://www.example.com/a/b?c=d", "http://x", "ab://x.y/?"]),
            any in "[a-z]{1,3}:?/{0,3}[a-zA-Z0-9.@:-]{0,4}[/?#]?[ -~\u{e9}]{0,6}",
        ) {
            let uri = from_crate("uri").unwrap();
            for text in [text, any] {
                prop_assert!(!common_uri(text.as_bytes()) || uri.is_valid(&json!(text)), "{}", text);
                prop_assert_eq!(Format::of("uri").unwrap().accepts(&text), uri.is_valid(&json!(text)), "{}", text);
            }
        }

        #[test]
        fn addresses_are_those_of_the_library(text in near(&["192.168.0.255", "0.10.200.99", "1.1.1.1", "255.255.255.255"])) {
            prop_assert_eq!(ipv4(text.as_bytes()), text.parse::<std::net::Ipv4Addr>().is_ok());
        }

        #[test]
        fn every_moment_is_read(micros in 0i64..4_102_444_800_000_000) {
            let (seconds, clock) = (micros / SECOND, micros % DAY);
            let [hour, minute] = [HOUR, MINUTE].map(|unit| clock / unit);
            let text = format!(
                "{}T{hour:02}:{:02}:{:02}.{:06}Z",
                crate::time::date_of(micros),
                minute % 60,
                seconds % 60,
                micros % SECOND
            );
            prop_assert_eq!(date_time(text.as_bytes()), Some(micros));
        }
    }

    fn digits(text: &[u8], except: &[usize]) -> bool {
        text.iter().enumerate().all(|(i, b)| except.contains(&i) || b.is_ascii_digit())
    }

    fn tail(text: &[u8]) -> bool {
        let offset = if text.ends_with(b"Z") || text.ends_with(b"z") { 1 } else { 6.min(text.len()) };
        let (fraction, offset) = text.split_at(text.len() - offset);
        digits(fraction, &[0]) && (offset.len() == 1 || digits(offset, &[0, 3]))
    }
}
