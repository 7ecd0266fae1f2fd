//! What the epoch loop needs of the world: a store of objects and a clock, by trait, so that both can be played in tests.

use bytes::Bytes;

use crate::content::Content;
use crate::error::Result;
use crate::lake::{Lake, ObjectMeta, Put};

/// A store of objects with an atomic put-if-absent.
pub trait Store: Send + Sync {
    /// Puts an object unless there is one of that name.
    fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put>;
    /// Puts objects, each whole or not at all; all are durable when this returns.
    fn put_many(&self, objects: Vec<(String, Content)>) -> Result<()>;
    /// Reads an object.
    fn get(&self, path: &str) -> Result<Option<Bytes>>;
    /// Reads a stretch of an object; less than that when it ends before.
    fn get_range(&self, path: &str, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        let whole = self.get(path)?;
        Ok(whole.map(|bytes| {
            let end = bytes.len() as u64;
            bytes.slice(range.start.min(end) as usize..range.end.min(end) as usize)
        }))
    }
    /// The objects below a prefix, sorted by path, after one path where that is given.
    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>>;
    /// Removes an object; one that is not there is no error.
    fn delete(&self, path: &str) -> Result<()>;
    /// Moves an object to the trash, where readers still find it; one that is not there is no error.
    fn trash(&self, path: &str) -> Result<()> {
        if let Some(bytes) = self.get(path)? {
            self.put_many(vec![(crate::lake::layout::trash(path), bytes.into())])?;
        }
        self.delete(path)
    }
    /// How many requests were sent again since it was opened.
    fn retries(&self) -> u64 {
        0
    }
}

impl Store for Lake {
    fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        Lake::put_if_absent(self, path, bytes)
    }

    fn put_many(&self, objects: Vec<(String, Content)>) -> Result<()> {
        Lake::put_many(self, objects)
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        Lake::get(self, path)
    }

    fn get_range(&self, path: &str, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        Lake::get_range(self, path, range)
    }

    fn trash(&self, path: &str) -> Result<()> {
        Lake::trash(self, path)
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        Lake::list(self, prefix, after)
    }

    fn delete(&self, path: &str) -> Result<()> {
        Lake::delete(self, path)
    }

    fn retries(&self) -> u64 {
        self.stats().retries
    }
}

/// A clock, and the way to wait by it.
pub trait Clock: Send + Sync {
    /// Microseconds since the Unix epoch, UTC.
    fn now(&self) -> i64;
    /// Waits for so many microseconds.
    fn wait(&self, micros: i64);
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> i64 {
        chrono::Utc::now().timestamp_micros()
    }

    fn wait(&self, micros: i64) {
        std::thread::sleep(std::time::Duration::from_micros(micros.max(0).unsigned_abs()));
    }
}

/// A clock that says one thing: for runs that are to be repeated byte for byte.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub i64);

impl Clock for FixedClock {
    fn now(&self) -> i64 {
        self.0
    }

    fn wait(&self, micros: i64) {
        SystemClock.wait(micros);
    }
}
