//! The pages of large blocks go back to the system when they are freed.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::hint::black_box;

const MIB: usize = 1 << 20;

/// The memory of this process that is in use, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
fn what_is_freed_goes_back() {
    _core::memory::give_back();
    // From such a block on, glibc by itself keeps blocks up to its size in its heap.
    drop(black_box(vec![1u8; 24 * MIB]));
    let (mut large, mut small): (Vec<_>, Vec<_>) = Default::default();
    for n in 0..64u8 {
        large.push(vec![n; MIB]);
        // What lies between them and stays would hold their pages in a heap.
        small.push(vec![n; 4096]);
    }
    black_box(&large);
    let before = resident();
    drop(large);
    let after = resident();
    assert!(before - after > 56 * MIB, "{} MiB of 64 went back", before.saturating_sub(after) / MIB);
    black_box(small);
}
