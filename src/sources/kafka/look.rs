//! What there is: topics by their ids, partitions, their offsets; and where a pipeline without history begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::native::{self, Topic};
use super::reader::Key;
use super::{Entry, Kafka, trouble};
use crate::error::{Error, Result};
use crate::sources::{PartitionState, Range, Source};
use crate::stream::broker::Broker;
use crate::stream::spec::{KafkaStart, MissingTopics};

/// What the broker takes for the earliest offset.
const EARLIEST: i64 = -2;
/// What the broker takes for the end.
const END: i64 = -1;
/// How long to wait before a question is asked once more.
const PAUSE: Duration = Duration::from_millis(200);
/// A topic that is known is gone when the cluster has said so for this long: one that has just started may not know yet.
const GONE_FOR: Duration = Duration::from_secs(3);
/// For so long a run that was asked to stop waits to hear what the topics are that it has read from.
const LAST_WORD: Duration = Duration::from_secs(5);

impl Kafka<'_> {
    /// Looks for topics, partitions and their offsets; what was not read yet has to be still there.
    pub(super) fn look(&mut self) -> Result<()> {
        self.discover()?;
        let reading = |key: &Key| self.reader.as_ref().is_some_and(|r| r.position(key).is_some());
        let fresh: Vec<Key> =
            self.entries.iter().filter(|(k, e)| !e.dropped && !reading(k)).map(|(k, _)| k.clone()).collect();
        self.look_at_offsets(&fresh)?;
        self.try_group()?;
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Looks for new topics and partitions while it goes on reading: a cluster that does not answer is asked later.
    pub(super) fn look_by_the_way(&mut self) -> Result<()> {
        let asked = match self.looking.take() {
            Some(asked) => asked,
            None => native::ask_topics(&self.questions.client, &self.settings.topics, self.questions.question()),
        };
        self.questions.listen();
        match asked.topics(Duration::ZERO) {
            None => {
                self.looking = Some(asked);
                return Ok(());
            }
            Some(Err(failure)) if trouble::passing(failure.code) => self.unknown.clear(),
            Some(Err(failure)) => {
                return Err(trouble::of_question(&self.settings.brokers, "what its topics are", &failure));
            }
            Some(Ok(found)) => {
                self.questions.context().answered();
                // What is new begins at 0; where it ends is asked by the way, too.
                for topic in found.iter().filter(|t| t.failure.as_ref().is_none_or(|f| !trouble::passing(f.code))) {
                    self.take_topic(topic)?;
                }
                if !self.unknown.is_empty() {
                    return Ok(());
                }
            }
        }
        self.looked = Some(Instant::now());
        // Where there was no topic at the start, the first has come.
        self.try_group()
    }

    /// What is there of these partitions: what was not read yet has to be among it.
    pub(super) fn look_at_offsets(&mut self, keys: &[Key]) -> Result<()> {
        let committed_only = self.settings.committed_only();
        let low = self.offsets(keys, EARLIEST, true)?;
        let ends = self.offsets(keys, END, committed_only)?;
        // What a transaction holds back lies behind the last stable offset, which is no end.
        let last = if committed_only { self.offsets(keys, END, false)? } else { ends.clone() };
        for key in keys {
            let (Some(&low), Some(&end), Some(&last)) = (low.get(key), ends.get(key), last.get(key)) else { continue };
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.end = Some(end);
            entry.told = Some((self.now, last));
            if entry.position > last {
                return Err(trouble::beyond_end(&key.0, key.1, entry.position, last));
            }
            if entry.position < low {
                let range = Range { topic: key.0.to_string(), partition: key.1, from: entry.position, to: low };
                if !entry.fresh && !self.settings.accept_gap {
                    return Err(trouble::gone(&range));
                }
                entry.position = low;
                self.changed.insert(key.clone());
                if !entry.fresh {
                    self.gaps.push(range);
                }
            }
            self.bounds.entry(key.clone()).or_insert(end);
        }
        Ok(())
    }

    /// Finds topics and partitions. Those found later than the others begin at 0.
    pub(super) fn discover(&mut self) -> Result<()> {
        loop {
            let found = self.topics()?;
            self.check_cluster()?;
            for topic in &found {
                self.take_topic(topic)?;
            }
            if self.unknown.is_empty() {
                break;
            }
            self.questions.patience(Instant::now())?;
            std::thread::sleep(PAUSE);
        }
        if self.settings.shard.is_some() {
            trouble::same_size(&self.sizes)?;
        }
        Ok(())
    }

    /// Asks what the topics are; asks again while the cluster is not ready to answer.
    fn topics(&mut self) -> Result<Vec<Topic>> {
        let since = Instant::now();
        loop {
            let asked = native::ask_topics(&self.questions.client, &self.settings.topics, self.questions.question());
            match self.questions.wait(|wait| asked.topics(wait))? {
                Ok(found) if !found.iter().filter_map(|t| t.failure.as_ref()).any(|f| trouble::passing(f.code)) => {
                    self.questions.context().answered();
                    return Ok(found);
                }
                Ok(_) => {}
                Err(failure) if trouble::passing(failure.code) => self.unknown.clear(),
                Err(failure) => {
                    return Err(trouble::of_question(&self.settings.brokers, "what its topics are", &failure));
                }
            }
            self.questions.patience(since)?;
            std::thread::sleep(PAUSE);
        }
    }

    fn check_cluster(&mut self) -> Result<()> {
        let Some(now) = native::cluster(&self.questions.client) else { return Ok(()) };
        let known = self.entries.values().filter_map(|e| e.known.as_ref()?.cluster.as_deref());
        let before = self.cluster.as_deref().into_iter().chain(known).find(|before| *before != now);
        if let Some(before) = before {
            return Err(trouble::another_cluster(&self.settings.brokers, before, &now));
        }
        self.cluster = Some(now);
        Ok(())
    }

    fn take_topic(&mut self, topic: &Topic) -> Result<()> {
        if let Some(failure) = &topic.failure {
            return match failure.code {
                Code::TopicAuthorizationFailed => Err(trouble::forbidden_topic(&topic.name, self.user())),
                Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId => self.missing(&topic.name),
                _ => Err(trouble::of_question(&self.settings.brokers, &format!("what {} is", topic.name), failure)),
            };
        }
        self.check_id(topic)?;
        self.unknown.remove(&topic.name);
        self.told.remove(&format!("missing {}", topic.name));
        self.topics.insert(topic.name.clone(), topic.id.clone());
        let name: Arc<str> = topic.name.as_str().into();
        let mut found = vec![];
        let fresh = !self.entries.keys().any(|key| key.0 == name);
        for &number in topic.partitions.iter().filter(|n| self.settings.ours(**n)) {
            self.entries.entry((Arc::clone(&name), number)).or_insert_with(|| {
                found.push(number);
                Entry { fresh, ..Entry::default() }
            });
        }
        let before = self.sizes.insert(topic.name.clone(), topic.partitions.len());
        // This shard's own may be new since its last run; in a run those of the others are seen, too.
        let of_ours = self.entries.iter().any(|(k, e)| k.0 == name && e.known.is_some()) && !found.is_empty();
        let grown = before.is_some_and(|before| before < topic.partitions.len());
        if (grown || of_ours) && self.settings.shard.is_some() {
            self.questions.watch().warn(
                "new_partitions",
                &format!("topic {}", topic.name),
                &format!(
                    "has new partitions, {} now: keys move between partitions, and so between shards; duplicates and \
                     sessions across the move are not seen",
                    topic.partitions.len()
                ),
            );
        }
        Ok(())
    }

    fn missing(&mut self, topic: &str) -> Result<()> {
        if self.topics.contains_key(topic) || self.entries.iter().any(|(k, e)| &*k.0 == topic && e.known.is_some()) {
            let since = *self.unknown.entry(topic.to_owned()).or_insert_with(Instant::now);
            return if since.elapsed() < GONE_FOR { Ok(()) } else { Err(trouble::deleted_topic(topic)) };
        }
        let wait = match self.settings.missing {
            MissingTopics::Auto => !self.settings.until_caught_up,
            MissingTopics::Wait => true,
            MissingTopics::Error => false,
        };
        if !wait {
            return Err(trouble::unknown_topic(topic));
        }
        if self.told.insert(format!("missing {topic}")) {
            let said = "there is no such topic yet; it is waited for";
            self.questions.watch().warn("missing_topic", &format!("topic {topic}"), said);
        }
        Ok(())
    }

    fn check_id(&self, topic: &Topic) -> Result<()> {
        let Some(now) = topic.id.as_deref() else { return Ok(()) };
        let seen = self.topics.get(&topic.name).and_then(|id| id.as_deref());
        let of_topic = self.entries.iter().filter(|(k, _)| *k.0 == *topic.name);
        let known = of_topic.filter_map(|(_, e)| e.known.as_ref()?.topic_id.as_deref());
        match seen.into_iter().chain(known).find(|before| *before != now) {
            Some(before) => Err(trouble::recreated_topic(&topic.name, before, now)),
            None => Ok(()),
        }
    }

    /// Whether the topics still are those that were read. It is asked until the cluster has answered: what was read of a
    /// topic that was deleted and made again meanwhile must not be planned.
    /// Those that a plan was read from again may be named no more.
    pub(super) fn verify_topics(&mut self, read_again: &BTreeSet<String>) -> Result<()> {
        let began = Instant::now();
        let mut since = began;
        let named: BTreeSet<String> = self.settings.topics.iter().cloned().collect();
        let all: Vec<String> = named.union(read_again).cloned().collect();
        loop {
            let asked = native::ask_topics(&self.questions.client, &all, self.questions.question());
            let answer = loop {
                match asked.topics(super::client::SLICE) {
                    Some(answer) => break answer,
                    None => self.bear(began, since)?,
                }
            };
            match answer {
                Ok(found) => {
                    let passing = |t: &&Topic| t.failure.as_ref().is_none_or(|f| !trouble::passing(f.code));
                    let answered = found.iter().filter(passing).count() == found.len();
                    for topic in found.iter().filter(passing) {
                        if named.contains(&topic.name) || topic.failure.is_some() {
                            self.take_topic(topic)?;
                        } else {
                            self.check_id(topic)?;
                        }
                    }
                    if answered && self.unknown.is_empty() {
                        self.questions.context().answered();
                        return Ok(());
                    }
                    if answered {
                        since = Instant::now();
                    }
                }
                Err(failure) if trouble::passing(failure.code) => self.unknown.clear(),
                Err(failure) => {
                    return Err(trouble::of_question(&self.settings.brokers, "what its topics are", &failure));
                }
            }
            self.bear(began, since)?;
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether to go on waiting for what the topics are. A run that was asked to stop waits a little, too.
    fn bear(&self, began: Instant, since: Instant) -> Result<()> {
        match self.questions.patience(since) {
            Err(Error::Interrupted) if began.elapsed() < LAST_WORD => Ok(()),
            other => other,
        }
    }

    /// The offsets of partitions at a time (milliseconds), at their beginning or at their end.
    fn offsets(&self, keys: &[Key], at: i64, committed_only: bool) -> Result<BTreeMap<Key, i64>> {
        let since = Instant::now();
        let mut found = BTreeMap::new();
        let mut leaderless = false;
        loop {
            let mut list = TopicPartitionList::new();
            for (topic, partition) in keys.iter().filter(|k| !found.contains_key(*k)) {
                // The list's offset carries the question: −2 and −1 have meanings of their own here.
                let raw = match at {
                    EARLIEST => Offset::Beginning,
                    END => Offset::End,
                    time => Offset::Offset(time),
                };
                list.add_partition_offset(topic, *partition, raw).map_err(|e| Error::Internal(e.to_string()))?;
            }
            if list.count() == 0 {
                return Ok(found);
            }
            let asked = native::ask_offsets(&self.questions.client, &list, committed_only, self.questions.question());
            match self.questions.wait(|wait| asked.offsets(wait))? {
                Err(failure) if trouble::passing(failure.code) => {}
                // None of them has a leader now. What is known of leaders is only asked for anew with the topics.
                Err(failure) if failure.code == Code::NoEnt => leaderless = true,
                Err(failure) => return Err(trouble::of_question(&self.settings.brokers, "its offsets", &failure)),
                Ok(answers) => {
                    for answer in answers {
                        let key: Key = (answer.topic.as_str().into(), answer.partition);
                        match answer.failure {
                            None => {
                                found.insert(key, answer.offset);
                            }
                            Some(f) if f.code == Code::TopicAuthorizationFailed => {
                                return Err(trouble::forbidden_topic(&answer.topic, self.user()));
                            }
                            // A topic that has just been made, or that is about to go: what it is now tells the topic.
                            Some(f) if trouble::passing(f.code) || f.code == Code::UnknownTopicOrPartition => {}
                            Some(f) => {
                                let what = format!("the offsets of {} {}", answer.topic, answer.partition);
                                return Err(trouble::of_question(&self.settings.brokers, &what, &f));
                            }
                        }
                    }
                }
            }
            if found.len() < keys.len() {
                self.questions.patience(since)?;
                std::thread::sleep(PAUSE);
                if std::mem::take(&mut leaderless) {
                    let topics: BTreeSet<String> = keys.iter().map(|k| k.0.to_string()).collect();
                    let topics: Vec<String> = topics.into_iter().collect();
                    let asked = native::ask_topics(&self.questions.client, &topics, self.questions.question());
                    let _ = self.questions.wait(|wait| asked.topics(wait))?;
                }
            }
        }
    }

    /// The first offset and the end of one partition.
    pub(super) fn ends_of(&self, key: &Key) -> Result<(i64, i64)> {
        let keys = std::slice::from_ref(key);
        let low = self.offsets(keys, EARLIEST, true)?;
        let end = self.offsets(keys, END, false)?;
        Ok((low.get(key).copied().unwrap_or(0), end.get(key).copied().unwrap_or(0)))
    }

    /// Where a pipeline without history begins.
    pub(super) fn resolve_start(&mut self) -> Result<()> {
        let keys: Vec<Key> = self.entries.keys().cloned().collect();
        let low = self.offsets(&keys, EARLIEST, true)?;
        let end = self.offsets(&keys, END, self.settings.committed_only())?;
        let starts = match &self.settings.start {
            KafkaStart::Earliest => low,
            KafkaStart::Latest => end,
            KafkaStart::Time(micros) => {
                let mut found = self.offsets(&keys, millis(*micros), true)?;
                for (key, offset) in &mut found {
                    // None is so new: what comes from now on is.
                    *offset = if *offset < 0 { end.get(key).copied().unwrap_or(0) } else { *offset };
                }
                found
            }
            KafkaStart::Offsets(given) => given_offsets(given, &low, &end, |number| self.settings.ours(number))?,
        };
        for (key, position) in starts {
            if let Some(entry) = self.entries.get_mut(&key) {
                (entry.position, entry.fresh) = (position, false);
            }
        }
        Ok(())
    }
}

impl Broker for Kafka<'_> {
    fn ends(&mut self, read: &[PartitionState]) -> Result<BTreeMap<(String, i32), (i64, i64)>> {
        self.restore(read)?;
        // Who only looks tells the group nothing.
        self.tried.get_or_insert_default();
        self.discover()?;
        let keys: Vec<Key> = self.entries.iter().filter(|(_, e)| !e.dropped).map(|(k, _)| k.clone()).collect();
        let low = self.offsets(&keys, EARLIEST, true)?;
        let end = self.offsets(&keys, END, self.settings.committed_only())?;
        Ok(low.into_iter().filter_map(|(k, low)| Some(((k.0.to_string(), k.1), (low, *end.get(&k)?)))).collect())
    }

    fn since(&mut self, micros: i64) -> Result<BTreeMap<(String, i32), Option<i64>>> {
        let keys: Vec<Key> = self.entries.iter().filter(|(_, e)| !e.dropped).map(|(k, _)| k.clone()).collect();
        let found = self.offsets(&keys, millis(micros), self.settings.committed_only())?;
        Ok(found.into_iter().map(|(k, offset)| ((k.0.to_string(), k.1), (offset >= 0).then_some(offset))).collect())
    }

    fn count(&mut self, range: &Range) -> Result<u64> {
        let mut count = 0;
        self.read_range(range, 0, &mut |piece| {
            count += piece.len() as u64;
            Ok(())
        })?;
        Ok(count)
    }
}

/// A time as the broker knows it: the first whole millisecond that is not before it.
fn millis(micros: i64) -> i64 {
    micros.saturating_add(999).max(0) / 1_000
}

/// The offsets that the settings give, checked against those that are there.
fn given_offsets(
    given: &BTreeMap<String, BTreeMap<i32, i64>>,
    low: &BTreeMap<Key, i64>,
    end: &BTreeMap<Key, i64>,
    ours: impl Fn(i32) -> bool,
) -> Result<BTreeMap<Key, i64>> {
    let name = "source.kafka.start";
    for (topic, offsets) in given {
        if let Some(number) = offsets.keys().find(|n| ours(**n) && !low.contains_key(&(topic.as_str().into(), **n))) {
            return Err(Error::settings(name, format!("there is no partition {number} of topic {topic}")));
        }
    }
    let mut found = BTreeMap::new();
    for (key, low) in low {
        let Some(offset) = given.get(&*key.0).and_then(|offsets| offsets.get(&key.1)).copied() else {
            let reason = format!("gives no offset for topic {}, partition {}; give one for each", key.0, key.1);
            return Err(Error::settings(name, reason));
        };
        let end = end.get(key).copied().unwrap_or(*low);
        if offset < *low || offset > end {
            let reason = format!(
                "offset {offset} of topic {}, partition {} is not there: it holds {low} to {end} (the end)",
                key.0, key.1
            );
            return Err(Error::settings(name, reason));
        }
        found.insert(key.clone(), offset);
    }
    Ok(found)
}
