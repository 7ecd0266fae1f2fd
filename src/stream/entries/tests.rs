//! Entries against a stream that runs: whatever races, rows and ledger stay right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;

use super::Work;
use super::backfill::{BackfillOptions, BackfillReport, backfill};
use super::compact::{CompactOptions, CompactReport, compact};
use super::judge::Means;
use super::replay::{ReplayOptions, ReplayReport, replay};
use super::reset::reset;
use super::retention::{RetentionOptions, retention};
use crate::error::{Error, Result};
use crate::lake::{Durability, Lake, LakeOptions, ObjectMeta, Put};
use crate::sources::files::{Files, FilesSettings};
use crate::sources::lake::StoredFile;
use crate::stream::audit::audit_store;
use crate::stream::journal::Journal;
use crate::stream::log::{FileEntry, Kind};
use crate::stream::run::{Report, RunOptions, Unwatched, contract_of};
use crate::stream::runner::Runner;
use crate::stream::spec::PipelineSpec;
use crate::stream::store::{Clock, Store};
use crate::verdict::Code;

mod shop;

use shop::{CONTRACT, Hook, Hooked, NAME, Played, Row, Shop, event, some_events};

#[test]
fn compaction_changes_files_and_no_rows() {
    let shop = Shop::new(20);
    shop.put("a.jsonl", &some_events(300));
    shop.run();
    let (before, files) = (shop.all_rows(), shop.live("bronze/events").len());
    assert!(files > 8, "{files} files");
    let old = shop.live("silver/events");
    let dry = compact(&mut shop.work(&shop.lake), &CompactOptions { dry_run: true, ..CompactOptions::default() });
    assert!(dry.unwrap().files_before > 0);
    assert_eq!(shop.live("bronze/events").len(), files, "only told");
    let young = compact(
        &mut shop.work(&shop.lake),
        &CompactOptions { min_age_us: 4_000_000_000_000_000, ..CompactOptions::default() },
    );
    assert_eq!(young.unwrap().files_before, 0, "what is young is left alone");
    let report = shop.compact(&shop.lake);
    assert_eq!(report.entries.len(), 1, "{report:?}");
    assert!(shop.all_rows() == before);
    assert!(shop.live("bronze/events").len() < files);
    shop.assert_sound();
    // Readers that took the list before still find the files.
    for file in old {
        let stored = StoredFile::open(&shop.lake, &file).unwrap();
        let mut rows = 0;
        let count = stored.read(&shop.lake, None, None, &mut |b| {
            rows += b.num_rows() as u64;
            Ok(())
        });
        count.unwrap();
        assert_eq!(rows, file.rows);
    }
    assert!(shop.compact(&shop.lake).entries.is_empty(), "nothing is left to do");
    shop.put("b.jsonl", &some_events(50));
    assert!(shop.run().balanced);
    shop.assert_sound();
}

#[test]
fn a_running_stream_takes_entries_in_and_goes_on() {
    let undisturbed = Shop::new(20);
    undisturbed.put("a.jsonl", &some_events(300));
    undisturbed.run();
    let expected = undisturbed.all_rows();
    for (number, after_plan) in [(3, false), (3, true), (7, false), (9, true)] {
        let shop = Shop::new(20);
        shop.put("a.jsonl", &some_events(300));
        let hook: Hook<'_> = Box::new(|lake| {
            assert_eq!(shop.compact(lake).entries, [number]);
            if after_plan {
                // As if it had been killed between its plan and its commit.
                lake.delete(&crate::lake::layout::commit(NAME, number)).unwrap();
            }
        });
        let hooked = Hooked { lake: &shop.lake, before: format!("{number:010}.plan"), hook: Mutex::new(Some(hook)) };
        let report = shop.run_on(&hooked, &RunOptions { until_caught_up: true, ..RunOptions::default() }).unwrap();
        assert!(report.balanced);
        let kinds = shop.kinds();
        assert_eq!(kinds[number as usize], Kind::Compact);
        assert_eq!(kinds.iter().filter(|k| **k == Kind::Compact).count(), 1);
        let strip = |mut rows: BTreeMap<&'static str, Vec<Row>>| {
            // After the entry each epoch has the next number.
            for row in rows.values_mut().flatten() {
                row.remove("epoch");
            }
            rows.values_mut().for_each(|rows| rows.sort());
            rows
        };
        assert!(strip(shop.all_rows()) == strip(expected.clone()));
        let letters = shop.rows("dead_letters");
        assert!(
            letters.iter().all(|row| row["epoch"] != number.to_string()),
            "no letter bears the number of the entry"
        );
        shop.assert_sound();
    }
}

#[test]
fn dead_letters_are_replayed_once_when_the_contract_has_learned() {
    let mut shop = Shop::new(20);
    let mut lines = some_events(200);
    // The key of a good event, sent again in a bad one; two bad ones with one key.
    lines.push(event(17, 100, "k0", "u0", "-1"));
    lines.push(event(17, 101, "twin", "u9", "-1"));
    lines.push(event(17, 102, "twin", "u9", "-2"));
    lines.push("no json".to_owned());
    shop.put("a.jsonl", &lines);
    shop.run();
    let before = shop.work(&shop.lake).base().unwrap().last.ledger.counts;
    let bad = before.rejected_by_code[&Code::OutOfRange];
    assert!(bad > 10);
    assert_eq!(shop.replay(&ReplayOptions::default()).silver, 0, "the contract has not changed");

    shop.spec.contract_text = CONTRACT.replace("minimum: 0", "minimum: -5");
    let dry = shop.replay(&ReplayOptions { dry_run: true, ..ReplayOptions::default() });
    assert_eq!((dry.silver, dry.entries.len()), (bad as u64 - 4, 0));
    let report = shop.replay(&ReplayOptions::default());
    // Beside the two above there are two among the generated ones whose key a good event has.
    assert_eq!((report.silver, report.duplicate, report.still_bad), (bad as u64 - 4, 4, 1), "{report:?}");
    let after = shop.work(&shop.lake).base().unwrap().last.ledger.counts;
    assert_eq!(after.silver, before.silver + bad - 4);
    assert_eq!(after.duplicate, before.duplicate + 4);
    assert_eq!((after.rejected, after.settled), (1, bad));
    shop.assert_sound();
    let replayed: Vec<_> = shop.rows("silver/events").into_iter().filter(|r| r["replayed"] == "true").collect();
    assert_eq!(replayed.len() as i64, bad - 4);
    assert!(replayed.iter().all(|r| r["session_seq"] == "null"));
    // Each is in a session of its entity, no further than the gap from another of its events.
    let rows = shop.rows("silver/events");
    for row in &replayed {
        let near = |other: &&Row| {
            other["entity"] == row["entity"]
                && other["replayed"] == "false"
                && (time(other) - time(row)).abs() <= 30 * 60_000_000
        };
        if let Some(other) = rows.iter().find(near) {
            assert_eq!(row["session_id"], other["session_id"], "{row:?} {other:?}");
            assert_eq!(row["_folder"], other["_folder"]);
        }
    }
    assert!(report.joined_sessions > 0 && report.new_sessions > 0, "{report:?}");

    let again = shop.replay(&ReplayOptions::default());
    assert_eq!((again.letters, again.silver, again.still_bad), (1, 0, 1), "nothing is replayed twice");
    // The stream knows the keys now: what is sent again is a duplicate, or late.
    shop.put("b.jsonl", &[event(17, 101, "twin", "u9", "7")]);
    let more = shop.run();
    assert_eq!((more.run.counts.consumed, more.run.counts.duplicate), (1, 1));
    shop.assert_sound();
    shop.compact(&shop.lake);
    shop.assert_sound();
}

#[test]
fn late_events_find_their_place() {
    let shop = Shop::new(1000);
    shop.put("a.jsonl", &[event(17, 60, "a", "u", "1"), event(17, 80, "b", "u", "1"), event(18, 60, "c", "u", "1")]);
    shop.run();
    let late = [
        event(17, 70, "d", "u", "1"),
        event(17, 105, "e", "u", "1"),
        event(17, 130, "f", "u", "1"),
        event(17, 500, "g", "u", "1"),
        event(17, 70, "a", "u", "2"),
    ];
    shop.put("b.jsonl", &late);
    assert_eq!(shop.run().ledger.counts.late, 5);
    assert_eq!(shop.replay(&ReplayOptions::default()).letters, 0, "late ones have to be asked for");
    let report = shop.replay(&ReplayOptions { codes: vec!["late".into()], ..ReplayOptions::default() });
    // Its key was forgotten by the stream, and not by Silver.
    assert_eq!((report.silver, report.duplicate), (4, 1), "{report:?}");
    assert_eq!((report.joined_sessions, report.new_sessions), (3, 1), "{report:?}");
    let rows = shop.rows("silver/events");
    let of = |id: &str| rows.iter().find(|r| r["id"] == id).unwrap().clone();
    for id in ["d", "e", "f"] {
        // One after the other, each within the gap of the one before.
        assert_eq!(of(id)["session_id"], of("a")["session_id"], "{id}");
    }
    assert_ne!(of("g")["session_id"], of("a")["session_id"]);
    assert_eq!(shop.work(&shop.lake).base().unwrap().last.ledger.counts.late, 0);
    shop.assert_sound();
}

fn time(row: &Row) -> i64 {
    row["event_time"].parse().unwrap()
}

const DAY_17: i64 = 1_734_393_600_000_000;

fn day(n: i64) -> i64 {
    DAY_17 + (n - 17) * crate::time::DAY
}

/// That both have the same rows; of many that differ the first are shown.
fn assert_rows(ours: &[Row], theirs: &[Row]) {
    let only = |a: &[Row], b: &[Row]| a.iter().filter(|r| !b.contains(r)).take(2).cloned().collect::<Vec<_>>();
    let (left, right) = (only(ours, theirs), only(theirs, ours));
    assert!(left.is_empty() && right.is_empty(), "only ours: {left:#?}\nonly theirs: {right:#?}");
    assert_eq!(ours.len(), theirs.len());
}

/// Rows without what says when and by whom they were written.
fn contents(mut rows: Vec<Row>) -> Vec<Row> {
    for row in &mut rows {
        row.retain(|name, _| !matches!(name.as_str(), "epoch" | "contract_version"));
    }
    rows.sort();
    rows
}

#[test]
fn a_backfill_of_everything_is_a_batch_run() {
    let mut shop = Shop::new(30);
    // The last one is good: what the watermark has not passed is left to the stream.
    let mut lines = some_events(402);
    // Late ones: a run of small epochs over two files, the second one old.
    shop.put("a.jsonl", &lines);
    shop.run();
    let late: Vec<_> = (0..40).map(|i| event(17, i * 17, &format!("late{i}"), &format!("u{}", i % 7), "1")).collect();
    shop.put("b.jsonl", &late);
    assert!(shop.run().ledger.counts.late > 20);
    shop.replay(&ReplayOptions { codes: vec!["late".into()], from_us: None, ..ReplayOptions::default() });
    shop.spec.contract_text = CONTRACT.replace("minimum: 0", "maximum: 380");
    let dry = shop.backfill(17, 20, true);
    let before = shop.all_rows();
    assert_eq!(dry.entries.len(), 0);
    let report = shop.backfill(17, 20, false);
    assert_eq!((report.rows_before, report.rows_after), (dry.rows_before, dry.rows_after));
    assert!(report.accepted > 20 && report.rejected > 10, "{report:?}");
    assert!(shop.rows("silver/events") != before["silver/events"]);
    shop.assert_sound();

    let batch = Shop::new(100_000);
    lines.extend(late);
    let mut spec = batch.spec.clone();
    spec.contract_text.clone_from(&shop.spec.contract_text);
    let batch = Shop { spec, ..batch };
    batch.put("a.jsonl", &lines[..402]);
    batch.put("b.jsonl", &lines[402..]);
    batch.run();
    for layer in ["silver/events", "silver/sessions"] {
        assert_rows(&contents(shop.rows(layer)), &contents(batch.rows(layer)));
    }
    let counts = |shop: &Shop| {
        let c = shop.work(&shop.lake).base().unwrap().last.ledger.counts;
        (c.consumed, c.silver, c.pending, c.rejected, c.duplicate, c.late, c.rejected_by_code)
    };
    assert_eq!(counts(&shop), counts(&batch));
    // Once more changes nothing but the files.
    let rows = shop.all_rows();
    let again = shop.backfill(17, 20, false);
    assert_eq!((again.accepted, again.rejected, again.duplicate, again.no_duplicate), (0, 0, 0, 0), "{again:?}");
    assert!(shop.all_rows() == rows);
    shop.assert_sound();
    // The stream goes on, and knows the keys that came in.
    shop.put("c.jsonl", &[event(19, 700, "late3", "u1", "1"), event(19, 701, "new", "u1", "1")]);
    assert!(shop.run().balanced);
    shop.assert_sound();
}

#[test]
fn a_backfill_of_a_day_replaces_its_sessions_whole_and_nothing_else() {
    let mut shop = Shop::new(30);
    let mut lines = vec![];
    for d in 16..20 {
        // One session over midnight, some within the day, a bad event in each.
        lines.push(event(d, 1430, &format!("n{d}"), "night", "1"));
        lines.push(event(d + 1, 5, &format!("m{d}"), "night", "1"));
        lines.push(event(d, 600, &format!("a{d}"), "u", "1"));
        lines.push(event(d, 610, &format!("b{d}"), "u", "-3"));
        lines.push(event(d, 620, &format!("c{d}"), "u", "1"));
    }
    lines.push(event(21, 0, "end", "z", "1"));
    shop.put("a.jsonl", &lines);
    shop.run();
    let before = shop.rows("silver/events");
    shop.spec.contract_text = CONTRACT.replace("minimum: 0", "minimum: -5");
    let report = shop.backfill(18, 19, false);
    // Sessions of the 18th: the one from the 17th, u's, the one into the 19th.
    assert_eq!((report.rows_before, report.rows_after, report.accepted), (6, 7, 1), "{report:?}");
    assert_eq!((report.sessions_before, report.sessions_after), (3, 3));
    let after = shop.rows("silver/events");
    let other = |rows: &[Row]| -> Vec<Row> {
        rows.iter().filter(|r| !r["_folder"].contains("12-18") && r["id"] != "b18").cloned().collect()
    };
    assert_rows(&other(&after), &other(&before));
    assert_eq!(after.len(), before.len() + 1);
    shop.assert_sound();
    assert_eq!(shop.replay(&ReplayOptions::default()).silver, 4 - 1, "what the backfill settled is not replayed");
    shop.assert_sound();
    // A stricter contract takes rows back, those that were replayed too.
    shop.spec.contract_text = CONTRACT.to_owned();
    let back = shop.backfill(17, 21, false);
    assert_eq!((back.rejected, back.accepted), (3, 0), "{back:?}");
    shop.assert_sound();
    let counts = shop.work(&shop.lake).base().unwrap().last.ledger.counts;
    assert_eq!(counts.rejected, 3);
    shop.spec.contract_text = CONTRACT.replace("minimum: 0", "minimum: -5");
    assert_eq!(shop.replay(&ReplayOptions::default()).silver, 3, "and they can be replayed again");
    shop.assert_sound();
}

#[test]
fn what_the_stream_works_on_is_left_to_it() {
    let mut shop = Shop::new(30);
    shop.spec.source = serde_json::from_value(serde_json::json!({
        "files": {"paths": ["*.jsonl"], "bounded": false, "base_dir": shop.folder}
    }))
    .unwrap();
    // Nothing is idle, whatever the clock says.
    shop.spec.watermark.idle_timeout_us = i64::MAX / 4;
    let mut lines = some_events(100);
    lines.push(event(17, 1190, "open", "w", "1"));
    lines.push(event(17, 1199, "held", "w", "1"));
    shop.put("a.jsonl", &lines);
    let report = shop.run_unbounded();
    assert!(report.ledger.counts.pending > 0);
    shop.spec.contract_text = CONTRACT.replace("minimum: 0", "minimum: -5");
    let report = shop.backfill(17, 18, false);
    assert!(report.left_to_stream > 0 && report.accepted > 0, "{report:?}");
    shop.assert_sound();
    shop.put("b.jsonl", &[event(19, 1, "later", "w", "1")]);
    let mut after = shop.run_unbounded();
    assert!(after.balanced);
    shop.put("c.jsonl", &[event(20, 1, "end", "w", "1")]);
    after = shop.run_unbounded();
    assert!(after.balanced && after.ledger.counts.rejected <= 9);
    shop.assert_sound();
}

#[test]
fn a_backfill_goes_on_beside_a_running_stream() {
    for number in [5, 9] {
        let mut shop = Shop::new(40);
        shop.put("a.jsonl", &some_events(200));
        shop.run();
        shop.put("b.jsonl", &(0..300).map(|i| event(20, i, &format!("x{i}"), "v", "1")).collect::<Vec<_>>());
        let mut spec = shop.spec.clone();
        spec.contract_text = CONTRACT.replace("minimum: 0", "minimum: -5");
        let taken = shop.kinds().len() as u64 + number - 5;
        {
            let hook: Hook<'_> = Box::new(|lake| {
                let options = BackfillOptions { from_us: day(17), to_us: day(18), dry_run: false };
                let report = backfill(&mut shop.work(lake), &spec, &options, &Means::default()).unwrap();
                assert_eq!(report.entries, [taken]);
                assert!(report.accepted > 5);
            });
            let hooked = Hooked { lake: &shop.lake, before: format!("{taken:010}.plan"), hook: Mutex::new(Some(hook)) };
            let report = shop.run_on(&hooked, &RunOptions { until_caught_up: true, ..RunOptions::default() });
            assert!(report.unwrap().balanced);
        }
        assert_eq!(shop.kinds()[taken as usize], Kind::Backfill);
        shop.assert_sound();
        assert_eq!(shop.rows("silver/events").iter().filter(|r| r["entity"] == "v").count(), 300);
        shop.spec.contract_text = CONTRACT.to_owned();
        assert!(shop.run().balanced);
    }
}

#[test]
fn retention_takes_what_is_old_and_settled() {
    let mut shop = Shop::new(50);
    shop.put("a.jsonl", &[event(17, 1, "a", "u", "1"), event(17, 2, "b", "u", "-1"), event(19, 3, "c", "u", "1")]);
    shop.run();
    // Silver lies by the events' days, Bronze and dead letters by the day on which they came.
    shop.clock.wait(400 * crate::time::DAY);
    let keep = |names: &[&str]| RetentionOptions {
        keep_us: names.iter().map(|n| ((*n).to_owned(), 30 * crate::time::DAY)).collect(),
        dry_run: false,
    };
    let unknown = retention(&mut shop.work(&shop.lake), &keep(&["brons"])).unwrap_err();
    assert!(unknown.to_string().contains("retention.brons"), "{unknown}");
    let report = retention(&mut shop.work(&shop.lake), &keep(&["bronze", "dead_letters"])).unwrap();
    assert_eq!(report.expired["bronze/events"].rows, 3);
    assert_eq!(report.held_back["dead_letters"].rows, 1, "it is not settled");
    shop.assert_sound();
    assert!(shop.rows("bronze/events").is_empty());
    let gone = shop.try_backfill(17, 18).unwrap_err();
    assert!(gone.to_string().contains("Bronze"), "{gone}");
    shop.spec.contract_text = CONTRACT.replace("minimum: 0", "minimum: -5");
    assert_eq!(shop.replay(&ReplayOptions::default()).silver, 1);
    let report = retention(&mut shop.work(&shop.lake), &keep(&["dead_letters", "silver"])).unwrap();
    assert_eq!(report.expired["dead_letters"].rows, 1);
    assert_eq!(report.expired["silver/events"].rows, 3);
    let gone = shop.try_backfill(17, 18).unwrap_err();
    assert!(gone.to_string().contains("expired"), "{gone}");
    let counts = shop.work(&shop.lake).base().unwrap().last.ledger.counts;
    assert_eq!((counts.silver, counts.expired["silver/events"], counts.expired["bronze/events"]), (3, 3, 3));
    shop.assert_sound();
    assert_eq!(retention(&mut shop.work(&shop.lake), &keep(&["silver"])).unwrap().entries.len(), 0);
    shop.put("b.jsonl", &[event(20, 3, "d", "u", "1")]);
    assert!(shop.run().balanced);
    shop.assert_sound();
}

#[test]
fn a_reset_leaves_the_terms_alone_and_stops_who_is_at_work() {
    let shop = Shop::new(50);
    shop.put("a.jsonl", &some_events(60));
    shop.run();
    let others = "silver/events/date=2024-12-17/shop-b-0000-0000000001-0000.parquet";
    shop.lake.put(others, Bytes::from_static(b"of another pipeline")).unwrap();
    assert!(reset(&shop.work(&shop.lake), true).unwrap().files > 0);
    assert!(!shop.rows("silver/events").is_empty(), "only told");
    let journal = Journal::new(&shop.lake, "shop");
    let at_work = journal.take_term(&Played(AtomicI64::new(0))).unwrap();
    reset(&shop.work(&shop.lake), false).unwrap();
    let left: Vec<_> = shop.lake.list("", None).unwrap().into_iter().map(|o| o.path).collect();
    let terms = format!("{}terms/", journal.control());
    assert!(left.iter().all(|path| path == others || path.starts_with(&terms)), "{left:?}");
    assert!(left.contains(&others.to_owned()));
    assert!(matches!(journal.check_term(&at_work), Err(Error::Superseded { .. })));
    assert!(shop.run().balanced);
    assert!(journal.check_term(&at_work).is_err(), "whoever comes later has a higher one");
}
