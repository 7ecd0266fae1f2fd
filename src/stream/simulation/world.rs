//! The world of a schedule: objects, one clock, and the baton that lets one actor move at a time.
//!
//! Each writer is an actor with a thread of its own, and only the one that holds the baton moves. At each of its
//! operations the seed decides who goes on, so that a seed always gives the same interleaving.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::database::Database;
use super::reader::Reader;
use super::tally::Tally;
use crate::lake::{ObjectMeta, Put, layout};

/// A request that was sent and whose sender died: it takes effect later, within the minute that a request lives.
struct InFlight {
    lands: i64,
    path: String,
    bytes: Bytes,
    if_absent: bool,
}

/// What all actors share.
pub struct Inner {
    /// The objects, and when each was put.
    objects: BTreeMap<String, (Bytes, i64)>,
    /// The true time.
    pub now: i64,
    actors: Vec<Actor>,
    turn: usize,
    in_flight: Vec<InFlight>,
    random: ChaCha8Rng,
    /// Of a thousand operations, after how many another actor goes on.
    switches: u32,
    /// The newest term taken.
    pub newest_term: u64,
    /// What happened.
    pub tally: Tally,
    /// Who looks at every commit.
    pub reader: Reader,
    /// Where epochs go beside the lake.
    pub database: Database,
    /// The first law that was broken.
    pub broken: Option<String>,
    steps: u64,
    /// Whether each step is printed.
    told: bool,
}

#[derive(Clone, Copy)]
struct Actor {
    wakes: i64,
    done: bool,
}

/// The world of one schedule.
pub struct World {
    inner: Mutex<Inner>,
    moved: Condvar,
}

impl World {
    /// An empty world at `now`, for so many actors. The first one holds the baton.
    pub fn new(seed: u64, now: i64, actors: usize, switches: u32, reader: Reader) -> Self {
        Self {
            inner: Mutex::new(Inner {
                objects: BTreeMap::new(),
                now,
                actors: vec![Actor { wakes: now, done: false }; actors],
                turn: 0,
                in_flight: vec![],
                random: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed),
                switches,
                newest_term: 0,
                tally: Tally::default(),
                reader,
                database: Database::default(),
                broken: None,
                steps: 0,
                told: std::env::var_os("PENSTOCK_SIM_SEED").is_some(),
            }),
            moved: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The world, once it is this actor's turn.
    pub fn enter(&self, actor: usize) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        while inner.turn != actor {
            inner = self.moved.wait(inner).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        inner
    }

    /// One operation of an actor: a little time passes, requests in flight land, and perhaps others go first.
    pub fn step(&self, actor: usize) -> MutexGuard<'_, Inner> {
        let mut inner = self.enter(actor);
        inner.steps += 1;
        inner.now += 1_000 + i64::from(inner.random.random_range(0..4_u32)) * 500;
        inner.land();
        if inner.others(actor) && inner.random.random_range(0..1_000) < inner.switches {
            inner = self.pass_on(inner, actor);
        }
        inner
    }

    /// The actor sleeps; others go on meanwhile.
    pub fn sleep(&self, actor: usize, micros: i64) {
        let mut inner = self.enter(actor);
        inner.steps += 1;
        inner.actors[actor].wakes = inner.now + micros.max(0);
        drop(self.pass_on(inner, actor));
    }

    /// The actor is done.
    pub fn leave(&self, actor: usize) {
        let mut inner = self.enter(actor);
        inner.actors[actor].done = true;
        if let Some(next) = inner.next() {
            inner.turn = next;
        }
        self.moved.notify_all();
    }

    fn pass_on<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, actor: usize) -> MutexGuard<'a, Inner> {
        let Some(next) = inner.next() else { return inner };
        inner.turn = next;
        if next != actor {
            drop(inner);
            self.moved.notify_all();
            inner = self.enter(actor);
        }
        inner.land();
        inner
    }

    /// Looks at the world when nobody moves.
    pub fn look<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.lock())
    }
}

impl Inner {
    fn others(&self, actor: usize) -> bool {
        self.actors.iter().enumerate().any(|(i, a)| i != actor && !a.done)
    }

    /// Who goes on: any of those that are awake; when all sleep, the first to wake, and the clock moves there.
    fn next(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.actors.len()).filter(|&a| !self.actors[a].done).collect();
        let awake: Vec<usize> = alive.iter().copied().filter(|&a| self.actors[a].wakes <= self.now).collect();
        if !awake.is_empty() {
            return Some(awake[self.random.random_range(0..awake.len())]);
        }
        let first = alive.into_iter().min_by_key(|&a| self.actors[a].wakes)?;
        self.now = self.actors[first].wakes;
        Some(first)
    }

    /// How many operations there were.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Hands the baton to an actor, when nobody moves.
    pub fn hand_to(&mut self, actor: usize) {
        self.turn = actor;
    }

    /// Moves the clock to a later time; what is in flight lands.
    pub fn move_to(&mut self, time: i64) {
        self.now = self.now.max(time);
        self.land();
    }

    /// A writer that is met by nobody any more sent this.
    pub fn send(&mut self, path: &str, bytes: Bytes, if_absent: bool, after: i64) {
        let lands = self.now + after;
        self.in_flight.push(InFlight { lands, path: path.to_owned(), bytes, if_absent });
    }

    fn land(&mut self) {
        let now = self.now;
        let mut i = 0;
        while i < self.in_flight.len() {
            if self.in_flight[i].lands > now {
                i += 1;
                continue;
            }
            let request = self.in_flight.swap_remove(i);
            self.tally.landed_after_death += 1;
            if request.if_absent {
                self.put_if_absent(&request.path, request.bytes);
            } else {
                self.put(&request.path, request.bytes);
            }
        }
    }

    /// An object.
    pub fn get(&self, path: &str) -> Option<&Bytes> {
        self.objects.get(path).map(|(bytes, _)| bytes)
    }

    /// The objects.
    pub fn objects(&self) -> impl Iterator<Item = (&String, &Bytes)> {
        self.objects.iter().map(|(path, (bytes, _))| (path, bytes))
    }

    /// The objects below a prefix and after a path.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> Vec<ObjectMeta> {
        let from = after.map_or_else(|| prefix.to_owned(), |a| format!("{a}\0"));
        let below = self.objects.range(from..).skip_while(|(p, _)| !p.starts_with(prefix));
        let below = below.take_while(|(p, _)| p.starts_with(prefix));
        below.map(|(p, (b, at))| ObjectMeta { path: p.clone(), size: b.len() as u64, modified_us: *at }).collect()
    }

    /// The epoch that is planned and not committed.
    pub fn outstanding(&self) -> Option<u64> {
        let plans = self.objects.keys().rev().filter(|p| p.ends_with(".plan"));
        let newest = plans.take(1).find(|p| !self.objects.contains_key(&p.replace(".plan", ".commit")));
        newest.and_then(|p| layout::number(p))
    }

    /// Removes an object.
    pub fn remove(&mut self, path: &str) {
        self.objects.remove(path);
    }

    /// Puts an object. What counts on being the same bytes is held to it.
    pub fn put(&mut self, path: &str, bytes: Bytes) {
        if let Some(old) = self.objects.get(path)
            && old.0 != bytes
        {
            self.tally.overwritten += 1;
            self.breaks(|| format!("{path} was overwritten with other bytes"));
        }
        self.objects.insert(path.to_owned(), (bytes, self.now));
    }

    /// Puts an object if it is absent.
    pub fn put_if_absent(&mut self, path: &str, bytes: Bytes) -> Put {
        if self.objects.contains_key(path) {
            return Put::Exists;
        }
        self.objects.insert(path.to_owned(), (bytes.clone(), self.now));
        if path.ends_with(".plan") {
            self.tell(|| format!("{path}: {}", String::from_utf8_lossy(&bytes)));
        }
        let number = layout::number(path);
        if let Some(number) = number.filter(|_| path.contains("/terms/")) {
            self.newest_term = self.newest_term.max(number);
        }
        if path.contains("/snapshots/") {
            self.tally.snapshots += 1;
        }
        if path.ends_with(".commit") {
            self.tally.commits += 1;
            self.tell(|| format!("{path}: {}", String::from_utf8_lossy(&bytes)));
            if let Err(law) = self.reader.look(&|path| self.objects.get(path).map(|(b, _)| b.clone()), path, &bytes) {
                self.breaks(|| law);
            }
            let agrees = self.reader.last.as_ref().map(|commit| self.database.agrees(commit));
            if let Some(Err(law)) = agrees {
                self.breaks(|| law);
            }
        }
        Put::Created
    }

    /// Prints a step, when one seed alone is played.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.told {
            println!("{:>10.3} s  {}", (self.now - super::topic::BEGIN) as f64 / 1e6, what());
        }
    }

    /// Keeps the first law that was broken.
    pub fn breaks(&mut self, law: impl FnOnce() -> String) {
        if self.broken.is_none() {
            let (now, steps) = (self.now - super::topic::BEGIN, self.steps);
            self.broken = Some(format!("{} (step {steps}, {now} µs after the beginning)", law()));
        }
    }
}
