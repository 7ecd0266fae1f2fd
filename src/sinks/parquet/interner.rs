//! The distinct values of a text column, numbered in the order that they first came.

use crate::hash::quick;
use crate::prefetch::fetch;

/// A dictionary, as its page will hold it, and the way from a value to its number.
#[derive(Clone)]
pub(super) struct Interner {
    /// Every value after its length, as Parquet's PLAIN has it.
    page: Vec<u8>,
    /// Where each value begins and how long it is.
    spans: Vec<(u32, u32)>,
    /// Open addressing: the upper half of the hash, and the number plus one.
    slots: Vec<(u32, u32)>,
    seed: u64,
    /// The value that came last, and its hash.
    last: (u32, u64),
}

impl Interner {
    pub(super) fn new() -> Self {
        // Nobody outside can know which values will collide; which numbers they get does not depend on it.
        Self { page: Vec::new(), spans: Vec::new(), slots: Vec::new(), seed: rand::random(), last: (0, 0) }
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The bytes of the dictionary page.
    pub(super) fn page(&self) -> &[u8] {
        &self.page
    }

    /// A value by its number.
    #[inline]
    pub(super) fn value(&self, id: u32) -> &[u8] {
        let (start, length) = self.spans[id as usize];
        &self.page[start as usize..(start + length) as usize]
    }

    pub(super) fn clear(&mut self) {
        self.page.clear();
        self.spans.clear();
        self.slots.fill((0, 0));
    }

    /// What a value is looked for by; where that is has been sent for then.
    #[inline]
    pub(super) fn hash(&self, value: &[u8]) -> u64 {
        let hash = quick(value, self.seed);
        if let Some(slot) = self.slots.get((hash >> 32) as usize & self.slots.len().wrapping_sub(1)) {
            fetch(slot);
        }
        hash
    }

    /// The number of a value, new or known.
    #[inline]
    pub(super) fn intern(&mut self, value: &[u8], hash: u64) -> u32 {
        // Many columns repeat: the topic, the country, what is sorted.
        let (last, its_hash) = self.last;
        if hash == its_hash && (last as usize) < self.spans.len() && self.value(last) == value {
            return last;
        }
        if self.spans.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let tag = (hash >> 32) as u32;
        let mask = self.slots.len() - 1;
        let mut at = tag as usize & mask;
        loop {
            match self.slots[at] {
                (_, 0) => break,
                (t, id) if t == tag && self.value(id - 1) == value => {
                    self.last = (id - 1, hash);
                    return id - 1;
                }
                _ => at = (at + 1) & mask,
            }
        }
        let id = self.spans.len() as u32;
        self.page.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.spans.push((self.page.len() as u32, value.len() as u32));
        self.page.extend_from_slice(value);
        self.slots[at] = (tag, id + 1);
        self.last = (id, hash);
        id
    }

    #[cold]
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        // What is small is soon left behind.
        let times = if old.len() < 1 << 12 { 4 } else { 2 };
        self.slots = vec![(0, 0); (old.len() * times).max(256)];
        let mask = self.slots.len() - 1;
        for (tag, id) in old.into_iter().filter(|(_, id)| *id > 0) {
            let mut at = tag as usize & mask;
            while self.slots[at].1 > 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = (tag, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_those_of_first_appearance(values in prop::collection::vec("[ab]{0,3}|[a-c]{4,40}", 0..400)) {
            let mut interner = Interner::new();
            let mut model: Vec<&str> = Vec::new();
            for _ in 0..2 {
                model.clear();
                interner.clear();
                for value in &values {
                    let expected = model.iter().position(|v| v == value).unwrap_or_else(|| {
                        model.push(value);
                        model.len() - 1
                    });
                    let hash = interner.hash(value.as_bytes());
                    prop_assert_eq!(interner.intern(value.as_bytes(), hash) as usize, expected);
                }
                prop_assert_eq!(interner.len(), model.len());
                for (id, value) in model.iter().enumerate() {
                    prop_assert_eq!(interner.value(id as u32), value.as_bytes());
                }
                let page: usize = model.iter().map(|v| v.len() + 4).sum();
                prop_assert_eq!(interner.page().len(), page);
            }
        }
    }

    #[test]
    fn hashes_spread() {
        for width in [1, 3, 5, 8, 12, 16, 17, 33] {
            let count = 250usize.min(10usize.pow(width.min(3) as u32)) as u64;
            let hashes = (0..count).map(|i| quick(format!("{i:0width$}").as_bytes(), 1) >> 32);
            let distinct: std::collections::HashSet<_> = hashes.map(|h| h & 0xffff).collect();
            assert!(distinct.len() as u64 > count * 9 / 10, "{width}");
        }
    }
}
