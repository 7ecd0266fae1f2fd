//! Where events come from. A source hands out pieces of its partitions and can read any range of them again.

pub mod files;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod lake;
pub mod lines;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::events::RawEvents;

/// A stretch of one partition, half-open: offsets, or bytes of the decompressed text of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The topic, or the path of a file.
    pub topic: String,
    /// The partition of the topic; 0 for a file.
    pub partition: i32,
    /// The first position.
    pub from: i64,
    /// The position after the last.
    pub to: i64,
}

/// What a commit keeps of a partition, so that a later run goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// The topic, or the path of a file.
    pub topic: String,
    /// The partition of the topic; 0 for a file.
    pub partition: i32,
    /// Where reading goes on.
    pub position: i64,
    /// Whether it was read to its end in a bounded run, so that it holds no watermark back.
    pub finished: bool,
    /// For a file: how it is known again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<files::FileState>,
    /// For a partition of Kafka: how its topic is known again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kafka: Option<KafkaState>,
}

/// What to say where a lake has states of another kind of source than the one that is named.
pub(crate) fn filled_otherwise(from: &str, named: &str) -> Error {
    Error::settings(
        "source",
        format!(
            "this lake was filled from {from}, and goes on with {from} only; {named} is named now. Name another lake (setting lake) and another warehouse, or begin again: `penstock reset` removes what it has"
        ),
    )
}

/// How a topic of Kafka is known again: one that was deleted and made again under its old name has another id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaState {
    /// The id of the cluster; none where the broker tells none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cluster: Option<String>,
    /// The id of the topic; none where the broker tells none (before Kafka 2.8).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topic_id: Option<String>,
    /// The timestamp of the newest message read, in microseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub newest: Option<i64>,
}

/// Where a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Known, and nothing of it was read yet.
    Waiting,
    /// Being read.
    Open,
    /// Read to its present end; more may come.
    CaughtUp,
    /// Read to its end in a bounded run.
    Finished,
}

/// A partition as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The topic, or the path of a file.
    pub topic: String,
    /// The partition of the topic; 0 for a file.
    pub partition: i32,
    /// How far it was read.
    pub progress: Progress,
    /// When its newest message came, by the broker's clock (a file: when it was last written), in microseconds.
    pub newest: Option<i64>,
    /// Where reading goes on: the position after the last event read.
    pub position: i64,
    /// Where the partition ended when it was last looked at; the lag is this less the position. None where no lag is
    /// known (files).
    pub end: Option<i64>,
    /// When, by the loop's clock, it was last known that nothing lies behind `position`; none where that is not known.
    /// Whether a partition is idle is told by this time: what came since is not known yet.
    pub as_of: Option<i64>,
}

/// Bytes at the end of a file that are no event yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The path of the file.
    pub topic: String,
    /// Where they begin.
    pub from: i64,
    /// How many there are.
    pub bytes: i64,
}

/// What was read in one go: consecutive pieces of one partition.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// What was read. It may hold no events (blank lines, records that are none), and be empty: when a partition just
    /// ended, or when nothing came though there is more (the broker is slow to answer); then it is asked again.
    pub range: Range,
    /// How many bytes of values.
    pub bytes: u64,
    /// The events in it, in pieces of about 2 MiB that can be judged side by side. Where they are cut follows from the
    /// range alone.
    pub pieces: Vec<RawEvents>,
    /// Whether the partition is now finished.
    pub finished: bool,
}

/// How much is to be read in one go.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// About so many bytes of text at most; at least one line is read.
    pub bytes: usize,
    /// So many events at most.
    pub events: usize,
    /// The time that the events get as their arrival.
    pub arrival: i64,
}

/// The watermark of each partition, as far as it is known; a source reads the lowest first.
pub trait PartitionTimes {
    /// The highest event time seen in a partition; none when there was none yet.
    fn time(&self, topic: &str, partition: i32) -> Option<i64>;
}

impl<F: Fn(&str, i32) -> Option<i64>> PartitionTimes for F {
    fn time(&self, topic: &str, partition: i32) -> Option<i64> {
        self(topic, partition)
    }
}

/// Who watches a source that has to wait: it may be asked to stop, and may have something to say.
pub trait Watch: Sync {
    /// Whether to stop waiting.
    fn should_stop(&self) -> bool;
    /// Something that an operator should know: what kind of thing, what it is about, and what it is.
    fn warn(&self, code: &str, place: &str, message: &str);
}

/// A place that events are read from. It holds no business rules: it knows positions, not what the events mean.
///
/// All methods take the source exclusively, so that reading can be moved to a thread beside the judging of what was
/// read before.
pub trait Source: Send {
    /// Takes up the positions of the last commit: of all partitions that anything was read of. Others that are known by
    /// now begin anew. Called at the start, after a plan was run again with [`Source::read_range`], and after an epoch was
    /// lost to another run.
    ///
    /// # Errors
    /// When a partition is not what it was: it shrank, its head changed, it is gone.
    fn restore(&mut self, states: &[PartitionState]) -> Result<()>;

    /// What was restored last is planned and not committed yet: nobody may be told of it.
    fn planned(&mut self) {}

    /// Looks for partitions that are new and for what was added to those known. Nothing beyond what was seen here is
    /// read until the next call, so that a bounded run ends. `now` is the loop's clock, in microseconds.
    ///
    /// # Errors
    /// As [`Source::restore`].
    fn refresh(&mut self, now: i64) -> Result<()>;

    /// Reads on, in the partition whose watermark is lowest; those not yet begun come first. None when all that was
    /// seen is read.
    ///
    /// # Errors
    /// When it cannot be read, naming the place.
    fn next(&mut self, times: &dyn PartitionTimes, want: &Want) -> Result<Option<Chunk>>;

    /// Whether a tick gathers what several partitions bring within `epoch.tick`, each in its order. Else one read is one
    /// tick, and its pieces stay as they are cut.
    fn gathers(&self) -> bool {
        false
    }

    /// Reads exactly this range again, piece by piece, cut as it was the first time. Positions do not move.
    ///
    /// # Errors
    /// When it cannot be read, naming the place, or from `each`.
    fn read_range(&mut self, range: &Range, arrival: i64, each: &mut dyn FnMut(RawEvents) -> Result<()>) -> Result<()>;

    /// Every partition that is known, sorted.
    fn partitions(&self) -> Vec<PartitionStatus>;

    /// What a plan has to keep of the partitions that moved since this was last asked (or since the restore).
    fn changes(&mut self) -> Vec<PartitionState>;

    /// What a snapshot has to keep: every partition, sorted.
    fn snapshot(&self) -> Vec<PartitionState>;

    /// What was left unread at the end of partitions, for the ledger.
    fn unread(&self) -> Vec<Unread>;

    /// Where a pipeline without history begins, resolved once and kept as an empty epoch 0, also when there is no
    /// partition yet. Called after a restore of nothing; the same positions come back by [`Source::restore`]. None where
    /// every partition begins at its beginning.
    ///
    /// # Errors
    /// When the source cannot be asked.
    fn begin(&mut self) -> Result<Option<Vec<PartitionState>>> {
        Ok(None)
    }

    /// What was read is about to be planned: whether it still comes from what was there when it was read.
    ///
    /// # Errors
    /// When the source has become another under the same name.
    fn verify(&mut self) -> Result<()> {
        Ok(())
    }

    /// These positions have been committed: whoever watches the source from outside may be told.
    ///
    /// # Errors
    /// When that failed. It is a warning, the events are safe.
    fn committed(&mut self, _states: &[PartitionState]) -> Result<()> {
        Ok(())
    }

    /// Positions that are gone for ever and whose loss was accepted, since this was last asked (or since the restore).
    /// Reading goes on behind them.
    fn gaps(&mut self) -> Vec<Range> {
        vec![]
    }
}
