//! The client: librdkafka with settings that suit, and an ear for what it says beside its answers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext, PurgeConfig};

use super::Target;
use super::settled::Settled;
use super::trouble;
use crate::error::{Error, Result};
use crate::librdkafka::{check_brokers, is_set, plain};

/// The number of an event that the generator did not make.
pub(super) const UNNUMBERED: usize = usize::MAX;

/// What we choose unless told: safe first, then quick. Retries go on for two minutes, with growing pauses.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "penstock"),
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // The partitioner of Java's clients: one key goes to one partition, whoever sends it.
    ("partitioner", "murmur2_random"),
    ("linger.ms", "20"),
    ("batch.size", "262144"),
    ("compression.type", "zstd"),
    ("compression.level", "1"),
    ("queue.buffering.max.messages", "100000"),
    ("queue.buffering.max.kbytes", "65536"),
    ("message.timeout.ms", "120000"),
    ("retry.backoff.ms", "100"),
    ("retry.backoff.max.ms", "2000"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "2000"),
];

/// What the client heard.
#[derive(Default)]
struct Heard {
    delivered: u64,
    by_partition: Vec<u64>,
    settled: Settled,
    undelivered: BTreeMap<String, u64>,
    /// The first error after which going on makes no sense.
    fatal: Option<String>,
    /// What was said about connections last, and when.
    connection: Option<(RDKafkaErrorCode, String)>,
    /// The first refusal to let us in.
    refusal: Option<(RDKafkaErrorCode, String)>,
}

/// Hears what librdkafka says.
#[derive(Default)]
pub(super) struct Ear(Mutex<Heard>);

impl Ear {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Ear {
    /// What it logs comes as an error too, where it matters.
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut heard = self.heard();
        let said = (code, plain(reason));
        if trouble::refused(code) && heard.refusal.is_none() {
            heard.refusal = Some(said.clone());
        }
        // That all brokers are down says less than what was said before it.
        if code != RDKafkaErrorCode::AllBrokersDown || heard.connection.is_none() {
            heard.connection = Some(said);
        }
    }
}

impl ProducerContext for Ear {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let mut heard = self.heard();
        match result {
            Ok(message) => {
                heard.delivered += 1;
                let partition = usize::try_from(message.partition()).unwrap_or_default();
                if heard.by_partition.len() <= partition {
                    heard.by_partition.resize(partition + 1, 0);
                }
                heard.by_partition[partition] += 1;
                if number != UNNUMBERED {
                    heard.settled.settle(number as u64, true);
                }
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                heard.refused(number, code);
            }
        }
    }
}

impl Heard {
    fn refused(&mut self, number: usize, code: RDKafkaErrorCode) {
        *self.undelivered.entry(trouble::name(code)).or_default() += 1;
        if number != UNNUMBERED {
            self.settled.settle(number as u64, false);
        }
        if !trouble::of_the_event(code) && code != RDKafkaErrorCode::PurgeQueue && self.fatal.is_none() {
            self.fatal = Some(trouble::delivery(code, self.connection.as_ref().map(|c| c.1.as_str())));
        }
    }
}

/// A connected client.
pub(super) struct Client {
    pub producer: BaseProducer<Ear>,
    pub config: ClientConfig,
    brokers: String,
}

impl Client {
    /// Makes the client; it connects in the background.
    ///
    /// # Errors
    /// [`Error::Settings`] where librdkafka does not know a setting, or not that value.
    pub fn connect(target: &Target) -> Result<Self> {
        let mut config = ClientConfig::new();
        let given = |name: &str| is_set(name, target.settings.keys());
        for (name, value) in DEFAULTS.iter().filter(|(name, _)| !given(name)) {
            config.set(*name, *value);
        }
        if given("bootstrap.servers") {
            return Err(Error::settings("bootstrap.servers", "brokers are given by --brokers"));
        }
        check_brokers("brokers", &target.brokers)?;
        // Another compression has other levels.
        if given("compression.type") && !given("compression.level") {
            config.remove("compression.level");
        }
        for (name, value) in &target.settings {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &target.brokers);
        let producer = config.create_with_context(Ear::default()).map_err(|e| trouble::setting(&e))?;
        Ok(Self { producer, config, brokers: target.brokers.clone() })
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.producer.context().heard()
    }

    /// Events that the broker has.
    pub fn delivered(&self) -> u64 {
        self.heard().delivered
    }

    /// The same by partition.
    pub fn by_partition(&self) -> Vec<u64> {
        self.heard().by_partition.clone()
    }

    /// Events that it has not and will not have, by error.
    pub fn undelivered(&self) -> BTreeMap<String, u64> {
        self.heard().undelivered.clone()
    }

    /// Which of the generator's events arrived.
    pub fn settled(&self) -> Settlement<'_> {
        Settlement(self.heard())
    }

    /// An event was refused.
    pub fn refused(&self, number: usize, code: RDKafkaErrorCode) {
        self.heard().refused(number, code);
    }

    /// Takes in what the client hears for a while.
    pub fn push(&self) {
        // The client's own flush lets go of what lingers.
        let _ = self.producer.flush(Duration::from_millis(20));
    }

    /// The first refusal to let us in, as an error.
    pub fn refusal(&self) -> Option<Error> {
        let heard = self.heard();
        heard.refusal.as_ref().map(|(code, said)| trouble::refusal(&self.brokers, *code, said))
    }

    /// Nobody answered within this time.
    pub fn unreachable(&self, waited: Duration) -> Error {
        let heard = self.heard();
        trouble::unreachable(&self.brokers, waited, heard.connection.as_ref().map(|c| c.1.as_str()))
    }

    /// What a call's error means.
    pub fn error(&self, topic: &str, error: &KafkaError) -> Error {
        match self.refusal() {
            Some(refusal) => refusal,
            None => trouble::call(topic, error),
        }
    }

    /// Whether going on makes sense.
    ///
    /// # Errors
    /// [`Error::Source`] where it does not.
    pub fn check(&self, topic: &str) -> Result<()> {
        let fatal = self.heard().fatal.clone();
        fatal.map_or(Ok(()), |reason| Err(Error::source(topic, reason)))
    }

    /// Waits for what is on its way, and gives up the rest.
    pub fn finish(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.push();
        }
        if self.producer.in_flight_count() > 0 {
            self.producer.purge(PurgeConfig::default().queue().inflight());
            let _ = self.producer.flush(Duration::from_secs(1));
        }
    }
}

/// A look at what arrived.
pub(super) struct Settlement<'a>(MutexGuard<'a, Heard>);

impl Settlement<'_> {
    pub fn arrived(&self, number: u64) -> bool {
        self.0.settled.arrived(number)
    }

    pub fn end(&self) -> u64 {
        self.0.settled.end()
    }
}
