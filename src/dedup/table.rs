//! The table that keys are kept in: extendible hashing (Fagin, Nievergelt, Pippenger, Strong, 1979).
//!
//! A directory by the highest bits of the hash leads to small tables, the segments; one that is full grows by two fifths,
//! and is parted in two when it is large. So the memory grows with the keys in small steps: there is no pause to hash
//! everything again, and no second copy beside the first while it does.
//!
//! A segment is a row of groups of six cache lines. A key lies in the group that its hash says, or in the next when that is
//! full. A byte of each key's hash, its tag, stands before the keys of a group (as in F14 and hashbrown): a key that is not
//! there is compared with hardly any, and waits for one line, or two, that are known beforehand and can be fetched
//! ([`Table::fetch`]) while other keys are judged. For where it is put in nothing waits.

use rayon::prelude::*;

use super::Key;
use crate::prefetch::fetch;

/// Keys of a group.
const GROUP: usize = 15;
/// Groups of a segment that is parted rather than grown: it is parted within the second cache, and the heads of all segments
/// lie there as well while there are some millions of keys.
const MOST: usize = 340;
/// Groups of the first segment.
const FIRST: usize = 1;
/// Groups of a segment that is doubled.
const SMALL: usize = 22;
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

/// Six cache lines.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Group {
    /// The tags of the keys that are held, from the lowest byte on; then zeros.
    tags: u128,
    keys: [Key; GROUP],
}

/// What is at a key's place.
pub(super) enum Entry<'t> {
    /// The key of the same hash.
    Held(&'t mut Key),
    /// Room for it.
    Vacant(Vacant<'t>),
}

/// The place of a key that is not there.
pub(super) struct Vacant<'t> {
    table: &'t mut Table,
    segment: usize,
    group: usize,
    key: Key,
}

impl Vacant<'_> {
    /// Puts the key in.
    #[inline]
    pub fn insert(self) {
        let Self { table, mut segment, group, key } = self;
        table.keys += 1;
        let place = key.place();
        if !table.segments[segment].is_full() {
            return table.segments[segment].put(group, place, key);
        }
        while table.segments[segment].is_full() {
            table.make_room(segment);
            segment = table.segment(place);
        }
        table.segments[segment].insert(place, key);
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { directory: vec![0], depth: 0, segments: vec![Segment::default()], keys: 0, allocated: 0 }
    }
}

impl Table {
    /// Has the lines fetched that say whether a key is there: of its group, and of the next, as one in ten is full.
    #[inline]
    pub fn fetch(&self, key: &Key) {
        let place = key.place();
        let segment = &self.segments[self.segment(place)];
        let home = segment.home(place);
        if let Some(group) = segment.groups.get(home) {
            fetch(group);
        }
        if let Some(group) = segment.groups.get(home + 1) {
            fetch(group);
        }
    }

    /// The key of the same hash, or where it would go.
    #[inline]
    pub fn entry(&mut self, key: Key) -> Entry<'_> {
        let place = key.place();
        let n = self.segment(place);
        match self.segments[n].find(place, &key) {
            Ok((group, i)) => Entry::Held(&mut self.segments[n].groups[group].keys[i]),
            Err(group) => Entry::Vacant(Vacant { table: self, segment: n, group, key }),
        }
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
        let mut parts = [old.keys - ones, ones].map(|keys| Segment::of(keys / 9 + FIRST, depth));
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
        SMALL..MOST if groups * 7 / 5 > MOST / 8 * 7 => MOST,
        _ => groups * 7 / 5,
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

    /// The group of a key and its number there, or else the group that it would go to (if the segment is not full).
    #[inline]
    fn find(&self, place: u64, key: &Key) -> Result<(usize, usize), usize> {
        let mut n = self.home(place);
        while let Some(group) = self.groups.get(n) {
            let mut alike = group.alike(tag(place));
            while alike != 0 {
                let i = (alike.trailing_zeros() / 8) as usize;
                if group.keys[i].is(key) {
                    return Ok((n, i));
                }
                alike &= alike - 1;
            }
            if group.held() < GROUP {
                break;
            }
            n = self.next(n);
        }
        Err(n)
    }

    /// Puts in a key that is not there; there is room.
    #[inline]
    fn insert(&mut self, place: u64, key: Key) {
        let mut n = self.home(place);
        while self.groups[n].held() == GROUP {
            n = self.next(n);
        }
        self.put(n, place, key);
    }

    /// Puts a key into a group that has room.
    #[inline]
    fn put(&mut self, n: usize, place: u64, key: Key) {
        let group = &mut self.groups[n];
        let held = group.held();
        group.keys[held] = key;
        group.tags |= tag(place) << (8 * held);
        self.keys += 1;
    }

    fn iter(&self) -> impl Iterator<Item = &Key> {
        self.groups.iter().flat_map(|group| group.keys.iter().take(group.held()))
    }

    fn memory(&self) -> usize {
        self.groups.capacity() * size_of::<Group>()
    }
}

impl Group {
    /// How many keys are held.
    #[inline]
    fn held(&self) -> usize {
        (u128::BITS - self.tags.leading_zeros()).div_ceil(8) as usize
    }

    /// Which keys have a tag: the highest bits of their bytes.
    #[inline]
    fn alike(&self, tag: u128) -> u128 {
        const ONES: u128 = (u128::MAX / 0xFF) >> 8;
        const LOW: u128 = 0x7F * ONES;
        let differs = self.tags ^ (tag * ONES);
        !(((differs & LOW) + LOW) | differs | !(ONES << 7))
    }
}

/// A byte of a hash that its segment and its home do not depend on, never 0.
#[inline]
fn tag(place: u64) -> u128 {
    u128::from(place & 0xFF).max(1)
}

/// The highest bits of a key's place.
#[inline]
fn bits(place: u64, depth: u32) -> usize {
    place.checked_shr(u64::BITS - depth).unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: &mut Table, key: Key) -> Option<&mut Key> {
        match table.entry(key) {
            Entry::Held(known) => Some(known),
            Entry::Vacant(_) => None,
        }
    }

    fn insert(table: &mut Table, key: Key) {
        match table.entry(key) {
            Entry::Held(known) => panic!("{known:?} is there"),
            Entry::Vacant(place) => place.insert(),
        }
    }

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
                assert_eq!(found(&mut table, key(i)), None);
                insert(&mut table, key(i));
                // From a few thousand keys on, memory follows them in small steps.
                let most = (i as usize + 1) * 44 + 4_096;
                assert!(table.memory() <= most, "{} bytes for {i} keys", table.memory());
            }
            assert!((0..50_000).all(|i| found(&mut table, key(i)).copied() == Some(key(i))));
            assert_eq!((table.len(), table.iter().count()), (50_000, 50_000));
            assert!(found(&mut table, key(50_000)).is_none());
            let sorted = table.clone().into_sorted();
            assert!(sorted.len() == 50_000 && sorted.is_sorted_by_key(Key::order));
            let allocated: usize = table.segments.iter().map(Segment::memory).sum();
            assert_eq!(table.allocated, allocated);
            if let Some(known) = found(&mut table, key(7)) {
                known.time = -1;
            }
            assert_eq!(found(&mut table, key(7)).map(|k| k.time), Some(-1));
        }
    }

    #[test]
    fn keys_of_one_place_are_told_apart() {
        // Of all of these both halves of the hash, mixed, are the same.
        let key = |i: u64| Key { high: i, low: i.rotate_right(32), time: i as i64 };
        let mut table = Table::default();
        (0..7_000).for_each(|i| insert(&mut table, key(i)));
        assert!((0..7_000).step_by(7).all(|i| found(&mut table, key(i)).copied() == Some(key(i))));
        assert_eq!((table.len(), found(&mut table, key(7_000)).is_none()), (7_000, true));
        assert!(table.into_sorted().is_sorted_by_key(Key::order));
    }
}
