//! The table that keys are kept in: extendible hashing (Fagin, Nievergelt, Pippenger, Strong, 1979).
//!
//! A directory by the highest bits of the hash leads to small tables, the segments; one that is full is parted in two. So
//! the memory grows with the keys in small steps: there is no pause to hash everything again, and no second copy beside
//! the first while it does.

use hashbrown::HashTable;
use rayon::prelude::*;

use super::Key;

/// Keys of a segment that is full: 1,024 slots of 25 bytes, parted within the first cache.
const FULL: usize = 896;
/// Beyond so many bits segments are not parted any more but grow. Hashes that agree in so many are no hashes.
const DEEPEST: u32 = 28;

/// Keys by hash, each once.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// Segments by the highest `depth` bits of the hash.
    directory: Vec<u32>,
    depth: u32,
    segments: Vec<Segment>,
    keys: usize,
    /// Bytes allocated for keys.
    allocated: usize,
}

#[derive(Debug, Clone, Default)]
struct Segment {
    keys: HashTable<Key>,
    /// In how many of the highest bits its keys agree.
    depth: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self { directory: vec![0], depth: 0, segments: vec![Segment::default()], keys: 0, allocated: 0 }
    }
}

impl Table {
    /// The key of the same hash.
    pub fn find_mut(&mut self, key: &Key) -> Option<&mut Key> {
        let segment = self.segment(key);
        self.segments[segment].keys.find_mut(key.low, |k| k.is(key))
    }

    /// Puts in a key that is not there.
    pub fn insert(&mut self, key: Key) {
        let mut n = self.segment(&key);
        while self.segments[n].keys.len() >= FULL && self.segments[n].depth < DEEPEST {
            self.part(n);
            n = self.segment(&key);
        }
        let keys = &mut self.segments[n].keys;
        let full = keys.len() == keys.capacity();
        let before = if full { keys.allocation_size() } else { 0 };
        keys.insert_unique(key.low, key, |k| k.low);
        if full {
            self.allocated += keys.allocation_size() - before;
        }
        self.keys += 1;
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.segments.iter().flat_map(|segment| segment.keys.iter())
    }

    pub fn len(&self) -> usize {
        self.keys
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        self.allocated + self.segments.capacity() * size_of::<Segment>() + self.directory.len() * size_of::<u32>()
    }

    /// The keys in order ([`Key::order`]); the memory of each segment is given back as it goes.
    pub fn into_sorted(mut self) -> Vec<Key> {
        let mut all = Vec::with_capacity(self.keys);
        let mut lengths = Vec::with_capacity(self.segments.len());
        let mut last = None;
        for n in self.directory {
            // A segment stands in the directory as often as it was not parted, side by side.
            if last.replace(n) == Some(n) {
                continue;
            }
            let keys = std::mem::take(&mut self.segments[n as usize].keys);
            lengths.push(keys.len());
            all.extend(keys);
        }
        let mut rest = all.as_mut_slice();
        let mut segments: Vec<&mut [Key]> = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (segment, after) = rest.split_at_mut(length);
            segments.push(segment);
            rest = after;
        }
        segments.into_par_iter().for_each(|keys| keys.sort_unstable_by_key(Key::order));
        all
    }

    fn segment(&self, key: &Key) -> usize {
        self.directory[bits(key, self.depth)] as usize
    }

    /// Parts a segment by its next bit.
    fn part(&mut self, n: usize) {
        let depth = self.segments[n].depth + 1;
        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|n| [*n, *n]).collect();
            self.depth = depth;
        }
        let mut parts = [HashTable::with_capacity(FULL), HashTable::with_capacity(FULL)];
        for key in &self.segments[n].keys {
            parts[bits(key, depth) & 1].insert_unique(key.low, *key, |k| k.low);
        }
        let [left, right] = parts;
        self.allocated += left.allocation_size() + right.allocation_size();
        self.allocated -= self.segments[n].keys.allocation_size();
        let new = self.segments.len() as u32;
        self.segments[n] = Segment { keys: left, depth };
        self.segments.push(Segment { keys: right, depth });
        for (place, segment) in self.directory.iter_mut().enumerate() {
            if *segment == n as u32 && place >> (self.depth - depth) & 1 == 1 {
                *segment = new;
            }
        }
    }
}

/// The highest bits of a key's hash. Its low half finds the slot; both halves, mixed, find the segment.
fn bits(key: &Key, depth: u32) -> usize {
    key.place().checked_shr(u64::BITS - depth).unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in_however_poor_the_hashes() {
        let sequence = |i: u64| Key { high: 0, low: i, time: i as i64 };
        let spread = |i: u64| Key {
            high: i.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            low: i.wrapping_mul(0xD6E8_FEB8_6659_FD93),
            time: i as i64,
        };
        let keys: [fn(u64) -> Key; 2] = [sequence, spread];
        for key in keys {
            let mut table = Table::default();
            for i in 0..50_000 {
                assert_eq!(table.find_mut(&key(i)), None);
                table.insert(key(i));
            }
            assert!((0..50_000).all(|i| table.find_mut(&key(i)).copied() == Some(key(i))));
            assert_eq!((table.len(), table.iter().count()), (50_000, 50_000));
            assert!(table.find_mut(&key(50_000)).is_none());
            let sorted = table.clone().into_sorted();
            assert!(sorted.len() == 50_000 && sorted.is_sorted_by_key(Key::order));
            let allocated: usize = table.segments.iter().map(|s| s.keys.allocation_size()).sum();
            assert_eq!(table.allocated, allocated);
            assert!(table.memory() < 50_000 * 64, "{} bytes a key", table.memory() / 50_000);
            if let Some(known) = table.find_mut(&key(7)) {
                known.time = -1;
            }
            assert_eq!(table.find_mut(&key(7)).map(|k| k.time), Some(-1));
        }
    }
}
