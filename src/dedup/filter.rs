//! Tells cheaply that a key is in none of several sets: blocked Bloom filters (Putze, Sanders, Singler, 2007), side by side.
//!
//! All bits of a key lie in one cache line, its block, and so do those that other sets have for it: a block has a *lane* for
//! each set. One line is fetched for a key, however many sets it is looked for in, and looking at it has no branch, so that a
//! processor has many lookups under way at once. Of 400 keys that are not in a set about one seems to be.

use crate::prefetch::fetch;

/// Sets of a bank.
pub(super) const LANES: usize = 4;
/// Bits of a filter for each key.
const BITS_A_KEY: usize = 16;
/// Bits of a block for each set.
const LANE_BITS: usize = 128;
/// A set joins a bank where it needs from half its blocks to a quarter more than it has, in fourths: filters are neither much
/// too large for their sets nor too full.
const FITS: std::ops::RangeInclusive<usize> = 2..=5;

/// Filters of sets, which come and go one by one.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    banks: Vec<Bank>,
}

/// Where the filter of a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lane {
    pub bank: usize,
    pub lane: usize,
}

/// The filters of sets that are about as large. One that has no blocks has no sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Bank {
    blocks: Vec<Block>,
    taken: [bool; LANES],
    /// Lanes that hold what a set left behind.
    stale: [bool; LANES],
}

/// A cache line: two words for each set.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Block([[u64; 2]; LANES]);

impl Filters {
    /// An empty filter for so many keys.
    pub fn begin(&mut self, keys: usize) -> Lane {
        let blocks = keys * BITS_A_KEY / LANE_BITS + 1;
        let n = self.banks.iter().position(|bank| bank.has_room_for(blocks)).unwrap_or_else(|| {
            let free = self.banks.iter().position(|bank| bank.blocks.is_empty());
            let n = free.unwrap_or(self.banks.len());
            self.banks.resize_with(self.banks.len().max(n + 1), Bank::default);
            self.banks[n].blocks = vec![Block::default(); blocks];
            n
        });
        let bank = &mut self.banks[n];
        let lane = bank.taken.iter().position(|taken| !taken).unwrap_or_default();
        bank.taken[lane] = true;
        if std::mem::take(&mut bank.stale[lane]) {
            bank.blocks.iter_mut().for_each(|block| block.0[lane] = [0; 2]);
        }
        Lane { bank: n, lane }
    }

    /// Puts a key in: its place, and other bits of its hash.
    pub fn insert(&mut self, Lane { bank, lane }: Lane, place: u64, bits: u64) {
        let bank = &mut self.banks[bank];
        let n = bank.block(place);
        let words = &mut bank.blocks[n].0[lane];
        for (word, mask) in words.iter_mut().zip(masks(bits)) {
            *word |= mask;
        }
    }

    /// Gives a filter up. The memory is given back with the last of a bank.
    pub fn end(&mut self, Lane { bank, lane }: Lane) {
        let bank = &mut self.banks[bank];
        (bank.taken[lane], bank.stale[lane]) = (false, true);
        if bank.taken == [false; LANES] {
            *bank = Bank::default();
        }
    }

    /// Where filters are.
    #[cfg(test)]
    pub fn taken(&self) -> Vec<Lane> {
        let lanes = (0..self.banks.len()).flat_map(|bank| (0..LANES).map(move |lane| Lane { bank, lane }));
        lanes.filter(|at| self.banks[at.bank].taken[at.lane]).collect()
    }

    pub fn banks_used(&self) -> usize {
        self.banks.iter().filter(|bank| !bank.blocks.is_empty()).count()
    }

    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        let blocks: usize = self.banks.iter().map(|bank| bank.blocks.capacity()).sum();
        blocks * size_of::<Block>() + self.banks.capacity() * size_of::<Bank>()
    }
}

impl Bank {
    fn has_room_for(&self, blocks: usize) -> bool {
        let has = self.blocks.len();
        self.taken.contains(&false) && FITS.start() * has <= 4 * blocks && 4 * blocks <= FITS.end() * has
    }

    /// Has the block of a place fetched.
    #[inline]
    pub fn fetch(&self, place: u64) {
        fetch(&self.blocks[self.block(place)]);
    }

    /// In which sets a key may be: a bit for each lane, whether there is a set or not.
    #[inline]
    pub fn may_hold(&self, place: u64, bits: u64) -> u8 {
        let block = &self.blocks[self.block(place)].0;
        let [low, high] = masks(bits);
        let mut lanes = 0;
        // A plain loop, which is unrolled and has no branch.
        for (n, words) in block.iter().enumerate() {
            let missing = (!words[0] & low) | (!words[1] & high);
            lanes |= u8::from(missing == 0) << n;
        }
        lanes
    }

    #[inline]
    fn block(&self, place: u64) -> usize {
        ((u128::from(place) * self.blocks.len() as u128) >> 64) as usize
    }
}

/// The bits of a key: three of each word.
#[inline]
fn masks(bits: u64) -> [u64; 2] {
    let mixed = bits.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    let bit = |n: u32| 1 << (mixed >> (28 + 6 * n) & 63);
    [bit(0) | bit(1) | bit(2), bit(3) | bit(4) | bit(5)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u64) -> (u64, u64) {
        (i.wrapping_mul(0x9E37_79B9_7F4A_7C15), i.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    fn filled(filters: &mut Filters, keys: std::ops::Range<u64>) -> Lane {
        let lane = filters.begin((keys.end - keys.start) as usize);
        keys.for_each(|i| filters.insert(lane, key(i).0, key(i).1));
        lane
    }

    fn seen(filters: &Filters, lane: Lane, keys: std::ops::Range<u64>) -> usize {
        let bank = &filters.banks()[lane.bank];
        keys.filter(|i| bank.may_hold(key(*i).0, key(*i).1) >> lane.lane & 1 == 1).count()
    }

    #[test]
    fn misses_nothing_and_seldom_sees_what_is_not_there() {
        let mut filters = Filters::default();
        let sets = [0..100_000, 100_000..190_000, 200_000..320_000, 400_000..455_000];
        let lanes = sets.clone().map(|keys| filled(&mut filters, keys));
        assert_eq!(lanes.map(|lane| (lane.bank, lane.lane)), [(0, 0), (0, 1), (0, 2), (0, 3)]);
        for (lane, keys) in lanes.iter().zip(&sets) {
            assert_eq!(seen(&filters, *lane, keys.clone()), (keys.end - keys.start) as usize);
            let wrong = seen(&filters, *lane, 1_000_000..1_200_000);
            // One of them is a fifth larger than the bank was made for.
            assert!(wrong < 200_000 / 120, "{wrong} of 200,000");
        }
        let wrong = seen(&filters, lanes[0], 1_000_000..1_200_000);
        assert!(wrong < 200_000 / 300, "{wrong} of 200,000");
        assert!(filters.memory() <= 100_000 * 16 / 8 * LANES + 1_024);
    }

    #[test]
    fn sets_come_and_go() {
        let mut filters = Filters::default();
        let one = filled(&mut filters, 0..1_000);
        let two = filled(&mut filters, 1_000..2_000);
        filters.end(one);
        assert_eq!((filled(&mut filters, 2_000..3_000), filters.taken()), (one, vec![one, two]));
        // What had gone is not seen, what stayed is.
        assert!(seen(&filters, one, 0..1_000) < 10 && seen(&filters, one, 2_000..3_000) == 1_000);
        assert_eq!(seen(&filters, two, 1_000..2_000), 1_000);
        // One that is much larger has a bank of its own, and so has one that is much smaller.
        let large = filled(&mut filters, 10_000..90_000);
        let small = filled(&mut filters, 100_000..100_010);
        assert_eq!((one.bank, large.bank, small.bank), (0, 1, 2));
        let before = filters.memory();
        filters.end(large);
        assert!(before - filters.memory() >= 80_000 * 16 / 8 * LANES);
        assert_eq!(filled(&mut filters, 200_000..300_000), large);
        // A fifth finds no room beside four.
        let [_, _, fifth] = [3, 4, 5].map(|n| filled(&mut filters, n * 1_000..(n + 1) * 1_000));
        assert_eq!((fifth.bank, seen(&filters, two, 1_000..2_000)), (3, 1_000));
        filters.taken().into_iter().for_each(|lane| filters.end(lane));
        assert_eq!((filters.banks_used(), filters.memory() < 1_024), (0, true));
    }
}
