//! A source like Kafka: partitions that grow, offsets with gaps, partitions that come later, every range there to be
//! read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{BinaryViewArray, Int64Array, TimestampMicrosecondArray};

use super::handle::Handle;
use super::topic::{Record, TOPIC, Topic};
use crate::error::{Error, Result};
use crate::events::RawEvents;
use crate::sources::{Chunk, PartitionState, PartitionStatus, PartitionTimes, Progress, Range, Source, Unread, Want};

/// A run's consumer of the topic.
pub struct SimSource<'a> {
    handle: &'a Handle<'a>,
    topic: &'a Topic,
    /// At most so many records are handed out at once.
    burst: u64,
    /// Whether ticks hold several partitions.
    gathers: bool,
    /// For each partition known, how many of its records were seen.
    seen: BTreeMap<i32, usize>,
    positions: BTreeMap<i32, i64>,
    moved: BTreeSet<i32>,
    /// Whether there was a commit before.
    restored: bool,
    looked_at: Option<i64>,
}

impl<'a> SimSource<'a> {
    /// A consumer that knows nothing yet.
    pub fn new(handle: &'a Handle<'a>, topic: &'a Topic, burst: u64, gathers: bool) -> Self {
        let (seen, positions, moved) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { handle, topic, burst, gathers, seen, positions, moved, restored: false, looked_at: None }
    }

    fn position(&self, partition: i32) -> i64 {
        self.positions.get(&partition).copied().unwrap_or(0)
    }

    /// What lies between the position and what was seen.
    fn unread(&self, partition: i32) -> &'a [Record] {
        let records = &self.topic.partitions[partition as usize];
        let from = records.below(self.position(partition));
        let to = self.seen.get(&partition).copied().unwrap_or(0);
        records.records.get(from..to).unwrap_or_default()
    }

    fn state(&self, partition: i32) -> PartitionState {
        PartitionState {
            topic: TOPIC.to_owned(),
            partition,
            position: self.position(partition),
            finished: false,
            file: None,
            kafka: None,
        }
    }

    fn events(&self, partition: i32, records: &[Record], arrival: i64) -> RawEvents {
        RawEvents {
            topic: Arc::from(TOPIC),
            partition,
            offsets: Int64Array::from_iter_values(records.iter().map(|r| r.offset)),
            values: records.iter().map(|r| r.value.as_deref()).collect::<BinaryViewArray>(),
            timestamps: Some(
                TimestampMicrosecondArray::from_iter_values(records.iter().map(|r| r.appended)).with_timezone("UTC"),
            ),
            timestamp_type: Some("log_append_time"),
            keys: None,
            headers: None,
            truncated: vec![],
            arrival,
        }
    }
}

impl Source for SimSource<'_> {
    fn gathers(&self) -> bool {
        self.gathers
    }

    fn restore(&mut self, states: &[PartitionState]) -> Result<()> {
        self.handle.read("restore", TOPIC)?;
        self.positions = states.iter().map(|s| (s.partition, s.position)).collect();
        for partition in self.positions.keys() {
            self.seen.entry(*partition).or_insert(0);
        }
        self.restored = !states.is_empty();
        self.moved.clear();
        Ok(())
    }

    fn refresh(&mut self, time: i64) -> Result<()> {
        self.looked_at = Some(time);
        let now = self.handle.read("refresh", TOPIC)?;
        for (partition, n) in self.topic.partitions.iter().zip(0..) {
            if partition.created <= now {
                let new = self.seen.insert(n, partition.until(now)).is_none();
                if new && self.restored {
                    self.handle.world().look(|w| w.tally.new_partitions += 1);
                }
            }
        }
        Ok(())
    }

    fn next(&mut self, times: &dyn PartitionTimes, want: &Want) -> Result<Option<Chunk>> {
        self.handle.read("next", TOPIC)?;
        let ready = self.seen.keys().copied().filter(|p| !self.unread(*p).is_empty());
        let Some(partition) = ready.min_by_key(|p| times.time(TOPIC, *p)) else { return Ok(None) };
        let unread = self.unread(partition);
        let burst = 1 + self.handle.draw("burst", TOPIC) % self.burst;
        let records = &unread[..unread.len().min(burst as usize).min(want.events)];
        let from = self.position(partition);
        let to = records.last().map_or(from, |r| r.offset + 1);
        self.positions.insert(partition, to);
        self.moved.insert(partition);
        let pieces = vec![self.events(partition, records, want.arrival)];
        let bytes = records.iter().filter_map(|r| r.value.as_ref()).map(|v| v.len() as u64).sum();
        Ok(Some(Chunk {
            range: Range { topic: TOPIC.to_owned(), partition, from, to },
            pieces,
            bytes,
            finished: false,
        }))
    }

    fn read_range(&mut self, range: &Range, arrival: i64, each: &mut dyn FnMut(RawEvents) -> Result<()>) -> Result<()> {
        let now = self.handle.read("read", TOPIC)?;
        let partition = &self.topic.partitions[range.partition as usize];
        let records = &partition.records[partition.below(range.from)..partition.below(range.to)];
        if records.last().is_some_and(|r| r.appended > now) {
            return Err(Error::source(TOPIC, "the plan reads what is not there yet"));
        }
        each(self.events(range.partition, records, arrival))
    }

    fn partitions(&self) -> Vec<PartitionStatus> {
        let status = |(&partition, &seen): (&i32, &usize)| PartitionStatus {
            topic: TOPIC.to_owned(),
            partition,
            progress: match self.unread(partition).is_empty() {
                true => Progress::CaughtUp,
                false if self.positions.contains_key(&partition) => Progress::Open,
                false => Progress::Waiting,
            },
            position: self.position(partition),
            end: None,
            as_of: self.looked_at.filter(|_| self.unread(partition).is_empty()),
            newest: seen.checked_sub(1).map(|n| self.topic.partitions[partition as usize].records[n].appended),
        };
        self.seen.iter().map(status).collect()
    }

    fn changes(&mut self) -> Vec<PartitionState> {
        std::mem::take(&mut self.moved).into_iter().map(|p| self.state(p)).collect()
    }

    fn snapshot(&self) -> Vec<PartitionState> {
        self.seen.keys().map(|&p| self.state(p)).collect()
    }

    fn unread(&self) -> Vec<Unread> {
        vec![]
    }
}
