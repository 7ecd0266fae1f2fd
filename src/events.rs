//! Events as they come from a source, before any judgement.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, BinaryViewArray, Int64Array, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{TakeOptions, take};
use arrow::error::ArrowError;

use crate::error::Result;

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

    /// Some of them, in this order; the values lie where they lay.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when a row is beyond the last one.
    pub fn take(&self, rows: &[u32]) -> Result<Self> {
        let places = UInt32Array::from(rows.to_vec());
        let checked = Some(TakeOptions { check_bounds: true });
        let of = |array: &dyn Array| take(array, &places, checked.clone());
        let headers = self.headers.as_ref().map(|all| rows.iter().map(|row| all[*row as usize].clone()).collect());
        let truncated = rows.iter().enumerate().filter_map(|(at, row)| {
            let known = self.truncated.iter().find(|t| t.row == *row)?;
            Some(Truncated { row: at as u32, ..known.clone() })
        });
        Ok(Self {
            topic: self.topic.clone(),
            partition: self.partition,
            offsets: of(&self.offsets)?.as_primitive().clone(),
            values: of(&self.values)?.as_binary_view().clone(),
            timestamps: self
                .timestamps
                .as_ref()
                .map(|t| Ok::<_, ArrowError>(of(t)?.as_primitive().clone()))
                .transpose()?,
            timestamp_type: self.timestamp_type,
            keys: self.keys.as_ref().map(|k| Ok::<_, ArrowError>(of(k)?.as_binary().clone())).transpose()?,
            headers,
            truncated: truncated.collect(),
            arrival: self.arrival,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
