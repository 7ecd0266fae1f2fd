//! `source.kafka`: what is read, where it begins, and librdkafka's own settings.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::librdkafka::canonical;
use crate::stream::spec::{KafkaSpec, KafkaStart, MissingTopics};

/// Settings of librdkafka whose values are shown nowhere.
pub const SECRETS: &[&str] = &[
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
];

/// What the source relies on; a setting of the user's that says otherwise is refused.
pub(super) const FIXED: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("auto.offset.reset", "error"),
];

/// What is set elsewhere: the name, and where.
const ELSEWHERE: &[(&str, &str)] = &[
    ("bootstrap.servers", "source.kafka.brokers"),
    ("group.id", "source.kafka.group"),
    ("auto.offset.reset", "source.kafka.start"),
    ("auto.commit.enable", "nothing: offsets are committed after each epoch"),
    ("enable.auto.commit", "nothing: offsets are committed after each epoch"),
    ("enable.auto.offset.store", "nothing: offsets are committed after each epoch"),
    ("enable.partition.eof", "nothing"),
    ("group.instance.id", "nothing: partitions are assigned, not subscribed to"),
];

/// The settings of the source.
#[derive(Clone)]
pub struct KafkaSettings {
    /// Where the cluster is: `host:port`, comma-separated.
    pub brokers: String,
    /// The topics, each once.
    pub topics: Vec<String>,
    /// The consumer group that is told how far was read.
    pub group: String,
    /// Where a pipeline without history begins.
    pub start: KafkaStart,
    /// Whether a topic that is not there is waited for.
    pub missing: MissingTopics,
    /// For so long a cluster that does not answer is waited for.
    pub give_up: Duration,
    /// librdkafka's own settings.
    pub own: BTreeMap<String, String>,
    /// Those of them that are shown nowhere.
    pub secrets: BTreeMap<String, String>,
    /// Ends at the offsets that were the partitions' ends at the start.
    pub until_caught_up: bool,
    /// Goes on behind offsets that are gone.
    pub accept_gap: bool,
    /// The part of the partitions that is read: number (from 1) and how many there are.
    pub shard: Option<(u32, u32)>,
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("topics", &self.topics)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl KafkaSettings {
    /// The settings as the pipeline file has them.
    ///
    /// # Errors
    /// [`Error::Settings`] for one that cannot be.
    pub fn new(spec: &KafkaSpec, secrets: &BTreeMap<String, String>) -> Result<Self> {
        for name in spec.settings.keys().chain(secrets.keys()) {
            if let Some((_, instead)) = ELSEWHERE.iter().find(|(n, _)| canonical(n) == canonical(name)) {
                return Err(Error::settings(
                    format!("source.kafka.{name}"),
                    format!("Penstock sets this itself; take it out (in its place: {instead})"),
                ));
            }
        }
        if spec.brokers.trim().is_empty() {
            return Err(Error::settings("source.kafka.brokers", "must not be empty: host:port, comma-separated"));
        }
        crate::librdkafka::check_brokers("source.kafka.brokers", &spec.brokers)?;
        if spec.group.is_empty() {
            return Err(Error::settings("source.kafka.group", "must not be empty"));
        }
        let mut topics: Vec<String> = vec![];
        for topic in &spec.topics {
            check_topic(topic)?;
            if !topics.contains(topic) {
                topics.push(topic.clone());
            }
        }
        if topics.is_empty() {
            return Err(Error::settings("source.kafka.topics", "must name a topic"));
        }
        topics.sort();
        Ok(Self {
            brokers: spec.brokers.clone(),
            topics,
            group: spec.group.clone(),
            start: spec.start.clone(),
            missing: spec.missing_topics,
            give_up: Duration::from_micros(spec.give_up_us.max(1_000).unsigned_abs()),
            own: spec.settings.clone(),
            secrets: secrets.clone(),
            until_caught_up: false,
            accept_gap: false,
            shard: None,
        })
    }

    /// Whether a partition is in this part.
    pub(super) fn ours(&self, partition: i32) -> bool {
        self.shard.is_none_or(|(number, of)| partition.unsigned_abs() % of.max(1) == number.saturating_sub(1))
    }

    /// Whether only what is committed by transactions is read.
    pub(super) fn committed_only(&self) -> bool {
        self.own.get("isolation.level").is_none_or(|l| l != "read_uncommitted")
    }

    /// How often it is looked for new partitions.
    pub(super) fn look_every(&self) -> Duration {
        let own = self.own.get("topic.metadata.refresh.interval.ms").and_then(|v| v.parse().ok());
        Duration::from_millis(own.filter(|ms| *ms > 0).unwrap_or(10_000))
    }
}

fn check_topic(topic: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > 249 || topic == "." || topic == ".." || !topic.chars().all(plain) {
        let reason = format!(
            "{topic:?} is no name of a topic: up to 249 letters, digits, '.', '_' and '-' (patterns are not taken; name each topic)"
        );
        return Err(Error::settings("source.kafka.topics", reason));
    }
    Ok(())
}
