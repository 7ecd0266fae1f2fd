//! What the consumer group is told: how far was committed, so that tools that show lag see it. Nothing is read from it.

use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::super::PartitionState;
use super::reader::Key;
use super::{Kafka, client, native};
use crate::error::{Error, Result};
use crate::failpoint;

/// For so long a commit to the consumer group is waited for.
const COMMIT_WAIT: Duration = Duration::from_secs(2);
/// The same at the end of a run, when no epoch comes that could tell it again.
const LAST_WAIT: Duration = Duration::from_secs(5);

impl Kafka<'_> {
    /// Tells the consumer group how far was committed; what it could not be told before, too.
    pub(super) fn tell_group(&mut self, states: &[PartitionState]) -> Result<()> {
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
            let key: Key = (state.topic.as_str().into(), state.partition);
            if state.finished {
                self.untold.remove(&key)
            } else {
                self.untold.insert(key, state.position)
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
        let mut list = TopicPartitionList::new();
        for ((topic, partition), position) in &self.untold {
            list.add_partition_offset(topic, *partition, Offset::Offset(*position))
                .map_err(|e| Error::Internal(e.to_string()))?;
        }
        let asked = native::ask_commit(&reader.connection.client, &list);
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
        let mut list = TopicPartitionList::new();
        for ((topic, partition), position) in &self.untold {
            // An offset that cannot be written down is not told: what is committed is safe.
            let _ = list.add_partition_offset(topic, *partition, Offset::Offset(*position));
        }
        if list.count() > 0 {
            answered(&native::ask_commit(&reader.connection.client, &list));
        }
    }
}
