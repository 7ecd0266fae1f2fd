//! What can go wrong with a cluster, in words: what, where, why, and what to do.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::native::Failure;
use super::settings::{KafkaSettings, SECRETS};
use crate::error::{Error, Result};
use crate::sources::Range;

fn cluster(brokers: &str) -> String {
    format!("kafka {brokers}")
}

fn partition(topic: &str, partition: i32) -> String {
    format!("topic {topic}, partition {partition}")
}

/// A setting that librdkafka does not take.
pub(super) fn configuration(settings: &KafkaSettings, error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => {
            let secret = SECRETS.contains(&name.as_str()) || settings.secrets.contains_key(name);
            let reason = if secret { "its value is not taken by librdkafka".to_owned() } else { reason.clone() };
            Error::settings(format!("source.kafka.{name}"), reason)
        }
        other => {
            let mut reason = other.to_string();
            for secret in settings.secrets.values().filter(|s| !s.is_empty()) {
                reason = reason.replace(secret, "***");
            }
            Error::settings("source.kafka", format!("librdkafka does not take these settings: {reason}"))
        }
    }
}

/// A user or a password that is refused.
pub(super) fn refused(brokers: &str, reason: &str) -> Error {
    Error::source(
        cluster(brokers),
        format!(
            "the broker refuses this user or password ({reason}). Look at sasl.username, sasl.password and sasl.mechanism in source.kafka"
        ),
    )
}

/// TLS that does not come about.
pub(super) fn tls(brokers: &str, reason: &str) -> Error {
    let low = reason.to_lowercase();
    let advice = if low.contains("certificate verify failed")
        || low.contains("self-signed")
        || low.contains("unable to get")
    {
        "its certificate is not signed by an authority that is trusted here: name the right one by ssl.ca.location in source.kafka"
    } else if low.contains("hostname") || low.contains("ip address mismatch") {
        "its certificate is for another name: use the name that stands in it in source.kafka.brokers"
    } else if low.contains("wrong version number") || low.contains("unexpected message") || low.contains("record layer")
    {
        "it does not speak TLS at this port: look at security.protocol in source.kafka, or at the port"
    } else if low.contains("certificate required")
        || low.contains("bad certificate")
        || low.contains("handshake failure")
    {
        "it demands a client's certificate: look at ssl.certificate.location and ssl.key.location in source.kafka"
    } else {
        "look at security.protocol and the ssl.… settings in source.kafka"
    };
    Error::source(cluster(brokers), format!("no TLS connection to the broker ({reason}); {advice}"))
}

/// A cluster that does not answer.
pub(super) fn unreachable(brokers: &str, waited: Duration, reason: Option<&str>) -> Error {
    let reason = reason.unwrap_or("no answer came");
    let low = reason.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| low.contains(word));
    let advice = if has(&["resolve", "name or service"]) {
        "look at the names in source.kafka.brokers"
    } else if !has(&["connect to"]) && has(&["security.protocol", "apiversion", "disconnected", "no answer"]) {
        "look whether source.kafka.brokers leads to a Kafka broker, and at security.protocol in source.kafka: it may demand TLS or a password at this port"
    } else {
        "look whether the broker runs and whether source.kafka.brokers is right; nothing was lost, the next run goes on from the last commit"
    };
    Error::source(cluster(brokers), format!("cannot be reached for {} s ({reason}); {advice}", waited.as_secs().max(1)))
}

/// A client that librdkafka has given up.
pub(super) fn fatal(brokers: &str, reason: &str) -> Error {
    Error::source(
        cluster(brokers),
        format!("the client has failed ({reason}); run again: it goes on from the last commit"),
    )
}

/// A topic that this user may not read.
pub(super) fn forbidden_topic(topic: &str, user: Option<&str>) -> Error {
    let user = user.map_or_else(|| "this client".to_owned(), |u| format!("user {u}"));
    Error::source(
        format!("topic {topic}"),
        format!("{user} may not read it; the broker's ACLs have to allow Describe and Read on the topic"),
    )
}

/// A group that this user may not use.
pub(super) fn forbidden_group(group: &str, user: Option<&str>) -> Error {
    let user = user.map_or_else(|| "this client".to_owned(), |u| format!("user {u}"));
    Error::source(
        format!("consumer group {group}"),
        format!(
            "{user} may not use it; the broker's ACLs have to allow Read on the group, or name another by source.kafka.group"
        ),
    )
}

/// A topic that is not there.
pub(super) fn unknown_topic(topic: &str) -> Error {
    Error::source(
        format!("topic {topic}"),
        "there is no such topic; make it, or look at source.kafka.topics (missing_topics: wait lets a run wait for it)",
    )
}

/// A topic that was there and is gone.
pub(super) fn deleted_topic(topic: &str) -> Error {
    Error::source(
        format!("topic {topic}"),
        "was read before and is there no more: it was deleted. What was read stays; take it out of source.kafka.topics to go on with the others",
    )
}

/// A topic that was deleted and made again.
pub(super) fn recreated_topic(topic: &str, before: &str, now: &str) -> Error {
    Error::source(
        format!("topic {topic}"),
        format!(
            "was deleted and made again: its id was {before} and is {now}. Its offsets are not those that were read, so going on would lose or double events. Read it with a new pipeline (another name), or give the new topic a name of its own"
        ),
    )
}

/// A cluster that is not the one that was read before.
pub(super) fn another_cluster(brokers: &str, before: &str, now: &str) -> Error {
    Error::source(
        cluster(brokers),
        format!(
            "is cluster {now}, and this pipeline has read from cluster {before}: the same names hold other events there. Point source.kafka.brokers at the former, or read this one with a new pipeline (another name)"
        ),
    )
}

/// Refuses topics of unlike size for a shard: a key lies in one partition of each, and those have to be one shard's.
pub(super) fn same_size(sizes: &BTreeMap<String, usize>) -> Result<()> {
    let mut all = sizes.iter();
    let Some((first, size)) = all.next() else { return Ok(()) };
    let Some((other, unlike)) = all.find(|(_, other)| *other != size) else { return Ok(()) };
    Err(Error::settings(
        "shard",
        format!(
            "topic {first} has {size} partitions, and {other} has {unlike}: events of one entity would come into several \
             shards. Give them equally many partitions, or run without --shard"
        ),
    ))
}

/// Offsets beyond the end of a partition.
pub(super) fn beyond_end(topic: &str, number: i32, position: i64, end: i64) -> Error {
    Error::source(
        partition(topic, number),
        format!(
            "ends at offset {end}, and was read up to {position}: the topic was deleted and made again, or the broker has lost what it had acknowledged. Going on would lose or double events. Read it with a new pipeline (another name), or bring the broker's data back"
        ),
    )
}

/// Offsets that are gone.
pub(super) fn gone(range: &Range) -> Error {
    Error::source(
        partition(&range.topic, range.partition),
        format!(
            "offsets {} to {} ({} of them) are gone: the broker has deleted them (retention) before they were read. Run once with --accept-gap to go on behind them; they are counted as lost in the ledger",
            range.from,
            range.to - 1,
            range.to - range.from
        ),
    )
}

/// Offsets of a plan that are gone.
pub(super) fn gone_from_plan(range: &Range, planned: &Range) -> Error {
    Error::source(
        partition(&range.topic, range.partition),
        format!(
            "offsets {} to {} are gone (retention), and an epoch that is not yet committed was planned over {} to {}. Make that epoch void (run --void) and run once with --accept-gap",
            range.from,
            range.to - 1,
            planned.from,
            planned.to - 1
        ),
    )
}

/// What a partition answered instead of messages.
pub(super) fn of_partition(topic: &str, number: i32, failure: &Failure, position: i64) -> Error {
    let advice = match failure.code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            "; a message is larger than receive.message.max.bytes in source.kafka"
        }
        Code::BadMessage | Code::InvalidMessage | Code::BadCompression => {
            "; the broker's data are damaged there, or use a compression that this build does not know"
        }
        _ => "",
    };
    Error::source(
        format!("{}, offset {position}", partition(topic, number)),
        format!("cannot be read: {}{advice}", failure.reason),
    )
}

/// What a question was answered with.
pub(super) fn of_question(brokers: &str, what: &str, failure: &Failure) -> Error {
    Error::source(cluster(brokers), format!("cannot tell {what}: {}", failure.reason))
}

/// Whether it may be otherwise in a moment.
pub(super) fn passing(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::MessageTimedOut
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::BrokerNotAvailable
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            | Code::KafkaStorageError
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::Resolve
            | Code::SSL
            | Code::Authentication
            | Code::Retry
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::NodeUpdate
            | Code::UnknownBroker
            | Code::NotController
            | Code::ThrottlingQuotaExceeded
            | Code::UnknownTopicId
    )
}
