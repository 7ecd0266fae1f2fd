//! Tells cheaply that a key is not among many: a blocked Bloom filter (Putze, Sanders, Singler, 2007).
//!
//! All bits of a key lie in one cache line, and looking at them has no branch, so that a processor has many lookups under
//! way at once. About one key in 600 that is not there seems to be.

use crate::prefetch::fetch;

/// Bits of a filter for each key.
const BITS_A_KEY: usize = 16;
/// Bits of a block: a cache line.
const BLOCK: usize = 512;
/// Bits set for each key.
const PROBES: u32 = 6;

/// A set of keys that may seem to hold a few more.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    blocks: Vec<[u64; BLOCK / 64]>,
}

impl Filter {
    /// An empty filter for so many keys.
    pub fn for_keys(keys: usize) -> Self {
        Self { blocks: vec![[0; BLOCK / 64]; keys * BITS_A_KEY / BLOCK + 1] }
    }

    /// Puts a key in: its place, and other bits of its hash.
    pub fn insert(&mut self, place: u64, bits: u64) {
        let n = self.block(place);
        let block = &mut self.blocks[n];
        for n in 0..PROBES {
            let probe = probe(bits, n);
            block[probe / 64] |= 1 << (probe % 64);
        }
    }

    /// Whether a key may have been put in.
    #[inline]
    pub fn may_hold(&self, place: u64, bits: u64) -> bool {
        let block = &self.blocks[self.block(place)];
        let mut all = 1;
        // A plain loop, which is unrolled: a fold over an iterator became a call with a loop in it.
        for n in 0..PROBES {
            let probe = probe(bits, n);
            all &= block[probe / 64] >> (probe % 64);
        }
        all == 1
    }

    /// Has the block of a place fetched.
    #[inline]
    pub fn fetch(&self, place: u64) {
        fetch(&self.blocks[self.block(place)]);
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        self.blocks.len() * BLOCK / 8
    }

    #[inline]
    fn block(&self, place: u64) -> usize {
        ((u128::from(place) * self.blocks.len() as u128) >> 64) as usize
    }
}

/// The number of a key's `n`th bit.
#[inline]
fn probe(bits: u64, n: u32) -> usize {
    (bits.wrapping_mul(0xC2B2_AE3D_27D4_EB4F) >> (10 + 9 * n)) as usize % BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_nothing_and_seldom_sees_what_is_not_there() {
        let key = |i: u64| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15), i.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let mut filter = Filter::for_keys(100_000);
        (0..100_000).for_each(|i| filter.insert(key(i).0, key(i).1));
        assert!((0..100_000).all(|i| filter.may_hold(key(i).0, key(i).1)));
        let wrong = (100_000..300_000).filter(|i| filter.may_hold(key(*i).0, key(*i).1)).count();
        assert!(wrong < 200_000 / 300, "{wrong} of 200,000");
        assert!(filter.memory() <= 100_000 * 16 / 8 + 64);
    }
}
