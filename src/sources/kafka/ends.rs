//! Where partitions end, asked of their leaders while reading goes on: only what a leader has said tells that a partition
//! is read to its end, and as of when.

use std::time::{Duration, Instant};

use rdkafka::{Offset, TopicPartitionList};

use super::reader::Key;
use super::{Kafka, native};
use crate::error::{Error, Result};

/// So long after an answer it is asked again.
const EVERY: Duration = Duration::from_secs(1);
/// For so long the leaders may take to answer, or until the cluster is given up where that is sooner: one that is away must
/// not hold back what the others say for longer.
const ANSWER: Duration = Duration::from_secs(5);

/// A partition that nothing was heard of for so long, in microseconds, while others answer, is worth a warning.
const SILENT: i64 = 30_000_000;

impl Kafka<'_> {
    /// Hears what the leaders answered, and asks them again now and then. It never waits.
    ///
    /// What an open transaction has written counts, too: it comes before what is written later, and may be committed.
    pub(super) fn ask_ends(&mut self) -> Result<()> {
        if let Some((asked, at)) = self.asking.take() {
            match asked.offsets(Duration::ZERO) {
                None => {
                    self.asking = Some((asked, at));
                    return Ok(());
                }
                // Whoever did not answer is not known to be at its end; topics are looked after elsewhere.
                Some(Err(_)) => {}
                Some(Ok(answers)) => {
                    self.questions.context().answered();
                    for answer in answers.into_iter().filter(|a| a.failure.is_none() && a.offset >= 0) {
                        let key: Key = (answer.topic.as_str().into(), answer.partition);
                        if let Some(entry) = self.entries.get_mut(&key) {
                            entry.told = Some((at, answer.offset));
                            entry.end = entry.end.max(Some(answer.offset));
                        }
                    }
                }
            }
            self.asked = Some(Instant::now());
            self.warn_of_silence();
        }
        if self.asked.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for ((topic, partition), _) in self.entries.iter().filter(|(_, e)| !e.dropped) {
            list.add_partition_offset(topic, *partition, Offset::End).map_err(|e| Error::Internal(e.to_string()))?;
        }
        if list.count() > 0 {
            let answer = ANSWER.min(self.settings.give_up);
            self.asking = Some((native::ask_offsets(&self.questions.client, &list, false, answer), self.now));
        }
        Ok(())
    }

    /// Warns, once, of partitions that nothing was heard of for long while others answer: they hold the watermark.
    fn warn_of_silence(&mut self) {
        let open = || self.entries.iter().filter(|(_, e)| !e.dropped);
        let latest = open().filter_map(|(_, e)| e.told.map(|(at, _)| at)).max().unwrap_or(i64::MIN);
        let code = "leader_unreachable";
        let mut silent = vec![];
        for ((topic, partition), entry) in open() {
            let place = format!("topic {topic}, partition {partition}");
            match entry.told {
                Some((at, _)) if latest.saturating_sub(at) > SILENT => silent.push(place),
                Some(_) => {
                    self.told.remove(&format!("{code} {place}"));
                }
                None => {}
            }
        }
        for place in silent {
            if self.told.insert(format!("{code} {place}")) {
                let said = "its leader does not answer; until it does, the partition holds the watermark back";
                self.questions.watch().warn(code, &place, said);
            }
        }
    }
}
