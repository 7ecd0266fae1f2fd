//! Events as they come from a source, before any judgement.

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, BinaryViewArray, Int64Array, TimestampMicrosecondArray};

/// The headers of one event, in the order they came. A value may be null.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// Consecutive events of one partition, in the order of their offsets. The values lie where the source put them
/// (string views over the chunk that was read), so nothing is copied on the way to Bronze.
#[derive(Debug, Clone)]
pub struct RawEvents {
    /// The topic, or the path of a file.
    pub topic: Arc<str>,
    /// The partition of the topic; 0 for a file.
    pub partition: i32,
    /// The position of each event: the offset, or the byte of the line in the decompressed text.
    pub offsets: Int64Array,
    /// The value of each event as it came; null is a tombstone.
    pub values: BinaryViewArray,
    /// The broker's time of each event; none for files.
    pub timestamps: Option<TimestampMicrosecondArray>,
    /// What the broker's times are: `create_time` or `log_append_time`; none for files.
    pub timestamp_type: Option<&'static str>,
    /// The key of each event; none for files.
    pub keys: Option<BinaryArray>,
    /// The headers of each event, in the order they came; none for files.
    pub headers: Option<Vec<Headers>>,
    /// The values that were too large to carry whole (above [`WHOLE_VALUE`]), ascending by row; mostly none.
    pub truncated: Vec<Truncated>,
    /// When this piece was read, in microseconds since the Unix epoch (UTC).
    pub arrival: i64,
}

/// A value up to this many bytes is carried, and kept in Bronze, whole.
pub const WHOLE_VALUE: usize = 16 << 20;
/// Of a larger value so many bytes are kept.
pub const KEPT_OF_LARGER: usize = 1 << 20;

/// What is known of a value of which only the beginning is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncated {
    /// Its row among the events.
    pub row: u32,
    /// How many bytes it had.
    pub length: u64,
    /// The SHA-256 of all of them.
    pub sha256: [u8; 32],
}

impl RawEvents {
    /// How many events these are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
