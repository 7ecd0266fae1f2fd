//! The table that keys are kept in: extendible hashing (Fagin, Nievergelt, Pippenger, Strong, 1979).
//!
//! A directory by the highest bits of the hash leads to small tables, the segments; one that is full grows by two fifths,
//! and is parted in two when it is large. So the memory grows with the keys in small steps: there is no pause to hash
//! everything again, and no second copy beside the first while it does.
//!
//! A segment is a row of groups of two cache lines. A key lies in the group that its hash says, or in one of the next
//! when that is full: a key that is looked for and the room for it lie in one place, which is known beforehand and can be
//! fetched ([`Table::fetch`]) while other keys are judged.

use rayon::prelude::*;

use super::Key;
use crate::prefetch::fetch;

/// Keys of a group.
const GROUP: usize = 5;
/// Groups of a segment that is parted rather than grown: its keys are parted within the second cache.
const MOST: usize = 256;
/// Groups of the first segment.
const FIRST: usize = 2;
/// Groups of a segment that is doubled.
const SMALL: usize = 64;
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
    groups: Vec<Group>,
    keys: usize,
    /// In how many of the highest bits its keys agree.
    depth: u32,
}

/// Two cache lines.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Group {
    /// How many of the keys are held.
    held: usize,
    keys: [Key; GROUP],
}

impl Default for Table {
    fn default() -> Self {
        Self { directory: vec![0], depth: 0, segments: vec![Segment::default()], keys: 0, allocated: 0 }
    }
}

impl Table {
    /// Has the lines fetched in which a key is looked for.
    #[inline]
    pub fn fetch(&self, key: &Key) {
        let place = key.place();
        let segment = &self.segments[self.segment(place)];
        if let Some(group) = segment.groups.get(segment.home(place)) {
            fetch(group);
            fetch(&group.keys[GROUP - 1]);
        }
    }

    /// The key of the same hash.
    #[inline]
    pub fn find_mut(&mut self, key: &Key) -> Option<&mut Key> {
        let place = key.place();
        let segment = self.segment(place);
        let segment = &mut self.segments[segment];
        let (group, n) = segment.find(place, key)?;
        Some(&mut segment.groups[group].keys[n])
    }

    /// Puts in a key that is not there.
    #[inline]
    pub fn insert(&mut self, key: Key) {
        let place = key.place();
        let mut n = self.segment(place);
        while self.segments[n].is_full() {
            self.make_room(n);
            n = self.segment(place);
        }
        self.segments[n].insert(place, key);
        self.keys += 1;
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.segments.iter().flat_map(Segment::iter)
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
            let segment = std::mem::take(&mut self.segments[n as usize]);
            lengths.push(segment.keys);
            all.extend(segment.iter());
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

    #[inline]
    fn segment(&self, place: u64) -> usize {
        self.directory[bits(place, self.depth)] as usize
    }

    /// Makes a full segment larger, or parts it by its next bit.
    fn make_room(&mut self, n: usize) {
        let old = std::mem::take(&mut self.segments[n]);
        self.allocated -= old.memory();
        if old.groups.len() < MOST || old.depth >= DEEPEST {
            let mut grown = Segment::of(larger(old.groups.len()), old.depth);
            old.iter().for_each(|key| grown.insert(key.place(), *key));
            self.allocated += grown.memory();
            self.segments[n] = grown;
            return;
        }
        let depth = old.depth + 1;
        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|n| [*n, *n]).collect();
            self.depth = depth;
        }
        let ones = old.iter().filter(|key| bits(key.place(), depth) & 1 == 1).count();
        let mut parts = [old.keys - ones, ones].map(|keys| Segment::of(keys / 3 + FIRST, depth));
        for key in old.iter() {
            let place = key.place();
            parts[bits(place, depth) & 1].insert(place, *key);
        }
        self.allocated += parts.iter().map(Segment::memory).sum::<usize>();
        let new = self.segments.len() as u32;
        let [left, right] = parts;
        self.segments[n] = left;
        self.segments.push(right);
        for (place, segment) in self.directory.iter_mut().enumerate() {
            if *segment == n as u32 && place >> (self.depth - depth) & 1 == 1 {
                *segment = new;
            }
        }
    }
}

/// How many groups a full segment gets in place of these. One that was parted grows once before it is parted again.
fn larger(groups: usize) -> usize {
    match groups {
        ..FIRST => FIRST,
        FIRST..SMALL => 2 * groups,
        // The last step before the largest would be too small to be worth it.
        SMALL..MOST if groups / 5 * 7 > MOST / 8 * 7 => MOST,
        _ => groups / 5 * 7,
    }
}

impl Segment {
    /// Room for so many groups.
    fn of(groups: usize, depth: u32) -> Self {
        Self { groups: vec![Group::default(); groups], keys: 0, depth }
    }

    /// Whether 17 of 20 places are taken: beyond that, keys are looked for in too many groups.
    #[inline]
    fn is_full(&self) -> bool {
        self.keys >= self.groups.len() * GROUP * 17 / 20
    }

    /// The group that a key belongs into: by the bits of its place that do not say the segment.
    #[inline]
    fn home(&self, place: u64) -> usize {
        ((u128::from(place << self.depth) * self.groups.len() as u128) >> 64) as usize
    }

    #[inline]
    fn next(&self, group: usize) -> usize {
        if group + 1 == self.groups.len() { 0 } else { group + 1 }
    }

    #[inline]
    fn find(&self, place: u64, key: &Key) -> Option<(usize, usize)> {
        let mut n = self.home(place);
        while let Some(group) = self.groups.get(n) {
            // All of a group are looked at, held or not: no branch depends on how many there are.
            let mut same = 0;
            for (i, k) in group.keys.iter().enumerate() {
                same |= usize::from(k.is(key)) << i;
            }
            same &= (1 << group.held) - 1;
            if same > 0 {
                return Some((n, same.trailing_zeros() as usize));
            }
            if group.held < GROUP {
                return None;
            }
            n = self.next(n);
        }
        None
    }

    /// Puts in a key that is not there; there is room.
    #[inline]
    fn insert(&mut self, place: u64, key: Key) {
        let mut n = self.home(place);
        while self.groups[n].held == GROUP {
            n = self.next(n);
        }
        let group = &mut self.groups[n];
        group.keys[group.held] = key;
        group.held += 1;
        self.keys += 1;
    }

    fn iter(&self) -> impl Iterator<Item = &Key> {
        self.groups.iter().flat_map(|group| group.keys.iter().take(group.held))
    }

    fn memory(&self) -> usize {
        self.groups.capacity() * size_of::<Group>()
    }
}

/// The highest bits of a key's place.
#[inline]
fn bits(place: u64, depth: u32) -> usize {
    place.checked_shr(u64::BITS - depth).unwrap_or(0) as usize
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
                // From a few thousand keys on, memory follows them in small steps.
                let most = (i as usize + 1) * 44 + 4_096;
                assert!(table.memory() <= most, "{} bytes for {i} keys", table.memory());
            }
            assert!((0..50_000).all(|i| table.find_mut(&key(i)).copied() == Some(key(i))));
            assert_eq!((table.len(), table.iter().count()), (50_000, 50_000));
            assert!(table.find_mut(&key(50_000)).is_none());
            let sorted = table.clone().into_sorted();
            assert!(sorted.len() == 50_000 && sorted.is_sorted_by_key(Key::order));
            let allocated: usize = table.segments.iter().map(Segment::memory).sum();
            assert_eq!(table.allocated, allocated);
            if let Some(known) = table.find_mut(&key(7)) {
                known.time = -1;
            }
            assert_eq!(table.find_mut(&key(7)).map(|k| k.time), Some(-1));
        }
    }

    #[test]
    fn keys_of_one_place_are_told_apart() {
        // Of all of these both halves of the hash, mixed, are the same.
        let key = |i: u64| Key { high: i, low: i.rotate_right(32), time: i as i64 };
        let mut table = Table::default();
        (0..1_000).for_each(|i| table.insert(key(i)));
        assert!((0..1_000).all(|i| table.find_mut(&key(i)).copied() == Some(key(i))));
        assert_eq!((table.len(), table.find_mut(&key(1_000)).is_none()), (1_000, true));
        assert!(table.into_sorted().is_sorted_by_key(Key::order));
    }
}
