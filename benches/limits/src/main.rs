//! What the machine and well-known parsers take for a file of JSON lines, each on one thread: `limits EVENTS.jsonl`.
//!
//! Reading is from the page cache, as in the benchmarks. The parsers check nothing of a contract and fill no columns: they
//! find out where values stand (a tape, an index), or build a document. Each figure is the least of five rounds.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::time::Instant;

/// As much as a run reads at a time.
const PIECE: usize = 8 << 20;
/// As much as a run hands to the system at a time.
const WRITE: usize = 64 << 10;
/// About what Silver takes as Parquet for a million events.
const WRITTEN: usize = 48 << 20;

fn main() {
    let path = std::env::args().nth(1).expect("limits EVENTS.jsonl");
    let data = std::fs::read(&path).expect("the file can be read");
    let lines: Vec<&[u8]> = data.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    // What is broken stops a parser early: it counts as read, and is not asked for its result.
    let whole: Vec<&[u8]> =
        lines.iter().copied().filter(|l| serde_json::from_slice::<serde_json::Value>(l).is_ok()).collect();
    println!("{} bytes, {} lines, {} of them JSON; one thread", data.len(), lines.len(), whole.len());
    println!("| what | seconds | GB/s | ns a line |");
    println!("|---|---:|---:|---:|");
    let table = |what: &str, bytes: usize, run: &mut dyn FnMut() -> usize| {
        let mut least = f64::MAX;
        for _ in 0..5 {
            let started = Instant::now();
            black_box(run());
            least = least.min(started.elapsed().as_secs_f64());
        }
        let (rate, each) = (bytes as f64 / least / 1e9, least / lines.len() as f64 * 1e9);
        println!("| {what} | {least:.3} | {rate:.2} | {each:.0} |");
    };

    let mut piece = vec![0; PIECE];
    table("read from the page cache, 8 MiB at a time", data.len(), &mut || {
        let mut file = File::open(&path).expect("the file can be read");
        let mut all = 0;
        loop {
            match file.read(&mut piece).expect("the file can be read") {
                0 => break all,
                n => all += n,
            }
        }
    });
    table("ends of lines (memchr)", data.len(), &mut || memchr::memchr_iter(b'\n', &data).count());
    table("whether it is UTF-8 (simdutf8)", data.len(), &mut || {
        lines.iter().filter(|line| simdutf8::basic::from_utf8(line).is_ok()).count()
    });
    let mut buffers = simd_json::Buffers::new(1 << 12);
    let mut copy = Vec::with_capacity(1 << 12);
    table("simd-json: a tape of each line (copied before: it unescapes in place)", data.len(), &mut || {
        let mut nodes = 0;
        for line in &whole {
            copy.clear();
            copy.extend_from_slice(line);
            nodes += simd_json::to_tape_with_buffers(&mut copy, &mut buffers).map_or(0, |tape| tape.0.len());
        }
        nodes
    });
    table("sonic-rs: a document of each line", data.len(), &mut || {
        whole.iter().filter(|line| sonic_rs::from_slice::<sonic_rs::Value>(line).is_ok()).count()
    });
    table("sonic-rs: each line skipped, and checked", data.len(), &mut || {
        whole.iter().filter(|line| sonic_rs::from_slice::<sonic_rs::LazyValue>(line).is_ok()).count()
    });
    table("serde_json: each line skipped, and checked", data.len(), &mut || {
        whole.iter().filter(|line| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()).count()
    });
    table("serde_json: a document of each line", data.len(), &mut || {
        whole.iter().filter(|line| serde_json::from_slice::<serde_json::Value>(line).is_ok()).count()
    });

    let target = format!("{path}.limits");
    for (what, sync) in [("write 48 MiB, 64 KiB at a time", false), ("the same, and fsync", true)] {
        table(what, WRITTEN, &mut || {
            let mut file = File::create(&target).expect("a file beside it can be written");
            data[..WRITTEN.min(data.len())].chunks(WRITE).for_each(|part| file.write_all(part).expect("it has room"));
            if sync {
                file.sync_all().expect("it can be synced");
            }
            WRITTEN
        });
    }
    std::fs::remove_file(&target).expect("it can be removed");
}
