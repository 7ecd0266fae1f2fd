//! Events made up, for demos, tests and benchmarks: realistic, with flaws on purpose, and with the truth beside them.
//!
//! A *profile* knows what the events of one pipeline look like ([`ecommerce`], [`payments`]); this module spoils some of them
//! ([`Flaw`]), delivers some late, out of order and twice, and counts what it does ([`Truth`]), so that whoever reads
//! the events can be checked against it to the last one. The same options give the same bytes on every machine (ChaCha,
//! and arithmetic that does not depend on a maths library). Memory follows the number of users, not of events.

mod clock;
mod delivery;
mod draft;
pub mod ecommerce;
mod file;
mod flaws;
mod names;
pub mod payments;
mod truth;

use std::collections::VecDeque;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use file::{generate_file, generate_into};
pub use flaws::Flaw;
pub use truth::{Expected, Hour, Truth};

use self::delivery::Delivery;
use self::draft::Draft;
use self::names::Names;
use crate::error::{Error, Result};
use crate::time::{DAY, HOUR, MINUTE, SECOND};

/// 2024-12-17T00:00:00Z.
pub const DEFAULT_START: i64 = 1_734_393_600 * SECOND;

/// Whose events these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// A shop: sign-ups, page views, purchases, failed payments.
    Ecommerce,
    /// Transactions, and when they were processed.
    Payments,
}

impl Profile {
    /// Every profile.
    pub const ALL: &[Profile] = &[Profile::Ecommerce, Profile::Payments];

    /// The name, as the pipeline has it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Ecommerce => "ecommerce",
            Profile::Payments => "payments",
        }
    }

    /// Whether its pipeline waits long enough for the events that come late: then they are in Silver.
    pub fn covers_late(self) -> bool {
        self == Profile::Payments
    }

    /// Whether its pipeline holds events until the watermark has passed them.
    pub fn holds(self) -> bool {
        self == Profile::Ecommerce
    }

    fn names(self) -> &'static Names {
        match self {
            Profile::Ecommerce => &ecommerce::NAMES,
            Profile::Payments => &payments::NAMES,
        }
    }

    /// The flaws that were asked for, or all that are usual.
    fn flaws(self, options: &GenerateOptions) -> Result<Vec<Flaw>> {
        let suits = |flaw: &Flaw| flaw.suits(self.names());
        let Some(asked) = &options.flaws else { return Ok(Flaw::DEFAULT.iter().copied().filter(suits).collect()) };
        match asked.iter().find(|flaw| !suits(flaw)) {
            None => Ok(asked.clone()),
            Some(flaw) => Err(Error::settings(
                "flaws",
                format!(
                    "events of {} name no event type and no version, so none can have '{}'",
                    self.name(),
                    flaw.as_str()
                ),
            )),
        }
    }

    /// The profile of this name.
    ///
    /// # Errors
    /// [`Error::Settings`] where there is none.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|p| p.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|p| p.name()).collect();
            Error::settings("profile", format!("'{name}' makes no events; there are: {}", names.join(", ")))
        })
    }
}

/// What to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// How many events, counting flawed ones and duplicates.
    pub total: u64,
    /// The same seed gives the same events.
    pub seed: u64,
    /// The share of events with a flaw.
    pub bad_rate: f64,
    /// The share of events that are delivered a second time.
    pub duplicate_rate: f64,
    /// The share of events that come between one and twelve hours after they happened.
    pub late_rate: f64,
    /// How many users there are; a twentieth of `total` unless told, 1,000,000 at most.
    pub users: Option<u32>,
    /// When the first event happens, in microseconds since the Unix epoch.
    pub start: i64,
    /// Over how much time the events spread, in microseconds; a day unless told.
    pub span: Option<i64>,
    /// How many events happen in a second, instead of `span`.
    pub events_per_second: Option<f64>,
    /// How much later than a newer one an event may come, in microseconds, beside what its profile makes some wait.
    pub max_disorder: i64,
    /// Which flaws there are; all but [`Flaw::TooLarge`] (a MiB an event) unless told.
    pub flaws: Option<Vec<Flaw>>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            total: 10_000,
            seed: 0,
            bad_rate: 0.01,
            duplicate_rate: 0.02,
            late_rate: 0.0,
            users: None,
            start: DEFAULT_START,
            span: None,
            events_per_second: None,
            max_disorder: MINUTE,
            flaws: None,
        }
    }
}

impl GenerateOptions {
    /// How many users there are.
    pub fn users(&self) -> u32 {
        self.users.unwrap_or_else(|| (self.total / 20).clamp(10, 1_000_000) as u32)
    }

    /// Over how much time the events spread.
    ///
    /// # Errors
    /// [`Error::Settings`] where span and rate do not make sense.
    pub fn span(&self) -> Result<i64> {
        let span = match (self.span, self.events_per_second) {
            (Some(_), Some(_)) => {
                return Err(Error::settings("events_per_second", "says the same as span; give one of the two"));
            }
            (Some(span), None) => span,
            (None, Some(rate)) if rate > 0.0 && rate.is_finite() => (self.total as f64 / rate * SECOND as f64) as i64,
            (None, Some(rate)) => {
                return Err(Error::settings("events_per_second", format!("{rate} is no rate; it must be above 0")));
            }
            (None, None) => DAY,
        };
        if !(1..=100_000 * DAY).contains(&span) {
            return Err(Error::settings("span", "must be more than nothing and less than 100,000 days"));
        }
        Ok(span)
    }

    /// Checks them.
    ///
    /// # Errors
    /// [`Error::Settings`] where they do not make sense.
    pub fn check(&self) -> Result<()> {
        for (name, rate) in
            [("bad_rate", self.bad_rate), ("duplicate_rate", self.duplicate_rate), ("late_rate", self.late_rate)]
        {
            if !(0.0..=1.0).contains(&rate) {
                return Err(Error::settings(name, format!("{rate} is no share; it must be from 0 to 1")));
            }
        }
        let good = self.good_rate();
        if self.duplicate_rate > good || (good <= 0.0 && self.bad_rate < 1.0) {
            return Err(Error::settings(
                "duplicate_rate",
                format!(
                    "bad, late and duplicate events leave a share of {good:.2} good ones, of which each can come twice at most; lower the rates"
                ),
            ));
        }
        if self.users() == 0 {
            return Err(Error::settings("users", "there must be at least one"));
        }
        if !(0..=HOUR).contains(&self.max_disorder) {
            return Err(Error::settings("max_disorder", "must be from 0 to one hour"));
        }
        // Times are written with four digits of the year, and flawed ones lie in 2199.
        let end = self.start.checked_add(self.span()?);
        if self.start < 0 || end.is_none_or(|end| end > 7_000_000_000 * SECOND) {
            return Err(Error::settings("start", "events must lie between the years 1970 and 2191"));
        }
        Ok(())
    }

    fn good_rate(&self) -> f64 {
        1.0 - self.bad_rate - self.duplicate_rate - self.late_rate
    }
}

/// One of the events that a profile makes up, good so far.
struct Event<'a> {
    draft: &'a mut Draft,
    key: &'a str,
    at: i64,
    /// When it is there to be read, if nothing holds it up.
    arrives: i64,
    /// Whether moving its time does no harm to what the truth says of users.
    may_be_late: bool,
}

/// Whoever the events of a profile come from.
trait World {
    /// The next event, in the order of their times.
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Event<'_>;
    /// The last event is handed out with this time.
    fn happened(&mut self, at: i64);
    /// The last event was handed out without a flaw and in time: it counts.
    fn accepted(&mut self, truth: &mut Truth);
}

/// An event that is handed out.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// Which: events are numbered from 0 in the order in which they were made, not in that in which they come out.
    pub number: u64,
    /// The event as JSON, without an end of line.
    pub line: &'a [u8],
    /// The key of its message.
    pub key: &'a str,
}

/// Makes events and hands each, as one line without its end, to `out` together with its message key.
///
/// `progress` hears now and then how many events were handed out; an error from it (or from `out`) ends the work.
///
/// # Errors
/// [`Error::Settings`] where the options do not make sense; otherwise what `out` and `progress` return.
pub fn generate(
    profile: Profile,
    options: &GenerateOptions,
    out: &mut dyn FnMut(Made<'_>) -> Result<()>,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Truth> {
    make(profile, options, options.total, &|_| true, out, progress)
}

/// A good event of a visitor who comes for nothing else: it tells readers that time has gone on until `at`. Its line goes
/// to `line`; gives its key.
pub fn heartbeat(profile: Profile, options: &GenerateOptions, at: i64, visitor: u32, line: &mut Vec<u8>) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ at as u64 ^ u64::from(visitor) << 48);
    match profile {
        Profile::Ecommerce => ecommerce::heartbeat(&mut rng, at, visitor, line),
        Profile::Payments => payments::heartbeat(&mut rng, at, line),
    }
}

/// The truth when not every event arrived: of the first `made` those for which `arrived` says so (by their numbers).
///
/// # Errors
/// As [`generate`].
pub fn truth_of(
    profile: Profile,
    options: &GenerateOptions,
    made: u64,
    arrived: &dyn Fn(u64) -> bool,
) -> Result<Truth> {
    let (mut total, mut bytes) = (0, 0);
    let mut count = |made: Made<'_>| {
        if arrived(made.number) {
            total += 1;
            bytes += made.line.len() as u64 + 1;
        }
        Ok(())
    };
    let mut truth = make(profile, options, made, arrived, &mut count, &mut |_| Ok(()))?;
    truth.arrived(total, bytes);
    Ok(truth)
}

/// Makes the first `most` events; in the truth are those that arrive.
fn make(
    profile: Profile,
    options: &GenerateOptions,
    most: u64,
    arrives: &dyn Fn(u64) -> bool,
    out: &mut dyn FnMut(Made<'_>) -> Result<()>,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Truth> {
    options.check()?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut world: Box<dyn World> = match profile {
        Profile::Ecommerce => Box::new(ecommerce::Shop::new(options, &mut rng)?),
        Profile::Payments => Box::new(payments::Payments::new(options)?),
    };
    let (flaws, names) = (profile.flaws(options)?, profile.names());
    let mut truth = Truth::new(profile, options);
    let mut delivery = Delivery::new(out, progress);
    let unique = 1.0 - options.duplicate_rate;
    let good = options.good_rate().max(f64::MIN_POSITIVE);
    let (bad, late, twice) = (options.bad_rate / unique, options.late_rate / unique, options.duplicate_rate / good);
    let mut line = Vec::with_capacity(1_024);
    let mut due_flaws = VecDeque::new();
    let mut left = options.total;
    while left > 0 && delivery.sent() < most {
        left -= 1;
        let draw = unit(&mut rng);
        let event = world.next(&mut rng);
        let (at, arrives_at) = (event.at, event.arrives);
        delivery.pass(at)?;
        if draw < bad && !flaws.is_empty() {
            due_flaws.push_back(one_of(&mut rng, &flaws));
        }
        // A flaw that this event cannot have waits for one that can.
        let flaw = due_flaws.iter().position(|f| f.fits(event.draft, names)).and_then(|i| due_flaws.remove(i));
        if let Some(flaw) = flaw {
            flaw.spoil(event.draft, names, at, &mut rng, &mut line);
            let delay = delay(options.max_disorder, &mut rng);
            if arrives(delivery.send(&line, event.key, arrives_at + delay)?) {
                truth.flawed(flaw);
            }
            continue;
        }
        let behind = HOUR + (unit(&mut rng) * (11 * HOUR) as f64) as i64;
        if draw >= bad && draw < bad + late && event.may_be_late && at - behind >= options.start {
            event.draft.time(names.time, at - behind);
            event.draft.render(&mut line);
            let arrived = arrives(delivery.send(&line, event.key, arrives_at)?);
            if arrived && profile.covers_late() {
                world.happened(at - behind);
                world.accepted(&mut truth);
            } else if arrived {
                truth.late();
            }
            continue;
        }
        event.draft.render(&mut line);
        let due = arrives_at + delay(options.max_disorder, &mut rng);
        let mut copies = u32::from(arrives(delivery.send(&line, event.key, due)?));
        if left > 0 && unit(&mut rng) < twice {
            left -= 1;
            let again = due + SECOND + (unit(&mut rng) * (5 * MINUTE) as f64) as i64;
            copies += u32::from(arrives(delivery.send(&line, event.key, again)?));
        }
        if copies == 2 {
            truth.duplicate();
        }
        if copies > 0 {
            world.accepted(&mut truth);
        }
    }
    truth.bytes = delivery.finish()?;
    truth.finish();
    Ok(truth)
}

/// From 0 up to but not including 1.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A number below `n`; the bias of the plain product is below one in a billion for the sizes used here.
fn below(rng: &mut ChaCha8Rng, n: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(n)) >> 32) as u32
}

/// One of these, each as likely as the other.
fn one_of<T: Copy>(rng: &mut ChaCha8Rng, of: &[T]) -> T {
    of[below(rng, of.len() as u32) as usize]
}

/// Most events come at once; one in twenty takes a while.
fn delay(most: i64, rng: &mut ChaCha8Rng) -> i64 {
    if rng.next_u32() < u32::MAX / 20 { (unit(rng) * most as f64) as i64 } else { 0 }
}

#[cfg(test)]
mod payments_tests;
#[cfg(test)]
mod tests;
