//! Deduplication by idempotency key: the first wins, and a key is remembered for a bounded stretch of event time.
//!
//! Keys are kept as keyed 128-bit hashes in *buckets*, one bucket for each stretch of the watermark, so that expiry
//! drops a bucket and never scans. A bucket is closed when the watermark has moved a quarter of the way from where the
//! bucket was opened to where its youngest key expires: whatever horizon and lateness are, about five buckets are alive,
//! and at most about a quarter of what is kept has expired. That is only a matter of memory: each key carries its time,
//! and a key that has expired counts as absent to the microsecond.

use std::sync::Arc;

use arrow::array::{FixedSizeBinaryArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use rayon::slice::ParallelSliceMut;

use crate::columns::{moment_field, moments, one_moment};
use crate::error::{Error, Result};
use crate::state::{self, StateParts, Stateful, typed};
use crate::verdict::Verdict;
use crate::watermark::moment_of;

mod batch;
mod table;
pub use batch::{deduplicate, deduplicate_rows};
use table::Table;

const KEYS: &str = "dedup/keys";
const META: &str = "dedup/meta";

/// Into how many stretches the life of a key is cut; so many closed buckets are alive beside the open one.
const STRETCHES: i64 = 4;

/// Remembers keys and tells which events are duplicates or late.
#[derive(Debug, Clone)]
pub struct Deduplicator {
    horizon: Option<i64>,
    watermark: Option<i64>,
    /// The last one is open: new keys go there.
    buckets: Vec<Bucket>,
    /// Keys remembered since the last delta, in the order they came.
    unsaved: Vec<Key>,
}

#[derive(Debug, Clone, Default)]
struct Bucket {
    /// The watermark when the bucket was opened.
    opened: Option<i64>,
    /// The highest event time of its keys.
    newest: i64,
    keys: Table,
}

/// A key and the event time that it is remembered by (24 bytes: two halves align better than a u128).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    high: u64,
    low: u64,
    time: i64,
}

impl Key {
    fn new(hash: u128, time: i64) -> Self {
        Self { high: (hash >> 64) as u64, low: hash as u64, time }
    }

    fn is(&self, other: &Key) -> bool {
        self.low == other.low && self.high == other.high
    }
}

impl Deduplicator {
    /// Remembers each key until the watermark passes its event time + `horizon` (microseconds); `None`: for ever.
    pub fn new(horizon: Option<i64>) -> Self {
        Self { horizon, watermark: None, buckets: vec![Bucket::default()], unsaved: Vec::new() }
    }

    /// Appends one verdict for each event, in order: a key that is remembered is a duplicate, an event below the
    /// watermark (of the last commit) is late and its key is not remembered, any other is accepted and remembered.
    pub fn judge(&mut self, hashes: &[u128], times: &[i64], watermark: Option<i64>, verdicts: &mut Vec<Verdict>) {
        verdicts.reserve(hashes.len());
        let oldest = self.oldest(watermark);
        let Some((open, closed)) = self.buckets.split_last_mut() else { return };
        let closed: Vec<&Table> = closed.iter().map(|b| &b.keys).filter(|keys| keys.len() > 0).collect();
        for (&hash, &time) in hashes.iter().zip(times) {
            let key = Key::new(hash, time);
            let known = open.keys.find_mut(&key);
            let seen = |known: Option<&Key>| known.is_some_and(|k| k.time >= oldest);
            let verdict = if seen(known.as_deref()) || closed.iter().any(|keys| seen(keys.find(&key))) {
                Verdict::Duplicate
            } else if watermark.is_some_and(|w| time < w) {
                Verdict::Late
            } else {
                match known {
                    Some(expired) => expired.time = time,
                    None => open.keys.insert(key),
                }
                open.newest = if open.keys.len() == 1 { time } else { open.newest.max(time) };
                self.unsaved.push(key);
                Verdict::Accepted
            };
            verdicts.push(verdict);
        }
    }

    /// Moves on to the watermark of a commit: drops the buckets whose keys have all expired.
    pub fn advance(&mut self, watermark: i64) {
        let watermark = self.watermark.map_or(watermark, |w| w.max(watermark));
        self.watermark = Some(watermark);
        let Some(horizon) = self.horizon else { return };
        let oldest = watermark.saturating_sub(horizon);
        self.buckets.retain(|b| b.keys.len() > 0 && b.newest >= oldest);
        match self.buckets.last_mut() {
            Some(open) => {
                let opened = *open.opened.get_or_insert(watermark);
                let life = open.newest.saturating_add(horizon).saturating_sub(opened);
                if watermark.saturating_sub(opened) >= life / STRETCHES {
                    self.open_bucket();
                }
            }
            None => self.open_bucket(),
        }
    }

    /// How many keys are held (some may have expired).
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|b| b.keys.len()).sum()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory that the keys take, in bytes.
    pub fn memory(&self) -> usize {
        let tables: usize = self.buckets.iter().map(|b| b.keys.memory()).sum();
        tables + self.unsaved.capacity() * size_of::<Key>()
    }

    fn open_bucket(&mut self) {
        self.buckets.push(Bucket { opened: self.watermark, ..Bucket::default() });
    }

    /// The lowest event time whose key is still remembered at `watermark`.
    fn oldest(&self, watermark: Option<i64>) -> i64 {
        match (watermark, self.horizon) {
            (Some(watermark), Some(horizon)) => watermark.saturating_sub(horizon),
            _ => i64::MIN,
        }
    }

    fn tables(&self, keys: &[Key]) -> Result<StateParts> {
        let schema = state::schema(
            vec![Field::new("hash", DataType::FixedSizeBinary(16), false), moment_field("event_time", false)],
            "hash",
            &["hash"],
        );
        let mut bytes = Vec::with_capacity(keys.len() * 16);
        for key in keys {
            bytes.extend_from_slice(&key.high.to_be_bytes());
            bytes.extend_from_slice(&key.low.to_be_bytes());
        }
        let times: Vec<i64> = keys.iter().map(|k| k.time).collect();
        let keys = RecordBatch::try_new(
            schema,
            vec![Arc::new(FixedSizeBinaryArray::try_new(16, bytes.into(), None)?), Arc::new(moments(times))],
        )?;
        let meta = RecordBatch::try_new(
            Arc::new(Schema::new(vec![moment_field("watermark", true)])),
            vec![one_moment(self.watermark)],
        )?;
        Ok(vec![(KEYS.to_string(), keys), (META.to_string(), meta)])
    }

    /// Takes saved keys in. A whole snapshot is parted by time, so that it expires piece by piece as it would have.
    fn remember(&mut self, keys: Vec<Key>) {
        let (first, last) = keys.iter().fold((i64::MAX, i64::MIN), |(a, b), k| (a.min(k.time), b.max(k.time)));
        if self.is_empty() && self.horizon.is_some() && first < last {
            let width = (i128::from(last) - i128::from(first)) / i128::from(STRETCHES) + 1;
            let mut parts = vec![Vec::new(); STRETCHES as usize];
            for key in keys {
                parts[((i128::from(key.time) - i128::from(first)) / width) as usize].push(key);
            }
            self.buckets = parts.into_iter().map(Bucket::from_iter).collect();
            self.open_bucket();
            return;
        }
        let Some(open) = self.buckets.last_mut() else { return };
        for key in keys {
            open.put(key);
        }
    }
}

impl Bucket {
    /// Takes in a key that was saved; the later time counts when it is there.
    fn put(&mut self, key: Key) {
        match self.keys.find_mut(&key) {
            Some(known) => known.time = known.time.max(key.time),
            None => self.keys.insert(key),
        }
        self.newest = if self.keys.len() == 1 { key.time } else { self.newest.max(key.time) };
    }
}

impl FromIterator<Key> for Bucket {
    fn from_iter<T: IntoIterator<Item = Key>>(keys: T) -> Self {
        let mut bucket = Self::default();
        keys.into_iter().for_each(|key| bucket.put(key));
        bucket
    }
}

impl Stateful for Deduplicator {
    fn delta(&mut self) -> Result<StateParts> {
        let unsaved = std::mem::take(&mut self.unsaved);
        self.tables(&unsaved)
    }

    fn snapshot(&self) -> Result<StateParts> {
        let oldest = self.oldest(self.watermark);
        let mut keys: Vec<Key> =
            self.buckets.iter().flat_map(|b| b.keys.iter()).filter(|k| k.time >= oldest).copied().collect();
        keys.par_sort_unstable();
        self.tables(&keys)
    }

    fn load(&mut self, parts: &[(String, RecordBatch)]) -> Result<()> {
        if let Some(batch) = state::table(parts, KEYS) {
            let hashes: &FixedSizeBinaryArray = typed(KEYS, batch, "hash")?;
            let times: &TimestampMicrosecondArray = typed(KEYS, batch, "event_time")?;
            if hashes.value_length() != 16 {
                return Err(Error::checkpoint(KEYS, "the saved hashes have not 16 bytes: the state is damaged"));
            }
            let keys = hashes.iter().zip(times.values()).filter_map(|(hash, time)| {
                let hash: [u8; 16] = hash?.try_into().ok()?;
                Some(Key::new(u128::from_be_bytes(hash), *time))
            });
            self.remember(keys.collect());
        }
        if let Some(batch) = state::table(parts, META)
            && let Some(watermark) = moment_of(META, batch, "watermark")?
        {
            self.advance(watermark);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
