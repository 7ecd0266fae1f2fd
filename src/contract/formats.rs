//! The formats of JSON Schema. The common ones are checked by hand; the rest are the `jsonschema` crate's own checks, so
//! that every path gives one answer.

use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::date_time::{date, date_time, full_time};
use super::lanes::{self, WIDTH};
use super::text::head_of;

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

    /// The same for bytes that are known to be UTF-8; `head` is [`head_of`] them.
    #[inline]
    pub fn accepts_bytes(&self, text: &[u8], head: u128) -> bool {
        match &self.check {
            Check::DateTime => date_time(text).is_some(),
            Check::Date => date(text).is_some(),
            Check::Time => full_time(text).is_some(),
            Check::Uuid => uuid(text),
            Check::Ipv4 => ipv4(text, head),
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
            Check::Ipv4 => ipv4(text.as_bytes(), head_of(text.as_bytes())),
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

/// Whether a text is four numbers up to 255 with full stops between them, none with a zero before it; `head` is
/// [`head_of`] it. Nobody can guess how long the numbers are, so nothing branches on that.
#[inline]
fn ipv4(text: &[u8], head: u128) -> bool {
    // 1.1.1.1 to 255.255.255.255
    if !(7..=15).contains(&text.len()) {
        return false;
    }
    let chunk = head.to_le_bytes();
    // The end is one more full stop.
    let mut rest = lanes::equal(&chunk, b'.') | 1 << text.len();
    if rest | lanes::digits(&chunk) != (2 << text.len()) - 1 {
        return false;
    }
    let mut room = [0; WIDTH + 4];
    if let Some(first) = room.first_chunk_mut() {
        *first = chunk;
    }
    let (mut start, mut fits) = (0, true);
    for _ in 0..4 {
        let digits = rest.trailing_zeros().wrapping_sub(start);
        let four = room[start as usize % WIDTH..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
        // The last digit in the highest byte, zeros in front of the first one: turned round, 0x020505 is 255.
        let number = four.wrapping_shl(32u32.wrapping_sub(digits.wrapping_mul(8))) & 0x0f0f_0f0f;
        fits &=
            (digits.wrapping_sub(1) < 3) & (number.swap_bytes() <= 0x0002_0505) & ((digits == 1) | (four & 15 != 0));
        start = rest.trailing_zeros() + 1;
        rest &= rest.wrapping_sub(1);
    }
    fits && rest == 0
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

    use super::super::date_time::{Day, YEARS, common_date_time};
    use super::*;
    use crate::time::{DAY, HOUR, MINUTE, SECOND};

    #[test]
    fn date_times_become_microseconds() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2015-01-01T00:00:00.123456789Z", 1_420_070_400_123_456),
            ("2015-01-01t01:00:00+01:00", 1_420_070_400_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("1969-12-31T23:59:59.9-00:00", -100_000),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000_000),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
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
            // In UTC these are of years that cannot be written.
            "0000-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-00:01",
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
        "9999-12-31T23:29:60.789-00:30",
        "0000-01-01T00:29:00+00:30",
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
                        let digits = bytes.len() > 19 && digits(&bytes[..10], &[4, 7]) && digits(&bytes[11..19], &[2, 5]);
                        // It does not mind where an offset leads.
                        let moment = || Some(date(&bytes[..10])? * DAY + full_time(&bytes[11..])?);
                        digits && tail(&bytes[19..]) && moment().is_none_or(|micros| YEARS.contains(&micros))
                    },
                    "date" => digits(bytes, &[4, 7]),
                    "time" => bytes.len() > 8 && digits(&bytes[..8], &[2, 5]) && tail(&bytes[8..]),
                    _ => true,
                };
                let own = Format::of(name).unwrap().accepts(&text);
                prop_assert!(own == theirs, "{} {}", name, text);
            }
        }
    }

    proptest! {
        #[test]
        fn the_common_way_says_what_the_general_one_does(
            text in near(&["2024-12-17T00:00:03.567016Z"]),
            before in near(&["2024-12-17T00:00:03.567016Z"]),
        ) {
            let mut day = Day::default();
            if let Ok(before) = before.as_bytes().try_into() {
                common_date_time(before, &mut day);
            }
            let text = text.as_bytes();
            let general = date(text.get(..10).unwrap_or_default()).and_then(|days| {
                let clock = full_time(text.get(11..)?).filter(|_| matches!(text[10], b'T' | b't'))?;
                Some(days * DAY + clock)
            });
            let common = <&[u8; 27]>::try_from(text).ok().and_then(|text| common_date_time(text, &mut day));
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
            prop_assert_eq!(Format::of("ipv4").unwrap().accepts(&text), text.parse::<std::net::Ipv4Addr>().is_ok());
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
