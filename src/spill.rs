//! Where operators put state that does not fit into memory: files of this process alone, gone when it ends.
//!
//! Operators do no I/O of their own; they are handed a [`Spill`] and write Arrow tables to it ([`table`]). On a machine it
//! is a folder on local disk ([`disk`]), in tests a place in memory ([`memory`]). What was spilled is never needed after a
//! crash: the state that counts lies in the lake.

use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;

use crate::error::Result;

pub mod disk;
pub mod memory;
pub mod table;

/// A place for what does not fit into memory.
pub trait Spill: Debug + Send + Sync {
    /// Begins a file; `what` says in its name what it holds.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when there is no room, or no right to write.
    fn create(&self, what: &str) -> Result<Box<dyn SpillWriter>>;

    /// What lies there now, and what was ever put there.
    fn usage(&self) -> Usage;
}

/// A file that is being spilled. Unless it is finished it goes away.
pub trait SpillWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when there is no room.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// The file, to be read.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when there is no room.
    fn finish(self: Box<Self>) -> Result<Arc<dyn SpillFile>>;
}

/// A spilled file. It goes away when nobody holds it any more.
pub trait SpillFile: Debug + Send + Sync {
    /// Fills `into` with the bytes from `at` on.
    ///
    /// # Errors
    /// [`crate::Error::Spill`] when they cannot be read.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()>;

    /// How many bytes it has.
    fn size(&self) -> u64;
}

/// What was spilled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Bytes there now.
    pub bytes: u64,
    /// Files there now.
    pub files: u64,
    /// Files written since the process began to use it.
    pub spills: u64,
    /// Bytes written since then.
    pub written: u64,
}

/// How much memory state may take, and where the rest goes.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Bytes of state in memory.
    pub bytes: usize,
    /// Where the rest goes.
    pub spill: Arc<dyn Spill>,
}
