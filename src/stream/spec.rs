//! The pipeline file as the engine takes it: settings already read, checked and brought to base units.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::transform::TransformSpec;
use crate::error::{Error, Result};
use crate::lake::layout::check_name;
use crate::lake::{StorageSecrets, StorageSpec};

/// A pipeline, with durations in microseconds and sizes in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PipelineSpec {
    /// The pipeline's name: part of paths and file names.
    pub name: String,
    /// The contract as text (YAML, or JSON with its schemas inlined).
    pub contract_text: String,
    /// Where the contract came from: for messages, and for schema files beside it.
    pub contract_path: String,
    /// Where events come from.
    pub source: SourceSpec,
    /// The source's settings that are secret. They come beside the rest and are written nowhere.
    #[serde(skip)]
    pub source_secrets: Secrets,
    /// `entity`: all events of one entity, and of one key, come through one partition.
    #[serde(default)]
    pub keyed_by: Option<String>,
    /// The part of the partitions that is read; all when not given.
    #[serde(default)]
    pub shard: Option<Shard>,
    /// The lake's folder or URL.
    pub lake: String,
    /// How the lake's bucket is reached.
    #[serde(default)]
    pub storage: StorageSpec,
    /// Who asks for the lake's bucket: never part of what is written or shown.
    #[serde(skip)]
    pub storage_secrets: StorageSecrets,
    /// Which of `bronze` and `silver` are written.
    #[serde(default = "both_layers")]
    pub layers: Vec<Layer>,
    /// How far event time is taken to have come.
    pub watermark: WatermarkSpec,
    /// Deduplication.
    pub deduplicate: DeduplicateSpec,
    /// Sessions, if any.
    #[serde(default)]
    pub sessions: Option<SessionsSpec>,
    /// Windows, if any.
    #[serde(default)]
    pub windows: Vec<WindowsSpec>,
    /// The users' own logic, if any.
    #[serde(default)]
    pub transform: Option<TransformSpec>,
    /// How much goes into one epoch.
    pub epoch: EpochSpec,
    /// What a commit survives.
    #[serde(default)]
    pub durability: DurabilitySpec,
    /// Memory that the run may take, in bytes: half of it for state, which is spilled beyond that.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// What makes runs repeatable in tests: a fixed clock and key. Never set in production.
    #[serde(default)]
    pub fixed: Option<FixedSpec>,
    /// The largest event accepted, in bytes.
    #[serde(default)]
    pub max_event_bytes: Option<usize>,
    /// The deepest nesting accepted.
    #[serde(default)]
    pub max_event_depth: Option<usize>,
    /// Whether `format` is asserted.
    #[serde(default)]
    pub assert_formats: Option<bool>,
}

/// Bytes of memory unless the pipeline says otherwise.
const MEMORY: u64 = 1 << 30;

fn both_layers() -> Vec<Layer> {
    vec![Layer::Bronze, Layer::Silver]
}

/// A layer that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Every event as it came.
    Bronze,
    /// Valid, unique, sessionised events.
    Silver,
}

/// Where events come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceSpec {
    /// Files of JSON lines.
    Files(FilesSpec),
    /// Topics of Kafka.
    Kafka(KafkaSpec),
}

/// Topics of Kafka. Settings whose values are secret go beside it: [`PipelineSpec::source_secrets`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KafkaSpec {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// The topics.
    pub topics: Vec<String>,
    /// The consumer group that is told how far was read.
    pub group: String,
    /// Where a pipeline without history begins.
    #[serde(default)]
    pub start: KafkaStart,
    /// Whether a topic that is not there is waited for.
    #[serde(default)]
    pub missing_topics: MissingTopics,
    /// For so long a cluster that does not answer is waited for.
    #[serde(default = "a_minute")]
    pub give_up_us: i64,
    /// librdkafka's own settings, by its names.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

fn a_minute() -> i64 {
    60_000_000
}

/// Where a pipeline without history begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KafkaStart {
    /// With the oldest event that is there.
    #[default]
    Earliest,
    /// With what comes from now on.
    Latest,
    /// With the first event of this time or later, in microseconds since the Unix epoch.
    Time(i64),
    /// With these offsets, by topic and partition.
    Offsets(BTreeMap<String, BTreeMap<i32, i64>>),
}

/// What to do about a topic that is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingTopics {
    /// An error of a run until caught up; a run without end waits for it.
    #[default]
    Auto,
    /// It is waited for.
    Wait,
    /// It is an error.
    Error,
}

/// A part of the source's partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Which, from 1.
    pub number: u32,
    /// Of how many.
    pub of: u32,
}

/// Values that are shown nowhere: they are never written, and not printed.
#[derive(Clone, Default)]
pub struct Secrets(pub BTreeMap<String, String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Files of JSON lines; gzip and zstd are recognised by their first bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FilesSpec {
    /// Paths and globs.
    pub paths: Vec<String>,
    /// Whether a run until caught up takes the files as ended.
    #[serde(default = "yes")]
    pub bounded: bool,
    /// The folder that relative paths start from.
    #[serde(default)]
    pub base_dir: Option<String>,
}

fn yes() -> bool {
    true
}

/// `watermark`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct WatermarkSpec {
    /// How much later than the newest event of its partition an event may come.
    pub lateness_us: i64,
    /// After this long without news a partition that was read to its end no longer holds the watermark.
    pub idle_timeout_us: i64,
    /// How far ahead of arrival an event's time may be.
    pub max_future_skew_us: i64,
}

/// `deduplicate`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct DeduplicateSpec {
    /// For how long of event time a key is remembered.
    pub horizon_us: i64,
}

/// `sessions`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct SessionsSpec {
    /// More than this between two events of an entity opens a new session.
    pub gap_us: i64,
    /// A session that lasts this long ends, if set.
    #[serde(default)]
    pub max_duration_us: Option<i64>,
}

/// One entry of `windows`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct WindowsSpec {
    /// The table's name under `gold/`.
    pub name: String,
    /// The length of a window.
    pub size_us: i64,
    /// The distance between two windows' starts; the size when not set (tumbling).
    #[serde(default)]
    pub slide_us: Option<i64>,
    /// The columns that windows are kept apart by.
    #[serde(default)]
    pub by: Vec<String>,
    /// The event types that count; all when empty.
    #[serde(default)]
    pub from: Vec<String>,
    /// Name and expression of each aggregate.
    pub aggregates: Vec<(String, String)>,
}

/// `epoch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EpochSpec {
    /// An epoch is full with this many events.
    pub max_events: u64,
    /// An epoch is full with this many bytes of values.
    pub max_bytes: u64,
    /// An epoch ends when nothing more came for this long.
    pub max_wait_us: i64,
    /// For so long a tick gathers what comes, from a source whose partitions grow side by side.
    #[serde(default = "tick")]
    pub tick_us: i64,
}

fn tick() -> i64 {
    100_000
}

/// `durability`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilitySpec {
    /// Files and folders are synced before the commit: survives loss of power.
    #[default]
    Disk,
    /// Survives `kill -9` only.
    Process,
}

/// Clock and key for tests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FixedSpec {
    /// What the clock says, in microseconds since the Unix epoch.
    pub clock_us: i64,
    /// The deduplication key, as 32 hex digits.
    pub key: String,
}

/// What rows follow from, beside the contract. It is pinned by every plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Version of the way in which rows are made.
    pub output_version: u32,
    /// The layers written.
    pub layers: Vec<Layer>,
    /// `watermark`.
    pub watermark: WatermarkSpec,
    /// `deduplicate`.
    pub deduplicate: DeduplicateSpec,
    /// `sessions`.
    pub sessions: Option<SessionsSpec>,
    /// `windows`.
    pub windows: Vec<WindowsSpec>,
    /// `transform`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<TransformSpec>,
    /// Largest event, in bytes.
    pub max_event_bytes: Option<usize>,
    /// Deepest event.
    pub max_event_depth: Option<usize>,
    /// Whether `format` is asserted.
    pub assert_formats: Option<bool>,
}

/// The version of the way in which rows are made from a plan. Raise it when the same plan would give other bytes.
pub const OUTPUT_VERSION: u32 = 1;

impl PipelineSpec {
    /// Reads the JSON that the public package makes from a pipeline file.
    ///
    /// # Errors
    /// [`Error::Settings`] when it is not one.
    pub fn from_json(text: &str) -> Result<Self> {
        let spec: Self = serde_json::from_str(text).map_err(|e| Error::settings("pipeline", e))?;
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<()> {
        check_name("name", &self.name)?;
        self.storage.check()?;
        for windows in &self.windows {
            check_name("windows.name", &windows.name)?;
        }
        if !self.layers.contains(&Layer::Silver) && !self.layers.contains(&Layer::Bronze) {
            return Err(Error::settings("layers", "name at least one of bronze and silver"));
        }
        for (name, value) in [
            ("watermark.lateness", self.watermark.lateness_us),
            ("watermark.max_future_skew", self.watermark.max_future_skew_us),
            ("deduplicate.horizon", self.deduplicate.horizon_us),
            ("epoch.max_wait", self.epoch.max_wait_us),
            ("epoch.tick", self.epoch.tick_us),
        ] {
            if value < 0 {
                return Err(Error::settings(name, "must not be negative"));
            }
        }
        if self.epoch.max_events == 0 || self.epoch.max_bytes == 0 {
            return Err(Error::settings("epoch", "max_events and max_bytes must be above 0"));
        }
        Ok(())
    }

    /// How many bytes of memory state may take: half of `memory`, for an epoch's own events and files need the other.
    pub fn state_memory(&self) -> usize {
        usize::try_from(self.memory_bytes.unwrap_or(MEMORY) / 2).unwrap_or(usize::MAX)
    }

    /// What rows follow from, beside the contract.
    pub fn shape(&self) -> Shape {
        Shape {
            output_version: OUTPUT_VERSION,
            layers: self.layers.clone(),
            watermark: self.watermark.clone(),
            deduplicate: self.deduplicate.clone(),
            sessions: self.sessions.clone(),
            windows: self.windows.clone(),
            transform: self.transform.clone(),
            max_event_bytes: self.max_event_bytes,
            max_event_depth: self.max_event_depth,
            assert_formats: self.assert_formats,
        }
    }
}
