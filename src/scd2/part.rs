//! The entities of one layer of a history whose hashes fall into one part, as a structure of arrays.

use std::ops::Range;

use super::compare::{Comparators, Src};
use super::keys::surrogate;
use crate::error::{Error, Result};

/// The change is a delete.
pub(super) const DELETE: u8 = 1;
/// The change opens a row.
pub(super) const OPENS: u8 = 2;
/// The change closes a row and opens none.
pub(super) const CLOSES: u8 = 4;

/// An entity as one layer holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub layer: u32,
    pub entity: u32,
}

/// No place: the entity is in no lower layer.
pub(super) const NOWHERE: Place = Place { layer: u32::MAX, entity: u32::MAX };

/// The change points of an entity, by time.
#[derive(Clone, Copy)]
pub(super) struct Points<'a> {
    pub at: &'a [i64],
    pub flags: &'a [u8],
    pub sums: &'a [u64],
    pub src: &'a [Src],
}

impl<'a> Points<'a> {
    pub const EMPTY: Points<'static> = Points { at: &[], flags: &[], sums: &[], src: &[] };

    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// The starts of the rows.
    pub fn starts(self) -> impl Iterator<Item = i64> + 'a {
        self.at.iter().zip(self.flags).filter(|(_, f)| **f & OPENS != 0).map(|(at, _)| *at)
    }

    /// The newest change that carries attributes.
    pub fn newest(&self) -> Option<Src> {
        self.flags.iter().rposition(|f| f & DELETE == 0).map(|i| self.src[i])
    }
}

/// The entities of one layer whose hashes fall into one part, ordered by hash and key: changes come in that order too,
/// so that finding them is a walk along the arrays, which memory likes better than an index.
#[derive(Default)]
pub(super) struct Part {
    pub hashes: Vec<u64>,
    key_ends: Vec<u32>,
    key_bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Where each entity was before, in a lower layer.
    pub older: Vec<Place>,
    pub at: Vec<i64>,
    pub flags: Vec<u8>,
    pub sums: Vec<u64>,
    pub src: Vec<Src>,
    /// The surrogate keys of the rows that came with this layer and their entities, ordered, to find collisions.
    pub surrogates: Vec<(i64, u32)>,
}

impl Part {
    pub fn with_capacity(entities: usize, points: usize) -> Self {
        Self {
            hashes: Vec::with_capacity(entities),
            key_ends: Vec::with_capacity(entities),
            key_bytes: Vec::with_capacity(entities * 16),
            ends: Vec::with_capacity(entities),
            older: Vec::with_capacity(entities),
            at: Vec::with_capacity(points),
            flags: Vec::with_capacity(points),
            sums: Vec::with_capacity(points),
            src: Vec::with_capacity(points),
            surrogates: Vec::with_capacity(entities),
        }
    }

    pub fn entities(&self) -> usize {
        self.hashes.len()
    }

    #[inline]
    pub fn key(&self, entity: u32) -> &[u8] {
        let e = entity as usize;
        let begin = if e == 0 { 0 } else { self.key_ends[e - 1] as usize };
        &self.key_bytes[begin..self.key_ends[e] as usize]
    }

    /// Finds an entity from `from` on, and moves `from` up to where its hash would be. For hashes in ascending order.
    pub fn seek(&self, from: &mut usize, hash: u64, key: &[u8]) -> Option<u32> {
        *from += gallop(&self.hashes[*from..], |h| *h < hash);
        let same = self.hashes[*from..].iter().take_while(|h| **h == hash).count();
        (*from..*from + same).map(|e| e as u32).find(|&e| self.key(e) == key)
    }

    /// Where the points of an entity lie.
    #[inline]
    pub fn range(&self, entity: u32) -> Range<usize> {
        let e = entity as usize;
        let begin = if e == 0 { 0 } else { self.ends[e - 1] as usize };
        begin..self.ends[e] as usize
    }

    #[inline]
    pub fn points(&self, entity: u32) -> Points<'_> {
        let range = self.range(entity);
        Points {
            at: &self.at[range.clone()],
            flags: &self.flags[range.clone()],
            sums: &self.sums[range.clone()],
            src: &self.src[range],
        }
    }

    /// Where the points begin that belong to no entity yet.
    fn tail_begin(&self) -> usize {
        self.ends.last().map_or(0, |&e| e as usize)
    }

    pub fn push(&mut self, at: i64, flags: u8, sum: u64, src: Src) {
        self.at.push(at);
        self.flags.push(flags);
        self.sums.push(sum);
        self.src.push(src);
    }

    pub fn drop_tail(&mut self) {
        let begin = self.tail_begin();
        self.at.truncate(begin);
        self.flags.truncate(begin);
        self.sums.truncate(begin);
        self.src.truncate(begin);
    }

    /// Says which points of the tail open and close rows: a delete closes, a change that changes nothing does not open.
    pub fn mark_tail(&mut self, compare: &Comparators<'_>) {
        let begin = self.tail_begin();
        let mut open: Option<usize> = None;
        for i in begin..self.at.len() {
            let delete = self.flags[i] & DELETE;
            self.flags[i] = match (delete != 0, open) {
                (true, Some(_)) => {
                    open = None;
                    DELETE | CLOSES
                }
                (true, None) => DELETE,
                (false, Some(o)) if self.sums[o] == self.sums[i] && compare.same_tracked(self.src[o], self.src[i]) => 0,
                (false, _) => {
                    open = Some(i);
                    OPENS
                }
            };
        }
    }

    /// Makes the points after the last entity into one. Entities come by hash and key.
    pub fn close_entity(&mut self, hash: u64, key: &[u8], older: Place) -> Result<u32> {
        let small = |n: usize| {
            u32::try_from(n).map_err(|_| Error::Data("a history of this size does not fit; split it by key".to_owned()))
        };
        let entity = small(self.hashes.len())?;
        self.key_bytes.extend_from_slice(key);
        self.key_ends.push(small(self.key_bytes.len())?);
        self.hashes.push(hash);
        self.older.push(older);
        self.ends.push(small(self.at.len())?);
        Ok(entity)
    }

    /// Finds two rows that share a surrogate key: among those that came with this layer, which are in order, or between
    /// them and those of a lower one.
    pub fn rivals<'a>(&'a self, lower: impl Iterator<Item = &'a Part>) -> Option<(i64, &'a [u8], &'a [u8])> {
        if let Some(w) = self.surrogates.windows(2).find(|w| w[0].0 == w[1].0) {
            return Some((w[0].0, self.key(w[0].1), self.key(w[1].1)));
        }
        for part in lower {
            let mut from = 0;
            for &(surrogate, entity) in &self.surrogates {
                from += gallop(&part.surrogates[from..], |s| s.0 < surrogate);
                let same = part.surrogates[from..].iter().take_while(|s| s.0 == surrogate);
                let mut rivals = same.map(|s| part.key(s.1)).filter(|key| {
                    // The same row, that went and came back, is no rival; another row of its entity is.
                    *key != self.key(entity) || self.rows_with(surrogate, entity) > 1
                });
                if let Some(rival) = rivals.next() {
                    return Some((surrogate, self.key(entity), rival));
                }
            }
        }
        None
    }

    fn rows_with(&self, key: i64, entity: u32) -> usize {
        let hash = self.hashes[entity as usize];
        self.points(entity).starts().filter(|start| surrogate(self.key(entity), hash, *start) == key).count()
    }
}

/// How many elements at the head of an ordered slice are less. Steps that double: near ones are found at once, far ones
/// in a logarithm of the distance.
pub(super) fn gallop<T>(slice: &[T], less: impl Fn(&T) -> bool) -> usize {
    let mut step = 1;
    while step <= slice.len() && less(&slice[step - 1]) {
        step *= 2;
    }
    let low = step / 2;
    low + slice[low..step.min(slice.len())].partition_point(less)
}

impl Part {
    /// The same with other sums.
    pub fn resummed(&self, sum: impl Fn(Src) -> u64) -> Self {
        Self {
            hashes: self.hashes.clone(),
            key_ends: self.key_ends.clone(),
            key_bytes: self.key_bytes.clone(),
            ends: self.ends.clone(),
            older: self.older.clone(),
            at: self.at.clone(),
            flags: self.flags.clone(),
            sums: self.src.iter().map(|s| sum(*s)).collect(),
            src: self.src.clone(),
            surrogates: self.surrogates.clone(),
        }
    }
}
