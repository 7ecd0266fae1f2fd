//! A bare librdkafka consumer: takes a topic from its first to its end offsets and does nothing with it but count.
//!
//!     bare_consumer BROKERS TOPIC
//!
//! Writes one line of JSON: messages, bytes, and seconds from the first assignment to the last message. Messages are taken a
//! thousand at a time (0.81 s a million of the shop, one by one 1.05 s).

use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
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
    // SAFETY: the consumer lives to the end of the process, and its queue with it; librdkafka writes at most as many
    // pointers as there is room for and says how many; each is a message of ours, until it is destroyed, once.
    unsafe {
        let queue = sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        let mut batch = vec![ptr::null_mut::<sys::rd_kafka_message_t>(); 1_000];
        while left > 0 {
            let wait = i32::try_from(patience.as_millis())?;
            // It waits for as many as it is asked for.
            let room = batch.len().min(left as usize);
            let count = sys::rd_kafka_consume_batch_queue(queue, wait, batch.as_mut_ptr(), room);
            if count <= 0 {
                return Err("nothing came within 15 s".into());
            }
            for message in &batch[..count as usize] {
                let ok = (**message).err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
                messages += u64::from(ok);
                bytes += if ok { (**message).len as u64 } else { 0 };
                left -= i64::from(ok);
                sys::rd_kafka_message_destroy(*message);
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({"messages": messages, "bytes": bytes, "seconds": seconds}));
    // The client's end would take a tenth of a second more.
    std::process::exit(0);
}
