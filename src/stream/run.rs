//! A run of a pipeline: what it is told, what it tells, and what it does it with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::change::Change;
use super::lag::PartitionLag;
use super::ledger::{Counts, Ledger};
use super::operators::Operators;
use super::runner::Runner;
use super::shards;
use super::sink::EpochSink;
use super::spec::{DurabilitySpec, KafkaSpec, PipelineSpec, Shape, Shard, SourceSpec};
use super::store::{Clock, FixedClock, SystemClock};
use super::sweep::Swept;
use super::transform::Transform;
use crate::contract::{Contract, Limits};
use crate::error::{Error, Result};
use crate::lake::{Durability, Lake, LakeOptions};
use crate::sources::files::{Files, FilesSettings};
use crate::sources::{Range, Source, Unread, Watch};
use crate::spill::disk::Disk;

/// How a run goes.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Ends when everything that was there has been committed.
    pub until_caught_up: bool,
    /// Ends after so many epochs, if set.
    pub max_epochs: Option<u64>,
    /// Goes on behind positions that are gone for ever, and counts them as lost.
    pub accept_gap: bool,
    /// Gives this epoch up first: it was planned, and cannot be run any more.
    pub void: Option<u64>,
    /// Takes the end of what is there now as the end of the input, whatever the source: all that is held is let go. With
    /// `until_caught_up` alone.
    pub drain: bool,
    /// The users' own logic, where the pipeline has any.
    pub transform: Option<Arc<dyn Transform>>,
    /// Databases that every epoch is written into before it is committed.
    pub sinks: Vec<Arc<dyn EpochSink>>,
}

/// Who watches a run, and may ask it to stop.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: &Event);
    /// Whether the run should stop: it finishes the epoch in hand if that can be done in a few seconds.
    fn should_stop(&self) -> bool;
    /// How long ago it was asked to, where that is known.
    fn asked_for(&self) -> Option<Duration> {
        None
    }
}

/// What a watcher is told.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run owns the pipeline.
    Started {
        /// Its term.
        term: u64,
        /// The next epoch.
        epoch: u64,
        /// Whether an epoch that was planned before is finished first.
        recovering: bool,
    },
    /// More was read.
    Progress {
        /// The epoch.
        epoch: u64,
        /// Events of this epoch so far.
        events: u64,
        /// Bytes of this epoch so far.
        bytes: u64,
        /// What is being read.
        reading: String,
    },
    /// An epoch was committed.
    Committed {
        /// The epoch.
        epoch: u64,
        /// What became of its events.
        counts: Counts,
        /// Files put.
        files: usize,
        /// The watermark after it, in microseconds since the Unix epoch.
        watermark: Option<i64>,
        /// Seconds spent reading and judging; putting half of the files while state is encoded; putting the others and the
        /// state; and in all.
        seconds: [f64; 4],
        /// What state takes.
        #[serde(flatten)]
        state: StateSize,
    },
    /// How far the source is ahead, after a commit and now and then between them.
    Lag {
        /// The partitions that know their end; none of a source of files.
        partitions: Vec<PartitionLag>,
    },
    /// Requests were sent again since the commit before.
    Retry {
        /// `store`.
        r#where: &'static str,
        /// How many.
        count: u64,
    },
    /// Another run had put a plan or a commit of this number before.
    Conflict {
        /// `plan` or `commit`.
        what: &'static str,
        /// Its number.
        epoch: u64,
    },
    /// Contract or settings are not those that the state follows from; they count from the next epoch on.
    Changed {
        /// The next epoch.
        epoch: u64,
        /// What changed.
        change: Change,
    },
    /// An epoch was made void.
    Voided {
        /// Which.
        epoch: u64,
        /// Files removed.
        files: usize,
    },
    /// What no longer counts was removed.
    Swept {
        /// How much.
        #[serde(flatten)]
        swept: Swept,
    },
    /// A last line has no end yet and stays unread.
    Unread {
        /// Which.
        #[serde(flatten)]
        line: Unread,
    },
    /// Something that an operator should know and that does not stop the run.
    Warning {
        /// What kind of thing, for programs (`offsets_not_committed`).
        code: String,
        /// What it is about: a topic, a partition, a broker.
        place: String,
        /// What it is and what to do.
        message: String,
    },
    /// Positions of a partition were gone before they were read, and their loss was accepted.
    Gap {
        /// Which.
        #[serde(flatten)]
        range: Range,
    },
}

/// What the state of a pipeline takes, after a commit.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StateSize {
    /// Files of state that count.
    pub state_files: usize,
    /// Their bytes.
    pub state_bytes: u64,
    /// Bytes of state that this epoch wrote.
    pub state_written_bytes: u64,
    /// Bytes of memory that state takes.
    pub memory_bytes: u64,
    /// Bytes of memory that it may take before it is spilled.
    pub memory_budget_bytes: u64,
    /// Bytes on local disk, beyond the budget.
    pub spilled_bytes: u64,
    /// Files spilled since the run began.
    pub spills: u64,
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The sums since the pipeline began.
    #[serde(flatten)]
    pub ledger: Ledger,
    /// Whether every event is accounted for.
    pub balanced: bool,
    /// The shard that was run, and whose sums these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// This run's own counts.
    pub run: RunCounts,
    /// The watermark, in microseconds since the Unix epoch.
    pub watermark: Option<i64>,
    /// The newest epoch.
    pub epoch: Option<u64>,
    /// The run's term.
    pub term: u64,
    /// Lines left unread.
    pub unread: Vec<Unread>,
    /// Whether it ended because it was asked to, with the epoch in hand finished.
    pub stopped: bool,
}

/// This run's own counts.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunCounts {
    /// The counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Epochs committed.
    pub epochs: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// Opens the lake of a pipeline; makes it where that is asked for.
///
/// # Errors
/// [`Error::Lake`] when it cannot be used.
pub fn open_lake(spec: &PipelineSpec, create: bool) -> Result<Lake> {
    let durability = match spec.durability {
        DurabilitySpec::Disk => Durability::Disk,
        DurabilitySpec::Process => Durability::Process,
    };
    let (storage, secrets) = (spec.storage.clone(), spec.storage_secrets.clone());
    Lake::open(&spec.lake, &LakeOptions { durability, create, storage, secrets })
}

/// Reads a pipeline's contract under the settings that shape rows.
///
/// # Errors
/// [`Error::Contract`] when it is broken.
pub fn contract_of(text: &str, path: &str, shape: &Shape) -> Result<Contract> {
    let defaults = Limits::default();
    let limits = Limits {
        max_bytes: shape.max_event_bytes.unwrap_or(defaults.max_bytes),
        max_depth: shape.max_event_depth.unwrap_or(defaults.max_depth),
    };
    let contract = Contract::from_text(text, Path::new(path))?.with_limits(limits)?;
    contract.with_format_assertion(shape.assert_formats.unwrap_or(true))
}

/// Runs a pipeline over its lake and its files.
///
/// # Errors
/// Settings, contract, source, lake and checkpoint errors as they come; [`Error::Superseded`] when a newer run took
/// over; [`Error::Ledger`] when an event is not accounted for; [`Error::Interrupted`] when the observer asked to stop.
pub fn run(
    spec: &PipelineSpec,
    options: &RunOptions,
    secret: Option<&[u8]>,
    observer: &dyn Observer,
) -> Result<Report> {
    let lake = open_lake(spec, true)?;
    let clock: Box<dyn Clock> = match &spec.fixed {
        Some(fixed) => Box::new(FixedClock(fixed.clock_us)),
        None => Box::new(SystemClock),
    };
    let shape = spec.shape();
    let contract = contract_of(&spec.contract_text, &spec.contract_path, &shape)?.with_secret(secret);
    // Settings that cannot work are found before the term is taken: a mistyped retry must not stop a good run.
    Operators::new(&shape, &contract.schema())?;
    shards::check(spec, &contract)?;
    if contract.needs_secret() && secret.is_none() {
        return Err(Error::settings(
            "pii.secret",
            "the contract hashes personal properties; give the secret to do it with",
        ));
    }
    Disk::from_env().sweep();
    let watching = Watching(observer);
    let mut source = open_source(spec, options, &watching)?;
    let mut runner = Runner::new(&lake, clock.as_ref(), spec, shape, contract, secret, observer)?;
    let report = runner.run(source.as_mut(), options)?;
    if let SourceSpec::Files(files) = &spec.source
        && source.partitions().is_empty()
    {
        let message = "no file matches source.files.paths: nothing was read".to_owned();
        observer.event(&Event::Warning { code: "no_files".into(), place: files.paths.join(", "), message });
    }
    Ok(report)
}

/// Opens the source of a pipeline.
fn open_source<'a>(spec: &PipelineSpec, options: &RunOptions, watch: &'a dyn Watch) -> Result<Box<dyn Source + 'a>> {
    match &spec.source {
        SourceSpec::Files(files) => {
            let settings = FilesSettings {
                base: files.base_dir.clone().unwrap_or_else(|| ".".to_owned()).into(),
                paths: files.paths.clone(),
                bounded: files.bounded && options.until_caught_up,
            };
            Ok(Box::new(Files::new(settings)?))
        }
        SourceSpec::Kafka(kafka) => open_kafka(spec, kafka, options, watch),
    }
}

#[cfg(feature = "kafka")]
fn open_kafka<'a>(
    spec: &PipelineSpec,
    kafka: &KafkaSpec,
    options: &RunOptions,
    watch: &'a dyn Watch,
) -> Result<Box<dyn Source + 'a>> {
    use crate::sources::kafka::{Kafka, KafkaSettings};
    let mut settings = KafkaSettings::new(kafka, &spec.source_secrets.0)?;
    settings.until_caught_up = options.until_caught_up;
    settings.accept_gap = options.accept_gap;
    settings.shard = spec.shard.map(|s| (s.number, s.of));
    Ok(Box::new(Kafka::new(settings, watch)?))
}

#[cfg(not(feature = "kafka"))]
fn open_kafka<'a>(_: &PipelineSpec, _: &KafkaSpec, _: &RunOptions, _: &'a dyn Watch) -> Result<Box<dyn Source + 'a>> {
    Err(Error::settings("source.kafka", "this build of Penstock has no Kafka (Cargo feature kafka)"))
}

/// Whoever watches the run watches its source.
pub struct Watching<'a>(pub &'a dyn Observer);

impl Watch for Watching<'_> {
    fn should_stop(&self) -> bool {
        self.0.should_stop()
    }

    fn warn(&self, code: &str, place: &str, message: &str) {
        let (code, place, message) = (code.to_owned(), place.to_owned(), message.to_owned());
        self.0.event(&Event::Warning { code, place, message });
    }
}

/// Whether the end of the source is the end of the input.
pub(super) fn bounded(spec: &PipelineSpec, options: &RunOptions) -> bool {
    match &spec.source {
        SourceSpec::Files(files) => files.bounded && options.until_caught_up,
        // More may always come.
        SourceSpec::Kafka(_) => false,
    }
}

/// What a run that nobody watches uses.
pub struct Unwatched;

impl Observer for Unwatched {
    fn event(&self, _: &Event) {}

    fn should_stop(&self) -> bool {
        false
    }
}
