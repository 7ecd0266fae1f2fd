//! What the consumer group is told: how far was committed, so that tools that show lag see it. Nothing is read from it.

use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::super::PartitionState;
use super::reader::Key;
use super::{Entry, Kafka, Positions, client, native, trouble};
use crate::error::{Error, Result};
use crate::failpoint;

/// For so long a commit to the consumer group is waited for.
const COMMIT_WAIT: Duration = Duration::from_secs(2);
/// The same at the end of a run, when no epoch comes that could tell it again. With the wait before it, and the one for the
/// client's own end, it stays below what a run may take to stop.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// For so long it is waited to hear whether the group may be used.
const GROUP_WAIT: Duration = Duration::from_secs(10);
/// That takes some milliseconds, and every run begins with it.
const GLANCE: Duration = Duration::from_millis(5);

impl Kafka<'_> {
    /// Tells the consumer group where reading goes on, once, before anything is read: so it is known whether it may be used.
    ///
    /// # Errors
    /// The group is forbidden; the cluster does not answer; [`Error::Interrupted`].
    pub(super) fn try_group(&mut self) -> Result<()> {
        let beginning =
            || self.entries.iter().filter(|(_, e)| !e.dropped).map(|(k, e)| (k.clone(), e.position)).collect();
        let positions: Positions = if self.untold.is_empty() { beginning() } else { self.untold.clone() };
        if self.tried.is_some() || positions.is_empty() {
            return Ok(());
        }
        self.tried = Some(positions.clone());
        // A client that has connected before it knows what to read looks for leaders a second later.
        let open = |(key, entry): &(&Key, &Entry)| !entry.dropped && entry.position < self.until(key);
        let keys: Vec<Key> = self.entries.iter().filter(open).map(|(key, _)| key.clone()).collect();
        self.assign(&keys)?;
        let connection = &self.reader()?.connection;
        let asked = native::ask_commit(&connection.client, &offsets(&positions)?);
        let since = Instant::now();
        while since.elapsed() < GROUP_WAIT {
            let answer = asked.commit(GLANCE);
            let refused = matches!(&answer, Some(Err(failure)) if failure.code == Code::GroupAuthorizationFailed);
            if refused || connection.context().group_forbidden() {
                return Err(trouble::forbidden_group(&self.settings.group, self.user()));
            }
            match answer {
                Some(Ok(())) => {
                    self.untold.retain(|key, position| positions.get(key) != Some(position));
                    return Ok(());
                }
                // Whatever else there is with the group: what is told after an epoch will say so.
                Some(Err(_)) => {
                    self.untold = positions;
                    return Ok(());
                }
                None => {
                    connection.wake();
                    connection.patience(since)?;
                }
            }
        }
        self.telling = Some((asked, positions));
        Ok(())
    }

    /// Tells the consumer group how far was committed; what it could not be told before, too.
    pub(super) fn tell_group(&mut self, states: &[PartitionState]) -> Result<()> {
        let key = |state: &PartitionState| -> Key { (state.topic.as_str().into(), state.partition) };
        let as_tried = |state| self.tried.as_ref().is_some_and(|tried| tried.get(&key(state)) == Some(&state.position));
        if !states.is_empty() && states.iter().all(as_tried) {
            // An epoch that has read nothing. Where reading begins the group was told before, or will be with the next one.
            return Ok(());
        }
        if self.reader.is_none() && self.again.is_none() {
            // What a plan was read with is closed, and nothing may come after it.
            self.reader()?;
        }
        let Some(reader) = self.reader.as_ref().or(self.again.as_ref()) else { return Ok(()) };
        let place = || format!("consumer group {}", self.settings.group);
        let refused = |failure: native::Failure| {
            let advice = match failure.code {
                Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress => {
                    "; others are subscribed with this group: give Penstock one of its own by source.kafka.group"
                }
                Code::GroupAuthorizationFailed => "; the broker's ACLs have to allow Read on the group",
                _ => "",
            };
            Error::source(
                place(),
                format!("it was not told how far was read: {}{advice}. The events are safe", failure.reason),
            )
        };
        for state in states.iter().filter(|s| s.kafka.is_some()) {
            if state.finished {
                self.untold.remove(&key(state))
            } else {
                self.untold.insert(key(state), state.position)
            };
        }
        if let Some((asked, told)) = self.telling.take() {
            match asked.commit(Duration::ZERO) {
                // The broker has not answered yet: it is told with the next epoch.
                None => {
                    self.telling = Some((asked, told));
                    return Ok(());
                }
                Some(Ok(())) => self.untold.retain(|key, position| told.get(key) != Some(position)),
                Some(Err(failure)) => return Err(refused(failure)),
            }
        }
        if self.untold.is_empty() {
            return Ok(());
        }
        failpoint::pass("offsets.before")?;
        let asked = native::ask_commit(&reader.connection.client, &offsets(&self.untold)?);
        let since = Instant::now();
        while since.elapsed() < COMMIT_WAIT {
            if let Some(answer) = asked.commit(client::SLICE) {
                answer.map_err(refused)?;
                self.untold.clear();
                return failpoint::pass("offsets.after");
            }
        }
        self.telling = Some((asked, self.untold.clone()));
        Ok(())
    }
}

/// Positions as librdkafka takes them.
fn offsets(positions: &Positions) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), position) in positions {
        list.add_partition_offset(topic, *partition, Offset::Offset(*position))
            .map_err(|e| Error::Internal(e.to_string()))?;
    }
    Ok(list)
}

impl Drop for Kafka<'_> {
    fn drop(&mut self) {
        let Some((asked, told)) = self.telling.take() else { return };
        let Some(reader) = self.reader.as_ref().or(self.again.as_ref()) else { return };
        let since = Instant::now();
        let answered = |asked: &native::Asked| loop {
            match asked.commit(client::SLICE) {
                Some(answer) => return answer.is_ok(),
                None if since.elapsed() >= LAST_WAIT => return false,
                None => {}
            }
        };
        if !answered(&asked) {
            return;
        }
        self.untold.retain(|key, position| told.get(key) != Some(position));
        // Offsets that cannot be written down are not told: what is committed is safe.
        if let Some(list) = offsets(&self.untold).ok().filter(|list| list.count() > 0) {
            answered(&native::ask_commit(&reader.connection.client, &list));
        }
    }
}
