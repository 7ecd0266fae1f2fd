//! A schedule: what a seed makes happen to a pipeline, and whether it came out right.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPool;

use super::database::Sink;
use super::handle::{Handle, INJECTED, Rates, Sabotage};
use super::reader::Reader;
use super::source::SimSource;
use super::tally::Tally;
use super::topic::{BEGIN, CONTRACTS, Topic};
use super::world::World;
use crate::contract::Contract;
use crate::error::{Error, Result};
use crate::lake::layout;
use crate::stream::entries::Work;
use crate::stream::entries::compact::{CompactOptions, compact};
use crate::stream::entries::judge::Means;
use crate::stream::entries::replay::{ReplayOptions, replay};
use crate::stream::journal::Journal;
use crate::stream::log::{Commit, Kind, parse, render};
use crate::stream::run::{Report, RunOptions};
use crate::stream::runner::Runner;
use crate::stream::spec::{EpochSpec, PipelineSpec};
use crate::time::{HOUR, SECOND};

const PIPELINE: &str = "simulation";

/// What a seed sets.
struct Setting {
    seed: u64,
    topic: Topic,
    spec: PipelineSpec,
    /// Whether no event can be late: then the rows do not depend on where epochs are cut.
    on_time: bool,
    writers: usize,
    /// Whether somebody compacts and replays meanwhile.
    kept: bool,
    switches: u32,
    rates: Rates,
    /// The most that a clock is off.
    skew: i64,
    burst: u64,
    gathers: bool,
    /// After so many steps the disturbed time is over.
    steps: u64,
    snapshot_every: u64,
    merge_every: usize,
    caught_up: bool,
    /// Whether epochs go into a database, too.
    database: bool,
}

fn spec(random: &mut ChaCha8Rng, topic: &Topic, on_time: bool) -> PipelineSpec {
    let lateness_us = if on_time { topic.lateness() } else { random.random_range(0..5) * SECOND };
    let idle_timeout_us = random.random_range(0..20) * SECOND;
    let windows = serde_json::json!({
        "name": "clicks", "size_us": 10 * SECOND, "by": ["entity"], "aggregates": [["clicks", "count()"]],
    });
    let sessions = serde_json::json!({"gap_us": random.random_range(1..15) * SECOND});
    let spec = serde_json::json!({
        "name": PIPELINE,
        "contract_text": CONTRACTS[0],
        "contract_path": "simulation.yaml",
        "source": {"files": {"paths": [], "bounded": false}},
        "lake": "nowhere",
        "watermark": {"lateness_us": lateness_us, "idle_timeout_us": idle_timeout_us, "max_future_skew_us": HOUR},
        "deduplicate": {"horizon_us": 6 * HOUR},
        "sessions": if random.random_bool(0.8) { sessions } else { serde_json::Value::Null },
        "windows": if random.random_bool(0.2) { vec![windows] } else { vec![] },
        "epoch": {
            "max_events": random.random_range(4..30),
            "max_bytes": 1 << 20,
            "max_wait_us": random.random_range(1..20) * SECOND / 10,
            "tick_us": random.random_range(0..5) * SECOND / 20,
        },
        "durability": "process",
        "fixed": {"clock_us": 0, "key": "000102030405060708090a0b0c0d0e0f"},
    });
    PipelineSpec::from_json(&spec.to_string()).expect("a pipeline")
}

impl Setting {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let topic = Topic::new(seed);
        let on_time = random.random_bool(0.7);
        let mut rate = |of: f64, most: u32| if random.random_bool(of) { random.random_range(0..most) } else { 0 };
        let rates = Rates {
            before: rate(0.4, 150),
            after: rate(0.5, 300),
            lost: rate(0.6, 1_500),
            partial: rate(0.4, 500),
            slow: rate(0.5, 400),
            slow_reply: rate(0.5, 300),
            crash: rate(0.7, 250),
        };
        let spec = spec(&mut random, &topic, on_time);
        Self {
            seed,
            spec,
            on_time,
            writers: [1, 1, 1, 2, 2, 2, 3][random.random_range(0..7)],
            kept: random.random_bool(0.3),
            switches: [20, 100, 300, 600][random.random_range(0..4)],
            rates,
            skew: 2 * SECOND,
            burst: random.random_range(2..12),
            gathers: random.random_bool(0.7),
            steps: random.random_range(80..350),
            snapshot_every: random.random_range(2..5),
            merge_every: random.random_range(1..6),
            caught_up: random.random_bool(0.5),
            database: random.random_bool(0.6),
            topic,
        }
    }

    fn run(&self, handle: &Handle<'_>, contract: &Contract, options: &RunOptions) -> Result<Report> {
        let mut source = SimSource::new(handle, &self.topic, self.burst, self.gathers);
        let shape = self.spec.shape();
        let mut runner = Runner::new(handle, handle, &self.spec, shape, contract.clone(), None, handle)?;
        runner.journal.snapshot_every = self.snapshot_every;
        runner.merge_every = self.merge_every;
        if self.database {
            handle.enter().database.is_there = true;
            runner.sinks.push(Arc::new(Sink(handle)));
        }
        runner.run(&mut source, options)
    }

    /// A run that nothing happens to, as the first actor; all that was appended by now is drained.
    fn calm(&self, world: &World, contract: &Contract, options: &RunOptions) -> Result<Report> {
        let handle = Handle::new(world, 0, u64::MAX, self.seed, Rates::default(), 0, u64::MAX);
        self.run(&handle, contract, options)
    }

    /// Drains the topic to its end, and lets time pass until nothing is held any more.
    fn drain(&self, world: &World, contract: &Contract) -> Result<(), String> {
        let options = RunOptions { until_caught_up: true, ..RunOptions::default() };
        for wait in [0, 2 * HOUR] {
            world.look(|w| w.move_to(self.topic.long_after() + wait));
            let report = self.calm(world, contract, &options).map_err(|e| format!("it does not drain: {e}"))?;
            if !report.balanced {
                return Err("the ledger does not balance in the end".into());
            }
        }
        world.look(|w| match &w.broken {
            Some(law) => Err(law.clone()),
            None => w.reader.drained(),
        })
    }
}

/// One writer: run after run, as a scheduler starts them, until the disturbed time is over.
fn write(setting: &Setting, world: &World, contracts: &[Contract], actor: usize, sabotage: Option<Sabotage>) {
    let mut random = ChaCha8Rng::seed_from_u64(setting.seed ^ (0xac70_0000 + actor as u64));
    if actor > 0 {
        world.sleep(actor, random.random_range(0..20) * SECOND);
    }
    // What only a void can break is looked for where there are many.
    let gives_up = if sabotage == Some(Sabotage::AskOnly) {
        1.0
    } else if setting.database {
        0.25
    } else {
        0.1
    };
    for attempt in 0.. {
        if world.enter(actor).steps() > setting.steps || world.enter(actor).broken.is_some() {
            break;
        }
        let skew = random.random_range(-setting.skew..=setting.skew);
        let run = (actor as u64) << 32 | attempt;
        let handle = Handle::new(world, actor, run, setting.seed, setting.rates, skew, setting.steps).with(sabotage);
        let options = RunOptions {
            until_caught_up: setting.caught_up,
            max_epochs: random.random_bool(0.3).then(|| random.random_range(1..5)),
            void: random.random_bool(gives_up).then(|| world.enter(actor).outstanding()).flatten(),
            ..RunOptions::default()
        };
        world.enter(actor).tally.runs += 1;
        // Now and then somebody rolls out another version of the contract, or goes back to the one before.
        let contract = &contracts[usize::from(random.random_bool(0.2))];
        let ended = catch_unwind(AssertUnwindSafe(|| setting.run(&handle, contract, &options)));
        let mut inner = world.enter(actor);
        match ended {
            Ok(Ok(report)) => {
                inner.tally.finished += 1;
                inner.tally.stopped += u64::from(report.stopped);
                if !report.balanced {
                    inner.breaks(|| "a report does not balance".into());
                }
            }
            Ok(Err(_)) if handle.is_dead() => {}
            Ok(Err(Error::Superseded { .. })) => inner.tally.superseded += 1,
            Ok(Err(Error::Interrupted)) => inner.tally.interrupted += 1,
            Ok(Err(e)) if e.to_string().contains(INJECTED) => {}
            // The database holds what was to be made void: it stays, and is run again.
            Ok(Err(Error::Settings { name, reason })) if name == "void" && reason.contains("database holds epoch") => {}
            // Another run finished the epoch, or gave it up, before this one came to it; or it was a dead run's, whose
            // commit arrived only now.
            Ok(Err(Error::Settings { name, .. })) if name == "void" && inner.outstanding() != options.void => {}
            Ok(Err(e)) => inner.breaks(|| format!("a run ended with: {e}")),
            Err(_) => inner.breaks(|| "a run panicked".into()),
        }
        drop(inner);
        world.sleep(actor, random.random_range(0..100) * SECOND / 10);
    }
    world.leave(actor);
}

/// Who works on the lake beside the writers: compacts, replays, sweeps.
fn keep(setting: &Setting, world: &World, actor: usize) {
    let mut random = ChaCha8Rng::seed_from_u64(setting.seed ^ 0x6ee9);
    for attempt in 0.. {
        world.sleep(actor, random.random_range(10..150) * SECOND / 10);
        if world.enter(actor).steps() > setting.steps || world.enter(actor).broken.is_some() {
            break;
        }
        let run = (actor as u64) << 32 | attempt;
        let handle = Handle::new(world, actor, run, setting.seed, setting.rates, 0, setting.steps);
        let mut work = Work::new(Journal::new(&handle, PIPELINE), &handle, &handle);
        work.journal.snapshot_every = setting.snapshot_every;
        let (kind, entries) = if random.random_bool(0.6) {
            let options = CompactOptions { min_age_us: 0, ..CompactOptions::default() };
            ("compact", compact(&mut work, &options).map(|r| r.entries))
        } else {
            let codes = if random.random_bool(0.7) { vec!["late".to_owned()] } else { vec![] };
            let options = ReplayOptions { codes, ..ReplayOptions::default() };
            ("replay", replay(&mut work, &setting.spec, &options, &Means::default()).map(|r| r.entries))
        };
        let mut inner = world.enter(actor);
        match entries {
            Ok(entries) if kind == "compact" => inner.tally.compactions += entries.len() as u64,
            Ok(entries) => inner.tally.replays += entries.len() as u64,
            Err(_) if handle.is_dead() => {}
            Err(Error::Interrupted) => {}
            Err(e) if e.to_string().contains(INJECTED) => {}
            // Nothing is there yet; or an epoch hangs, or others were quicker time and again.
            Err(Error::Lake { .. }) => inner.tally.refused += 1,
            Err(e) => inner.breaks(|| format!("{kind} ended with: {e}")),
        }
    }
    world.leave(actor);
}

/// Plays a seed. What happened, or which law was broken.
///
/// Each actor has a pool of one thread: what the engine does side by side is done one after the other, always alike.
pub fn play(
    seed: u64,
    contracts: &[Contract],
    sabotage: Option<Sabotage>,
    pools: &[ThreadPool],
) -> Result<Tally, String> {
    let setting = Setting::new(seed);
    let reader = Reader::new(&setting.topic, setting.on_time);
    let actors = setting.writers + usize::from(setting.kept);
    let world = World::new(seed, BEGIN, actors, setting.switches, reader);
    let act = |actor: usize| match actor < setting.writers {
        true => write(&setting, &world, contracts, actor, sabotage),
        false => keep(&setting, &world, actor),
    };
    std::thread::scope(|scope| {
        for (actor, pool) in pools.iter().enumerate().take(actors).skip(1) {
            let act = &act;
            scope.spawn(move || pool.install(|| act(actor)));
        }
        pools[0].install(|| act(0));
    });
    pools[0].install(|| settle(&setting, &world, contracts))
}

/// Lets a pipeline drain, and holds it against one that nothing happened to.
fn settle(setting: &Setting, world: &World, contracts: &[Contract]) -> Result<Tally, String> {
    let (seed, contract) = (setting.seed, &contracts[0]);
    world.look(|w| w.broken.clone()).map_or(Ok(()), Err)?;
    world.look(|w| w.hand_to(0));
    setting.drain(world, contract)?;
    in_the_database(world)?;

    let mut tally = world.look(|w| {
        let mut tally = w.tally.clone();
        if let Some(last) = &w.reader.last {
            let counts = &last.ledger.counts;
            tally.duplicates += counts.duplicate as u64;
            tally.late += counts.late as u64;
            tally.rejected += counts.rejected as u64;
            tally.silver += counts.silver as u64;
        }
        tally.merges += w.reader.merges;
        tally
    });
    tally.schedules += 1;
    if setting.on_time {
        same_rows(setting, world, contract)?;
        tally.compared_rows += 1;
    }
    // What an entry does follows from the moment that it was asked for, not from a plan.
    let entries = world.look(|w| w.reader.entries);
    if entries == 0 && seed.is_multiple_of(if setting.on_time { 6 } else { 2 }) {
        same_bytes(setting, world, contract)?;
        tally.compared_bytes += 1;
    }
    if seed.is_multiple_of(3) {
        tally.replays += in_the_end(setting, world)?;
    }
    Ok(tally)
}

/// When all is drained, the database holds exactly the epochs that are committed, as they are committed.
fn in_the_database(world: &World) -> Result<(), String> {
    world.look(|w| {
        let commits = w.objects().filter(|(path, _)| path.ends_with(".commit"));
        let commits = commits.map(|(path, bytes)| parse::<Commit>(path, bytes).map(|c| (c.number, c)));
        let commits: BTreeMap<u64, Commit> = commits.collect::<Result<_>>().map_err(|e| e.to_string())?;
        w.database.settled(&commits)
    })
}

/// Late events replayed into their place, and files put together, when all is quiet: nothing is late any more, nothing is
/// there twice, and doing it again does nothing.
fn in_the_end(setting: &Setting, world: &World) -> Result<u64, String> {
    let handle = Handle::new(world, 0, u64::MAX, setting.seed, Rates::default(), 0, u64::MAX);
    let mut work = Work::new(Journal::new(&handle, PIPELINE), &handle, &handle);
    work.journal.snapshot_every = setting.snapshot_every;
    let options = ReplayOptions { codes: vec!["late".to_owned()], ..ReplayOptions::default() };
    let mut again =
        || replay(&mut work, &setting.spec, &options, &Means::default()).map_err(|e| format!("no replay: {e}"));
    let replays = again()?.entries.len() as u64;
    let twice = again()?;
    if twice.letters > 0 || !twice.entries.is_empty() {
        return Err(format!("replayed twice: {twice:?}"));
    }
    let options = CompactOptions { min_age_us: 0, ..CompactOptions::default() };
    compact(&mut work, &options).map_err(|e| format!("no compaction: {e}"))?;
    world.look(|w| match &w.broken {
        Some(law) => Err(law.clone()),
        None => w.reader.replayed(),
    })?;
    Ok(replays)
}

/// Where no event can be late, an undisturbed run over the same topic, in one epoch, gives the same rows.
fn same_rows(setting: &Setting, world: &World, contract: &Contract) -> Result<(), String> {
    let other = World::new(0, BEGIN, 1, 0, Reader::new(&setting.topic, true));
    let whole = EpochSpec { max_events: 1_000, ..setting.spec.epoch.clone() };
    let calm = Setting {
        spec: PipelineSpec { epoch: whole, ..setting.spec.clone() },
        topic: Topic::new(setting.seed),
        ..*setting
    };
    calm.drain(&other, contract)?;
    let ours = world.look(|w| w.reader.clone());
    let theirs = other.look(|w| w.reader.clone());
    // Where a duplicate came in another partition, either of the two may have been the first.
    let rows = |r: &Reader| r.silver_rows();
    differ("Silver", &rows(&ours), &rows(&theirs))?;
    differ("sessions", &ours.sessions, &theirs.sessions)?;
    differ("dead letters", &ours.dead, &theirs.dead)
}

/// The plans that stand in the log, run one after another in a world where nothing happens, give the same bytes, the
/// same ledger and the same state.
fn same_bytes(setting: &Setting, world: &World, contract: &Contract) -> Result<(), String> {
    let other = World::new(
        0,
        setting.topic.long_after() + 2 * HOUR,
        1,
        0,
        Reader::new(&setting.topic, setting.on_time).of_the_log(),
    );
    let epochs = layout::control(PIPELINE) + "epochs/";
    let below = |folder: &str, end: &str| -> Vec<(String, Bytes)> {
        world.look(|w| {
            let found = w.objects().filter(|(p, _)| p.starts_with(folder) && p.ends_with(end));
            found.map(|(p, b)| (p.clone(), b.clone())).collect()
        })
    };
    let plans = below(&epochs, ".plan");
    let contracts = below(&(layout::control(PIPELINE) + "contracts/"), "");
    other.look(|w| contracts.into_iter().for_each(|(path, text)| w.put(&path, text)));
    for (path, plan) in plans {
        other.look(|w| w.put_if_absent(&path, plan));
        let commit = path.replace(".plan", ".commit");
        let commit = world.look(|w| w.get(&commit).cloned()).map(|bytes| (commit, bytes));
        if let Some((path, bytes)) = commit {
            let mut commit: Commit = parse(&path, &bytes).map_err(|e| e.to_string())?;
            if commit.kind == Kind::Void {
                // It changes nothing: the state is that of the commit before, as it stands there.
                let last = other.look(|w| w.reader.last.as_ref().map(|c| c.state.clone()));
                commit.state = last.unwrap_or_default();
                let bytes = render(&commit).map_err(|e| e.to_string())?;
                other.look(|w| w.put_if_absent(&path, bytes));
                continue;
            }
        }
        let options = RunOptions { until_caught_up: true, max_epochs: Some(1), ..RunOptions::default() };
        setting.calm(&other, contract, &options).map_err(|e| format!("{path} cannot be run again: {e}"))?;
    }
    let (ours, theirs) = (world.look(|w| w.reader.clone()), other.look(|w| w.reader.clone()));
    differ("the files that count", &ours.files(), &theirs.files())?;
    let files = |w: &World| {
        w.look(|w| w.reader.files().keys().map(|p| (p.clone(), w.get(p).cloned())).collect::<BTreeMap<_, _>>())
    };
    differ("the bytes of the files", &files(world), &files(&other))?;
    let (Some(a), Some(b)) = (&ours.last, &theirs.last) else { return Ok(()) };
    differ("the ledger", &a.ledger, &b.ledger)?;
    differ("the watermark", &a.watermark, &b.watermark)?;
    differ("the partitions", &a.partitions, &b.partitions)?;
    let state = |w: &World, files: &[crate::stream::log::StateFile]| {
        w.look(|w| files.iter().map(|f| (f.table.clone(), f.epoch, w.get(&f.path).cloned())).collect::<Vec<_>>())
    };
    differ("the state", &state(world, &a.state), &state(&other, &b.state))?;
    // What a start finds by way of the newest snapshot is what all commits together say.
    let handle = Handle::new(world, 0, u64::MAX, 0, Rates::default(), 0, u64::MAX);
    let live = Journal::new(&handle, PIPELINE).live().map_err(|e| e.to_string())?;
    differ("what a reader of the log sees", &live.map(|l| l.files), &Some(ours.files()))
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, ours: &T, theirs: &T) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    // The first line of the two that differs, and what comes after it.
    let (ours, theirs) = (format!("{ours:#?}"), format!("{theirs:#?}"));
    let same = ours.lines().zip(theirs.lines()).take_while(|(a, b)| a == b).count();
    let rest = |t: &str| t.lines().skip(same.saturating_sub(1)).take(6).collect::<Vec<_>>().join("\n");
    Err(format!("{what} differ from those of an undisturbed run:\n{}\n  undisturbed:\n{}", rest(&ours), rest(&theirs)))
}
