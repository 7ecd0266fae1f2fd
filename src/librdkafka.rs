//! What both clients of Kafka, the source and the producer, know of librdkafka.

use crate::error::{Error, Result};

/// Settings that have two names: another, and the one that librdkafka puts into its place. A client's settings have no
/// order: of two names for one thing either could win, so only one may be given.
const ALIASES: &[(&str, &str)] = &[
    ("acks", "request.required.acks"),
    ("bootstrap.servers", "metadata.broker.list"),
    ("compression.type", "compression.codec"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("retries", "message.send.max.retries"),
    ("sasl.mechanism", "sasl.mechanisms"),
    ("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"),
    ("sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.client.secret"),
];

/// The name of a setting, whichever of its names is given.
pub fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(other, _)| *other == name).map_or(name, |(_, name)| name)
}

/// Whether a setting is among these, by whichever name.
pub fn is_set<'a>(name: &str, mut among: impl Iterator<Item = &'a String>) -> bool {
    among.any(|given| canonical(given) == canonical(name))
}

/// What was said, without the times and counts that librdkafka adds to it.
pub fn plain(said: &str) -> String {
    let end = [" (after ", ": 1 identical", ", 1 identical"].iter().filter_map(|mark| said.find(mark)).min();
    said[..end.unwrap_or(said.len())].trim_end_matches([' ', ':']).to_owned()
}

/// Sees that no name and password stand in the addresses of brokers, which are shown in messages.
///
/// # Errors
/// [`Error::Settings`] where they do; it repeats nothing of them.
pub(crate) fn check_brokers(name: &str, brokers: &str) -> Result<()> {
    if brokers.contains('@') {
        let reason =
            "an '@' stands in it: a broker is host:port, and its name and password are sasl.username and sasl.password";
        return Err(Error::settings(name, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;

    use super::*;

    #[test]
    fn librdkafka_takes_both_names_for_one() {
        let config = ClientConfig::new().create_native_config().unwrap();
        for (other, name) in ALIASES {
            assert_eq!(config.get(other).ok(), config.get(name).ok(), "{other} is {name}");
            assert_eq!((canonical(other), canonical(name)), (*name, *name));
        }
    }

    #[test]
    fn times_and_counts_are_left_out() {
        let said = "127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused (after 0ms in state CONNECT, 1 identical error(s) suppressed)";
        assert_eq!(plain(said), "127.0.0.1:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused");
    }
}
