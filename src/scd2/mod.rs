//! Slowly changing dimensions of type 2: from changes to the history of every entity.
//!
//! **Semantics.** A row holds over the half-open interval `[effective_start, effective_end)`; the current row has no
//! end. Time comes from the change itself, never from the load. A change that comes late splits the interval that it
//! falls into; one that changes no tracked attribute makes no row; null is a value like any other, distinct from `''`.
//! A delete closes the row, a return opens a new one. Untracked attributes are of type 1: every row of an entity carries
//! their newest values (of the last change by time that is no delete). Of two changes of one entity at one time the
//! later position wins; with equal or no positions an update wins over a delete, then the greater content: never
//! arrival. Surrogate keys follow from key and start alone ([`crate::hash::entity_at`]); a collision is an error.
//!
//! **The law.** Any order of arrival, in any number of loads, gives the same history. The value A at 1, again A at 2,
//! and then, late, B at 1½ gives A, B, A: so [`History`] keeps every change point, those too that only confirmed a row.
//! Of changes at the same moment only the winner can ever matter, so just that one is kept.
//!
//! **What this costs.** About 80 bytes and its attributes for each change point. Merging reads the keys and times of
//! what it passes and copies only the entities that changed; rows are made when they are asked for.
//! [`History::settle`] bounds the points: once nothing older than some moment is expected any more, the confirmations
//! before it are dropped, and what is left there is one point a row. A history saved elsewhere need not be loaded whole
//! either: the points of just those entities that a load touches are enough ([`Merge::points`],
//! [`History::from_points`]).
//!
//! **How it is fast.** Entities are split into parts by the hash of their keys, one part at a time for each core, and
//! stand in the order of the hashes; changes are brought into the same order, and the two are merged as one walks along
//! sorted lists, with memory read in sequence. Tracked attributes are compared by a 64-bit sum, and by their values
//! where the sums agree. The parts do not depend on the number of threads, nor does any result.
//!
//! A *bare* history (rows without what confirmed them, [`History::from_rows`]) can be merged into as well, but has
//! forgotten what the law needs; [`Merge::notes`] says so.
//!
//! **Facts** find their row by event time with [`point`], and where there is none yet get an inferred one.

mod compare;
mod facts;
mod history;
mod keys;
mod layout;
mod merge;
mod part;
mod rows;
mod save;
mod sift;
#[cfg(test)]
mod tests;

pub use facts::{BEGINNING, Pointed, point};
pub use history::History;
pub use layout::Scd2Spec;
pub use merge::{Counts, Merge, merge};
