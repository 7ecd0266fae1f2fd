//! A tick that is being judged, piece by piece, by whichever core is free, while its reader goes on.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ScopeFifo, Yield};

use super::epoch::{Judgment, judge};
use super::log::Tick;
use super::tick::Read;
use crate::contract::{Contract, JudgeRules};
use crate::error::{Error, Result};
use crate::events::RawEvents;
use crate::hash::HashKey;

/// What ticks are judged by.
#[derive(Clone, Copy)]
pub(super) struct By<'s> {
    pub(super) contract: &'s Contract,
    pub(super) rules: &'s JudgeRules,
    pub(super) key: HashKey,
}

/// A tick that is being judged.
pub(super) struct Judging {
    pub(super) tick: Tick,
    pieces: Arc<Pieces>,
}

struct Pieces {
    found: Mutex<Found>,
    done: Condvar,
}

struct Found {
    judged: Vec<Option<Result<Judgment>>>,
    left: usize,
}

/// Where the judgment of a piece goes; without one it says that there will be none.
struct Place {
    pieces: Arc<Pieces>,
    number: usize,
    judged: Option<Result<Judgment>>,
}

impl Judging {
    /// Begins to judge what was read. Pieces are begun about in their order.
    pub(super) fn begin<'s>(scope: &ScopeFifo<'s>, by: By<'s>, read: Read) -> Self {
        let judged = read.pieces.iter().map(|_| None).collect();
        let found = Mutex::new(Found { judged, left: read.pieces.len() });
        let pieces = Arc::new(Pieces { found, done: Condvar::new() });
        for (number, piece) in read.pieces.into_iter().enumerate() {
            let place = Place { pieces: Arc::clone(&pieces), number, judged: None };
            scope.spawn_fifo(move |_| place.fill(by, piece));
        }
        Self { tick: read.tick, pieces }
    }

    /// Helps until all pieces are judged; judging never waits for anything.
    pub(super) fn end(self) -> Result<Vec<Judgment>> {
        while self.pieces.found().left > 0 && rayon::yield_now() == Some(Yield::Executed) {}
        let mut found = self.pieces.found();
        while found.left > 0 {
            found = self.pieces.done.wait(found).unwrap_or_else(PoisonError::into_inner);
        }
        let missing = || Err(Error::Internal("a piece was not judged".into()));
        std::mem::take(&mut found.judged).into_iter().map(|judged| judged.unwrap_or_else(missing)).collect()
    }
}

impl Pieces {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn fill(mut self, by: By<'_>, piece: RawEvents) {
        self.judged = Some(judge(by.contract, by.rules, by.key, piece));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut found = self.pieces.found();
        found.judged[self.number] = self.judged.take();
        found.left -= 1;
        if found.left == 0 {
            self.pieces.done.notify_all();
        }
    }
}
