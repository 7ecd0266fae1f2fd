//! Penstock's engine: event streams into tables, every event accounted for.
//!
//! Modules here know nothing of Python; `py` holds the bindings, file for file beside what they bind. Operators
//! ([`dedup`], [`watermark`], [`sessions`], [`windows`], [`scd2`]) do no I/O: a record batch and their state in, a record
//! batch and their state out.

mod abandoned;
pub mod carry;
pub mod columns;
pub mod content;
pub mod contract;
pub mod dedup;
pub mod error;
pub mod events;
pub mod failpoint;
pub mod generate;
pub mod hash;
pub mod lake;
#[cfg(feature = "kafka")]
mod librdkafka;
pub mod memory;
pub mod packed;
mod prefetch;
#[cfg(feature = "kafka")]
pub mod producer;
pub mod scd2;
pub mod sessions;
pub mod sinks;
pub mod sources;
pub mod spill;
pub mod state;
pub mod stream;
pub mod threads;
pub mod time;
pub mod verdict;
pub mod watermark;
pub mod windows;

#[cfg(feature = "python")]
mod py;

pub use error::{Error, Result};
