//! Against the embedded broker: what is sent arrives, in order by key, and the truth says how much.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};

use super::*;
use crate::time::HOUR;

fn target(broker: &Embedded, topic: &str) -> Target {
    Target {
        brokers: broker.bootstrap().unwrap(),
        topic: topic.to_owned(),
        partitions: None,
        replication_factor: None,
        settings: BTreeMap::new(),
        patience_ms: 15_000,
    }
}

fn send(events: &GenerateOptions, target: &Target, options: &ProduceOptions) -> Result<Produced> {
    produce(Profile::Ecommerce, events, target, options, &|| false, &mut |_| Ok(Go::On))
}

/// So many messages of a topic.
fn read(broker: &Embedded, topic: &str, partitions: i32, messages: u64) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap().unwrap())
        .set("group.id", "reader")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .unwrap();
    let mut places = TopicPartitionList::new();
    for partition in 0..partitions {
        places.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&places).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut found = Vec::new();
    while (found.len() as u64) < messages {
        assert!(Instant::now() < deadline, "{} of {messages} came", found.len());
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            found.push(message.unwrap().detach());
        }
    }
    found
}

#[test]
fn what_is_generated_arrives_in_order_by_key() {
    let broker = Embedded::start().unwrap();
    broker.create_topic("events", 3).unwrap();
    let events = GenerateOptions { total: 5_000, seed: 11, ..Default::default() };
    let options = ProduceOptions { heartbeat: Some(HOUR), ..Default::default() };
    let found = send(&events, &target(&broker, "events"), &options).unwrap();
    let mut expected: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    let mut keep = |made: Made<'_>| {
        expected.entry(made.key.into()).or_default().push(made.line.to_vec());
        Ok(())
    };
    let truth = generate(Profile::Ecommerce, &events, &mut keep, &mut |_| Ok(())).unwrap();
    assert_eq!((found.delivered, found.truth.expected.pending), (5_003, 3));
    assert_eq!(found.truth.expected.silver, truth.expected.silver);
    assert_eq!(found.truth.expected.consumed, 5_003);
    assert_eq!(found.partitions.iter().sum::<u64>(), 5_003);
    assert!(!found.created && !found.stopped && found.undelivered.is_empty() && found.failure.is_none());

    let mut arrived: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    let mut place: BTreeMap<Vec<u8>, i32> = BTreeMap::new();
    let mut bytes = 0;
    for message in read(&broker, "events", 3, 5_003) {
        let (key, value) = (message.key().unwrap().to_vec(), message.payload().unwrap().to_vec());
        assert_eq!(*place.entry(key.clone()).or_insert(message.partition()), message.partition());
        bytes += value.len() as u64 + 1;
        arrived.entry(key).or_default().push(value);
    }
    assert_eq!(bytes, found.truth.bytes);
    let beats: Vec<_> = arrived.keys().filter(|k| k.starts_with(b"heartbeat_")).cloned().collect();
    assert_eq!(beats.len(), 3);
    for key in beats {
        let at = format!("{:?}", String::from_utf8_lossy(&arrived.remove(&key).unwrap()[0]));
        let newest = chrono::DateTime::from_timestamp_micros(found.truth.newest().unwrap() + HOUR).unwrap();
        assert!(at.contains(&newest.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()), "{at}");
    }
    assert_eq!(arrived, expected);
}

#[test]
fn stopped_it_says_exactly_what_was_delivered() {
    let broker = Embedded::start().unwrap();
    broker.create_topic("events", 2).unwrap();
    let events = GenerateOptions { total: 1_000_000, seed: 4, bad_rate: 0.1, ..Default::default() };
    let (stop, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let found = produce(
        Profile::Ecommerce,
        &events,
        &target(&broker, "events"),
        &ProduceOptions { events_per_second: Some(20_000.0), heartbeat: Some(HOUR) },
        &|| stop.load(Ordering::Relaxed),
        &mut |sent| {
            seen.store(sent.delivered, Ordering::Relaxed);
            stop.store(sent.events > 4_000, Ordering::Relaxed);
            Ok(Go::On)
        },
    )
    .unwrap();
    assert!(found.stopped && found.delivered < 20_000, "{}", found.delivered);
    assert!(found.delivered >= 4_000.max(seen.load(Ordering::Relaxed)));
    assert_eq!(found.truth.expected.pending, 0, "the end was not reached: no heartbeat");
    let arrived = read(&broker, "events", 2, found.delivered);
    assert_eq!(arrived.iter().map(|m| m.payload().unwrap().len() as u64 + 1).sum::<u64>(), found.truth.bytes);
    let expected = &found.truth.expected;
    assert_eq!(expected.consumed, found.delivered);
    assert_eq!(expected.silver + expected.rejected + expected.duplicate, found.delivered);
    assert!(expected.rejected > 200 && found.truth.sessions > 100);
}

#[test]
fn an_event_that_is_too_large_is_counted_and_the_others_go_on() {
    let broker = Embedded::start().unwrap();
    broker.create_topic("events", 1).unwrap();
    let events = GenerateOptions {
        total: 400,
        bad_rate: 0.2,
        flaws: Some(vec![crate::generate::Flaw::TooLarge, crate::generate::Flaw::MissingField]),
        ..Default::default()
    };
    let found = send(&events, &target(&broker, "events"), &ProduceOptions::default()).unwrap();
    let large = found.undelivered["MSG_SIZE_TOO_LARGE"];
    assert!(large > 10, "{:?}", found.undelivered);
    assert_eq!((found.undelivered.len(), found.delivered + large), (1, 400));
    assert!(!found.truth.flaws.contains_key("too_large") && found.truth.flaws["missing_field"] > 10);
    assert_eq!(read(&broker, "events", 1, found.delivered).len() as u64, found.truth.total);
}

#[test]
fn what_cannot_work_is_said_before_anything_is_sent() {
    let broker = Embedded::start().unwrap();
    broker.create_topic("two", 2).unwrap();
    let (events, options) = (GenerateOptions { total: 10, ..Default::default() }, ProduceOptions::default());
    let with = |change: &dyn Fn(&mut Target)| {
        let mut target = Target { patience_ms: 1_000, ..target(&broker, "two") };
        change(&mut target);
        send(&events, &target, &options).unwrap_err().to_string()
    };
    let said = with(&|t| t.partitions = Some(3));
    assert!(said.contains("topic two has 2, 3 were asked for"), "{said}");
    let said = with(&|t| drop(t.settings.insert("sasl.pasword".into(), "s3cret".into())));
    assert!(
        said.starts_with("sasl.pasword: librdkafka has no setting of this name") && !said.contains("s3cret"),
        "{said}"
    );
    let said = with(&|t| drop(t.settings.insert("acks".into(), "s3cret".into())));
    assert!(said.starts_with("acks: librdkafka does not take this value") && !said.contains("s3cret"), "{said}");
    let said = with(&|t| drop(t.settings.insert("bootstrap.servers".into(), "elsewhere:1".into())));
    assert!(said.starts_with("bootstrap.servers"), "{said}");
    let said = with(&|t| t.brokers = "127.0.0.1:1".into());
    assert!(said.contains("Kafka at 127.0.0.1:1: no broker answered within 1 s"), "{said}");
    assert!(said.contains("Connection refused"), "{said}");
    let rate = ProduceOptions { events_per_second: Some(0.0), ..Default::default() };
    assert!(send(&events, &target(&broker, "two"), &rate).unwrap_err().to_string().starts_with("events_per_second"));
    assert!(send(&GenerateOptions { bad_rate: 2.0, ..events.clone() }, &target(&broker, "two"), &options).is_err());
    // Nothing of that arrived.
    assert_eq!(send(&events, &target(&broker, "two"), &options).unwrap().delivered, 10);
    assert_eq!(read(&broker, "two", 2, 10).len(), 10);
}

#[test]
fn settings_are_never_shown() {
    let mut target = target(&Embedded::start().unwrap(), "events");
    target.settings.insert("sasl.password".into(), "s3cret".into());
    let shown = format!("{target:?}");
    assert!(shown.contains("sasl.password") && !shown.contains("s3cret"), "{shown}");
}
