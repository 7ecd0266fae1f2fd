//! Time as the engine counts it: microseconds since the Unix epoch, UTC.

use crate::error::{Error, Result};

/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds in a minute.
pub const MINUTE: i64 = 60 * SECOND;
/// Microseconds in an hour.
pub const HOUR: i64 = 60 * MINUTE;
/// Microseconds in a day.
pub const DAY: i64 = 24 * HOUR;

/// Parses a duration like `250ms`, `30s`, `10m`, `24h` or `7d` into microseconds.
///
/// # Errors
/// [`Error::Settings`] under `name` when the text is no duration or is beyond 64 bits.
pub fn parse_duration(name: &str, text: &str) -> Result<i64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "us" => 1,
        "ms" => 1_000,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        "d" => DAY,
        _ => 0,
    };
    let parsed = digits.parse::<i64>().ok().filter(|_| scale > 0).and_then(|n| n.checked_mul(scale));
    parsed.ok_or_else(|| {
        Error::settings(
            name,
            format!("'{text}' is no duration; write a whole number and a unit: us, ms, s, m, h or d ('30m')"),
        )
    })
}

/// The civil date of a moment, as `YYYY-MM-DD`.
pub fn date_of(micros: i64) -> String {
    let (y, m, d) = civil_from_days(micros.div_euclid(DAY));
    format!("{y:04}-{m:02}-{d:02}")
}

/// Year, month and day of a count of days since 1970-01-01 (Howard Hinnant, *chrono-Compatible Low-Level Date
/// Algorithms*, `civil_from_days`).
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a civil date (`days_from_civil` of the same source).
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = i64::from((month + 9) % 12);
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("gap", "30m").unwrap(), 30 * MINUTE);
        assert_eq!(parse_duration("gap", "100ms").unwrap(), 100_000);
        for bad in ["", "30", "m", "-1s", "1.5h", "99999999999999d"] {
            assert!(parse_duration("gap", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dates_go_there_and_back() {
        for days in (-800_000..800_000).step_by(37) {
            let (y, m, d) = civil_from_days(days);
            assert_eq!(days_from_civil(y, m, d), days);
        }
        assert_eq!(date_of(-1), "1969-12-31");
        assert_eq!(date_of(1_734_393_600 * SECOND), "2024-12-17");
    }
}
