//! Which of the numbered events arrived, in memory that follows what is on its way, not what was sent.

use std::collections::HashSet;

/// The numbers that are settled.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// All below it are settled.
    floor: u64,
    /// Settled ones above.
    above: HashSet<u64>,
    /// Settled ones that did not arrive.
    lost: HashSet<u64>,
    /// One more than the highest that arrived.
    end: u64,
}

impl Settled {
    /// It arrived, or never will.
    pub fn settle(&mut self, number: u64, arrived: bool) {
        if arrived {
            self.end = self.end.max(number + 1);
        } else {
            self.lost.insert(number);
        }
        if number != self.floor {
            self.above.insert(number);
            return;
        }
        self.floor += 1;
        while !self.above.is_empty() && self.above.remove(&self.floor) {
            self.floor += 1;
        }
    }

    /// Whether it is known to have arrived.
    pub fn arrived(&self, number: u64) -> bool {
        (number < self.floor || self.above.contains(&number)) && !self.lost.contains(&number)
    }

    /// One more than the highest number that arrived.
    pub fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_remembers_what_a_list_would(
            order in Just((0_u64..200).collect::<Vec<_>>()).prop_shuffle(),
            lost in proptest::collection::hash_set(0_u64..200, 0..40),
            settled in 0_usize..200,
        ) {
            let mut there = Settled::default();
            let done = &order[..settled];
            for &n in done {
                there.settle(n, !lost.contains(&n));
            }
            let arrived: Vec<u64> = (0..250).filter(|n| done.contains(n) && !lost.contains(n)).collect();
            prop_assert_eq!((0..250).filter(|n| there.arrived(*n)).collect::<Vec<_>>(), arrived.clone());
            prop_assert_eq!(there.end(), arrived.last().map_or(0, |n| n + 1));
        }
    }

    #[test]
    fn what_is_settled_in_order_takes_no_memory() {
        let mut there = Settled::default();
        for n in 0..100_000 {
            there.settle(n ^ 1, true);
        }
        assert!(there.above.is_empty() && there.above.capacity() < 16 && there.lost.is_empty());
        assert_eq!(there.end(), 100_000);
    }
}
