//! Made-up events into Kafka: idempotent, in order by key, retried, and counted when the broker has them.
//!
//! What is sent is what [`crate::generate`] makes, keyed by its entity (a user), so that all events of one come through
//! one partition. librdkafka retries with back-off and writes each event once; what it gives up is counted by its error.
//! The queue is bounded: a broker that is slow slows the generator. However it ends (done, stopped, the broker gone), the
//! truth speaks of exactly the events that the broker acknowledged.

mod client;
mod embedded;
mod pace;
mod settled;
mod topic;
mod trouble;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer};
use serde::{Deserialize, Serialize};

use self::client::Client;
use self::pace::Pace;
use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, Made, Profile, Truth, generate, heartbeat, truth_of};

pub use self::embedded::Embedded;

/// How often the caller is told, and asked whether to go on, at least.
const TELL: Duration = Duration::from_millis(100);
/// ...and after how many events.
const TELL_EVENTS: u64 = 2_048;
/// When the caller is asked again who said to wait.
const LATER: Duration = Duration::from_millis(20);
/// How long a stopped producer waits for what is on its way.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Where events go.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `host:port`, with commas between several.
    pub brokers: String,
    /// The topic; made where there is none.
    pub topic: String,
    /// How many partitions it has to have; 4 unless told where it is made, any number where it is there.
    #[serde(default)]
    pub partitions: Option<i32>,
    /// On how many brokers each partition of a new topic lies; the broker's own default unless told.
    #[serde(default)]
    pub replication_factor: Option<i32>,
    /// librdkafka's own settings by their names, passwords too.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// How long a broker may take to answer for the first time, in milliseconds.
    #[serde(default = "fifteen_seconds")]
    pub patience_ms: u64,
}

fn fifteen_seconds() -> u64 {
    15_000
}

impl fmt::Debug for Target {
    /// Without the values of settings: one may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("partitions", &self.partitions)
            .field("replication_factor", &self.replication_factor)
            .field("settings", &self.settings.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// How events go.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProduceOptions {
    /// How many a second, evenly; as many as the broker takes unless told.
    pub events_per_second: Option<f64>,
    /// When all are delivered, one more event into each partition, whose time lies so many microseconds after the last:
    /// the watermark of whoever reads passes all others, and nothing but these stays pending.
    pub heartbeat: Option<i64>,
}

/// What whoever is told says to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// Go on.
    On,
    /// Send nothing for now, and ask again: those that are on their way go on being delivered.
    Later,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Events handed to the client.
    pub events: u64,
    /// Events that the broker has.
    pub delivered: u64,
    /// Partitions that have at least one of them.
    pub begun: usize,
    /// Partitions of the topic.
    pub partitions: usize,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Produced {
    /// The truth about what the broker acknowledged.
    #[serde(flatten)]
    pub truth: Truth,
    /// Where they are.
    pub topic: String,
    /// Events by partition.
    pub partitions: Vec<u64>,
    /// Whether the topic was made.
    pub created: bool,
    /// Events that the broker acknowledged.
    pub delivered: u64,
    /// Events that it did not, by error. Where the broker went away, some of them may be there all the same.
    pub undelivered: BTreeMap<String, u64>,
    /// Whether it was asked to stop before all were sent.
    pub stopped: bool,
    /// Why it ended before all were sent, if not because it was asked to.
    pub failure: Option<String>,
    /// Seconds from the first event to the last acknowledgement.
    pub seconds: f64,
}

/// Sends generated events to a topic.
///
/// `progress` hears several times a second how far it is, and may hold it up. When `stop` says so, nothing more is sent, what is on its way
/// is waited for (5 s at most), and the answer is `Ok` with [`Produced::stopped`]. When the broker goes away for good
/// or forbids it, the answer is `Ok` with [`Produced::failure`] if anything was delivered.
///
/// # Errors
/// [`Error::Settings`] where an option or a setting makes no sense, or the topic has fewer partitions than asked for;
/// [`Error::Source`] where the broker cannot be reached, refuses us, or has not the topic and does not let us make it.
pub fn produce(
    profile: Profile,
    events: &GenerateOptions,
    target: &Target,
    options: &ProduceOptions,
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(Sent) -> Result<Go>,
) -> Result<Produced> {
    let mut pace = options.events_per_second.map(Pace::new).transpose()?;
    if options.heartbeat.is_some_and(|h| h <= 0) {
        return Err(Error::settings("heartbeat", "must be more than nothing"));
    }
    events.check()?;
    let client = Client::connect(target)?;
    let found = topic::find_or_make(&client, target, stop)?;
    let began = Instant::now();
    let partitions = found.partitions;
    let mut sender = Sender { client: &client, topic: &target.topic, partitions, stop, progress, sent: 0, told: began };
    let made = {
        let mut out = |made: Made<'_>| {
            if let Some(pace) = &mut pace {
                sender.wait(pace)?;
            }
            sender.send(Some(made.number), None, made.line, made.key)
        };
        generate(profile, events, &mut out, &mut |_| Ok(()))
    };
    let made = made.and_then(|truth| sender.flush(None).map(|()| truth));
    let (mut stopped, mut failure) = (false, None);
    match made {
        Ok(truth) if client.delivered() == truth.total => {
            let mut truth = truth;
            if let Some(gap) = options.heartbeat {
                let at = truth.newest().unwrap_or(events.start).saturating_add(gap);
                let (beats, bytes) = sender.heartbeats(profile, events, at)?;
                truth.heartbeats(profile, beats, bytes, at);
            }
            return Ok(produced(&client, target, found.created, truth, began));
        }
        // Some were refused one by one: the errors say why.
        Ok(_) => {}
        Err(Error::Interrupted) => {
            stopped = true;
            client.finish(LAST_WAIT);
        }
        Err(Error::Source { reason, .. }) if client.delivered() > 0 => {
            failure = Some(reason);
            client.finish(Duration::ZERO);
        }
        Err(error) => return Err(error),
    }
    let truth = {
        let settled = client.settled();
        truth_of(profile, events, settled.end(), &|n| settled.arrived(n))?
    };
    Ok(Produced { stopped, failure, ..produced(&client, target, found.created, truth, began) })
}

fn produced(client: &Client, target: &Target, created: bool, truth: Truth, began: Instant) -> Produced {
    Produced {
        delivered: truth.total,
        truth,
        topic: target.topic.clone(),
        partitions: client.by_partition(),
        created,
        undelivered: client.undelivered(),
        stopped: false,
        failure: None,
        seconds: began.elapsed().as_secs_f64(),
    }
}

/// Hands events to the client, and looks up now and then.
struct Sender<'a> {
    client: &'a Client,
    topic: &'a str,
    partitions: i32,
    stop: &'a dyn Fn() -> bool,
    progress: &'a mut dyn FnMut(Sent) -> Result<Go>,
    sent: u64,
    told: Instant,
}

impl Sender<'_> {
    /// Hands one over; waits while the queue is full.
    fn send(&mut self, number: Option<u64>, partition: Option<i32>, line: &[u8], key: &str) -> Result<()> {
        let number = number.map_or(client::UNNUMBERED, |n| n as usize);
        let mut record = BaseRecord::with_opaque_to(self.topic, number).payload(line).key(key);
        record.partition = partition;
        loop {
            match self.client.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    self.client.producer.poll(Duration::from_millis(5));
                    self.look_up()?;
                }
                // Refused here and now (too large): one event less, as if the broker had refused it.
                Err((KafkaError::MessageProduction(code), _)) if trouble::of_the_event(code) => {
                    self.client.refused(number, code);
                    break;
                }
                Err((error, _)) => return Err(self.client.error(self.topic, &error)),
            }
        }
        self.sent += 1;
        if self.sent.is_multiple_of(TELL_EVENTS) {
            self.look_up()?;
        } else if self.sent.is_multiple_of(64) {
            self.client.producer.poll(Duration::ZERO);
            if self.told.elapsed() >= TELL {
                self.look_up()?;
            }
        }
        Ok(())
    }

    /// Waits until the next event may go.
    fn wait(&mut self, pace: &mut Pace) -> Result<()> {
        loop {
            let wait = pace.wait(Instant::now());
            if wait.is_zero() {
                return Ok(());
            }
            self.client.producer.poll(wait.min(TELL));
            if self.told.elapsed() >= TELL {
                self.look_up()?;
            }
        }
    }

    /// Tells how far it is, and asks whether to go on.
    fn look_up(&mut self) -> Result<()> {
        let mut wait = Duration::ZERO;
        loop {
            self.client.producer.poll(wait);
            self.told = Instant::now();
            if (self.stop)() {
                return Err(Error::Interrupted);
            }
            let go = (self.progress)(Sent {
                events: self.sent,
                delivered: self.client.delivered(),
                begun: self.client.by_partition().iter().filter(|n| **n > 0).count(),
                partitions: self.partitions as usize,
            })?;
            self.client.check(self.topic)?;
            match go {
                Go::On => return Ok(()),
                Go::Later => wait = LATER,
            }
        }
    }

    /// Waits until the client has nothing left on its way.
    fn flush(&mut self, most: Option<Duration>) -> Result<()> {
        let deadline = most.map(|most| Instant::now() + most);
        while self.client.producer.in_flight_count() > 0 && deadline.is_none_or(|d| Instant::now() < d) {
            self.client.push();
            self.look_up()?;
        }
        self.look_up()
    }

    /// One event into each partition, at a moment later than all others. Gives their number and bytes.
    fn heartbeats(&mut self, profile: Profile, options: &GenerateOptions, at: i64) -> Result<(u64, u64)> {
        let (before, mut bytes) = (self.client.delivered(), 0);
        let mut line = Vec::new();
        for partition in 0..self.partitions {
            let key = heartbeat(profile, options, at, partition as u32, &mut line);
            bytes += line.len() as u64 + 1;
            self.send(None, Some(partition), &line, &key)?;
        }
        self.flush(None)?;
        let beats = self.client.delivered() - before;
        if beats != self.partitions as u64 {
            let reasons = self.client.undelivered().into_keys().collect::<Vec<_>>().join(", ");
            return Err(Error::source(
                self.topic,
                format!("all events were delivered, but not the heartbeats after them: {reasons}"),
            ));
        }
        Ok((beats, bytes))
    }
}

#[cfg(test)]
mod tests;
