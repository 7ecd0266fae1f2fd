//! A whole pipeline over files, in one process: what goes in comes out, and the audit agrees.

use std::path::Path;

use _core::generate::{GenerateOptions, Profile, generate_file};
use _core::stream::audit::audit;
use _core::stream::{PipelineSpec, RunOptions, Unwatched, run};
use serde_json::json;

const MINUTE: i64 = 60_000_000;

fn spec(folder: &Path, epoch_events: u64) -> PipelineSpec {
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/penstock/pipelines/ecommerce/contract.yaml");
    let text = json!({
        "name": "shop",
        "contract_text": std::fs::read_to_string(&contract).unwrap(),
        "contract_path": contract,
        "source": {"files": {"paths": ["*.jsonl"], "base_dir": folder}},
        "lake": folder.join("lake"),
        "watermark": {"lateness_us": 2 * MINUTE, "idle_timeout_us": MINUTE, "max_future_skew_us": 5 * MINUTE},
        "deduplicate": {"horizon_us": 60 * MINUTE},
        "sessions": {"gap_us": 5 * MINUTE},
        "epoch": {"max_events": epoch_events, "max_bytes": 64 << 20, "max_wait_us": 1_000_000},
        "durability": "process",
    });
    PipelineSpec::from_json(&text.to_string()).unwrap()
}

#[test]
fn every_event_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let options = GenerateOptions { total: 5_000, seed: 1, bad_rate: 0.05, duplicate_rate: 0.05, ..Default::default() };
    let path = folder.path().join("in.jsonl");
    let truth = generate_file(Profile::Ecommerce, &options, &path, &mut |_| Ok(())).unwrap();
    let truth = serde_json::to_value(&truth).unwrap();
    println!("{truth:#}");

    let spec = spec(folder.path(), 700);
    let caught_up = RunOptions { until_caught_up: true, ..RunOptions::default() };
    let report = run(&spec, &caught_up, None, &Unwatched).unwrap();
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
    assert!(report.balanced);
    assert_eq!(report.ledger.counts.pending, 0);
    let expected = &truth["expected"];
    for (name, count) in [
        ("consumed", report.ledger.counts.consumed),
        ("silver", report.ledger.counts.silver),
        ("rejected", report.ledger.counts.rejected),
        ("duplicate", report.ledger.counts.duplicate),
        ("late", report.ledger.counts.late),
    ] {
        assert_eq!(expected[name].as_i64(), Some(count), "{name}");
    }
    assert_eq!(expected["rejected_by_code"], serde_json::to_value(&report.ledger.counts.rejected_by_code).unwrap());

    let audited = audit(&spec).unwrap();
    let failed: Vec<_> = audited.checks.iter().filter(|c| !c.passed).collect();
    assert!(audited.balanced, "{failed:?}");
    assert!(audited.uncommitted_files.is_empty());

    let again = run(&spec, &caught_up, None, &Unwatched).unwrap();
    assert_eq!(again.run.counts.consumed, 0);
    assert_eq!(again.ledger, report.ledger);
}
