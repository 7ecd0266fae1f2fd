//! Keys that are added to no more: sorted, in memory or spilled.
//!
//! A run is sorted by place, a mixed hash. Of every page of it the first place is known, so that a lookup reads one page.
//! Most lookups do not get so far: a filter knows that the key is not there.

use std::borrow::Cow;
use std::sync::Arc;

use super::Key;
use super::filter::{Filters, Lane};
use super::saved::{keys_of, saved_schema, table_of};
use crate::error::Result;
use crate::spill::Spill;
use crate::spill::table::{Table, TableWriter};

/// Keys of a page.
const PAGE: usize = if cfg!(test) { 4 } else { 128 };
/// Keys of a spilled batch: whole pages.
const BATCH: usize = if cfg!(test) { 16 } else { 1 << 15 };

/// Sorted keys.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// The highest event time.
    pub newest: i64,
    keys: usize,
    /// The place of the first key of each page.
    fences: Vec<u64>,
    /// None: it was given up for want of memory, and every lookup reads a page.
    pub filter: Option<Lane>,
    at: At,
}

#[derive(Debug, Clone)]
enum At {
    Memory(Vec<Key>),
    Spilled(Spilled),
}

#[derive(Debug, Clone)]
struct Spilled {
    table: Table,
    /// Where the hashes and the times of each batch lie.
    columns: Arc<[(u64, u64)]>,
}

impl Run {
    /// A run in memory; `keys` are sorted by place.
    pub fn of(keys: Vec<Key>, filters: &mut Filters) -> Self {
        let mut index = Index::for_keys(keys.len(), filters);
        keys.iter().for_each(|key| index.add(key));
        index.over(At::Memory(keys))
    }

    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether its keys lie on disk.
    pub fn is_spilled(&self) -> bool {
        matches!(self.at, At::Spilled(_))
    }

    /// Bytes allocated, without the filter.
    pub fn memory(&self) -> usize {
        let keys = match &self.at {
            At::Memory(keys) => keys.capacity() * size_of::<Key>(),
            At::Spilled(spilled) => spilled.table.memory() + spilled.columns.len() * size_of::<(u64, u64)>(),
        };
        keys + self.fences.capacity() * size_of::<u64>()
    }

    /// Makes a filter for a run that has none.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when spilled keys cannot be read: it has none then.
    pub fn make_filter(&mut self, filters: &mut Filters) -> Result<()> {
        let filter = filters.begin(self.keys);
        for piece in self.pieces() {
            match piece {
                Ok(keys) => keys.iter().for_each(|key| filters.insert(filter, key.place(), key.low)),
                Err(error) => {
                    filters.end(filter);
                    return Err(error);
                }
            }
        }
        self.filter = Some(filter);
        Ok(())
    }

    /// The event time of a key that is there.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when it cannot be read.
    pub fn find(&self, key: &Key) -> Result<Option<i64>> {
        let place = key.place();
        // The first page that begins at this place or beyond may, and the one before it may hold it.
        let pages = self.fences.len();
        let about = ((u128::from(place) * pages as u128) >> 64) as usize;
        let first = first_from(&self.fences, about, |fence| *fence < place).saturating_sub(1);
        for page in (first..pages).take_while(|page| *page == first || self.fences[*page] <= place) {
            let (from, to) = (page * PAGE, self.keys.min((page + 1) * PAGE));
            let found = match &self.at {
                At::Memory(keys) => {
                    let keys = &keys[from..to];
                    let fence = self.fences[page];
                    let width = self.fences.get(page + 1).copied().unwrap_or(u64::MAX).saturating_sub(fence);
                    let about = place.saturating_sub(fence) as f64 / (width as f64 + 1.) * keys.len() as f64;
                    let from = first_from(keys, about as usize, |k| k.place() < place);
                    keys[from..].iter().take_while(|k| k.place() == place).find(|k| k.is(key)).map(|k| k.time)
                }
                At::Spilled(spilled) => spilled.find(key, from, to)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Puts the keys on disk; says how many bytes that gives back.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when there is no room: the run stays as it is.
    pub fn spill(&mut self, spill: &dyn Spill) -> Result<usize> {
        let At::Memory(keys) = &self.at else { return Ok(0) };
        let before = self.memory();
        let mut writer = Writer::new(spill)?;
        keys.chunks(BATCH).try_for_each(|keys| writer.write(keys))?;
        self.at = writer.finish()?;
        Ok(before.saturating_sub(self.memory()))
    }

    /// All keys in order, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = Result<Cow<'_, [Key]>>> {
        let n = self.keys.div_ceil(BATCH);
        (0..n).map(move |n| match &self.at {
            At::Memory(keys) => Ok(Cow::Borrowed(&keys[n * BATCH..keys.len().min((n + 1) * BATCH)])),
            At::Spilled(spilled) => Ok(Cow::Owned(keys_of(&spilled.table.batch(n)?)?)),
        })
    }

    /// Two runs as one, without what is older than `oldest`. It is spilled when one of them is. None: nothing is left.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when there is no room, or one of them cannot be read.
    pub fn merged(
        &self,
        other: &Self,
        oldest: i64,
        spill: Option<&dyn Spill>,
        filters: &mut Filters,
    ) -> Result<Option<Self>> {
        let mut index = Index::for_keys(self.keys + other.keys, filters);
        match self.merge(other, oldest, spill, &mut index) {
            Ok(Some(at)) => Ok(Some(index.over(at))),
            nothing => {
                index.give_up();
                nothing.map(|_| None)
            }
        }
    }

    fn merge(&self, other: &Self, oldest: i64, spill: Option<&dyn Spill>, index: &mut Index<'_>) -> Result<Option<At>> {
        let spilled = self.is_spilled() || other.is_spilled();
        let mut writer = spill.filter(|_| spilled).map(Writer::new).transpose()?;
        let mut out: Vec<Key> = Vec::with_capacity(if writer.is_some() { BATCH } else { self.keys + other.keys });
        let (mut left, mut right) = (Cursor::new(self), Cursor::new(other));
        loop {
            let key = match (left.peek()?, right.peek()?) {
                (None, None) => break,
                (Some(a), None) => left.take(a),
                (None, Some(b)) => right.take(b),
                (Some(a), Some(b)) => match a.order().cmp(&b.order()) {
                    std::cmp::Ordering::Less => left.take(a),
                    std::cmp::Ordering::Greater => right.take(b),
                    std::cmp::Ordering::Equal => {
                        left.take(a);
                        right.take(b);
                        Key { time: a.time.max(b.time), ..a }
                    }
                },
            };
            if key.time < oldest {
                continue;
            }
            index.add(&key);
            out.push(key);
            if let Some(writer) = writer.as_mut().filter(|_| out.len() == BATCH) {
                writer.write(&out)?;
                out.clear();
            }
        }
        if index.keys == 0 {
            return Ok(None);
        }
        match writer {
            Some(mut writer) => {
                if !out.is_empty() {
                    writer.write(&out)?;
                }
                writer.finish().map(Some)
            }
            None => Ok(Some(At::Memory(out))),
        }
    }
}

/// The number of the first of a sorted row that is not less, or how many there are: interpolation search. It is `about` there,
/// as places are evenly spread: the lines of memory beside it are likely enough all that is looked at.
fn first_from<T>(row: &[T], about: usize, is_less: impl Fn(&T) -> bool) -> usize {
    const NEAR: usize = 16;
    let about = about.min(row.len());
    let (before, after) = row.split_at(about);
    let forward = after.iter().take(NEAR).take_while(|one| is_less(one)).count();
    let back = before.iter().rev().take(NEAR).take_while(|one| !is_less(one)).count();
    if forward == NEAR {
        about + NEAR + after[NEAR..].partition_point(is_less)
    } else if back == NEAR {
        before[..about - NEAR].partition_point(is_less)
    } else {
        about + forward - back
    }
}

impl Spilled {
    fn find(&self, key: &Key, from: usize, to: usize) -> Result<Option<i64>> {
        let (batch, row) = (from / BATCH, (from % BATCH) as u64);
        let (hashes, times) = self.columns[batch];
        let mut page = [0; PAGE * 16];
        let page = &mut page[..(to - from) * 16];
        self.table.read(hashes + row * 16, page)?;
        let wanted = key.bytes();
        let Some(n) = page.as_chunks::<16>().0.iter().position(|hash| *hash == wanted) else { return Ok(None) };
        let mut time = [0; 8];
        self.table.read(times + (row + n as u64) * 8, &mut time)?;
        Ok(Some(i64::from_le_bytes(time)))
    }
}

/// What is kept in memory of a run while its keys go by in order.
struct Index<'f> {
    newest: i64,
    keys: usize,
    fences: Vec<u64>,
    filters: &'f mut Filters,
    filter: Lane,
}

impl<'f> Index<'f> {
    fn for_keys(keys: usize, filters: &'f mut Filters) -> Self {
        let filter = filters.begin(keys);
        Self { newest: i64::MIN, keys: 0, fences: Vec::with_capacity(keys.div_ceil(PAGE)), filters, filter }
    }

    fn add(&mut self, key: &Key) {
        let place = key.place();
        if self.keys.is_multiple_of(PAGE) {
            self.fences.push(place);
        }
        self.keys += 1;
        self.newest = self.newest.max(key.time);
        self.filters.insert(self.filter, place, key.low);
    }

    fn over(self, at: At) -> Run {
        let Self { newest, keys, fences, filter, .. } = self;
        Run { newest, keys, fences, filter: Some(filter), at }
    }

    fn give_up(self) {
        self.filters.end(self.filter);
    }
}

/// Keys on their way to disk.
struct Writer(TableWriter);

impl Writer {
    fn new(spill: &dyn Spill) -> Result<Self> {
        Ok(Self(TableWriter::new(spill, "dedup/keys", saved_schema())?))
    }

    fn write(&mut self, keys: &[Key]) -> Result<()> {
        self.0.write(&table_of(keys)?)
    }

    fn finish(self) -> Result<At> {
        let table = self.0.finish()?;
        let columns = (0..table.batches())
            .map(|n| {
                let buffers = table.buffers(n)?;
                Ok((buffers[1], buffers[3]))
            })
            .collect::<Result<_>>()?;
        Ok(At::Spilled(Spilled { table, columns }))
    }
}

/// A place in a run.
struct Cursor<'a, I> {
    pieces: I,
    piece: Cow<'a, [Key]>,
    next: usize,
}

impl<'a> Cursor<'a, std::iter::Empty<Result<Cow<'a, [Key]>>>> {
    fn new(run: &'a Run) -> Cursor<'a, impl Iterator<Item = Result<Cow<'a, [Key]>>>> {
        Cursor { pieces: run.pieces(), piece: Cow::Borrowed(&[]), next: 0 }
    }
}

impl<'a, I: Iterator<Item = Result<Cow<'a, [Key]>>>> Cursor<'a, I> {
    fn peek(&mut self) -> Result<Option<Key>> {
        if self.next == self.piece.len() {
            self.next = 0;
            self.piece = self.pieces.next().transpose()?.unwrap_or_default();
        }
        Ok(self.piece.get(self.next).copied())
    }

    fn take(&mut self, key: Key) -> Key {
        self.next += 1;
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_that_is_not_less_is_found_from_anywhere(
            mut row in prop::collection::vec(0u8..100, 0..80),
            about in 0usize..100,
            than in 0u8..101,
        ) {
            row.sort_unstable();
            let expected = row.partition_point(|one| *one < than);
            prop_assert_eq!(first_from(&row, about, |one| *one < than), expected);
        }
    }
}
