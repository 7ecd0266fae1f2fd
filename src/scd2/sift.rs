//! Changes (or facts) on their way to their entities: taken apart by the hash of their keys, and within a part ordered
//! by it. What is needed of them lies together afterwards, so that nothing is fetched from all over the input.

use rayon::prelude::*;

use super::keys::{Keys, PARTS, bucket_of, hash_of, part_of, sort_part};

/// A change on its way.
#[derive(Clone, Copy, Default)]
pub(super) struct Change {
    pub hash: u64,
    pub at: i64,
    /// The sum of its tracked attributes.
    pub sum: u64,
    /// Its row in the input.
    pub row: u32,
    /// Where its key ends among the keys of its part; it begins where the one before ends.
    key_end: u32,
}

/// Changes by part.
pub(super) struct Sifter {
    runs: Vec<Run>,
}

impl Sifter {
    /// Takes changes apart; `sums` may be empty.
    pub fn new(keys: &Keys, at: &[i64], sums: &[u64]) -> Self {
        const CHUNK: usize = 16_384;
        let runs = at.par_chunks(CHUNK).enumerate().map(|(i, at)| Run::new(keys, at, sums, i * CHUNK));
        Self { runs: runs.collect() }
    }

    /// The changes of one part.
    pub fn part(&self, part: usize) -> Sifted {
        let count = self.runs.iter().map(|r| r.changes(part).len()).sum();
        let bytes = self.runs.iter().map(|r| r.keys(part).len()).sum();
        let (mut changes, mut keys) = (Vec::with_capacity(count), Vec::with_capacity(bytes));
        for run in &self.runs {
            let offset = keys.len() as u32;
            changes.extend(run.changes(part).iter().map(|c| Change { key_end: c.key_end + offset, ..*c }));
            keys.extend_from_slice(run.keys(part));
        }
        let mut order: Vec<(u64, u32)> = changes.iter().enumerate().map(|(i, c)| (c.hash, i as u32)).collect();
        sort_part(&mut order, |(hash, _)| bucket_of(*hash));
        Sifted { changes, keys, order }
    }
}

/// The changes of some consecutive rows, in the order of their parts.
struct Run {
    changes: Vec<Change>,
    keys: Vec<u8>,
    /// Where each part begins among the changes, and among the keys.
    bounds: [(u32, u32); PARTS + 1],
}

impl Run {
    fn new(keys: &Keys, at: &[i64], sums: &[u64], first: usize) -> Self {
        let (mut encoded, mut key) = (Vec::with_capacity(at.len() * 16), Vec::new());
        let mut hashed = Vec::with_capacity(at.len());
        let mut bounds = [(0, 0); PARTS + 1];
        for i in 0..at.len() {
            keys.encode(first + i, &mut key);
            let hash = hash_of(&key);
            encoded.extend_from_slice(&key);
            hashed.push((hash, encoded.len()));
            let bound = &mut bounds[part_of(hash) + 1];
            *bound = (bound.0 + 1, bound.1 + key.len() as u32);
        }
        for p in 0..PARTS {
            bounds[p + 1] = (bounds[p].0 + bounds[p + 1].0, bounds[p].1 + bounds[p + 1].1);
        }
        let mut next = bounds;
        let mut changes = vec![Change::default(); at.len()];
        let mut sorted = vec![0; encoded.len()];
        let mut begin = 0;
        for (i, &(hash, end)) in hashed.iter().enumerate() {
            let part = part_of(hash);
            let (slot, byte) = next[part];
            let to = byte + (end - begin) as u32;
            sorted[byte as usize..to as usize].copy_from_slice(&encoded[begin..end]);
            let sum = sums.get(first + i).copied().unwrap_or(0);
            let row = (first + i) as u32;
            changes[slot as usize] = Change { hash, at: at[i], sum, row, key_end: to - bounds[part].1 };
            next[part] = (slot + 1, to);
            begin = end;
        }
        Self { changes, keys: sorted, bounds }
    }

    fn changes(&self, part: usize) -> &[Change] {
        &self.changes[self.bounds[part].0 as usize..self.bounds[part + 1].0 as usize]
    }

    fn keys(&self, part: usize) -> &[u8] {
        &self.keys[self.bounds[part].1 as usize..self.bounds[part + 1].1 as usize]
    }
}

/// The changes of one part.
pub(super) struct Sifted {
    changes: Vec<Change>,
    keys: Vec<u8>,
    /// Hash and place of each change, ordered.
    order: Vec<(u64, u32)>,
}

impl Sifted {
    /// How many changes these are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// How many entities these are, at least.
    pub fn hashes(&self) -> usize {
        self.order.chunk_by(|a, b| a.0 == b.0).count()
    }

    fn key(&self, place: u32) -> &[u8] {
        let i = place as usize;
        let begin = if i == 0 { 0 } else { self.changes[i - 1].key_end };
        &self.keys[begin as usize..self.changes[i].key_end as usize]
    }

    /// Hands out each entity's changes by time, the entities by hash and key.
    pub fn each<E>(&self, mut entity: impl FnMut(&[u8], &[Change]) -> Result<(), E>) -> Result<(), E> {
        let mut some: Vec<Change> = Vec::new();
        let mut places: Vec<u32> = Vec::new();
        for group in self.order.chunk_by(|a, b| a.0 == b.0) {
            if let [(_, one)] = group {
                entity(self.key(*one), &self.changes[*one as usize..=*one as usize])?;
                continue;
            }
            // Nearly always one key; different ones with one hash come apart here.
            places.clear();
            places.extend(group.iter().map(|g| g.1));
            places.sort_by(|a, b| {
                let (x, y) = (&self.changes[*a as usize], &self.changes[*b as usize]);
                self.key(*a).cmp(self.key(*b)).then(x.at.cmp(&y.at))
            });
            for same in places.chunk_by(|a, b| self.key(*a) == self.key(*b)) {
                some.clear();
                some.extend(same.iter().map(|i| self.changes[*i as usize]));
                entity(self.key(same[0]), &some)?;
            }
        }
        Ok(())
    }
}
