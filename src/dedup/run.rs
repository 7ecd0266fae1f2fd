//! Keys that are added to no more: sorted, in memory or spilled, behind a filter.
//!
//! A run is sorted by place, a mixed hash. Of every page of it the first place is known, so that a lookup reads one page.
//! Most lookups do not get so far: the filter knows that the key is not there.

use std::borrow::Cow;
use std::sync::Arc;

use super::filter::Filter;
use super::saved::{keys_of, saved_schema, table_of};
use super::{AHEAD, Key};
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
    filter: Option<Filter>,
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
    pub fn of(keys: Vec<Key>) -> Self {
        let mut index = Index::for_keys(keys.len());
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

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        let keys = match &self.at {
            At::Memory(keys) => keys.capacity() * size_of::<Key>(),
            At::Spilled(spilled) => spilled.table.memory() + spilled.columns.len() * size_of::<(u64, u64)>(),
        };
        keys + self.fences.capacity() * size_of::<u64>() + self.filter.as_ref().map_or(0, Filter::memory)
    }

    /// The filter, while there is one.
    #[cfg(test)]
    pub fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// Gives the filter up; says how many bytes that gives back.
    pub fn drop_filter(&mut self) -> usize {
        self.filter.take().map_or(0, |filter| filter.memory())
    }

    /// Marks the keys that are there, and not older than `oldest`, as known.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when they cannot be read.
    pub fn look_up(&self, hashes: &[u128], oldest: i64, known: &mut [bool]) -> Result<()> {
        let look = |hash: u128, known: &mut bool| {
            if !*known {
                *known = self.find(&Key::new(hash, 0))?.is_some_and(|time| time >= oldest);
            }
            Ok(())
        };
        let Some(filter) = &self.filter else {
            return hashes.iter().zip(known).try_for_each(|(hash, known)| look(*hash, known));
        };
        let mut ahead = hashes.chunks(AHEAD);
        let mut fetch = || {
            for hash in ahead.next().unwrap_or_default() {
                filter.fetch(Key::new(*hash, 0).place());
            }
        };
        fetch();
        for (hashes, known) in hashes.chunks(AHEAD).zip(known.chunks_mut(AHEAD)) {
            fetch();
            // No branch depends on what is found.
            let mut seems = 0_u32;
            for (n, hash) in hashes.iter().enumerate() {
                let key = Key::new(*hash, 0);
                seems |= u32::from(filter.may_hold(key.place(), key.low)) << n;
            }
            while seems > 0 {
                let n = seems.trailing_zeros() as usize;
                seems &= seems - 1;
                look(hashes[n], &mut known[n])?;
            }
        }
        Ok(())
    }

    /// The event time of a key that is there.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when it cannot be read.
    fn find(&self, key: &Key) -> Result<Option<i64>> {
        let place = key.place();
        // The first page that begins at this place or beyond may, and the one before it may hold it.
        let first = self.fences.partition_point(|fence| *fence < place).saturating_sub(1);
        for page in (first..self.fences.len()).take_while(|page| *page == first || self.fences[*page] <= place) {
            let (from, to) = (page * PAGE, self.keys.min((page + 1) * PAGE));
            let found = match &self.at {
                At::Memory(keys) => {
                    let keys = &keys[from..to];
                    let from = keys.partition_point(|k| k.place() < place);
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
    pub fn merged(&self, other: &Self, oldest: i64, spill: Option<&dyn Spill>) -> Result<Option<Self>> {
        let spilled = self.is_spilled() || other.is_spilled();
        let mut writer = spill.filter(|_| spilled).map(Writer::new).transpose()?;
        let mut index = Index::for_keys(self.keys + other.keys);
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
        let at = match writer {
            Some(mut writer) => {
                if !out.is_empty() {
                    writer.write(&out)?;
                }
                writer.finish()?
            }
            None => At::Memory(out),
        };
        Ok(Some(index.over(at)))
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
struct Index {
    newest: i64,
    keys: usize,
    fences: Vec<u64>,
    filter: Filter,
}

impl Index {
    fn for_keys(keys: usize) -> Self {
        Self {
            newest: i64::MIN,
            keys: 0,
            fences: Vec::with_capacity(keys.div_ceil(PAGE)),
            filter: Filter::for_keys(keys),
        }
    }

    fn add(&mut self, key: &Key) {
        let place = key.place();
        if self.keys.is_multiple_of(PAGE) {
            self.fences.push(place);
        }
        self.keys += 1;
        self.newest = self.newest.max(key.time);
        self.filter.insert(place, key.low);
    }

    fn over(self, at: At) -> Run {
        let Self { newest, keys, fences, filter } = self;
        Run { newest, keys, fences, filter: Some(filter), at }
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
