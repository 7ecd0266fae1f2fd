//! A bare librdkafka consumer: takes a topic from its first to its end offsets and does nothing with it but count.
//!
//!     bare_consumer BROKERS TOPIC
//!
//! Writes one line of JSON: messages, bytes, and seconds from the first assignment to the last message.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo hands options of its own to benchmarks.
    let [brokers, topic] = arguments.as_slice() else {
        eprintln!("usage: bare_consumer BROKERS TOPIC");
        std::process::exit(2);
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bare-consumer")
        .set("enable.auto.commit", "false")
        // The default waits for a second whenever its queue was full.
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    let patience = Duration::from_secs(15);
    let found = consumer.fetch_metadata(Some(topic), patience)?;
    let partitions = found.topics().first().map_or(0, |t| t.partitions().len() as i32);
    let mut places = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..partitions {
        let (first, end) = consumer.fetch_watermarks(topic, partition, patience)?;
        left += end - first;
        places.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    let (mut messages, mut bytes) = (0_u64, 0_u64);
    let began = Instant::now();
    consumer.assign(&places)?;
    while left > 0 {
        let message = consumer.poll(patience).ok_or("nothing came within 15 s")??;
        messages += 1;
        bytes += message.payload_len() as u64;
        left -= 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({"messages": messages, "bytes": bytes, "seconds": seconds}));
    // The client's end would take a tenth of a second more.
    std::process::exit(0);
}
