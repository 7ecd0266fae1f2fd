//! More keys than fit into the memory that they may take: verdicts stay exact, memory stays bounded, the disk is left empty.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use _core::dedup::Deduplicator;
use _core::hash::HashKey;
use _core::spill::Spill;
use _core::spill::disk::Disk;
use _core::state::{Stateful, from_ipc, to_ipc};
use _core::verdict::Verdict;

const PIECE: i64 = 8_192;
const MIB: usize = 1 << 20;

/// The resident memory of this process, in bytes, where the system tells.
fn resident() -> Option<usize> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse::<usize>().ok().map(|pages| pages * 4096)
}

struct Run {
    dedup: Deduplicator,
    budget: usize,
    most: usize,
    before: usize,
    watermark: Option<i64>,
}

impl Run {
    fn new(disk: &Arc<Disk>, budget: usize, horizon: i64) -> Self {
        let dedup = Deduplicator::new(Some(horizon)).spilling_to(disk.clone());
        Self { dedup, budget, most: 0, before: resident().unwrap_or(0), watermark: None }
    }

    fn keep_within(&mut self) {
        if self.dedup.keys_memory() > self.budget {
            let want = self.dedup.keys_memory() - self.budget / 8 * 7;
            assert!(self.dedup.spill(want).unwrap() >= want, "that much could not be given back");
        }
        self.most = self.most.max(resident().unwrap_or(0).saturating_sub(self.before));
    }

    /// Judges the keys of these numbers, whose event time is their number.
    fn judge(&mut self, numbers: impl Iterator<Item = i64>) -> Vec<Verdict> {
        let numbers: Vec<i64> = numbers.collect();
        let key = HashKey([9; 16]);
        let hashes: Vec<u128> = numbers.iter().map(|n| key.hash(&n.to_le_bytes())).collect();
        let mut verdicts = Vec::new();
        self.dedup.judge(&hashes, &numbers, self.watermark, &mut verdicts).unwrap();
        self.keep_within();
        verdicts
    }

    fn advance(&mut self, watermark: i64) {
        self.dedup.advance(watermark).unwrap();
        self.watermark = Some(watermark);
        self.keep_within();
    }
}

/// Takes `keys` keys in, in epochs, one event in fifty a duplicate; then starts again from what was saved.
fn keys_beyond_the_budget(keys: i64, budget: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (spilled, saved) = (folder.path().join("spilled"), folder.path().join("saved"));
    fs::create_dir(&saved).unwrap();
    let disk = Arc::new(Disk::new(&spilled));
    let epoch = keys / 100;
    let mut run = Run::new(&disk, budget, 2 * keys);
    let mut largest = 0;
    for n in 0..100 {
        let (from, to) = (n * epoch, (n + 1) * epoch);
        for from in (from..to).step_by(PIECE as usize) {
            let new = from..(from + PIECE).min(to);
            let again: Vec<i64> = (0..new.end - new.start).step_by(50).map(|i| (i * 7_919 + from) % new.end).collect();
            let verdicts = run.judge(new.clone().chain(again.iter().copied()));
            let (first, second) = verdicts.split_at((new.end - new.start) as usize);
            assert!(first.iter().all(|v| *v == Verdict::Accepted));
            assert!(second.iter().all(|v| *v == Verdict::Duplicate));
        }
        run.advance(from);
        for change in run.dedup.delta().unwrap() {
            let bytes = to_ipc(&change.rows).unwrap();
            largest = largest.max(bytes.len());
            let name = change.table.replace('/', ".");
            let name = if change.replaces { name } else { format!("{n:03}-{name}") };
            fs::write(saved.join(name), bytes.into_whole()).unwrap();
        }
    }
    assert_eq!(run.dedup.len() as i64, keys);
    assert!(largest < 25 * epoch as usize + 4_096, "an epoch writes what changed: {largest} bytes");
    let usage = disk.usage();
    assert!(usage.bytes > 24 * keys as u64 / 2, "{usage:?}");
    println!(
        "{keys} keys: {} MiB of memory by their own account, {} MiB resident at most, {usage:?}",
        run.dedup.memory() / MIB,
        run.most / MIB
    );
    // What was allocated beside the state: verdicts, pieces, what is being merged, what the allocator keeps.
    let bound = budget + budget / 2 + 40 * MIB;
    assert!(run.most < bound, "{} MiB resident", run.most / MIB);
    drop(run);
    assert_eq!(disk.usage().bytes, 0);

    let mut again = Run::new(&disk, budget, 2 * keys);
    load(&mut again, &saved);
    assert_eq!(again.dedup.len() as i64, keys);
    for from in (0..keys).step_by((keys / 20) as usize) {
        let verdicts = again.judge((from..from + 500).chain(keys + from..keys + from + 500));
        assert!(verdicts[..500].iter().all(|v| *v == Verdict::Duplicate));
        assert!(verdicts[500..].iter().all(|v| *v == Verdict::Accepted));
    }
    println!("loaded again: {} MiB resident at most, {:?}", again.most / MIB, disk.usage());
    assert!(again.most < bound, "{} MiB resident", again.most / MIB);
    again.advance(5 * keys);
    assert_eq!((again.dedup.len(), disk.usage().bytes), (0, 0));
    drop(again);
    drop(disk);
    assert_eq!(fs::read_dir(&spilled).unwrap().count(), 0, "nothing is left on disk");
}

fn load(run: &mut Run, saved: &Path) {
    let mut names: Vec<String> =
        fs::read_dir(saved).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_by_key(|name| (name.ends_with("meta"), name.clone()));
    names.rotate_right(1);
    for name in names {
        let table = if name.ends_with("meta") { "dedup/meta" } else { "dedup/keys" };
        let rows = from_ipc(table, &fs::read(saved.join(name)).unwrap()).unwrap();
        run.dedup.load(&[(table.to_owned(), rows)]).unwrap();
        run.keep_within();
    }
}

#[test]
fn a_million_keys_in_8_mib() {
    keys_beyond_the_budget(1_000_000, 8 * MIB);
}

#[test]
#[ignore = "takes a minute or more: part of `make soak`"]
fn ten_million_keys_in_64_mib() {
    keys_beyond_the_budget(10_000_000, 64 * MIB);
}
