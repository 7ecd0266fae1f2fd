//! The way from the event to the reader: some take longer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Made;
use crate::error::Result;

/// How many events are on their way at most; beyond that the next one due comes early.
const MOST: usize = 1 << 16;
/// After how many events progress is told.
const TELL: u64 = 4_096;

/// Hands events out when they are due.
pub(super) struct Delivery<'a> {
    out: &'a mut dyn FnMut(Made<'_>) -> Result<()>,
    progress: &'a mut dyn FnMut(u64) -> Result<()>,
    now: i64,
    /// Due time, number, and where the event lies.
    waiting: BinaryHeap<Reverse<(i64, u64, usize)>>,
    parcels: Vec<(Vec<u8>, String)>,
    free: Vec<usize>,
    sent: u64,
    done: u64,
    bytes: u64,
}

impl<'a> Delivery<'a> {
    pub fn new(out: &'a mut dyn FnMut(Made<'_>) -> Result<()>, progress: &'a mut dyn FnMut(u64) -> Result<()>) -> Self {
        Self {
            out,
            progress,
            now: i64::MIN,
            waiting: BinaryHeap::new(),
            parcels: Vec::new(),
            free: Vec::new(),
            sent: 0,
            done: 0,
            bytes: 0,
        }
    }

    /// Time goes on: what is due comes out.
    pub fn pass(&mut self, now: i64) -> Result<()> {
        self.now = now;
        while self.waiting.peek().is_some_and(|w| w.0.0 <= now) {
            self.pop()?;
        }
        Ok(())
    }

    /// Sends an event that comes at `due`. Gives its number.
    pub fn send(&mut self, line: &[u8], key: &str, due: i64) -> Result<u64> {
        let number = self.sent;
        self.sent += 1;
        if due <= self.now {
            self.hand_out(Made { number, line, key })?;
            return Ok(number);
        }
        if self.waiting.len() >= MOST {
            self.pop()?;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.parcels.push(Default::default());
            self.parcels.len() - 1
        });
        let (kept, kept_key) = &mut self.parcels[place];
        kept.clear();
        kept.extend_from_slice(line);
        kept_key.clear();
        kept_key.push_str(key);
        self.waiting.push(Reverse((due, number, place)));
        Ok(number)
    }

    /// How many events were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Everything comes out. Gives the bytes of all lines with their ends.
    pub fn finish(mut self) -> Result<u64> {
        while !self.waiting.is_empty() {
            self.pop()?;
        }
        (self.progress)(self.done)?;
        Ok(self.bytes)
    }

    fn pop(&mut self) -> Result<()> {
        let Some(Reverse((_, number, place))) = self.waiting.pop() else { return Ok(()) };
        let (line, key) = std::mem::take(&mut self.parcels[place]);
        self.hand_out(Made { number, line: &line, key: &key })?;
        // Its memory serves the next one, unless it was an uncommonly large one.
        if line.capacity() < 1 << 14 {
            self.parcels[place] = (line, key);
        }
        self.free.push(place);
        Ok(())
    }

    fn hand_out(&mut self, made: Made<'_>) -> Result<()> {
        self.bytes += made.line.len() as u64 + 1;
        (self.out)(made)?;
        self.done += 1;
        if self.done.is_multiple_of(TELL) { (self.progress)(self.done) } else { Ok(()) }
    }
}
