//! Thousands of schedules of crashes, lost replies, slow stores and races, each by a seed, in one process.
//!
//! A seed makes a topic (partitions that grow and come later, gaps in offsets, duplicates, dirt, disorder), one to three
//! writers that run the epoch loop over one store and one clock, and a store that fails in every way that a store can.
//! A reader looks at every commit. When the disturbed time is over the pipeline drains, and has to have the rows, the
//! ledger and the state of a run that nothing happened to.
//!
//! Epochs may go into a database as well, which loses replies, rolls back and is met by runs that own nothing any more.
//! Somebody may compact and replay meanwhile, the contract may change between two runs, epochs may be made void.
//!
//! `PENSTOCK_SIM_SEEDS=100000` plays more of them; `PENSTOCK_SIM_SEED=17` plays one again.

mod database;
mod handle;
mod reader;
mod schedule;
mod source;
mod tally;
mod topic;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use handle::Sabotage;
use tally::Tally;

/// How many seeds are played in CI and elsewhere, unless told.
const SEEDS: [u64; 2] = [10_000, 1_000];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, and is '{text}'")))
}

/// Plays seeds on all cores; what happened, and the seeds that broke a law, with the law.
fn play(seeds: std::ops::Range<u64>, sabotage: Option<Sabotage>) -> (Tally, Vec<(u64, String)>) {
    let contracts = topic::contracts();
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new((Tally::default(), vec![]));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let pool = |_| rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
                let pools: Vec<_> = (0..4).map(pool).collect();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let played = catch_unwind(AssertUnwindSafe(|| schedule::play(seed, &contracts, sabotage, &pools)));
                    let mut all = all.lock().unwrap();
                    match played.unwrap_or_else(|_| Err("panicked".into())) {
                        Ok(tally) => all.0.add(&tally),
                        Err(law) => all.1.push((seed, law)),
                    }
                }
            });
        }
    });
    let (tally, mut broken) = all.into_inner().unwrap();
    broken.sort();
    (tally, broken)
}

#[test]
fn every_schedule_comes_out_as_if_nothing_had_happened() {
    let one = number("PENSTOCK_SIM_SEED");
    let seeds = one.map_or(
        0..number("PENSTOCK_SIM_SEEDS").unwrap_or(SEEDS[usize::from(std::env::var_os("CI").is_none())]),
        |seed| seed..seed + 1,
    );
    let (tally, broken) = play(seeds, None);
    for (name, count) in tally.counts() {
        println!("{name:>20} {count}");
    }
    for (seed, law) in broken.iter().take(5) {
        println!("seed {seed}: {law}\n    again: PENSTOCK_SIM_SEED={seed} cargo test --lib simulation -- --nocapture");
    }
    assert!(broken.is_empty(), "{} seeds failed: {:?}", broken.len(), broken.iter().map(|b| b.0).collect::<Vec<_>>());
    if one.is_none() {
        let never: Vec<_> = tally.counts().into_iter().filter(|(name, n)| *n == 0 && *name != "overwritten").collect();
        assert!(never.is_empty(), "never happened, so that nothing was proved about it: {never:?}");
    }
}

/// What is broken on purpose is seen: a simulation that passes over everything would pass this too, and proves nothing.
#[test]
fn what_is_broken_on_purpose_is_seen() {
    for sabotage in [
        Sabotage::BlindToTerms,
        Sabotage::StateAfterCommit,
        Sabotage::FilesAfterCommit,
        Sabotage::AlwaysAbsent,
        Sabotage::NoPlan,
        Sabotage::AskOnly,
    ] {
        let seen = (0..20).find_map(|n| play(n * 20..(n + 1) * 20, Some(sabotage)).1.into_iter().next());
        let (seed, law) = seen.unwrap_or_else(|| panic!("nobody sees {sabotage:?}"));
        println!("{sabotage:?}: seed {seed}: {}", law.lines().next().unwrap_or_default());
    }
}
