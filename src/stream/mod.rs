//! The stream: events from a source through contract and operators into the lake, exactly once.
//!
//! An epoch is planned, run and committed by objects that are put if absent ([`journal`]); its files are a function of
//! its plan, so that whoever runs it again after a crash writes the same bytes. The loop ([`run`]) knows its source, the
//! store and the clock by trait.

pub mod audit;
pub mod broker;
mod bronze;
mod carry;
pub mod change;
mod commit;
pub mod entries;
mod epoch;
mod gather;
pub mod inspect;
pub mod journal;
mod judging;
pub mod lag;
pub mod ledger;
pub mod log;
mod operators;
pub mod partitions;
pub mod run;
mod runner;
pub mod samples;
pub mod shards;
#[cfg(test)]
mod simulation;
pub mod sink;
pub mod spec;
pub mod state;
pub mod state_table;
mod stop;
pub mod store;
mod sweep;
mod take_up;
#[cfg(test)]
mod tests;
mod tick;
pub mod transform;
mod void;

pub use epoch::silver_schema;
pub use run::{Event, Observer, Report, RunOptions, Unwatched, run};
pub use spec::PipelineSpec;
