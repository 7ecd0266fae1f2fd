//! The source over librdkafka's own cluster for tests, where it answers as a broker does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

use super::*;
use crate::stream::spec::{KafkaSpec, KafkaStart, MissingTopics};

#[derive(Default)]
struct Quiet {
    said: Mutex<Vec<String>>,
}

impl Watch for Quiet {
    fn should_stop(&self) -> bool {
        false
    }

    fn warn(&self, code: &str, _: &str, _: &str) {
        self.said.lock().unwrap().push(code.to_owned());
    }
}

fn spec(brokers: &str, topics: &[&str]) -> KafkaSpec {
    KafkaSpec {
        brokers: brokers.to_owned(),
        topics: topics.iter().map(|t| (*t).to_owned()).collect(),
        group: "g".to_owned(),
        start: KafkaStart::default(),
        missing_topics: MissingTopics::default(),
        give_up_us: 30_000_000,
        settings: BTreeMap::new(),
    }
}

fn settings(brokers: &str) -> KafkaSettings {
    let mut settings = KafkaSettings::new(&spec(brokers, &["events"]), &BTreeMap::new()).unwrap();
    settings.until_caught_up = true;
    settings
}

fn cluster(values: &[Vec<u8>]) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("events", 3, 1).unwrap();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    for (n, value) in values.iter().enumerate() {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to("events").partition(n as i32 % 3).payload(value);
        producer.send(record).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    cluster
}

/// What was read, by partition: offset and value of each event.
type Read = BTreeMap<i32, Vec<(i64, Vec<u8>)>>;

fn keep(into: &mut Read, events: &RawEvents) {
    let of = into.entry(events.partition).or_default();
    for row in 0..events.len() {
        of.push((events.offsets.value(row), events.values.value(row).to_vec()));
    }
}

fn drain(source: &mut Kafka<'_>, want: &Want) -> (Read, Vec<Range>) {
    let (mut read, mut ranges) = (Read::new(), vec![]);
    while let Some(chunk) = source.next(&|_: &str, _| None, want).unwrap() {
        chunk.pieces.iter().for_each(|piece| keep(&mut read, piece));
        if chunk.range.from < chunk.range.to {
            ranges.push(chunk.range);
        }
    }
    (read, ranges)
}

#[test]
fn whatever_is_read_at_once_and_again_is_the_same() {
    let values: Vec<Vec<u8>> = (0..900).map(|n| format!("{{\"n\": {n}}}").into_bytes()).collect();
    let cluster = cluster(&values);
    let brokers = cluster.bootstrap_servers();
    let runner = &mut proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(6));
    let wants = (1usize..3_000, 1usize..200);
    runner
        .run(&wants, |(bytes, events)| {
            let quiet = Quiet::default();
            let mut source = Kafka::new(settings(&brokers), &quiet).unwrap();
            source.restore(&[]).unwrap();
            let begin = source.begin().unwrap().unwrap();
            prop_assert_eq!(begin.iter().map(|s| s.position).collect::<Vec<_>>(), [0, 0, 0]);
            source.refresh(0).unwrap();
            let (read, ranges) = drain(&mut source, &Want { bytes, events, arrival: 7 });
            for (partition, of) in &read {
                let expected: Vec<_> =
                    values.iter().skip(*partition as usize).step_by(3).cloned().enumerate().collect();
                prop_assert_eq!(of, &expected.into_iter().map(|(o, v)| (o as i64, v)).collect::<Vec<_>>());
            }
            prop_assert_eq!(read.len(), 3);
            // The ranges of a partition follow on one another, and read again they give the same.
            let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
            let mut again = Read::new();
            for range in &ranges {
                prop_assert_eq!(range.from, ends.insert(range.partition, range.to).unwrap_or(0));
                source
                    .read_range(range, 7, &mut |piece| {
                        keep(&mut again, &piece);
                        Ok(())
                    })
                    .unwrap();
            }
            prop_assert_eq!(&again, &read);
            let positions: Vec<_> = source.changes().iter().map(|s| s.position).collect();
            prop_assert_eq!(positions, [300, 300, 300]);
            prop_assert!(source.partitions().iter().all(|p| p.progress == Progress::CaughtUp && p.end == Some(300)));
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_partition_that_is_furthest_behind_is_read_first() {
    let values: Vec<Vec<u8>> = (0..3_000).map(|n| format!("{n:0200}").into_bytes()).collect();
    let cluster = cluster(&values);
    let quiet = Quiet::default();
    let mut source = Kafka::new(settings(&cluster.bootstrap_servers()), &quiet).unwrap();
    source.restore(&[]).unwrap();
    source.refresh(0).unwrap();
    // The time of a partition is how much of it was read; those not begun come first.
    let mut read: BTreeMap<i32, i64> = BTreeMap::new();
    let mut most = 0;
    loop {
        let times = |_: &str, partition: i32| read.get(&partition).copied();
        let Some(chunk) = source.next(&times, &Want { bytes: 2_000, events: 10, arrival: 0 }).unwrap() else { break };
        *read.entry(chunk.range.partition).or_default() = chunk.range.to;
        if read.len() == 3 && read.values().all(|r| *r < 990) {
            most = most.max(read.values().max().unwrap() - read.values().min().unwrap());
        }
    }
    assert_eq!(read.into_values().collect::<Vec<_>>(), [1_000; 3]);
    assert!(most <= 200, "one partition was {most} events ahead of another");
}

#[test]
fn a_shard_reads_its_own_partitions() {
    let cluster = cluster(&vec![b"{}".to_vec(); 30]);
    let mut found = BTreeMap::new();
    for number in 1..=2 {
        let quiet = Quiet::default();
        let mut settings = settings(&cluster.bootstrap_servers());
        settings.shard = Some((number, 2));
        let mut source = Kafka::new(settings, &quiet).unwrap();
        source.restore(&[]).unwrap();
        source.refresh(0).unwrap();
        let (read, _) = drain(&mut source, &Want { bytes: 1 << 20, events: 1_000, arrival: 0 });
        for (partition, events) in read {
            assert!(found.insert(partition, events.len()).is_none(), "two shards read {partition}");
        }
    }
    assert_eq!(found, BTreeMap::from([(0, 10), (1, 10), (2, 10)]));
}

#[test]
fn settings_that_cannot_be() {
    let none = BTreeMap::new();
    let login = KafkaSettings::new(&spec("u:s3cret@127.0.0.1:1", &["events"]), &none).unwrap_err().to_string();
    assert!(login.starts_with("source.kafka.brokers: an '@' stands in it") && !login.contains("s3cret"), "{login}");
    let own = |name: &str, value: &str| {
        let mut spec = spec("127.0.0.1:1", &["events"]);
        spec.settings.insert(name.to_owned(), value.to_owned());
        KafkaSettings::new(&spec, &none).and_then(|s| Kafka::new(s, &Quiet::default()).map(drop))
    };
    assert!(own("client.rack", "a").is_ok());
    let said = |r: Result<()>| r.unwrap_err().to_string();
    assert!(said(own("client.rakc", "a")).starts_with("source.kafka.client.rakc: No such configuration property"));
    assert!(said(own("auto.offset.reset", "earliest")).contains("source.kafka.start"));
    assert!(said(own("group.id", "g")).contains("source.kafka.group"));
    assert!(said(own("auto.commit.enable", "true")).contains("offsets are committed after each epoch"));
    assert!(said(KafkaSettings::new(&spec("h:1", &["^events.*"]), &none).map(drop)).contains("patterns are not taken"));
    assert!(KafkaSettings::new(&spec("h:1", &[]), &none).is_err());
    assert!(KafkaSettings::new(&spec(" ", &["events"]), &none).is_err());
}

#[test]
fn secrets_are_shown_nowhere() {
    let secret = "a secret\u{1}nobody knows";
    for (name, kind) in
        [("sasl.password", "PLAIN"), ("ssl.key.pem", "PLAIN"), ("sasl.oauthbearer.config", "OAUTHBEARER")]
    {
        let mut spec = spec("127.0.0.1:1", &["events"]);
        spec.settings.insert("security.protocol".into(), "sasl_ssl".into());
        spec.settings.insert("sasl.mechanism".into(), kind.into());
        let settings = KafkaSettings::new(&spec, &BTreeMap::from([(name.to_owned(), secret.to_owned())])).unwrap();
        assert!(!format!("{settings:?}").contains(secret));
        let quiet = Quiet::default();
        if let Err(error) = Kafka::new(settings, &quiet) {
            assert!(!error.to_string().contains(secret), "{error}");
            assert!(!format!("{error:?}").contains(secret), "{error:?}");
        }
    }
}

#[test]
fn a_cluster_that_is_not_there_is_given_up() {
    let mut settings = settings("127.0.0.1:1");
    settings.give_up = Duration::from_millis(300);
    let quiet = Quiet::default();
    let mut source = Kafka::new(settings, &quiet).unwrap();
    source.restore(&[]).unwrap();
    let error = source.refresh(0).unwrap_err();
    assert!(matches!(error, Error::Source { .. }));
    assert!(error.to_string().starts_with("source kafka 127.0.0.1:1: cannot be reached"), "{error}");
}

/// Looks again and again, as the loop does while nothing comes, with a clock that goes on by one each time, until what is
/// asked for holds.
fn look_until(source: &mut Kafka<'_>, now: &mut i64, what: &str, holds: impl Fn(&[PartitionStatus]) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds(&source.partitions()) {
        assert!(Instant::now() < deadline, "{what}: {:?}", source.partitions());
        *now += 1;
        source.refresh(*now).unwrap();
        drain(source, &Want { bytes: 1 << 20, events: 1_000, arrival: *now });
    }
}

#[test]
fn only_what_a_leader_says_tells_that_a_partition_is_read_to_its_end() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic("events", 2, 1).unwrap();
    cluster.partition_leader("events", 0, Some(1)).unwrap();
    cluster.partition_leader("events", 1, Some(2)).unwrap();
    let quiet = Quiet::default();
    let mut spec = spec(&cluster.bootstrap_servers(), &["events"]);
    // Who was away is looked for again soon.
    for (name, value) in
        [("socket.timeout.ms", "1000"), ("api.version.request.timeout.ms", "1000"), ("reconnect.backoff.max.ms", "500")]
    {
        spec.settings.insert(name.to_owned(), value.to_owned());
    }
    let mut settings = KafkaSettings::new(&spec, &BTreeMap::new()).unwrap();
    settings.until_caught_up = false;
    settings.give_up = Duration::from_millis(500);
    let mut source = Kafka::new(settings, &quiet).unwrap();
    source.restore(&[]).unwrap();
    let mut now = 1_000;
    look_until(&mut source, &mut now, "both answer", |all| all.len() == 2 && all.iter().all(|p| p.as_of.is_some()));

    // One hangs: it takes the question, and does not answer while it is waited for.
    cluster.broker_round_trip_time(2, Duration::from_secs(20)).unwrap();
    look_until(&mut source, &mut now, "a question that the one does not answer", |all| all[0].as_of > all[1].as_of);
    let heard = source.partitions()[1].as_of;
    let since = now;
    look_until(&mut source, &mut now, "the other goes on answering", |all| all[0].as_of > Some(since));
    assert_eq!(source.partitions()[1].as_of, heard, "nothing was heard of it");

    // Nobody is there: what is asked from now on comes back without an answer.
    (1..=2).for_each(|broker| cluster.broker_down(broker).unwrap());
    let since = now;
    for _ in 0..2 {
        let before = source.asked;
        let deadline = Instant::now() + Duration::from_secs(60);
        while source.asked == before {
            assert!(Instant::now() < deadline, "the question is never given up");
            now += 1;
            source.refresh(now).unwrap();
            drain(&mut source, &Want { bytes: 1 << 20, events: 1_000, arrival: now });
        }
    }
    assert!(source.partitions().iter().all(|p| p.as_of <= Some(since)), "{:?}", source.partitions());
    assert_eq!(source.partitions()[1].as_of, heard);

    cluster.broker_round_trip_time(2, Duration::ZERO).unwrap();
    cluster.broker_up(1).unwrap();
    cluster.broker_up(2).unwrap();
    let back = now;
    look_until(&mut source, &mut now, "both answer again", |all| all.iter().all(|p| p.as_of > Some(back)));
}
