//! Dates and times of RFC 3339 as numbers. Every path reads them here.

use super::lanes;
use crate::time::{DAY, HOUR, MINUTE, SECOND, days_from_civil};

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

/// The microseconds that lie in the years 0 to 9999 of UTC: beyond them no date can be written, and other tools cannot read a
/// timestamp. An offset may lead there.
pub const YEARS: std::ops::Range<i64> = -719_528 * DAY..2_932_897 * DAY;

/// The microseconds since the Unix epoch of a `date-time` of RFC 3339 in the years 0 to 9999 of UTC. What is finer than a
/// microsecond is cut off; a leap second is the second after it.
#[inline]
pub fn date_time(text: &[u8]) -> Option<i64> {
    if let Some(micros) = <&[u8; 27]>::try_from(text).ok().and_then(|text| common_date_time(text, &mut Day::default()))
    {
        return Some(micros);
    }
    let days = date(text.get(..10)?)?;
    if !matches!(text.get(10)?, b'T' | b't') {
        return None;
    }
    let micros = days * DAY + full_time(&text[11..])?;
    YEARS.contains(&micros).then_some(micros)
}

/// The same of `2024-12-17T00:00:03.567016Z`, where the day is one that every month has; eight characters at a time. None
/// is no answer. `last` is the day that was met last: events mostly have it again.
#[inline(always)]
pub fn common_date_time(text: &[u8; 27], last: &mut Day) -> Option<i64> {
    let (head, clock) = (lanes::chunk_at(text, 0)?, common_clock(text)?);
    let head = u128::from_le_bytes(*head) & lanes::first(11);
    if head != last.head {
        *last = Day { head, micros: common_day(text)? };
    }
    Some(last.micros + clock)
}

/// A day as it stands in a date-time of the common form.
#[derive(Debug, Clone, Copy)]
pub struct Day {
    /// The characters up to the `T`, as one number.
    head: u128,
    /// Its microseconds since the Unix epoch.
    micros: i64,
}

impl Default for Day {
    fn default() -> Self {
        // What no eleven characters are.
        Self { head: u128::MAX, micros: 0 }
    }
}

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

/// One of those numbers.
#[inline(always)]
fn pair(word: u64, at: u32) -> u8 {
    (word >> (8 * at)) as u8
}

/// The day, up to the `T`.
#[inline(never)]
fn common_day(text: &[u8; 27]) -> Option<i64> {
    let (year, rest) = (eight(text, 0, const { form(b"0000-00-") })?, eight(text, 3, const { form(b"0-00-00T") })?);
    let (month, day) = (pair(rest, 2), pair(rest, 5));
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) {
        return None;
    }
    let year = i64::from(pair(year, 0)) * 100 + i64::from(pair(year, 2));
    Some(days_from_civil(year, u32::from(month), u32::from(day)) * DAY)
}

/// The microseconds since midnight, from after the `T` on.
#[inline(always)]
fn common_clock(text: &[u8; 27]) -> Option<i64> {
    let clock = eight(text, 11, const { form(b"00:00:00") })?;
    let rest = eight(text, 19, const { form(b".000000Z") })?;
    let (hour, minute, second) = (pair(clock, 0), pair(clock, 3), pair(clock, 6));
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let clock = i64::from(hour) * HOUR + i64::from(minute) * MINUTE + i64::from(second) * SECOND;
    Some(clock + i64::from(pair(rest, 1)) * 10_000 + i64::from(pair(rest, 3)) * 100 + i64::from(pair(rest, 5)))
}

/// The microseconds since midnight UTC of the day of a `full-time` of RFC 3339 (negative, or beyond a day, where its
/// offset leads to another day).
#[inline]
pub fn full_time(text: &[u8]) -> Option<i64> {
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
