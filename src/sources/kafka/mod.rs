//! Topics of Kafka as a source.
//!
//! Partitions are assigned, not subscribed to: where reading goes on says the last commit of the pipeline, never the
//! consumer group, which is only told. Only what transactions have committed is read, so offsets may have gaps. A topic
//! is known by its id: one that was deleted and made again is an error, and so are offsets that are gone.

mod again;
mod client;
mod ends;
mod group;
mod look;
mod native;
mod reader;
mod settings;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;

use super::{
    Chunk, KafkaState, PartitionState, PartitionStatus, PartitionTimes, Progress, Range, Source, Unread, Want, Watch,
};
use crate::error::{Error, Result};
use crate::events::RawEvents;
use client::Connection;
use native::Asked;
use reader::{Key, Limit, Reader, Taken};
pub use settings::{KafkaSettings, SECRETS};

/// Of one partition so much is read before another may have its turn.
const TURN_BYTES: usize = 2 << 20;
/// For so long the partition whose watermark is lowest is waited for, though others have something.
const LOWEST_FIRST: Duration = Duration::from_millis(20);
/// For so long a read waits for what is on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(200);
/// When nothing came for so long, a run without end takes what it has for all there is.
const STALLED: Duration = Duration::from_secs(1);
/// Positions by partition.
type Positions = BTreeMap<Key, i64>;

/// The source over topics.
pub struct Kafka<'a> {
    settings: KafkaSettings,
    /// Asks the cluster questions.
    questions: Connection<'a>,
    cluster: Option<String>,
    topics: BTreeMap<String, Option<String>>,
    /// How many partitions each topic has, of whatever shard.
    sizes: BTreeMap<String, usize>,
    entries: BTreeMap<Key, Entry>,
    /// The ends that were seen at the start, where reading stops at them.
    bounds: BTreeMap<Key, i64>,
    changed: BTreeSet<Key>,
    gaps: Vec<Range>,
    reader: Option<Reader<'a>>,
    /// Reads planned ranges again.
    again: Option<Reader<'a>>,
    /// When the cluster was last asked what topics and partitions there are.
    looked: Option<Instant>,
    looking: Option<Asked>,
    /// Topics that are known and that the cluster says it does not have, since when.
    unknown: BTreeMap<String, Instant>,
    /// The loop's clock when the source was last looked at.
    now: i64,
    /// The leaders being asked where their partitions end, since when by the loop's clock.
    asking: Option<(Asked, i64)>,
    /// When they last answered.
    asked: Option<Instant>,
    /// Since when nothing comes though more is there.
    waiting: Option<Instant>,
    /// What was said once and need not be said again.
    told: BTreeSet<String>,
    /// What the consumer group was told, or should have been, before anything was read; empty where nothing was to be told.
    tried: Option<Positions>,
    /// Committed positions that the consumer group is not known to have.
    untold: Positions,
    /// What it is being told.
    telling: Option<(Asked, Positions)>,
}

/// A partition as the source knows it.
#[derive(Debug, Clone, Default)]
struct Entry {
    position: i64,
    /// Its end as last seen.
    end: Option<i64>,
    /// When its leader was last asked where it ends, by the loop's clock, and what it said.
    told: Option<(i64, i64)>,
    newest: Option<i64>,
    /// What the last commit knows of its topic.
    known: Option<KafkaState>,
    /// The topic is not named any more: the position is kept.
    dropped: bool,
    /// Of a topic that nothing had been read of when it was found: it begins with what it has.
    fresh: bool,
}

impl<'a> Kafka<'a> {
    /// A source over the topics that these settings name.
    ///
    /// # Errors
    /// [`Error::Settings`] for a setting that librdkafka does not take.
    pub fn new(settings: KafkaSettings, watch: &'a dyn Watch) -> Result<Self> {
        let questions = Connection::questions(&settings, watch)?;
        // What only the reading client is told has to be right, too.
        drop(Connection::reads(&settings, 1, watch)?);
        Ok(Self {
            settings,
            questions,
            cluster: None,
            topics: BTreeMap::new(),
            sizes: BTreeMap::new(),
            entries: BTreeMap::new(),
            bounds: BTreeMap::new(),
            changed: BTreeSet::new(),
            gaps: vec![],
            reader: None,
            again: None,
            looked: None,
            looking: None,
            unknown: BTreeMap::new(),
            now: 0,
            asking: None,
            asked: None,
            waiting: None,
            told: BTreeSet::new(),
            tried: None,
            untold: Positions::new(),
            telling: None,
        })
    }

    /// A client that reads so many partitions, as patient as the one that asks.
    fn reads(&self, partitions: usize) -> Result<Connection<'a>> {
        let mut connection = Connection::reads(&self.settings, partitions, self.questions.watch())?;
        if self.questions.waits() {
            connection.wait_for_ever();
        }
        Ok(connection)
    }

    /// Up to where a partition is read.
    fn until(&self, key: &Key) -> i64 {
        if self.settings.until_caught_up { self.bounds.get(key).copied().unwrap_or(0) } else { i64::MAX }
    }

    /// The partitions that there may be something of, the one with the lowest watermark first.
    fn order(&self, times: &dyn PartitionTimes) -> Vec<Key> {
        let open = |(key, entry): &(&Key, &Entry)| !entry.dropped && entry.position < self.until(key);
        let mut keys: Vec<Key> = self.entries.iter().filter(open).map(|(k, _)| k.clone()).collect();
        keys.sort_by_cached_key(|k| (times.time(&k.0, k.1), k.clone()));
        keys
    }

    /// What reads on, made where there is none.
    fn reader(&mut self) -> Result<&mut Reader<'a>> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let count = self.entries.values().filter(|e| !e.dropped).count();
                Reader::new(self.reads(count)?)
            }
        };
        Ok(self.reader.insert(reader))
    }

    /// Begins to read what is not yet being read.
    fn assign(&mut self, keys: &[Key]) -> Result<()> {
        let reader = self.reader()?;
        let fresh: Vec<Key> = keys.iter().filter(|k| reader.position(k).is_none()).cloned().collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let position = |k: &Key| self.entries.get(k).map_or(0, |e| e.position);
        let fresh: Vec<_> = fresh.into_iter().map(|key| (key.clone(), position(&key))).collect();
        self.reader()?.assign(&fresh)
    }

    /// Whether a partition has, as far as is known, more than was read.
    fn lags(&self, key: &Key) -> bool {
        let Some(entry) = self.entries.get(key) else { return false };
        let at_end = self.reader.as_ref().is_some_and(|r| r.at_end(key));
        !at_end && entry.end.is_none_or(|end| entry.position < end)
    }

    /// Takes what was read of a partition.
    fn took(&mut self, key: &Key, taken: Taken) -> Option<Chunk> {
        let entry = self.entries.get_mut(key)?;
        let from = entry.position;
        if taken.position <= from {
            return None;
        }
        entry.position = taken.position;
        entry.fresh = false;
        entry.newest = entry.newest.max(taken.newest);
        entry.end = entry.end.max(Some(taken.position));
        self.changed.insert(key.clone());
        self.waiting = None;
        if let Some(reader) = &self.reader {
            reader.connection.context().answered();
        }
        if let Some((offset, schema)) = taken.framed {
            let code = "schema_registry_format";
            if self.told.insert(format!("{code} {}", key.0)) {
                self.questions.watch().warn(
                    code,
                    &format!("topic {}, partition {}, offset {offset}", key.0, key.1),
                    &format!(
                        "the value is in Confluent's wire format (magic byte 0, schema {schema} of a schema registry), not plain JSON; events like it are dead letters. Let producers write plain JSON"
                    ),
                );
            }
        }
        let range = Range { topic: key.0.to_string(), partition: key.1, from, to: taken.position };
        Some(Chunk { range, bytes: taken.bytes, pieces: taken.pieces, finished: false })
    }

    /// What a partition answered in place of messages: an error, or nothing that waiting does not mend.
    fn failed(&mut self, key: &Key, failure: &native::Failure) -> Result<()> {
        let position = self.entries.get(key).map_or(0, |e| e.position);
        match failure.code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                // Beyond the end, or below the earliest: what is there now tells.
                self.reader = None;
                self.look_at_offsets(std::slice::from_ref(key))
            }
            Code::LogTruncation => {
                let end = self.entries.get(key).and_then(|e| e.end).unwrap_or(0);
                Err(trouble::beyond_end(&key.0, key.1, position, end))
            }
            Code::TopicAuthorizationFailed => Err(trouble::forbidden_topic(&key.0, self.user())),
            Code::GroupAuthorizationFailed => Err(trouble::forbidden_group(&self.settings.group, self.user())),
            Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicId => {
                self.looked = None;
                self.look()
            }
            code if trouble::passing(code) => Ok(()),
            _ => Err(trouble::of_partition(&key.0, key.1, failure, position)),
        }
    }

    fn user(&self) -> Option<&str> {
        self.settings.own.get("sasl.username").map(String::as_str)
    }

    /// Nothing of a partition, which says: ask again.
    fn again_later(&self, key: &Key) -> Chunk {
        let position = self.entries.get(key).map_or(0, |e| e.position);
        let range = Range { topic: key.0.to_string(), partition: key.1, from: position, to: position };
        Chunk { range, bytes: 0, pieces: vec![], finished: false }
    }

    /// Nothing came: whether to go on waiting.
    fn nothing(&mut self, some: &Key) -> Result<Option<Chunk>> {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let Some(reader) = &self.reader else { return Ok(None) };
        if self.settings.until_caught_up {
            reader.connection.patience(since)?;
        } else {
            self.hear()?;
            if since.elapsed() >= STALLED {
                return Ok(None);
            }
        }
        Ok(Some(self.again_later(some)))
    }

    /// Hears what the reading client has to say: a cluster that is away is a warning, a refusal an error.
    fn hear(&mut self) -> Result<()> {
        let Some(reader) = &self.reader else { return Ok(()) };
        reader.connection.listen();
        if reader.connection.watch().should_stop() {
            return Ok(());
        }
        reader.connection.refusal(false)?;
        if let Some(reason) = reader.connection.down() {
            self.questions.warn_down(&reason);
        }
        Ok(())
    }

    fn state(&self, key: &Key, entry: &Entry) -> PartitionState {
        let before = entry.known.clone();
        let topic_id = self.topics.get(&*key.0).cloned().flatten();
        PartitionState {
            topic: key.0.to_string(),
            partition: key.1,
            position: entry.position,
            finished: entry.dropped,
            file: None,
            kafka: Some(KafkaState {
                cluster: self.cluster.clone().or_else(|| before.as_ref().and_then(|k| k.cluster.clone())),
                topic_id: topic_id.or_else(|| before.and_then(|k| k.topic_id)),
                newest: entry.newest,
            }),
        }
    }
}

impl Source for Kafka<'_> {
    fn gathers(&self) -> bool {
        true
    }

    fn restore(&mut self, states: &[PartitionState]) -> Result<()> {
        self.gaps.clear();
        self.changed.clear();
        self.again = None;
        self.untold.clear();
        for entry in self.entries.values_mut() {
            *entry = Entry { end: entry.end, told: entry.told, fresh: entry.fresh, ..Entry::default() };
        }
        for state in states {
            if state.kafka.is_none() && state.file.is_some() {
                return Err(super::filled_otherwise("files", "Kafka"));
            }
            if state.position < 0 || state.kafka.is_none() {
                let place = format!("{} {}", state.topic, state.partition);
                return Err(Error::checkpoint(place, "its state is no state of a partition of Kafka"));
            }
            let key: Key = (state.topic.as_str().into(), state.partition);
            let entry = self.entries.entry(key.clone()).or_default();
            entry.position = state.position;
            entry.fresh = false;
            entry.newest = state.kafka.as_ref().and_then(|k| k.newest);
            entry.known.clone_from(&state.kafka);
            entry.dropped = !self.settings.topics.contains(&state.topic);
            if !entry.dropped {
                // The run before may have ended between its commit and telling of it.
                self.untold.insert(key.clone(), state.position);
            }
            if entry.dropped != state.finished {
                // A topic that is not named any more holds no watermark back; one that is named again does.
                self.changed.insert(key);
            }
        }
        let as_read = |(key, entry): (&Key, &Entry)| {
            let read = self.reader.as_ref().and_then(|r| r.position(key));
            read.is_none_or(|position| position == entry.position)
        };
        if !self.entries.iter().all(as_read) {
            self.reader = None;
        }
        Ok(())
    }

    fn planned(&mut self) {
        self.tried.get_or_insert_default();
    }

    fn begin(&mut self) -> Result<Option<Vec<PartitionState>>> {
        self.looked = None;
        self.discover()?;
        self.resolve_start()?;
        Ok(Some(self.snapshot()))
    }

    fn refresh(&mut self, now: i64) -> Result<()> {
        self.now = now;
        match self.looked {
            None => self.look()?,
            Some(at) if self.looking.is_some() || at.elapsed() >= self.settings.look_every() => {
                self.look_by_the_way()?
            }
            Some(_) => {}
        }
        if !self.settings.until_caught_up {
            // From now on a cluster that is away is waited for: a run without end does not end by an outage.
            self.questions.wait_for_ever();
            self.ask_ends()?;
        }
        self.hear()?;
        if let Some(reader) = &self.reader {
            for (key, entry) in &mut self.entries {
                entry.end = entry.end.max(reader.end(key));
            }
        }
        Ok(())
    }

    fn next(&mut self, times: &dyn PartitionTimes, want: &Want) -> Result<Option<Chunk>> {
        let began = Instant::now();
        loop {
            let order = self.order(times);
            let Some(lowest) = order.first().cloned() else { return Ok(None) };
            if self.questions.watch().should_stop() {
                // What was read so far may still be committed.
                return Ok(Some(self.again_later(&lowest)));
            }
            self.assign(&order)?;
            let Some(reader) = &mut self.reader else { return Ok(None) };
            let ready = order.iter().find(|k| reader.ready(k)).cloned();
            let patient = began.elapsed() < LOWEST_FIRST;
            if let Some(key) = ready.filter(|k| *k == lowest || !patient || !self.lags(&lowest)) {
                let Some(reader) = &mut self.reader else { return Ok(None) };
                let until = if self.settings.until_caught_up { self.bounds.get(&key).copied() } else { None };
                let limit = Limit {
                    until: until.unwrap_or(i64::MAX),
                    bytes: want.bytes.clamp(1, TURN_BYTES),
                    events: want.events.max(1),
                    arrival: want.arrival,
                    live: !self.settings.until_caught_up,
                };
                let mut taken = reader.take(&key, &limit)?;
                let failure = taken.failure.take();
                if let Some(chunk) = self.took(&key, taken) {
                    return Ok(Some(chunk));
                }
                if let Some(failure) = failure {
                    self.failed(&key, &failure)?;
                }
                continue;
            }
            // Nothing is there: in a run without end that is all, unless something is known to be on its way.
            let Some(behind) = order.iter().find(|k| self.lags(k)).cloned() else { return Ok(None) };
            if began.elapsed() >= ON_ITS_WAY {
                return self.nothing(&behind);
            }
            if let Some(reader) = &mut self.reader {
                reader.wait(&behind, Duration::from_millis(5));
            }
        }
    }

    fn read_range(&mut self, range: &Range, arrival: i64, each: &mut dyn FnMut(RawEvents) -> Result<()>) -> Result<()> {
        let key: Key = (range.topic.as_str().into(), range.partition);
        let mut reader = match self.again.take() {
            // One range follows on the other; else reading begins anew.
            Some(reader) if reader.position(&key).is_none_or(|at| at == range.from) => reader,
            _ => Reader::new(self.reads(self.entries.len())?),
        };
        if reader.position(&key).is_none() {
            reader.assign(&[(key.clone(), range.from)])?;
        }
        self.read_again(&mut reader, &key, range, arrival, each)?;
        self.again = Some(reader);
        Ok(())
    }

    fn verify(&mut self) -> Result<()> {
        let read_again = self.again.as_ref().map(Reader::topics).unwrap_or_default();
        self.verify_topics(&read_again)
    }

    fn partitions(&self) -> Vec<PartitionStatus> {
        let status = |(key, entry): (&Key, &Entry)| PartitionStatus {
            topic: key.0.to_string(),
            partition: key.1,
            progress: if entry.position >= self.until(key) || (!self.settings.until_caught_up && !self.lags(key)) {
                Progress::CaughtUp
            } else if entry.newest.is_none() {
                Progress::Waiting
            } else {
                Progress::Open
            },
            newest: entry.newest,
            position: entry.position,
            end: entry.end,
            as_of: entry.told.filter(|(_, end)| entry.position >= *end).map(|(at, _)| at),
        };
        self.entries.iter().filter(|(_, e)| !e.dropped).map(status).collect()
    }

    fn changes(&mut self) -> Vec<PartitionState> {
        let changed = std::mem::take(&mut self.changed);
        changed.iter().filter_map(|key| self.entries.get(key).map(|entry| self.state(key, entry))).collect()
    }

    fn snapshot(&self) -> Vec<PartitionState> {
        self.entries.iter().map(|(key, entry)| self.state(key, entry)).collect()
    }

    fn unread(&self) -> Vec<Unread> {
        vec![]
    }

    fn gaps(&mut self) -> Vec<Range> {
        std::mem::take(&mut self.gaps)
    }

    fn committed(&mut self, states: &[PartitionState]) -> Result<()> {
        self.tell_group(states)
    }
}

#[cfg(test)]
mod tests;
