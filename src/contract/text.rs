//! A column of text while it is built: packed (each distinct value once, a number for each row) as long as its values
//! repeat, plain from where they do not.
//!
//! A packed column knows which of its values have passed which checks, so that what a schema says of a string is asked
//! once for each distinct value of a piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use arrow::array::{ArrayRef, StringArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};

use super::lanes;
use crate::error::{Error, Result};
use crate::hash::{quick, quick_short};
use crate::packed;

/// So many distinct values are taken before it is asked whether they repeat.
const GLANCE: usize = 256;
/// Numbers have 16 bits; 0 is for nulls.
const MOST: usize = u16::MAX as usize;
/// The check that every value passes: of a string of which nothing is said.
pub const OPEN: u64 = 1 << 63;
/// A column that came out plain is tried again after so many pieces.
const AGAIN: u8 = 100;

/// Text that is being built.
#[derive(Debug)]
pub struct TextBuilder {
    /// Where each value ends, after a 0: that of each row, or of each distinct one.
    offsets: Vec<i32>,
    bytes: Vec<u8>,
    packed: Option<Box<Packed>>,
    /// Whether it was packed at first, and its values did not repeat.
    gave_up: bool,
}

#[derive(Debug)]
struct Packed {
    /// Of each row.
    numbers: Vec<u16>,
    /// Of each number; the first one stands for null.
    entries: Vec<Entry>,
    /// Open addressing: a number, or 0 where there is none.
    slots: Vec<u16>,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The first 16 bytes.
    head: u128,
    /// The checks that it has passed, one bit each.
    passed: u64,
    length: u32,
    tag: u32,
}

/// A value that was looked up: small, so that it travels in registers.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The lower half of its hash.
    tag: u32,
    /// Its number, or 0.
    number: u16,
}

/// What earlier pieces of a contract were like, so that the next one is begun alike. It changes no result.
#[derive(Debug, Default)]
pub struct Habit {
    /// In how many pieces packing is tried again.
    plain: AtomicU8,
    /// Bytes of text in 1,024 rows.
    bytes: AtomicUsize,
    /// Distinct values of a packed piece, and their bytes.
    distinct: (AtomicUsize, AtomicUsize),
    /// Runs of nulls of a piece.
    nulls: AtomicUsize,
}

impl Habit {
    /// How many runs of nulls room is made for: as many again, and a few more.
    pub fn nulls(&self, rows: usize) -> usize {
        let before = self.nulls.load(Ordering::Relaxed);
        (before + before / 8).min(rows)
    }

    /// Tells how many runs of nulls a piece had.
    pub fn tell_nulls(&self, runs: usize) {
        self.nulls.store(runs, Ordering::Relaxed);
    }
}

impl Default for TextBuilder {
    fn default() -> Self {
        Self { offsets: vec![0], bytes: Vec::new(), packed: None, gave_up: false }
    }
}

impl TextBuilder {
    /// A column of about so many rows that is packed while that pays.
    pub fn packed(rows: usize, seed: u64, habit: &Habit) -> Self {
        let waits = habit.plain.load(Ordering::Relaxed);
        if waits > 0 {
            habit.plain.store(waits - 1, Ordering::Relaxed);
            return Self::plain(rows, habit);
        }
        let null = Entry { head: 0, passed: 0, length: u32::MAX, tag: 0 };
        // As many again, and a few more, need no further room.
        let expected = habit.distinct.0.load(Ordering::Relaxed).min(rows);
        let room = expected + expected / 8 + 2;
        let mut entries = Vec::with_capacity(room);
        entries.push(null);
        let slots = vec![0; (room * 2).next_power_of_two().max(64)];
        let mut offsets = Vec::with_capacity(room + 1);
        offsets.extend([0, 0]);
        let bytes = Vec::with_capacity(habit.distinct.1.load(Ordering::Relaxed));
        let packed = Packed { numbers: Vec::with_capacity(rows), entries, slots, seed };
        Self { offsets, bytes, packed: Some(Box::new(packed)), gave_up: false }
    }

    /// A plain column of about so many rows, for values that hardly ever repeat.
    pub fn plain(rows: usize, habit: &Habit) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        let expected = habit.bytes.load(Ordering::Relaxed) * rows / 1024;
        Self { offsets, bytes: Vec::with_capacity(expected), packed: None, gave_up: false }
    }

    /// Appends nulls, or takes rows back, so that there are `rows` of them.
    pub fn fill(&mut self, rows: usize) {
        match &mut self.packed {
            Some(packed) => packed.numbers.resize(rows, 0),
            None => {
                let last = self.offsets.last().copied().unwrap_or(0);
                self.offsets.resize(rows + 1, last);
            }
        }
    }

    /// Takes back everything from `row` on.
    pub fn truncate(&mut self, row: usize) {
        match &mut self.packed {
            // A value that nobody has any more does no harm.
            Some(packed) => packed.numbers.truncate(row),
            None => {
                self.offsets.truncate(row + 1);
                self.bytes.truncate(self.offsets.last().map_or(0, |end| *end as usize));
            }
        }
    }

    /// Whether a value has this number, of which its first 16 bytes and its length (more than that) are known to be the same.
    #[inline]
    fn is_same(&self, number: u16, value: &[u8]) -> bool {
        let number = usize::from(number);
        let known = &self.bytes[self.offsets[number] as usize..self.offsets[number + 1] as usize];
        let end = |text: &[u8]| text.last_chunk().map(|end| u128::from_le_bytes(*end));
        end(known) == end(value) && (value.len() <= 32 || known[16..] == value[16..])
    }

    /// Appends a value of up to 16 bytes where it is known here, and known to have passed a check: what most values of a
    /// packed column are. Else nothing is done; gives the value looked up, where it was the first that was looked at.
    #[inline(always)]
    pub fn push_known(&mut self, head: u128, length: usize, check: u64) -> Result<(), Option<Found>> {
        let Some(packed) = self.packed.as_deref_mut() else { return Err(Some(Found { tag: 0, number: 0 })) };
        let tag = quick_short(head, length as u32, packed.seed) as u32;
        let number = packed.slots[tag as usize & (packed.slots.len() - 1)];
        let entry = &packed.entries[usize::from(number)];
        if entry.head != head || entry.length != length as u32 {
            return Err((number == 0).then_some(Found { tag, number }));
        }
        if entry.passed & check == 0 {
            return Err(Some(Found { tag, number }));
        }
        packed.numbers.push(number);
        Ok(())
    }

    /// Looks a value up; `head` is [`head_of`] it.
    #[inline(always)]
    pub fn find(&self, value: &[u8], head: u128) -> Found {
        let Some(packed) = self.packed.as_deref() else { return Found { tag: 0, number: 0 } };
        let length = value.len() as u32;
        if length > 16 {
            return self.find_long(packed, value, head);
        }
        let tag = quick_short(head, length, packed.seed) as u32;
        let mask = packed.slots.len() - 1;
        let mut at = tag as usize & mask;
        loop {
            let number = packed.slots[at];
            let entry = &packed.entries[usize::from(number)];
            // The entry of null has a length that no value has.
            if entry.head == head && entry.length == length || number == 0 {
                return Found { tag, number };
            }
            at = (at + 1) & mask;
        }
    }

    #[inline(never)]
    fn find_long(&self, packed: &Packed, value: &[u8], head: u128) -> Found {
        let length = value.len() as u32;
        let tag = quick(value, packed.seed) as u32;
        let mask = packed.slots.len() - 1;
        let mut at = tag as usize & mask;
        loop {
            let number = packed.slots[at];
            let entry = &packed.entries[usize::from(number)];
            let same = entry.head == head && entry.length == length && self.is_same(number, value);
            if same || number == 0 {
                return Found { tag, number };
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether a value that was looked up is known to have passed a check.
    #[inline(always)]
    pub fn has_passed(&self, found: Found, check: u64) -> bool {
        match self.packed.as_deref() {
            // Null has passed none.
            Some(packed) if found.number != 0 => packed.entries[usize::from(found.number)].passed & check != 0,
            _ => false,
        }
    }

    /// Appends a value that was looked up just now, and has passed a check (0: none that is remembered).
    #[inline(always)]
    pub fn push_found(&mut self, found: Found, check: u64, value: &[u8], head: u128) {
        match self.packed.as_deref_mut() {
            None => self.push_plain(value, head),
            Some(_) if found.number == 0 => self.push_new(found, check, value, head),
            Some(packed) => {
                packed.entries[usize::from(found.number)].passed |= check;
                packed.numbers.push(found.number);
            }
        }
    }

    /// Appends a value.
    #[inline]
    pub fn push(&mut self, value: &[u8]) {
        let head = head_of(value);
        let found = self.find(value, head);
        self.push_found(found, 0, value, head);
    }

    /// Appends the value that stands from one place of a text to another.
    #[inline]
    pub fn push_part(&mut self, text: &[u8], from: usize, to: usize) {
        let Some(value) = text.get(from..to) else { return };
        match text.get(from..).and_then(|rest| rest.first_chunk::<48>()) {
            Some(chunk) if self.packed.is_none() && value.len() <= chunk.len() => {
                lanes::append(&mut self.bytes, chunk, value.len());
                self.offsets.push(self.bytes.len() as i32);
            }
            _ => self.push(value),
        }
    }

    /// Appends the value that has this number, where that is known (0: it is not); gives its number, 0 when it has none.
    #[inline]
    pub fn push_again(&mut self, number: u16, value: &[u8]) -> u16 {
        match self.packed.as_deref_mut() {
            Some(packed) if number != 0 && usize::from(number) < packed.entries.len() => {
                packed.numbers.push(number);
                number
            }
            _ => {
                self.push(value);
                self.packed.as_deref().and_then(|packed| packed.numbers.last().copied()).unwrap_or(0)
            }
        }
    }

    /// Appends a value to a column that is plain.
    #[inline(always)]
    fn push_plain(&mut self, value: &[u8], head: u128) {
        if value.len() <= 16 {
            lanes::append(&mut self.bytes, &head.to_le_bytes(), value.len());
        } else {
            self.bytes.extend_from_slice(value);
        }
        // Whoever calls keeps what goes in below 2 GiB; `finish` checks it.
        self.offsets.push(self.bytes.len() as i32);
    }

    /// Appends a value that `write` appends to what it is given; when it fails the row has to be taken back.
    #[inline]
    pub fn push_with<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        if self.packed.is_some() {
            let mut value = Vec::new();
            write(&mut value)?;
            self.push(&value);
        } else {
            write(&mut self.bytes)?;
            self.offsets.push(self.bytes.len() as i32);
        }
        Ok(())
    }

    #[inline(never)]
    fn push_new(&mut self, found: Found, check: u64, value: &[u8], head: u128) {
        let Some(packed) = self.packed.as_deref_mut() else { return };
        let distinct = packed.entries.len();
        if distinct >= MOST || distinct > GLANCE && distinct * 2 > packed.numbers.len() {
            self.unpack();
            return self.push_plain(value, head);
        }
        packed.entries.push(Entry { head, passed: check | OPEN, length: value.len() as u32, tag: found.tag });
        self.bytes.extend_from_slice(value);
        self.offsets.push(self.bytes.len() as i32);
        packed.numbers.push(distinct as u16);
        if (distinct + 1) * 2 > packed.slots.len() {
            packed.slots = vec![0; packed.slots.len() * 2];
            for number in 1..=distinct {
                packed.put(number as u16);
            }
        } else {
            packed.put(distinct as u16);
        }
    }

    /// From now on a value for each row.
    fn unpack(&mut self) {
        let Some(packed) = self.packed.take() else { return };
        self.gave_up = true;
        let (ends, values) = (std::mem::take(&mut self.offsets), std::mem::take(&mut self.bytes));
        self.offsets = Vec::with_capacity(packed.numbers.capacity() + 1);
        self.offsets.push(0);
        for number in packed.numbers {
            let number = usize::from(number);
            self.bytes.extend_from_slice(&values[ends[number] as usize..ends[number + 1] as usize]);
            self.offsets.push(self.bytes.len() as i32);
        }
    }

    /// The finished column; `habit` is told what it was like.
    ///
    /// # Errors
    /// [`Error::Data`] when its text comes to more than 2 GiB.
    pub fn finish(mut self, nulls: Option<NullBuffer>, habit: Option<&Habit>) -> Result<ArrayRef> {
        let length = self.bytes.len();
        if length > i32::MAX as usize {
            let reason = "a column of one piece comes to more than 2 GiB; hand in fewer events at once";
            return Err(Error::Data(reason.into()));
        }
        if let (Some(habit), Some(packed)) = (habit, &self.packed) {
            habit.distinct.0.store(packed.entries.len(), Ordering::Relaxed);
            habit.distinct.1.store((length + length / 8).min(1 << 20), Ordering::Relaxed);
        }
        let plain_rows = if self.packed.is_none() { self.offsets.len() - 1 } else { 0 };
        if let (Some(habit), 1..) = (habit, plain_rows) {
            let each = (length + length / 16) * 1024 / plain_rows;
            habit.bytes.store(each.clamp(1024, 1 << 20), Ordering::Relaxed);
            if self.gave_up {
                habit.plain.store(AGAIN, Ordering::Relaxed);
            }
        }
        // What is held for long is not to hold room for more.
        self.bytes.shrink_to_fit();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let Some(packed) = self.packed else {
            return Ok(Arc::new(StringArray::try_new(offsets, self.bytes.into(), nulls)?));
        };
        let values = StringArray::try_new(offsets, self.bytes.into(), None)?;
        packed::of(packed.numbers, nulls, values)
    }
}

impl Packed {
    fn put(&mut self, number: u16) {
        let mask = self.slots.len() - 1;
        let mut at = self.entries[usize::from(number)].tag as usize & mask;
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = number;
    }
}

/// The first 16 bytes, with zeros after a shorter value.
#[inline(always)]
pub fn head_of(value: &[u8]) -> u128 {
    let n = value.len();
    let eight = |at: usize| value[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let four = |at: usize| value[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    match n {
        16.. => u128::from(eight(0)) | u128::from(eight(8)) << 64,
        8 => u128::from(eight(0)),
        9..16 => u128::from(eight(0)) | u128::from(eight(n - 8) >> (8 * (16 - n))) << 64,
        4 => u128::from(four(0)),
        5..8 => u128::from(u64::from(four(0)) | u64::from(four(n - 4) >> (8 * (8 - n))) << 32),
        _ => value.iter().rev().fold(0, |head, b| head << 8 | u128::from(*b)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, cast::AsArray};
    use proptest::prelude::*;

    use super::*;
    use crate::packed::Text;

    proptest! {
        #[test]
        fn is_what_was_put_in(
            steps in prop::collection::vec((0u8..12, "[ab]{0,3}|[ab]{4,9}|[ab]{15,18}|a{16}[ab]{0,20}"), 0..300),
            many in any::<bool>(),
        ) {
            let habit = Habit::default();
            let mut column = TextBuilder::packed(10, 7, &habit);
            let mut model: Vec<Option<String>> = Vec::new();
            for (n, (step, value)) in steps.iter().enumerate() {
                match step {
                    0 => {
                        model.push(None);
                        column.fill(model.len());
                    }
                    1 => {
                        model.truncate(n / 2);
                        column.truncate(n / 2);
                    }
                    2 if many => for i in 0..GLANCE {
                        column.push(format!("{n} {i}").as_bytes());
                        model.push(Some(format!("{n} {i}")));
                    },
                    3 => {
                        column.push_with(|out| { out.extend_from_slice(value.as_bytes()); Ok::<_, ()>(()) }).unwrap();
                        model.push(Some(value.clone()));
                    }
                    4 => {
                        let again = column.push_again(0, value.as_bytes());
                        column.push_again(again, value.as_bytes());
                        model.extend([Some(value.clone()), Some(value.clone())]);
                    }
                    _ => {
                        let (check, head) = (1 << (step % 2), head_of(value.as_bytes()));
                        let found = column.find(value.as_bytes(), head);
                        column.push_found(found, check, value.as_bytes(), head);
                        let again = column.find(value.as_bytes(), head);
                        prop_assert!(column.has_passed(again, check) || column.packed.is_none());
                        model.push(Some(value.clone()));
                    }
                }
            }
            let nulls: NullBuffer = model.iter().map(Option::is_some).collect();
            let array = column.finish(Some(nulls), Some(&habit)).unwrap();
            prop_assert_eq!(array.len(), model.len());
            let text = Text::of(&array).unwrap();
            for (row, value) in model.iter().enumerate() {
                prop_assert_eq!(text.get(row), value.as_deref());
            }
        }

        #[test]
        fn heads_are_the_first_bytes(value in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut first = [0; 16];
            for (to, from) in first.iter_mut().zip(&value) {
                *to = *from;
            }
            prop_assert_eq!(head_of(&value), u128::from_le_bytes(first));
        }
    }

    #[test]
    fn what_does_not_repeat_is_plain_and_stays_so_for_a_while() {
        let habit = Habit::default();
        for piece in 0..=usize::from(AGAIN) + 1 {
            let mut column = TextBuilder::packed(1000, 7, &habit);
            assert_eq!(column.packed.is_some(), piece % (usize::from(AGAIN) + 1) == 0, "{piece}");
            (0..1000).for_each(|i| column.push(format!("value {i}").as_bytes()));
            let array = column.finish(None, Some(&habit)).unwrap();
            assert_eq!(array.as_string::<i32>().value(999), "value 999");
        }
        let mut column = TextBuilder::packed(100_000, 7, &Habit::default());
        (0..200_000).for_each(|i| column.push((i % 65_600).to_string().as_bytes()));
        let array = column.finish(None, None).unwrap();
        assert_eq!((array.len(), array.as_string::<i32>().value(65_601)), (200_000, "1"));
    }
}
