//! Partitions being read: each has a queue of its own, so that the one whose watermark is lowest can be read while the
//! others wait in bounded memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{BinaryBuilder, BinaryViewArray, Int64Array, TimestampMicrosecondArray, make_view};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use rdkafka::consumer::Consumer;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::client::Connection;
use super::native::{Failure, Message, Queue};
use super::trouble;
use crate::error::{Error, Result};
use crate::events::{Headers, RawEvents};

/// A partition of a topic.
pub(super) type Key = (Arc<str>, i32);

/// Messages taken out of a queue at once.
const BATCH: usize = 1_024;
/// The first byte of a value in Confluent's wire format; the number of a schema follows, in four bytes.
const MAGIC: u8 = 0;

/// Partitions that are being read.
pub(super) struct Reader<'a> {
    slots: BTreeMap<Key, Slot>,
    pub(super) connection: Connection<'a>,
}

struct Slot {
    queue: Queue,
    /// Taken out of the queue and not yet read.
    held: VecDeque<Message>,
    position: i64,
    /// Whether the partition was read to its present end.
    at_end: bool,
}

/// How far to read.
pub(super) struct Limit {
    /// Nothing at or beyond this offset.
    pub(super) until: i64,
    pub(super) bytes: usize,
    pub(super) events: usize,
    pub(super) arrival: i64,
    /// The run goes on for ever: what a producer says of the time tells nothing of when the message came.
    pub(super) live: bool,
}

/// What was read of one partition.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) pieces: Vec<RawEvents>,
    pub(super) bytes: u64,
    /// Where reading goes on.
    pub(super) position: i64,
    /// The timestamp of the newest message, in microseconds.
    pub(super) newest: Option<i64>,
    /// The offset of a value in Confluent's wire format, and its schema's number.
    pub(super) framed: Option<(i64, u32)>,
    /// What came in place of messages.
    pub(super) failure: Option<Failure>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(connection: Connection<'a>) -> Self {
        Self { slots: BTreeMap::new(), connection }
    }

    /// The topics that are being read.
    pub(super) fn topics(&self) -> BTreeSet<String> {
        self.slots.keys().map(|key| key.0.to_string()).collect()
    }

    /// Where a partition is being read, if it is.
    pub(super) fn position(&self, key: &Key) -> Option<i64> {
        self.slots.get(key).map(|s| s.position)
    }

    /// Begins to read these partitions.
    pub(super) fn assign(&mut self, partitions: &[(Key, i64)]) -> Result<()> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (key, position) in partitions {
            let none = || Error::Internal(format!("no queue for {} {}", key.0, key.1));
            let queue = Queue::of_partition(&self.connection.client, &key.0, key.1).ok_or_else(none)?;
            let slot = Slot { queue, held: VecDeque::new(), position: *position, at_end: false };
            self.slots.insert(key.clone(), slot);
            list.add_partition_offset(&key.0, key.1, Offset::Offset(*position))
                .map_err(|e| Error::Internal(format!("{} {} at {position}: {e}", key.0, key.1)))?;
        }
        self.connection
            .client
            .incremental_assign(&list)
            .map_err(|e| trouble::fatal(&self.connection.brokers, &e.to_string()))
    }

    /// Whether something of a partition is there to be read.
    pub(super) fn ready(&self, key: &Key) -> bool {
        self.slots.get(key).is_some_and(|s| !s.held.is_empty() || s.queue.len() > 0)
    }

    /// Whether a partition was read to its present end.
    pub(super) fn at_end(&self, key: &Key) -> bool {
        self.slots.get(key).is_some_and(|s| s.at_end && s.held.is_empty() && s.queue.len() == 0)
    }

    /// Waits a little for something of a partition.
    pub(super) fn wait(&mut self, key: &Key, wait: Duration) {
        if let Some(slot) = self.slots.get_mut(key).filter(|s| s.held.is_empty()) {
            let mut found = vec![];
            slot.queue.messages(wait, 1, &mut found);
            slot.held.extend(found);
        }
    }

    /// The end of a partition as the last answer of its broker had it.
    pub(super) fn end(&self, key: &Key) -> Option<i64> {
        let (mut low, mut high) = (-1, -1);
        let topic = std::ffi::CString::new(&*key.0).ok()?;
        super::native::watermarks(&self.connection.client, &topic, key.1, &mut low, &mut high);
        (high >= 0).then_some(high)
    }

    /// Reads on in one partition, as far as messages are there.
    pub(super) fn take(&mut self, key: &Key, limit: &Limit) -> Result<Taken> {
        let Some(slot) = self.slots.get_mut(key) else {
            return Err(Error::Internal(format!("{} {} is read before it is assigned", key.0, key.1)));
        };
        let mut taken = Taken { position: slot.position, ..Taken::default() };
        let mut piece = Piece::default();
        let mut count = 0;
        let mut fresh = vec![];
        while count < limit.events && taken.bytes < limit.bytes as u64 {
            if slot.held.is_empty() {
                slot.queue.messages(Duration::ZERO, BATCH.min(limit.events - count), &mut fresh);
                slot.held.extend(fresh.drain(..));
            }
            let Some(message) = slot.held.front() else { break };
            if let Some(failure) = message.failure() {
                if failure.code == Code::PartitionEOF {
                    slot.at_end = true;
                    // Offsets that hold no events (control records, aborted transactions) end with the partition.
                    taken.position = taken.position.max(message.offset().min(limit.until));
                } else if taken.position > slot.position {
                    // It is for the next time: what came before it is read first.
                    break;
                } else {
                    taken.failure = Some(failure);
                    slot.held.pop_front();
                    break;
                }
                slot.held.pop_front();
                continue;
            }
            if message.offset() >= limit.until {
                taken.position = taken.position.max(limit.until);
                break;
            }
            slot.at_end = false;
            if message.offset() >= taken.position {
                let (time, kind) = message.timestamp();
                if piece.kind != kind && !piece.offsets.is_empty() {
                    taken.pieces.push(piece.finish(key, limit.arrival)?);
                    piece = Piece::default();
                }
                piece.kind = kind;
                let micros = time.and_then(|t| t.checked_mul(1_000));
                taken.bytes += piece.push(message, micros);
                let came = if limit.live && kind != Some("log_append_time") { Some(limit.arrival) } else { None };
                // A producer's clock that runs ahead must not keep the partition awake.
                taken.newest = taken.newest.max(micros.map(|time| time.min(limit.arrival))).max(came);
                taken.framed = taken.framed.or_else(|| framed(message));
                taken.position = message.offset() + 1;
                count += 1;
            }
            slot.held.pop_front();
        }
        if !piece.offsets.is_empty() {
            taken.pieces.push(piece.finish(key, limit.arrival)?);
        }
        slot.position = taken.position;
        Ok(taken)
    }
}

/// What a value in Confluent's wire format says of itself.
fn framed(message: &Message) -> Option<(i64, u32)> {
    let value = message.value()?;
    let number: [u8; 4] = value.get(1..5)?.try_into().ok()?;
    (value.first() == Some(&MAGIC) && value.len() > 5).then(|| (message.offset(), u32::from_be_bytes(number)))
}

/// Consecutive messages of one kind of timestamp, as they become events.
#[derive(Default)]
struct Piece {
    offsets: Vec<i64>,
    text: Vec<u8>,
    views: Vec<u128>,
    valid: Vec<bool>,
    times: Vec<Option<i64>>,
    keys: BinaryBuilder,
    headers: Vec<Headers>,
    kind: Option<&'static str>,
}

impl Piece {
    fn push(&mut self, message: &Message, time: Option<i64>) -> u64 {
        let value = message.value();
        let bytes = value.unwrap_or_default();
        self.views.push(make_view(bytes, 0, self.text.len() as u32));
        self.text.extend_from_slice(bytes);
        self.valid.push(value.is_some());
        self.offsets.push(message.offset());
        self.times.push(time);
        let (key, headers) = (message.key(), message.headers());
        let headed = |(name, value): &(String, Option<Vec<u8>>)| name.len() + value.as_ref().map_or(0, Vec::len);
        let size = bytes.len() + key.map_or(0, <[u8]>::len) + headers.iter().map(headed).sum::<usize>();
        self.keys.append_option(key);
        self.headers.push(headers);
        size as u64
    }

    fn finish(mut self, key: &Key, arrival: i64) -> Result<RawEvents> {
        let nulls = NullBuffer::from(self.valid);
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        Ok(RawEvents {
            topic: Arc::clone(&key.0),
            partition: key.1,
            offsets: Int64Array::from(self.offsets),
            values: BinaryViewArray::try_new(ScalarBuffer::from(self.views), vec![Buffer::from(self.text)], nulls)?,
            timestamps: Some(TimestampMicrosecondArray::from(self.times)),
            timestamp_type: self.kind,
            keys: Some(self.keys.finish()),
            headers: Some(self.headers),
            truncated: vec![],
            arrival,
        })
    }
}
