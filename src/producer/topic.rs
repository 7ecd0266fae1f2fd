//! The topic: looked for, and made where there is none.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer;

use super::Target;
use super::client::{Client, Ear};
use super::trouble;
use crate::error::{Error, Result};

/// The number of partitions unless told.
const PARTITIONS: i32 = 4;

/// A topic that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Topic {
    pub partitions: i32,
    pub created: bool,
}

/// Finds the topic, or makes it and waits until it can be used.
///
/// # Errors
/// [`Error::Settings`] where it has fewer partitions than asked for; [`Error::Source`] where nobody answers, we are not
/// let in, or it cannot be made.
pub(super) fn find_or_make(client: &Client, target: &Target, stop: &dyn Fn() -> bool) -> Result<Topic> {
    if target.partitions.is_some_and(|n| n < 1) {
        return Err(Error::settings("partitions", "a topic has at least one"));
    }
    let patience = Duration::from_millis(target.patience_ms);
    if let Some(there) = look(client, &target.topic, patience, stop)? {
        return as_it_is(target, there);
    }
    let created = make(client, target, patience)?;
    let deadline = Instant::now() + patience;
    loop {
        if let Some(partitions) = look(client, &target.topic, patience, stop)? {
            return if created { Ok(Topic { partitions, created }) } else { as_it_is(target, partitions) };
        }
        if Instant::now() > deadline {
            let waited = patience.as_secs();
            return Err(Error::source(&target.topic, format!("was made, but no broker leads it after {waited} s")));
        }
        client.producer.poll(Duration::from_millis(50));
    }
}

/// A topic that others made.
fn as_it_is(target: &Target, partitions: i32) -> Result<Topic> {
    match target.partitions {
        Some(asked) if partitions < asked => Err(Error::settings(
            "partitions",
            format!(
                "topic {topic} has {partitions}, {asked} were asked for. Leave --partitions out to take it as it is; or give it more (kafka-topics --alter --topic {topic} --partitions {asked}), which sends most keys to other partitions than before",
                topic = target.topic
            ),
        )),
        _ => Ok(Topic { partitions, created: false }),
    }
}

/// How many partitions it has, all led; `None` where there is no such topic.
fn look(client: &Client, topic: &str, patience: Duration, stop: &dyn Fn() -> bool) -> Result<Option<i32>> {
    let began = Instant::now();
    loop {
        // All topics: to ask for one by name would make it on brokers that make topics by themselves.
        let asked = client.producer.client().fetch_metadata(None, Duration::from_millis(500));
        // What is said about connections comes through here.
        client.producer.poll(Duration::ZERO);
        match asked {
            Ok(found) => {
                let found = found.topics().iter().find(|t| t.name() == topic);
                let led = found.is_some_and(|t| t.partitions().iter().all(|p| p.leader() >= 0));
                return Ok(found.map(|t| t.partitions().len() as i32).filter(|n| *n > 0 && led));
            }
            Err(_) => {
                if let Some(refusal) = client.refusal() {
                    return Err(refusal);
                }
                if stop() {
                    return Err(Error::Interrupted);
                }
                if began.elapsed() >= patience {
                    return Err(client.unreachable(patience));
                }
            }
        }
        client.producer.poll(Duration::from_millis(20));
    }
}

/// Makes it. Gives false where somebody else was quicker.
fn make(client: &Client, target: &Target, patience: Duration) -> Result<bool> {
    let mut config = client.config.clone();
    config.set("enable.idempotence", "false");
    let admin = AdminClient::from_config_and_context(&config, Ear::default()).map_err(|e| trouble::setting(&e))?;
    let replication = TopicReplication::Fixed(target.replication_factor.unwrap_or(-1));
    let topic = NewTopic::new(&target.topic, target.partitions.unwrap_or(PARTITIONS), replication);
    let options = AdminOptions::new().request_timeout(Some(patience)).operation_timeout(Some(patience));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|e| Error::Internal(format!("cannot start a runtime: {e}")))?;
    let made = runtime.block_on(admin.create_topics([&topic], &options));
    match made.map(|results| results.into_iter().next()) {
        Ok(Some(Ok(_))) => Ok(true),
        Ok(Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => Ok(false),
        Ok(Some(Err((_, code)))) => Err(trouble::creation(&target.topic, code)),
        Ok(None) => Err(Error::source(&target.topic, "the broker did not say whether it made the topic")),
        Err(KafkaError::AdminOp(code)) => Err(trouble::creation(&target.topic, code)),
        Err(error) => Err(Error::source(&target.topic, format!("cannot be made: {error}"))),
    }
}
