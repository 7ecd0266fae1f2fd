//! Deduplication by idempotency key: the first wins, and a key is remembered for a bounded stretch of event time.
//!
//! Keys are kept as keyed 128-bit hashes in *buckets*, one bucket for each stretch of the watermark, so that expiry
//! drops a bucket and never scans. A bucket is closed when the watermark has moved a quarter of the way from where the
//! bucket was opened to where its youngest key expires: whatever horizon and lateness are, about five buckets are alive,
//! and at most about a quarter of what is kept has expired. That is only a matter of memory: each key carries its time,
//! and a key that has expired counts as absent to the microsecond.
//!
//! The open bucket is a hash table. A closed one is a sorted [`run`] behind a filter. Filters of up to four that are about as
//! large lie side by side, so that a lookup of a key that is in none, the common case, costs one cache line for all of them,
//! which is fetched ahead, however many keys there are. A run can be spilled as it is: then a lookup that the filter lets
//! through reads one page of a file. What is judged does not depend on what is spilled.

use std::sync::Arc;

use rayon::slice::ParallelSliceMut;

use crate::error::Result;
use crate::spill::Spill;
use crate::verdict::Verdict;

mod batch;
mod closed;
mod filter;
mod run;
mod saved;
mod table;
pub use batch::{deduplicate, deduplicate_rows};
use closed::Closed;
use table::{Entry, Table};

/// Into how many stretches the life of a key is cut; so many closed buckets are alive beside the open one.
const STRETCHES: i64 = 4;
/// The memory that keys are looked up in is fetched for so many events ahead: no cache holds it when there are many keys,
/// and a loop that judges waits for each line of it.
const AHEAD: usize = 32;

/// Remembers keys and tells which events are duplicates or late.
#[derive(Debug, Clone)]
pub struct Deduplicator {
    horizon: Option<i64>,
    watermark: Option<i64>,
    /// Closed buckets.
    closed: Closed,
    /// New keys go here.
    open: Bucket,
    /// Keys remembered since the last delta, in the order they came.
    unsaved: saved::Columns,
    spill: Option<Arc<dyn Spill>>,
    /// What a judgment works with, kept for the next one.
    scratch: Scratch,
}

#[derive(Debug, Clone, Default)]
struct Scratch {
    /// Whether a key is in a closed bucket.
    known: Vec<bool>,
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    high: u64,
    low: u64,
    time: i64,
}

impl Key {
    #[inline]
    fn new(hash: u128, time: i64) -> Self {
        Self { high: (hash >> 64) as u64, low: hash as u64, time }
    }

    #[inline]
    fn is(&self, other: &Key) -> bool {
        self.low == other.low && self.high == other.high
    }

    /// Both halves of the hash, mixed: tables and runs are laid out by it, evenly however poor the hash.
    #[inline]
    fn place(&self) -> u64 {
        (self.high ^ self.low.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// What runs are sorted by.
    fn order(&self) -> (u64, u64, u64) {
        (self.place(), self.high, self.low)
    }

    fn bytes(&self) -> [u8; 16] {
        (u128::from(self.high) << 64 | u128::from(self.low)).to_be_bytes()
    }
}

impl Deduplicator {
    /// Remembers each key until the watermark passes its event time + `horizon` (microseconds); `None`: for ever.
    pub fn new(horizon: Option<i64>) -> Self {
        Self {
            horizon,
            watermark: None,
            closed: Closed::default(),
            open: Bucket::default(),
            unsaved: saved::Columns::default(),
            spill: None,
            scratch: Scratch::default(),
        }
    }

    /// From now on [`Deduplicator::spill`] puts keys there.
    #[must_use]
    pub fn spilling_to(mut self, spill: Arc<dyn Spill>) -> Self {
        self.spill = Some(spill);
        self
    }

    /// Appends one verdict for each event, in order: a key that is remembered is a duplicate, an event below the
    /// watermark (of the last commit) is late and its key is not remembered, any other is accepted and remembered.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when spilled keys cannot be read: nothing has been judged then.
    pub fn judge(
        &mut self,
        hashes: &[u128],
        times: &[i64],
        watermark: Option<i64>,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<()> {
        let oldest = self.oldest(watermark);
        self.closed.gather_filters()?;
        let Scratch { known } = &mut self.scratch;
        known.clear();
        known.resize(hashes.len(), false);
        self.closed.look_up(hashes, oldest, known)?;
        verdicts.reserve(hashes.len());
        let open = &mut self.open;
        let mut ahead = hashes.chunks(AHEAD);
        let mut fetch = |table: &Table| {
            for hash in ahead.next().unwrap_or_default() {
                table.fetch(&Key::new(*hash, 0));
            }
        };
        fetch(&open.keys);
        let pieces = hashes.chunks(AHEAD).zip(times.chunks(AHEAD)).zip(self.scratch.known.chunks(AHEAD));
        for ((hashes, times), known) in pieces {
            fetch(&open.keys);
            for ((&hash, &time), &known_before) in hashes.iter().zip(times).zip(known) {
                let key = Key::new(hash, time);
                let entry = open.keys.entry(key);
                let held = matches!(&entry, Entry::Held(known) if known.time >= oldest);
                let verdict = if known_before || held {
                    Verdict::Duplicate
                } else if watermark.is_some_and(|w| time < w) {
                    Verdict::Late
                } else {
                    match entry {
                        Entry::Held(expired) => expired.time = time,
                        Entry::Vacant(place) => place.insert(),
                    }
                    open.newest = if open.keys.len() == 1 { time } else { open.newest.max(time) };
                    self.unsaved.push(&key);
                    Verdict::Accepted
                };
                verdicts.push(verdict);
            }
        }
        Ok(())
    }

    /// Moves on to the watermark of a commit: drops the buckets whose keys have all expired.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when spilled buckets cannot be put together.
    pub fn advance(&mut self, watermark: i64) -> Result<()> {
        let watermark = self.watermark.map_or(watermark, |w| w.max(watermark));
        self.watermark = Some(watermark);
        let Some(horizon) = self.horizon else { return Ok(()) };
        let oldest = watermark.saturating_sub(horizon);
        self.closed.expire(oldest);
        let open = &mut self.open;
        if open.keys.len() == 0 || open.newest < oldest {
            self.open = Bucket { opened: Some(watermark), ..Bucket::default() };
            return Ok(());
        }
        let opened = *open.opened.get_or_insert(watermark);
        let life = open.newest.saturating_add(horizon).saturating_sub(opened);
        if watermark.saturating_sub(opened) >= life / STRETCHES {
            self.close_bucket();
        }
        self.closed.put_together(oldest, self.spill.as_deref())
    }

    /// How many keys are held (some may have expired).
    pub fn len(&self) -> usize {
        self.open.keys.len() + self.closed.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory that state takes, in bytes.
    pub fn memory(&self) -> usize {
        self.keys_memory() + self.unsaved.memory() + self.scratch.known.capacity()
    }

    /// What of it are keys, which can be spilled.
    pub fn keys_memory(&self) -> usize {
        self.open.keys.memory() + self.closed.memory()
    }

    /// Gives `want` bytes of memory back, if that can be: the coldest buckets are spilled first, then the open one; when
    /// none is left in memory, filters are given up. Says how many bytes were given back.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when there is no room: nothing is forgotten then.
    pub fn spill(&mut self, want: usize) -> Result<usize> {
        let Some(spill) = self.spill.clone() else { return Ok(0) };
        let before = self.memory();
        let freed = |this: &Self| before.saturating_sub(this.memory());
        for n in 0..self.closed.runs.len() {
            if freed(self) >= want {
                return Ok(freed(self));
            }
            self.closed.runs[n].spill(spill.as_ref())?;
        }
        if freed(self) < want && self.open.keys.len() >= self.closed.limits.smallest {
            self.close_bucket();
            self.closed.runs.last_mut().map_or(Ok(0), |run| run.spill(spill.as_ref()))?;
            self.closed.put_together(self.oldest(self.watermark), Some(spill.as_ref()))?;
        }
        for n in 0..self.closed.runs.len() {
            if freed(self) >= want {
                break;
            }
            self.closed.drop_filters(n);
        }
        Ok(freed(self))
    }

    /// Closes the open bucket and opens another.
    fn close_bucket(&mut self) {
        let next = Bucket { opened: self.watermark, ..Bucket::default() };
        let closed = std::mem::replace(&mut self.open, next);
        if closed.keys.len() > 0 {
            self.closed.push(closed.keys.into_sorted());
        }
    }

    /// The lowest event time whose key is still remembered at `watermark`.
    fn oldest(&self, watermark: Option<i64>) -> i64 {
        match (watermark, self.horizon) {
            (Some(watermark), Some(horizon)) => watermark.saturating_sub(horizon),
            _ => i64::MIN,
        }
    }

    /// Takes saved keys in. Many at once are parted by time, so that they expire piece by piece as they would have.
    fn remember(&mut self, mut keys: Vec<Key>) -> Result<()> {
        let oldest = self.oldest(self.watermark);
        keys.retain(|key| key.time >= oldest);
        if keys.len() < self.closed.limits.smallest {
            keys.into_iter().for_each(|key| self.open.put(key));
            return Ok(());
        }
        let (first, last) = keys.iter().fold((i64::MAX, i64::MIN), |(a, b), k| (a.min(k.time), b.max(k.time)));
        let width = match self.horizon {
            Some(horizon) => {
                (i128::from(last) - i128::from(first)).max(i128::from(horizon)) / i128::from(STRETCHES) + 1
            }
            None => i128::MAX,
        };
        let mut parts = vec![Vec::new(); STRETCHES as usize];
        for key in keys {
            parts[((i128::from(key.time) - i128::from(first)) / width) as usize].push(key);
        }
        for mut part in parts.into_iter().filter(|part| !part.is_empty()) {
            part.shrink_to_fit();
            part.par_sort_unstable_by_key(Key::order);
            self.closed.push(part);
        }
        self.closed.runs.sort_by_key(|run| run.newest);
        let spill = self.spill.as_deref();
        self.closed.put_together(oldest, spill)?;
        // State comes file by file. Now nobody waits for an event: there are to be no more buckets than if the keys had come
        // as events, each of which is looked up in all of them for as long as they live.
        self.closed.put_together_to(STRETCHES as usize, oldest, spill)
    }
}

impl Bucket {
    /// Takes in a key that was saved; the later time counts when it is there.
    fn put(&mut self, key: Key) {
        match self.keys.entry(key) {
            Entry::Held(known) => known.time = known.time.max(key.time),
            Entry::Vacant(place) => place.insert(),
        }
        self.newest = if self.keys.len() == 1 { key.time } else { self.newest.max(key.time) };
    }
}

#[cfg(test)]
mod tests;
