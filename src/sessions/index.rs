//! Where entities have their slots: a table of slots by hash.
//!
//! Open addressing, and linear: an entry lies at the place that the upper bits of its hash say, or close behind. So what a
//! look-up will read is known beforehand and can be fetched ([`Index::fetch`]), and a larger table is made without a look
//! at the slots. Entries hold half of the hash: a slot is looked at only when that is the same.

use crate::prefetch::fetch;

/// What stands where no slot does.
const NONE: u32 = u32::MAX;
/// A table has as many entries as this to the power of two at least.
const SMALLEST: u32 = 4;

/// Slots by hash.
#[derive(Default)]
pub(super) struct Index {
    /// None at all, or a power of two; always some of them are free.
    entries: Vec<Entry>,
    held: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    slot: u32,
    hash: u32,
}

const FREE: Entry = Entry { slot: NONE, hash: 0 };

impl Index {
    /// Has the memory fetched in which a hash is looked up.
    #[inline]
    pub fn fetch(&self, hash: u64) {
        if let Some(entry) = self.entries.get(self.home(hash as u32)) {
            fetch(entry);
        }
    }

    /// The slot of this hash that satisfies a condition.
    #[inline]
    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.entry(hash, is).map(|n| self.entries[n].slot)
    }

    /// Puts in a slot that is not there.
    pub fn insert(&mut self, hash: u64, slot: u32) {
        if self.held >= self.entries.len() / 4 * 3 {
            self.grow();
        }
        self.put(Entry { slot, hash: hash as u32 });
        self.held += 1;
    }

    /// Takes a slot out, if it is there.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let Some(mut gap) = self.entry(hash, |other| other == slot) else { return };
        self.held -= 1;
        // What lies behind, and would not be found beyond a gap, moves up.
        let mask = self.entries.len() - 1;
        let mut n = gap;
        loop {
            n = (n + 1) & mask;
            let entry = self.entries[n];
            if entry.slot == NONE {
                break;
            }
            let from_home = n.wrapping_sub(self.home(entry.hash)) & mask;
            if from_home >= (n.wrapping_sub(gap) & mask) {
                self.entries[gap] = entry;
                gap = n;
            }
        }
        self.entries[gap] = FREE;
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    #[inline]
    fn entry(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<usize> {
        let hash = hash as u32;
        let mut n = self.home(hash);
        while let Some(entry) = self.entries.get(n).filter(|entry| entry.slot != NONE) {
            if entry.hash == hash && is(entry.slot) {
                return Some(n);
            }
            n = (n + 1) & (self.entries.len() - 1);
        }
        None
    }

    /// The highest bits of a hash.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.entries.len() as u64) >> 32) as usize
    }

    fn put(&mut self, entry: Entry) {
        let mut n = self.home(entry.hash);
        while self.entries[n].slot != NONE {
            n = (n + 1) & (self.entries.len() - 1);
        }
        self.entries[n] = entry;
    }

    fn grow(&mut self) {
        let size = (self.entries.len() * 2).max(1 << SMALLEST);
        // In the order of the old table the new one is filled from one end to the other.
        let old = std::mem::replace(&mut self.entries, vec![FREE; size]);
        old.into_iter().filter(|entry| entry.slot != NONE).for_each(|entry| self.put(entry));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Hashes that differ little, or in their highest bits alone, lie in each other's places, and around the end.
        #[test]
        fn holds_what_was_put_in_and_not_taken_out(
            steps in prop::collection::vec((any::<bool>(), 0u64..24, prop::sample::select(vec![1u64, 0xE000_0000])), 0..200),
        ) {
            let mut index = Index::default();
            let mut model: HashMap<u32, u64> = HashMap::new();
            for (put, key, factor) in steps {
                let (slot, hash) = ((key * 2 + u64::from(factor > 1)) as u32, (key / 2 * factor) | key << 40);
                if put && !model.contains_key(&slot) {
                    index.insert(hash, slot);
                    model.insert(slot, hash);
                } else if !put {
                    index.remove(hash, slot);
                    model.remove(&slot);
                }
                prop_assert_eq!(index.held, model.len());
                for (slot, hash) in &model {
                    prop_assert_eq!(index.find(*hash, |found| found == *slot), Some(*slot));
                }
                let held = index.entries.iter().filter(|entry| entry.slot != NONE).count();
                prop_assert_eq!(held, model.len());
                prop_assert!(index.entries.is_empty() || held < index.entries.len());
            }
        }
    }
}
