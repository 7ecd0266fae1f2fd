//! Buckets that are added to no more, each a sorted [`Run`]; filters say that a key is in none of them.

use rayon::prelude::*;

use super::filter::{Bank, Filters, LANES};
use super::run::Run;
use super::{AHEAD, Key};
use crate::error::Result;
use crate::spill::Spill;

/// Events that one core looks up.
const PIECE: usize = 1 << 12;

#[derive(Debug, Clone, Default)]
pub(super) struct Closed {
    /// Older ones first.
    pub runs: Vec<Run>,
    pub filters: Filters,
    /// Whether filters may lie in more banks than they need.
    scattered: bool,
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Buckets beyond this are put together, two at a time.
    pub runs: usize,
    /// Buckets are not put together to more keys than this: no pause is longer.
    pub largest: usize,
    /// Fewer keys than this are not worth a bucket of their own.
    pub smallest: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { runs: 16, largest: 4 << 20, smallest: 1 << 12 }
    }
}

/// A bank and the runs of its lanes, where they are looked into.
type Searched<'a> = (&'a Bank, [Option<&'a Run>; LANES]);

impl Closed {
    /// Takes another bucket in: its keys, sorted by place.
    pub fn push(&mut self, keys: Vec<Key>) {
        self.runs.push(Run::of(keys, &mut self.filters));
    }

    /// Says which keys are there, and not older than `oldest`; there is a place in `known` for each.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when they cannot be read.
    pub fn look_up(&self, hashes: &[u128], oldest: i64, known: &mut [bool]) -> Result<()> {
        let mut banks: Vec<Searched<'_>> = self.filters.banks().iter().map(|bank| (bank, [None; LANES])).collect();
        let mut unfiltered: Vec<&Run> = vec![];
        for run in self.runs.iter().filter(|run| run.newest >= oldest) {
            match run.filter {
                Some(at) => banks[at.bank].1[at.lane] = Some(run),
                None => unfiltered.push(run),
            }
        }
        banks.retain(|(_, runs)| runs.iter().any(Option::is_some));
        let look_up = |(hashes, known): (&[u128], &mut [bool])| {
            banks.iter().try_for_each(|(bank, runs)| look_up_in(bank, runs, hashes, oldest, known))?;
            unfiltered.iter().try_for_each(|run| {
                hashes.iter().zip(&mut *known).try_for_each(|(hash, known)| look_into(run, *hash, oldest, known))
            })
        };
        if hashes.len() <= PIECE || banks.is_empty() && unfiltered.is_empty() {
            return look_up((hashes, known));
        }
        hashes.par_chunks(PIECE).zip(known.par_chunks_mut(PIECE)).try_for_each(look_up)
    }

    /// Drops the buckets whose keys are all older than `oldest`.
    pub fn expire(&mut self, oldest: i64) {
        let Self { runs, filters, .. } = self;
        runs.retain(|run| {
            let stays = run.newest >= oldest;
            if let Some(filter) = run.filter.filter(|_| !stays) {
                filters.end(filter);
            }
            stays
        });
    }

    /// Gives a bucket's filter up, and all that lie beside it: only so is memory given back.
    pub fn drop_filters(&mut self, n: usize) {
        let Some(at) = self.runs[n].filter else { return };
        for filter in self.runs.iter_mut().filter_map(|run| run.filter.take_if(|filter| filter.bank == at.bank)) {
            self.filters.end(filter);
        }
    }

    /// Puts neighbours together, the smallest first, until there are few.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when spilled buckets cannot be put together.
    pub fn put_together(&mut self, oldest: i64, spill: Option<&dyn Spill>) -> Result<()> {
        while self.runs.len() > self.limits.runs {
            let Some(n) = self.smallest_pair() else { break };
            self.put_pair_together(n, oldest, spill)?;
        }
        Ok(())
    }

    /// Puts neighbours together, the smallest first, until there are no more than `most`; spilled ones stay as they are.
    ///
    /// # Errors
    /// As [`Closed::put_together`].
    pub fn put_together_to(&mut self, most: usize, oldest: i64, spill: Option<&dyn Spill>) -> Result<()> {
        while self.runs.len() > most {
            let Some(n) = self.smallest_pair().filter(|n| !self.runs[*n..n + 2].iter().any(Run::is_spilled)) else {
                break;
            };
            self.put_pair_together(n, oldest, spill)?;
        }
        self.scattered = true;
        Ok(())
    }

    /// Lays the filters of buckets that were put together side by side, where they do not lie so.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when keys cannot be read.
    pub fn gather_filters(&mut self) -> Result<()> {
        let scattered = std::mem::take(&mut self.scattered);
        let needed = self.runs.len().div_ceil(LANES);
        if !scattered || self.filters.banks_used() <= needed || self.runs.iter().any(Run::is_spilled) {
            return Ok(());
        }
        self.runs.iter_mut().for_each(|run| run.filter = None);
        self.filters = Filters::default();
        let mut largest_first: Vec<&mut Run> = self.runs.iter_mut().collect();
        largest_first.sort_by_key(|run| std::cmp::Reverse(run.len()));
        largest_first.into_iter().try_for_each(|run| run.make_filter(&mut self.filters))
    }

    /// The first of two neighbours that are the smallest together; none when all are too large for it.
    fn smallest_pair(&self) -> Option<usize> {
        let size = |n: &usize| self.runs[*n].len() + self.runs[n + 1].len();
        (0..self.runs.len().saturating_sub(1)).min_by_key(size).filter(|n| size(n) <= self.limits.largest)
    }

    fn put_pair_together(&mut self, n: usize, oldest: i64, spill: Option<&dyn Spill>) -> Result<()> {
        let Self { runs, filters, .. } = self;
        let both = runs[n].merged(&runs[n + 1], oldest, spill, filters)?;
        runs.splice(n..n + 2, both).filter_map(|run| run.filter).for_each(|filter| filters.end(filter));
        Ok(())
    }

    /// How many keys are held (some may have expired).
    pub fn len(&self) -> usize {
        self.runs.iter().map(Run::len).sum()
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        self.runs.iter().map(Run::memory).sum::<usize>() + self.filters.memory()
    }
}

/// Looks for keys in the runs of a bank.
fn look_up_in(
    bank: &Bank,
    runs: &[Option<&Run>; LANES],
    hashes: &[u128],
    oldest: i64,
    known: &mut [bool],
) -> Result<()> {
    let mut ahead = hashes.chunks(AHEAD);
    let mut fetch = || {
        for hash in ahead.next().unwrap_or_default() {
            bank.fetch(Key::new(*hash, 0).place());
        }
    };
    fetch();
    for (hashes, known) in hashes.chunks(AHEAD).zip(known.chunks_mut(AHEAD)) {
        fetch();
        // No branch depends on what is found.
        let mut lanes = [0; AHEAD];
        let mut seems = 0_u32;
        for (n, (hash, lanes)) in hashes.iter().zip(&mut lanes).enumerate() {
            let key = Key::new(*hash, 0);
            *lanes = bank.may_hold(key.place(), key.low);
            seems |= u32::from(*lanes != 0) << n;
        }
        while seems > 0 {
            let n = seems.trailing_zeros() as usize;
            seems &= seems - 1;
            for (lane, run) in runs.iter().enumerate() {
                if let Some(run) = run.filter(|_| lanes[n] >> lane & 1 == 1) {
                    look_into(run, hashes[n], oldest, &mut known[n])?;
                }
            }
        }
    }
    Ok(())
}

/// Says that a key is known when it is in a run, and not older than `oldest`.
fn look_into(run: &Run, hash: u128, oldest: i64, known: &mut bool) -> Result<()> {
    if !*known {
        *known = run.find(&Key::new(hash, 0))?.is_some_and(|time| time >= oldest);
    }
    Ok(())
}
