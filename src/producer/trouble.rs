//! What librdkafka's errors mean to whoever has to do something about them.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::Error;
use crate::librdkafka::plain;

/// The name of an error, as Kafka's documentation has it (`MSG_SIZE_TOO_LARGE`, `_TRANSPORT`).
pub(super) fn name(code: Code) -> String {
    let native = rdkafka::types::RDKafkaRespErr::try_from(code as i32);
    // SAFETY: librdkafka gives a static text for every code, known or not.
    let text = native.ok().map(|code| unsafe { std::ffi::CStr::from_ptr(rdkafka::bindings::rd_kafka_err2name(code)) });
    text.map_or_else(|| format!("{code:?}"), |text| text.to_string_lossy().into_owned())
}

/// Whether a broker does not let us in, however often we come.
pub(super) fn refused(code: Code) -> bool {
    matches!(code, Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL | Code::UnsupportedSASLMechanism)
}

/// Whether it is about one event, so that others may go on.
pub(super) fn of_the_event(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::MessageBatchTooLarge
            | Code::InvalidMessage
            | Code::InvalidTimestamp
            | Code::InvalidRecord
    )
}

/// A setting that librdkafka does not take. Its value may be a secret, and is not shown.
pub(super) fn setting(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, said, name, _) if said.contains("No such") => Error::settings(
            name,
            "librdkafka has no setting of this name; they are listed in its CONFIGURATION.md (acks, linger.ms, sasl.password, …)",
        ),
        KafkaError::ClientConfig(_, _, name, _) => {
            Error::settings(name, "librdkafka does not take this value; its CONFIGURATION.md says what is possible")
        }
        // It speaks of how settings go together, and of files that cannot be read.
        KafkaError::ClientCreation(said) => Error::settings("kafka", plain(said)),
        other => Error::settings("kafka", other),
    }
}

/// The broker does not let us in.
pub(super) fn refusal(brokers: &str, code: Code, said: &str) -> Error {
    let what = match code {
        Code::SSL => {
            "the TLS connection fails: its certificate is not one that we trust, or not for this name (ssl.ca.location says whom to trust)"
        }
        _ => "it does not accept who we say we are (sasl.mechanism, sasl.username, sasl.password)",
    };
    Error::source(format!("Kafka at {brokers}"), format!("{what}. It said: {said}"))
}

/// Nobody answers.
pub(super) fn unreachable(brokers: &str, waited: Duration, said: Option<&str>) -> Error {
    let said = said.map(|said| format!(" The last that was heard: {said}")).unwrap_or_default();
    Error::source(
        format!("Kafka at {brokers}"),
        format!(
            "no broker answered within {} s. Is it running, is the address right, does it demand TLS (security.protocol)?{said}",
            waited.as_secs()
        ),
    )
}

/// A delivery was given up, and those after it would be too.
pub(super) fn delivery(code: Code, connection: Option<&str>) -> String {
    match code {
        Code::TopicAuthorizationFailed => not_ours_to_write(),
        Code::ClusterAuthorizationFailed => {
            "the broker does not let us write without doubles (IdempotentWrite on the cluster): grant it, or set enable.idempotence=false".to_owned()
        }
        Code::MessageTimedOut => format!(
            "the broker did not take an event within message.timeout.ms, with all retries{}",
            connection.map(|said| format!("; the last that was heard: {said}")).unwrap_or_default()
        ),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            "the topic is gone: was it deleted?".to_owned()
        }
        Code::PurgeInflight => "given up on the way".to_owned(),
        other => format!("the broker did not take an event: {other} ({})", name(other)),
    }
}

fn not_ours_to_write() -> String {
    "the broker forbids us to write to this topic: grant Write and Describe on it".to_owned()
}

/// What the error of a call means.
pub(super) fn call(topic: &str, error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(code) => Error::source(topic, delivery(code, None)),
        None => Error::source(topic, error),
    }
}

/// A topic cannot be made.
pub(super) fn creation(topic: &str, code: Code) -> Error {
    let reason = match code {
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            "there is no such topic that we may see, and the broker forbids us to make it: have it made, or grant Create, Write and Describe on it".to_owned()
        }
        Code::InvalidReplicationFactor => {
            "cannot be made with this replication factor: there are not as many brokers (--replication-factor)".to_owned()
        }
        Code::InvalidPartitions => "cannot be made with this number of partitions (--partitions)".to_owned(),
        Code::InvalidTopic => {
            "is no name of a topic: letters, digits, `.`, `_` and `-`, at most 249 of them (--topic)".to_owned()
        }
        other => format!("there is no such topic, and it cannot be made: {other} ({})", name(other)),
    };
    Error::source(topic, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_names_of_the_documentation() {
        for (code, expected) in [
            (Code::MessageSizeTooLarge, "MSG_SIZE_TOO_LARGE"),
            (Code::BrokerTransportFailure, "_TRANSPORT"),
            (Code::TopicAuthorizationFailed, "TOPIC_AUTHORIZATION_FAILED"),
        ] {
            assert_eq!(name(code), expected);
        }
    }
}
