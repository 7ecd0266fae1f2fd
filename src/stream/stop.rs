//! Stopping when asked to: the epoch in hand is finished if that can be done in time, else given up.
//!
//! A stop ends the reading at once. What was read is planned and committed, so that nothing has to be read again. When
//! that takes too long (a slow store, a huge epoch), the next look before a durable step gives the epoch up: planned or
//! not, the next run does it.

use super::runner::Runner;
use crate::error::{Error, Result};

/// So long after it was asked, a run still begins durable steps, in microseconds. With the longest of them it ends within
/// ten seconds.
const PATIENCE: i64 = 7_000_000;

impl Runner<'_> {
    /// Whether the run was asked to stop.
    pub(super) fn asked_to_stop(&self) -> bool {
        let asked = self.observer.should_stop();
        if asked {
            self.asked_at.get_or_init(|| self.clock.now());
        }
        asked
    }

    /// Gives the epoch up when asked to stop: where it cannot be finished from here.
    pub(super) fn stop_if_asked(&self) -> Result<()> {
        if self.asked_to_stop() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Gives the epoch up when it takes too long to finish it.
    pub(super) fn stop_if_late(&self) -> Result<()> {
        if !self.asked_to_stop() {
            return Ok(());
        }
        let told = self.observer.asked_for().map(|d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX));
        let seen = self.asked_at.get().map(|at| self.clock.now() - at);
        if told.max(seen).is_some_and(|since| since > PATIENCE) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
