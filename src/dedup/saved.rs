//! The state of deduplication: keys with their times, the watermark.

use std::sync::Arc;

use arrow::array::{FixedSizeBinaryArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rayon::slice::ParallelSliceMut;

use super::{Deduplicator, Key};
use crate::columns::{moment_field, moments, one_moment};
use crate::error::{Error, Result};
use crate::state::{self, Change, StateParts, Stateful, typed};
use crate::watermark::moment_of;

const KEYS: &str = "dedup/keys";
const META: &str = "dedup/meta";
const TIME: &str = "event_time";

impl Deduplicator {
    fn tables(&self, keys: Columns) -> Result<StateParts> {
        let keys = keys.into_table()?;
        let meta = RecordBatch::try_new(
            Arc::new(Schema::new(vec![moment_field("watermark", true)])),
            vec![one_moment(self.watermark)],
        )?;
        Ok(vec![(KEYS.to_string(), keys), (META.to_string(), meta)])
    }
}

impl Stateful for Deduplicator {
    fn delta(&mut self) -> Result<Vec<Change>> {
        let unsaved = std::mem::take(&mut self.unsaved);
        let parts = self.tables(unsaved)?;
        Ok(parts.into_iter().map(|(table, rows)| Change { replaces: table == META, table, rows }).collect())
    }

    fn forget_changes(&mut self) -> Result<()> {
        self.unsaved = Columns::default();
        Ok(())
    }

    fn snapshot(&self) -> Result<StateParts> {
        let oldest = self.oldest(self.watermark);
        let mut keys: Vec<Key> = self.open.keys.iter().filter(|k| k.time >= oldest).copied().collect();
        for run in &self.closed.runs {
            for piece in run.pieces() {
                keys.extend(piece?.iter().filter(|k| k.time >= oldest));
            }
        }
        keys.par_sort_unstable();
        self.tables(Columns::of(&keys))
    }

    fn load(&mut self, parts: &[(String, RecordBatch)]) -> Result<()> {
        if let Some(batch) = state::table(parts, KEYS) {
            self.remember(keys_of(batch)?)?;
        }
        if let Some(batch) = state::table(parts, META)
            && let Some(watermark) = moment_of(META, batch, "watermark")?
        {
            self.advance(watermark)?;
        }
        Ok(())
    }

    fn newest(&self, table: &str, rows: &RecordBatch) -> Result<Option<i64>> {
        if table == KEYS { state::highest(table, rows, TIME) } else { Ok(None) }
    }

    fn expired(&self, table: &str, newest: i64) -> bool {
        table == KEYS && newest < self.oldest(self.watermark)
    }

    fn combine(&self, _: &str, saved: &[RecordBatch]) -> Result<RecordBatch> {
        let oldest = self.oldest(self.watermark);
        let mut keys = Vec::with_capacity(saved.iter().map(RecordBatch::num_rows).sum());
        for rows in saved {
            keys.extend(keys_of(rows)?.into_iter().filter(|key| key.time >= oldest));
        }
        // Of one key the later time counts.
        keys.par_sort_unstable();
        let mut last: Vec<Key> = Vec::with_capacity(keys.len());
        for key in keys {
            match last.last_mut() {
                Some(same) if same.is(&key) => *same = key,
                _ => last.push(key),
            }
        }
        table_of(&last)
    }
}

/// The columns that keys are saved in.
pub(super) fn saved_schema() -> SchemaRef {
    state::schema(
        vec![Field::new("hash", DataType::FixedSizeBinary(16), false), moment_field(TIME, false)],
        "hash",
        &["hash"],
    )
}

/// Keys as they are saved, column by column.
#[derive(Debug, Clone, Default)]
pub(super) struct Columns {
    /// They lie in memory as they are saved: the highest byte first.
    hashes: Vec<u128>,
    times: Vec<i64>,
}

impl Columns {
    fn of(keys: &[Key]) -> Self {
        let hashes = keys.iter().map(|key| u128::from_ne_bytes(key.bytes())).collect();
        Self { hashes, times: keys.iter().map(|key| key.time).collect() }
    }

    #[inline]
    pub(super) fn push(&mut self, key: &Key) {
        self.hashes.push(u128::from_ne_bytes(key.bytes()));
        self.times.push(key.time);
    }

    pub(super) fn memory(&self) -> usize {
        self.hashes.capacity() * size_of::<u128>() + self.times.capacity() * size_of::<i64>()
    }

    fn into_table(self) -> Result<RecordBatch> {
        let hashes = FixedSizeBinaryArray::try_new(16, self.hashes.into(), None)?;
        Ok(RecordBatch::try_new(saved_schema(), vec![Arc::new(hashes), Arc::new(moments(self.times))])?)
    }
}

/// Keys as they are saved.
pub(super) fn table_of(keys: &[Key]) -> Result<RecordBatch> {
    Columns::of(keys).into_table()
}

/// The keys of a saved table.
pub(super) fn keys_of(batch: &RecordBatch) -> Result<Vec<Key>> {
    let hashes: &FixedSizeBinaryArray = typed(KEYS, batch, "hash")?;
    let times: &TimestampMicrosecondArray = typed(KEYS, batch, TIME)?;
    if hashes.value_length() != 16 {
        return Err(Error::checkpoint(KEYS, "the saved hashes have not 16 bytes: the state is damaged"));
    }
    let key = |(hash, time): (Option<&[u8]>, &i64)| Some(Key::new(u128::from_be_bytes(hash?.try_into().ok()?), *time));
    Ok(hashes.iter().zip(times.values()).filter_map(key).collect())
}
