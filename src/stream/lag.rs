//! How far the source is ahead of what was read, partition by partition.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::run::{Event, Observer};
use crate::sources::Source;

/// While nothing is committed, the lag is told this often: it is a sign of life too.
const EVERY: Duration = Duration::from_secs(1);

/// A partition that knows its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionLag {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Where reading goes on.
    pub position: i64,
    /// Where the partition ended when it was last looked at.
    pub end: i64,
    /// What lies between: messages, and on Kafka the control records among them.
    pub lag: i64,
}

/// The lag of every partition that knows its end (those of Kafka; files have none).
pub fn partitions(source: &dyn Source) -> Vec<PartitionLag> {
    let known = source.partitions().into_iter().filter_map(|p| Some((p.end?, p)));
    known
        .map(|(end, p)| PartitionLag {
            lag: (end - p.position).max(0),
            topic: p.topic,
            partition: p.partition,
            position: p.position,
            end,
        })
        .collect()
}

/// When the lag was told last.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Option<Instant>>);

impl Told {
    /// Tells the lag now.
    pub(super) fn tell(&self, source: &dyn Source, observer: &dyn Observer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        observer.event(&Event::Lag { partitions: partitions(source) });
    }

    /// Tells it unless it was told a moment ago.
    pub(super) fn tell_now_and_then(&self, source: &dyn Source, observer: &dyn Observer) {
        let told = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= EVERY) {
            self.tell(source, observer);
        }
    }
}
