//! Groups of a pane: keys in row format, side by side in one buffer, and the accumulators of each aggregate in a column.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_64;

use super::accumulator::Accumulators;
use super::plan::Plan;
use crate::error::Result;

/// Groups by key.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    table: HashTable<u32>,
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`.
    ends: Vec<usize>,
    pub columns: Vec<Accumulators>,
    /// What is still to be told of each group.
    flags: Vec<u8>,
    unsaved: Vec<u32>,
    unshown: Vec<u32>,
}

/// A group of a window or a pane that begins at `start`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub start: i64,
    pub groups: &'a Groups,
    pub index: u32,
}

impl Row<'_> {
    pub fn key(&self) -> &[u8] {
        self.groups.key(self.index)
    }
}

const UNSAVED: u8 = 1;
const UNSHOWN: u8 = 2;

impl Groups {
    pub fn new(plans: &[Plan]) -> Self {
        Self {
            table: HashTable::new(),
            bytes: Vec::new(),
            ends: Vec::new(),
            columns: plans.iter().map(Plan::accumulators).collect(),
            flags: Vec::new(),
            unsaved: Vec::new(),
            unshown: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        let columns: usize = self.columns.iter().map(Accumulators::memory).sum();
        let numbers = self.unsaved.capacity() + self.unshown.capacity();
        self.table.allocation_size()
            + self.bytes.capacity()
            + self.ends.capacity() * size_of::<usize>()
            + self.flags.capacity()
            + numbers * size_of::<u32>()
            + columns
    }

    pub fn key(&self, n: u32) -> &[u8] {
        key_of(&self.bytes, &self.ends, n)
    }

    /// The group of a key, made when it is new; the accumulators are grown by [`Groups::grow`].
    pub fn group(&mut self, key: &[u8]) -> u32 {
        let (bytes, ends) = (&self.bytes, &self.ends);
        let entry =
            self.table.entry(xxh3_64(key), |n| key_of(bytes, ends, *n) == key, |n| xxh3_64(key_of(bytes, ends, *n)));
        let n = match entry {
            Entry::Occupied(known) => return *known.get(),
            Entry::Vacant(vacant) => *vacant.insert(ends.len() as u32).get(),
        };
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
        self.flags.push(0);
        n
    }

    /// The group of a key, if there is one.
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.table.find(xxh3_64(key), |n| self.key(*n) == key).copied()
    }

    /// Gives new groups their accumulators.
    pub fn grow(&mut self) -> Result<()> {
        let groups = self.len();
        self.columns.iter_mut().try_for_each(|column| column.grow(groups))
    }

    /// Marks a group as changed.
    pub fn change(&mut self, n: u32) {
        let flags = &mut self.flags[n as usize];
        if *flags & UNSAVED == 0 {
            self.unsaved.push(n);
        }
        if *flags & UNSHOWN == 0 {
            self.unshown.push(n);
        }
        *flags = UNSAVED | UNSHOWN;
    }

    /// The groups that changed since this was last called.
    pub fn take_unsaved(&mut self) -> Vec<u32> {
        let taken = std::mem::take(&mut self.unsaved);
        taken.iter().for_each(|n| self.flags[*n as usize] &= !UNSAVED);
        taken
    }

    /// The groups that changed since this was last called.
    pub fn take_unshown(&mut self) -> Vec<u32> {
        let taken = std::mem::take(&mut self.unshown);
        taken.iter().for_each(|n| self.flags[*n as usize] &= !UNSHOWN);
        taken
    }

    /// Takes in one group of another.
    pub fn merge(&mut self, other: &Self, from: u32) -> Result<u32> {
        let to = self.group(other.key(from));
        self.grow()?;
        for (column, other) in self.columns.iter_mut().zip(&other.columns) {
            column.merge(to as usize, other, from as usize)?;
        }
        Ok(to)
    }

    /// Every group as a row of what begins at `start`.
    pub fn rows(&self, start: i64) -> impl Iterator<Item = Row<'_>> {
        (0..self.len() as u32).map(move |index| Row { start, groups: self, index })
    }
}

fn key_of<'a>(bytes: &'a [u8], ends: &[usize], n: u32) -> &'a [u8] {
    let n = n as usize;
    let start = if n == 0 { 0 } else { ends[n - 1] };
    &bytes[start..ends[n]]
}
