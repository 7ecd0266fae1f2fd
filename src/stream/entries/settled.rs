//! What became of dead letters later: a table of positions, so that nothing is replayed twice.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::columns::{moment_field, moments};
use crate::error::Result;
use crate::sources::lake::{StoredFile, column, numbers, text};
use crate::stream::log::Snapshot;
use crate::stream::store::Store;

/// The layer.
pub const LAYER: &str = "settled";

/// A dead letter that found another place.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Where the event came from.
    pub topic: String,
    /// Where the event came from.
    pub partition: i32,
    /// Where the event came from.
    pub offset: i64,
    /// The code that it had.
    pub code: String,
    /// `silver` or `duplicate`.
    pub became: &'static str,
    /// Its event time.
    pub event_time: Option<i64>,
}

/// The columns.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("code", DataType::Utf8, false),
        Field::new("became", DataType::Utf8, false),
        moment_field("event_time", true),
        // Dead letters of this entry of the log and of those before are meant.
        Field::new("through", DataType::Int64, false),
        moment_field("settled_at", false),
    ]))
}

/// Rows of the table. `through` is the newest log entry whose dead letters are meant.
///
/// # Errors
/// [`crate::Error::Data`] when Arrow cannot hold them.
pub fn batch(rows: &[Settled], through: u64, now: i64) -> Result<RecordBatch> {
    let text = |of: fn(&Settled) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(of))) };
    let times: TimestampMicrosecondArray = rows.iter().map(|r| r.event_time).collect();
    let columns: Vec<ArrayRef> = vec![
        text(|r| &r.topic),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.partition))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.offset))),
        text(|r| &r.code),
        text(|r| r.became),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(Int64Array::from_value(i64::try_from(through).unwrap_or(i64::MAX), rows.len())),
        Arc::new(moments(vec![now; rows.len()])),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

/// A position in 128 bits.
pub fn position(topic: &str, partition: i32, offset: i64) -> u128 {
    let seed = (offset as u64).rotate_left(17) ^ (partition as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    xxhash_rust::xxh3::xxh3_128_with_seed(topic.as_bytes(), seed) ^ (u128::from(offset as u64) << 64)
}

/// The positions of a table, by the names of its columns.
///
/// # Errors
/// [`crate::Error::Data`] when a column is missing.
pub fn positions(batch: &RecordBatch, names: [&str; 3]) -> Result<Vec<u128>> {
    let topics = text(batch, names[0])?;
    let partitions = numbers(batch, names[1])?;
    let offsets = numbers(batch, names[2])?;
    let rows = 0..batch.num_rows();
    Ok(rows.map(|i| position(topics.value(i), partitions.value(i) as i32, offsets.value(i))).collect())
}

/// Positions that are settled, each with the newest log entry whose dead letters are meant.
#[derive(Default)]
pub struct Index(HashMap<u128, i64>);

impl Index {
    /// Reads the table.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when a file is missing or damaged.
    pub fn read(store: &dyn Store, live: &Snapshot) -> Result<Self> {
        let mut index = HashMap::new();
        for file in live.files.values().filter(|f| f.layer == LAYER) {
            let names = ["topic", "partition", "offset", "through"];
            StoredFile::open(store, file)?.read(store, Some(&names), None, &mut |batch| {
                let through = numbers(&batch, "through")?;
                for (position, through) in
                    positions(&batch, ["topic", "partition", "offset"])?.into_iter().zip(through.values())
                {
                    let known = index.entry(position).or_insert(*through);
                    *known = (*known).max(*through);
                }
                Ok(())
            })?;
        }
        Ok(Self(index))
    }

    /// Whether a dead letter that log entry `epoch` wrote is settled.
    pub fn covers(&self, position: u128, epoch: i64) -> bool {
        self.0.get(&position).is_some_and(|through| epoch <= *through)
    }

    /// For each of these dead letters whether it is settled.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when a column is missing.
    pub fn which(&self, letters: &RecordBatch) -> Result<Vec<bool>> {
        if self.0.is_empty() {
            return Ok(vec![false; letters.num_rows()]);
        }
        column(letters, "epoch")?;
        let epochs = numbers(letters, "epoch")?;
        let positions = positions(letters, ["topic", "partition", "offset"])?;
        Ok(positions.into_iter().zip(epochs.values()).map(|(p, epoch)| self.covers(p, *epoch)).collect())
    }
}
