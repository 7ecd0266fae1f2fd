//! Spilling in memory, for tests: everything but the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Spill, SpillFile, SpillWriter, Usage};
use crate::error::{Error, Result};

/// A place in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    usage: Arc<Mutex<Usage>>,
    /// What still has room; none: as much as is wanted.
    room: Arc<Mutex<Option<u64>>>,
    reads: Arc<AtomicU64>,
}

impl Memory {
    /// From now on only so many more bytes fit.
    pub fn limit(&self, bytes: Option<u64>) {
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    /// How often something was read.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Writer {
    bytes: Vec<u8>,
    place: Memory,
}

#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    place: Memory,
}

impl Spill for Memory {
    fn create(&self, _what: &str) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(Writer { bytes: Vec::new(), place: self.clone() }))
    }

    fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpillWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut room = self.place.room.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = room.as_mut() {
            *left = left.checked_sub(bytes.len() as u64).ok_or_else(|| Error::spill("memory", "no room is left"))?;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn SpillFile>> {
        let mut usage = self.place.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage.bytes += self.bytes.len() as u64;
        usage.written += self.bytes.len() as u64;
        usage.files += 1;
        usage.spills += 1;
        drop(usage);
        Ok(Arc::new(File { bytes: self.bytes, place: self.place }))
    }
}

impl SpillFile for File {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.place.reads.fetch_add(1, Ordering::Relaxed);
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = from.checked_add(into.len()).and_then(|to| self.bytes.get(from..to));
        into.copy_from_slice(bytes.ok_or_else(|| Error::spill("memory", "read beyond the end"))?);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let mut usage = self.place.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage.bytes -= self.bytes.len() as u64;
        usage.files -= 1;
    }
}
