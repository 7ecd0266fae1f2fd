//! An even rate.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How far behind its rate it may fall and still catch up; what is lost beyond is not made good by a flood.
const MOST_BEHIND: Duration = Duration::from_secs(1);

/// Says when the next event may go.
pub(super) struct Pace {
    gap: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// So many events a second.
    ///
    /// # Errors
    /// [`Error::Settings`] where that is no rate.
    pub fn new(per_second: f64) -> Result<Self> {
        let gap = Duration::try_from_secs_f64(1.0 / per_second).ok().filter(|_| per_second.is_finite());
        match gap.filter(|gap| *gap <= Duration::from_secs(86_400)) {
            Some(gap) => Ok(Self { gap, next: None }),
            None => Err(Error::settings("events_per_second", format!("{per_second} is no rate; it must be above 0"))),
        }
    }

    /// How long the next event has to wait; nothing: it goes now, and the one after it becomes the next.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let next = *self.next.get_or_insert(now);
        let wait = next.saturating_duration_since(now);
        if wait.is_zero() {
            let behind = now.saturating_duration_since(next).min(MOST_BEHIND);
            self.next = Some((now - behind).max(next) + self.gap);
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many go until `to`, asked every `step`.
    fn run(pace: &mut Pace, from: Instant, to: Duration, step: Duration) -> usize {
        let mut sent = 0;
        let mut now = from;
        while now < from + to {
            while pace.wait(now).is_zero() {
                sent += 1;
            }
            now += step;
        }
        sent
    }

    #[test]
    fn as_many_go_as_were_asked_for_however_often_it_is_asked() {
        for rate in [1.0, 7.5, 100.0, 50_000.0] {
            for step in [1, 3, 50] {
                let mut pace = Pace::new(rate).unwrap();
                let sent = run(&mut pace, Instant::now(), Duration::from_secs(20), Duration::from_millis(step));
                let expected = rate * 20.0;
                assert!((sent as f64 - expected).abs() <= rate * 0.05 + 1.0, "{rate}: {sent}");
            }
        }
    }

    #[test]
    fn a_stall_is_not_followed_by_a_flood() {
        let mut pace = Pace::new(1_000.0).unwrap();
        let begin = Instant::now();
        run(&mut pace, begin, Duration::from_secs(1), Duration::from_millis(1));
        let after = begin + Duration::from_secs(61);
        let sent = run(&mut pace, after, Duration::from_secs(1), Duration::from_millis(1));
        assert!((1_900..=2_010).contains(&sent), "{sent}: a second's worth is caught up, not a minute's");
    }

    #[test]
    fn only_a_rate_is_a_rate() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-12] {
            assert!(Pace::new(bad).is_err(), "{bad}");
        }
        assert!(Pace::new(0.5).is_ok());
    }
}
