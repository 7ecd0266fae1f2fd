//! What one run sees of the world: a store that fails in every way that a store can, a clock that is a little off.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::world::{Inner, World};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::lake::{ObjectMeta, Put, layout};
use crate::stream::log::{Commit, Kind, parse};
use crate::stream::run::{Event, Observer};
use crate::stream::store::{Clock, Store};
use crate::time::SECOND;

/// Of ten thousand operations, how many fail in each way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// Fail before they take effect.
    pub before: u32,
    /// Fail after they took effect.
    pub after: u32,
    /// Take effect, lose their reply, and are retried.
    pub lost: u32,
    /// Take effect in part.
    pub partial: u32,
    /// Take long before they take effect.
    pub slow: u32,
    /// Take long after they took effect.
    pub slow_reply: u32,
    /// The run ends before, after, or with the request on its way.
    pub crash: u32,
}

/// A lie of the store or a gap in the protocol, made on purpose: the simulation must see each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The run never sees a newer term.
    BlindToTerms,
    /// State is put after the commit.
    StateAfterCommit,
    /// Data files are put after the commit.
    FilesAfterCommit,
    /// A put-if-absent puts, whatever was there.
    AlwaysAbsent,
    /// A plan is said to be put, and is not.
    NoPlan,
    /// The database is only asked whether it holds an epoch that is made void.
    AskOnly,
}

/// The view of one run.
pub struct Handle<'a> {
    world: &'a World,
    actor: usize,
    /// Tells one run from another.
    pub run: u64,
    seed: u64,
    rates: Rates,
    skew: i64,
    /// After this step of the world the run is told to stop.
    until: u64,
    sabotage: Option<Sabotage>,
    dead: AtomicBool,
    term: AtomicU64,
    after_newer: AtomicU64,
    visits: Mutex<HashMap<u64, u64>>,
    withheld: Mutex<Vec<(String, Bytes)>>,
}

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Before,
    After,
    Lost,
    Partial,
    Slow(i64),
    SlowReply(i64),
    CrashBefore,
    CrashAfter,
    CrashInFlight(i64),
}

/// The put of an entry's commit.
const FINISHES: &str = "finish the entry";

/// How injected errors begin.
pub const INJECTED: &str = "injected";

impl<'a> Handle<'a> {
    /// A run's view; `skew` is how far its clock is off.
    pub fn new(world: &'a World, actor: usize, run: u64, seed: u64, rates: Rates, skew: i64, until: u64) -> Self {
        Self {
            world,
            actor,
            run,
            seed,
            rates,
            skew,
            until,
            sabotage: None,
            dead: AtomicBool::new(false),
            term: AtomicU64::new(0),
            after_newer: AtomicU64::new(0),
            visits: Mutex::default(),
            withheld: Mutex::default(),
        }
    }

    /// With a lie.
    pub fn with(mut self, sabotage: Option<Sabotage>) -> Self {
        self.sabotage = sabotage;
        self
    }

    /// Whether the run ended by force.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// The lie, if there is one.
    pub fn sabotage(&self) -> Option<Sabotage> {
        self.sabotage
    }

    /// What all share, at this run's turn.
    pub fn enter(&self) -> MutexGuard<'_, Inner> {
        self.world.enter(self.actor)
    }

    /// The world.
    pub fn world(&self) -> &'a World {
        self.world
    }

    /// Draws for an operation: from seed, run, name and how often it was done, so that threads of one run do not matter.
    pub fn draw(&self, what: &str, path: &str) -> u64 {
        let mut name = format!("{what} {}", anonymous(path));
        let visits = {
            let mut all = self.visits.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let visits = all.entry(xxh3_64_with_seed(name.as_bytes(), 0)).or_default();
            *visits += 1;
            *visits
        };
        name.push_str(&format!(" {} {visits}", self.run));
        xxh3_64_with_seed(name.as_bytes(), self.seed)
    }

    fn fault(&self, what: &str, path: &str, writes: bool) -> Fault {
        let draw = self.draw(what, path);
        let mut dice = (draw % 10_000) as u32;
        let more = draw / 10_000;
        let long = (more % 600) as i64 * SECOND / 10;
        let mut falls = |rate: u32| {
            let hit = dice < rate;
            dice = dice.wrapping_sub(rate);
            hit
        };
        let r = self.rates;
        if falls(r.before) {
            Fault::Before
        } else if falls(r.slow) {
            Fault::Slow(long)
        } else if falls(r.slow_reply) {
            Fault::SlowReply(long)
        } else if falls(r.crash) {
            match more % 3 {
                0 => Fault::CrashBefore,
                1 => Fault::CrashAfter,
                _ if writes => Fault::CrashInFlight(long),
                _ => Fault::CrashBefore,
            }
        } else if !writes {
            Fault::None
        } else if falls(r.after) {
            Fault::After
        } else if falls(r.lost) {
            Fault::Lost
        } else if falls(r.partial) {
            Fault::Partial
        } else {
            Fault::None
        }
    }

    /// An injected error.
    pub fn failed(&self, path: &str, what: &str) -> Error {
        Error::lake(path, format!("{INJECTED}: {what}"))
    }

    /// The run ends by force.
    pub fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// What comes before every operation of the store or the database.
    pub fn begin(&self, what: &str, path: &str, writes: bool) -> Result<Fault> {
        self.alive(path)?;
        let fault = self.fault(what, path, writes);
        if let Fault::Slow(long) = fault {
            self.slow(long);
        }
        let mut inner = self.world.step(self.actor);
        inner.tell(|| format!("writer {} run {:x}: {what} {path} {fault:?}", self.actor, self.run & 0xffff_ffff));
        if let Some(law) = &inner.broken {
            return Err(Error::Internal(law.clone()));
        }
        let ours = self.term.load(Ordering::SeqCst);
        // Anybody finishes an entry, and puts the snapshot that is due then: what both hold, the log says.
        let anybodys = what == FINISHES || path.contains("/snapshots/");
        if writes && !anybodys && ours > 0 && ours < inner.newest_term {
            // One put may be under way when the newer term is taken: the look for it came just before. No more.
            if self.after_newer.fetch_add(1, Ordering::SeqCst) > 0 {
                inner.breaks(|| format!("term {ours} went on to {what} {path} after a newer term was taken"));
            }
        }
        match fault {
            Fault::Before => {
                inner.tally.failed_before += 1;
                Err(self.failed(path, "failed before it took effect"))
            }
            Fault::CrashBefore => {
                inner.tally.crashed_before += 1;
                self.die();
                Err(self.failed(path, "crash"))
            }
            fault => Ok(fault),
        }
    }

    fn slow(&self, long: i64) {
        self.world.sleep(self.actor, long);
        let mut inner = self.world.enter(self.actor);
        inner.tally.delayed += 1;
        let ours = self.term.load(Ordering::SeqCst);
        if ours > 0 && ours < inner.newest_term {
            inner.tally.zombies += 1;
        }
    }

    /// What comes after every operation that took effect.
    pub fn end(&self, fault: Fault, path: &str) -> Result<()> {
        match fault {
            Fault::After => {
                self.world.enter(self.actor).tally.failed_after += 1;
                Err(self.failed(path, "took effect, and failed"))
            }
            Fault::CrashAfter => {
                self.world.enter(self.actor).tally.crashed_after += 1;
                self.die();
                Err(self.failed(path, "crash"))
            }
            Fault::SlowReply(long) => {
                self.slow(long);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// An error when the run was ended.
    pub fn alive(&self, path: &str) -> Result<()> {
        if self.is_dead() { Err(self.failed(path, "the run has ended")) } else { Ok(()) }
    }

    /// Something of the source happens: the run may end there, or reading fail.
    pub fn read(&self, what: &str, path: &str) -> Result<i64> {
        self.alive(path)?;
        let fault = self.fault(what, path, false);
        if let Fault::Slow(long) | Fault::SlowReply(long) = fault {
            self.slow(long / 4);
        }
        let mut inner = self.world.step(self.actor);
        inner.tell(|| format!("writer {} run {:x}: {what} {fault:?}", self.actor, self.run & 0xffff_ffff));
        match fault {
            Fault::Before => {
                inner.tally.failed_reading += 1;
                Err(Error::source(path, format!("{INJECTED}: cannot be read")))
            }
            Fault::CrashBefore | Fault::CrashAfter | Fault::CrashInFlight(_) => {
                inner.tally.crashed_reading += 1;
                self.die();
                Err(self.failed(path, "crash"))
            }
            _ => Ok(inner.now),
        }
    }

    fn withholds(&self, path: &str) -> bool {
        let layer = !path.starts_with(layout::CONTROL);
        match self.sabotage {
            Some(Sabotage::StateAfterCommit) => path.contains("/state/"),
            Some(Sabotage::FilesAfterCommit) => layer,
            _ => false,
        }
    }
}

/// A path without what is random in it: the ids of terms and entries.
fn anonymous(path: &str) -> String {
    let mut name = String::with_capacity(path.len());
    for part in path.split_inclusive(['-', '/', '.']) {
        let id = part.trim_end_matches(['-', '/', '.']);
        let random = id.len() >= 16 && id.bytes().all(|b| b.is_ascii_hexdigit());
        name.push_str(if random { "*" } else { part });
    }
    name
}

impl Store for Handle<'_> {
    fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        // Whoever meets an entry that is planned puts its commit, whatever the terms.
        let entry = || parse::<Commit>(path, &bytes).is_ok_and(|c| !matches!(c.kind, Kind::Run | Kind::Void));
        let what = if path.ends_with(".commit") && entry() { FINISHES } else { "put if absent" };
        let fault = self.begin(what, path, true)?;
        let mut inner = self.world.enter(self.actor);
        if let Fault::CrashInFlight(after) = fault {
            inner.tally.crashed_in_flight += 1;
            inner.send(path, bytes, true, after);
            self.die();
            return Err(self.failed(path, "crash with the request on its way"));
        }
        if self.sabotage == Some(Sabotage::NoPlan) && path.ends_with(".plan") {
            return Ok(Put::Created);
        }
        if self.sabotage == Some(Sabotage::AlwaysAbsent) {
            inner.remove(path);
        }
        let mut put = inner.put_if_absent(path, bytes);
        if put == Put::Exists && (path.ends_with(".plan") || path.ends_with(".commit")) {
            inner.tally.met_anothers += 1;
        }
        if put == Put::Created && path.ends_with(".commit") {
            for (path, bytes) in self.withheld.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
                inner.put(&path, bytes);
            }
        }
        if put == Put::Created && path.contains("/terms/") {
            self.term.store(layout::number(path).unwrap_or_default(), Ordering::SeqCst);
        }
        if put == Put::Created && fault == Fault::Lost {
            inner.tally.lost_replies += 1;
            put = Put::Exists;
        }
        drop(inner);
        self.end(fault, path)?;
        Ok(put)
    }

    fn put_many(&self, objects: Vec<(String, Content)>) -> Result<()> {
        let name = objects.first().map(|(path, _)| path.clone()).unwrap_or_default();
        let fault = self.begin("put", &name, true)?;
        let some = self.draw("some", &name);
        let mut inner = self.world.enter(self.actor);
        let mut skipped = false;
        for (i, (path, content)) in objects.into_iter().enumerate() {
            let bytes = content.into_whole();
            if self.withholds(&path) {
                self.withheld.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((path, bytes));
                continue;
            }
            let taken = (some >> (i % 60)) & 1 == 0;
            match fault {
                Fault::CrashInFlight(after) if taken => inner.send(&path, bytes, false, after),
                Fault::Partial | Fault::CrashInFlight(_) if !taken => skipped = true,
                _ => inner.put(&path, bytes),
            }
        }
        match fault {
            Fault::CrashInFlight(_) => {
                inner.tally.crashed_in_flight += 1;
                self.die();
                return Err(self.failed(&name, "crash with requests on their way"));
            }
            Fault::Partial if skipped => {
                inner.tally.partial += 1;
                return Err(self.failed(&name, "only some took effect"));
            }
            _ => {}
        }
        drop(inner);
        self.end(fault, &name)
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let fault = self.begin("get", path, false)?;
        let found = self.world.enter(self.actor).get(path).cloned();
        self.end(fault, path)?;
        let blind = self.sabotage == Some(Sabotage::BlindToTerms) && path.contains("/terms/");
        let ours = self.term.load(Ordering::SeqCst);
        Ok(found.filter(|_| !(blind && ours > 0 && layout::number(path) > Some(ours))))
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        let fault = self.begin("list", prefix, false)?;
        let inner = self.world.enter(self.actor);
        let found = inner.list(prefix, after);
        drop(inner);
        self.end(fault, prefix)?;
        Ok(found)
    }

    fn delete(&self, path: &str) -> Result<()> {
        let fault = self.begin("delete", path, true)?;
        self.world.enter(self.actor).remove(path);
        self.end(fault, path)
    }
}

impl Clock for Handle<'_> {
    fn now(&self) -> i64 {
        self.world.enter(self.actor).now + self.skew
    }

    fn wait(&self, micros: i64) {
        if !self.is_dead() {
            // Waiting is quick here, and every look for more is dear.
            self.world.sleep(self.actor, 10 * micros);
        }
    }
}

impl Observer for Handle<'_> {
    fn event(&self, event: &Event) {
        let mut inner = self.world.enter(self.actor);
        inner.tell(|| format!("writer {}: {event:?}", self.actor));
        match event {
            Event::Started { recovering: true, .. } => inner.tally.rerun += 1,
            Event::Changed { .. } => inner.tally.contract_changes += 1,
            Event::Voided { .. } => inner.tally.voided += 1,
            Event::Swept { .. } => inner.tally.swept += 1,
            _ => {}
        }
    }

    fn should_stop(&self) -> bool {
        self.is_dead() || self.world.enter(self.actor).steps() > self.until
    }
}
