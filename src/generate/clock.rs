//! When events happen: more of them in busy hours than in quiet ones.

use rand_chacha::ChaCha8Rng;

use super::{GenerateOptions, unit};
use crate::error::Result;
use crate::time::{DAY, HOUR};

/// How busy each hour of the day (UTC) is, in hundredths of the mean.
const HOURS: [i64; 24] =
    [55, 45, 38, 35, 35, 42, 58, 78, 95, 106, 112, 116, 122, 118, 112, 110, 114, 124, 138, 152, 158, 148, 116, 73];

/// Goes from one event to the next.
pub(super) struct Clock {
    /// When the last event happened.
    pub now: i64,
    /// Events in a microsecond of this hour, on average.
    pub busy: f64,
    /// The same over the whole span.
    rate: f64,
    hour: i64,
    /// The mean pause between two events in this hour.
    gap: f64,
}

impl Clock {
    pub fn new(options: &GenerateOptions) -> Result<Self> {
        let span = options.span()?;
        let unique = (options.total as f64 * (1.0 - options.duplicate_rate)).max(1.0);
        let rate = unique / (span as f64 * mean_of_hours(options.start, span));
        let mut clock = Self { now: options.start, busy: 0.0, rate, hour: i64::MIN, gap: 0.0 };
        clock.look();
        Ok(clock)
    }

    /// Moves on to the next event: no two happen in the same microsecond. Says whether another hour has begun.
    pub fn pass(&mut self, rng: &mut ChaCha8Rng) -> bool {
        // Evenly between nothing and twice the mean: the crowd makes it irregular enough.
        self.now += ((unit(rng) * 2.0 * self.gap) as i64).max(1);
        self.look()
    }

    fn look(&mut self) -> bool {
        let hour = self.now.div_euclid(HOUR);
        if hour == self.hour {
            return false;
        }
        self.hour = hour;
        self.busy = self.rate * HOURS[hour.rem_euclid(24) as usize] as f64 / 100.0;
        self.gap = 1.0 / self.busy;
        true
    }
}

/// How busy the hours of a span are on average, as a share of the day's mean.
fn mean_of_hours(start: i64, span: i64) -> f64 {
    // Whole days are as busy as any other; what counts is the rest.
    let total: i64 = HOURS.iter().sum();
    let (days, mut rest) = (span / DAY, span % DAY);
    let mut sum = i128::from(days) * i128::from(total) * i128::from(HOUR);
    let mut at = start;
    while rest > 0 {
        let piece = rest.min(HOUR - at.rem_euclid(HOUR));
        sum += i128::from(piece) * i128::from(HOURS[at.div_euclid(HOUR).rem_euclid(24) as usize]);
        at += piece;
        rest -= piece;
    }
    sum as f64 / (span as f64 * 100.0)
}
