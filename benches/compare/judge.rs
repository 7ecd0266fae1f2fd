//! Judges the lines of a file on one thread, to be counted by callgrind or timed: `judge CONTRACT EVENTS.jsonl [TIMES]`.
//!
//!     cargo build --locked --profile fast --example judge
//!     valgrind --tool=callgrind --toggle-collect='*judge_by*' target/fast/examples/judge CONTRACT EVENTS.jsonl
//!
//! Tells what came out by its hash too, so that two versions can be compared.

use std::hash::Hasher as _;
use std::path::Path;

use _core::contract::{Contract, JudgeRules};
use _core::packed;
use _core::sources::files::{Files, FilesSettings};
use _core::sources::{Chunk, Source, Want};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let times: u32 = args.get(3).map_or(1, |times| times.parse().unwrap());
    let contract = Contract::load(Path::new(&args[1])).unwrap();
    let mut files =
        Files::new(FilesSettings { base: ".".into(), paths: vec![args[2].clone()], bounded: true }).unwrap();
    files.restore(&[]).unwrap();
    files.refresh(0).unwrap();
    let want = Want { bytes: 8 << 20, events: usize::MAX, arrival: 0 };
    let mut all = vec![];
    let none = |_: &str, _: i32| None;
    while let Some(Chunk { pieces, .. }) = files.next(&none, &want).unwrap() {
        all.extend(pieces);
    }
    let rules = JudgeRules { max_future_skew: None };
    let started = std::time::Instant::now();
    let mut judged = vec![];
    for _ in 0..times {
        judged.clear();
        for piece in &all {
            judged.push(contract.judge_packed(piece, &rules).unwrap());
        }
    }
    let took = started.elapsed();
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let (mut rows, mut rejected) = (0, 0);
    for j in &judged {
        rows += j.rows.len();
        rejected += j.rejected.len();
        let plain = packed::unpack(&contract.schema(), &j.valid).unwrap();
        let mut out = vec![];
        let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut out, &plain.schema()).unwrap();
        writer.write(&plain).unwrap();
        writer.finish().unwrap();
        hash.write(&out);
        hash.write(format!("{:?}{:?}{:?}{:?}", j.rows, j.rejected, j.event_type, j.event_time).as_bytes());
    }
    eprintln!("{} pieces, {rows} valid, {rejected} rejected, {:?}, {:016x}", all.len(), took / times, hash.finish());
}
