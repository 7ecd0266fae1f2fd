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
use super::compact::{CompactOptions, CompactReport, compact};
use super::judge::Means;
use super::replay::{ReplayOptions, ReplayReport, replay};
use crate::error::Result;
use crate::lake::{Durability, Lake, LakeOptions, ObjectMeta, Put};
use crate::sources::files::{Files, FilesSettings};
use crate::sources::lake::StoredFile;
use crate::stream::audit::audit_store;
use crate::stream::log::{FileEntry, Kind};
use crate::stream::run::{Report, RunOptions, Unwatched, contract_of};
use crate::stream::runner::Runner;
use crate::stream::spec::PipelineSpec;
use crate::stream::store::{Clock, Store};
use crate::verdict::Code;

pub(super) const NAME: &str = "shop";

pub(super) const CONTRACT: &str = r#"
name: shop
roles: {event_type: /type, event_time: /at, idempotency_key: /id, entity: /user}
events:
  view:
    v1:
      type: object
      required: [type, at, id, user, amount]
      properties:
        type: {type: string}
        at: {type: string, format: date-time}
        id: {type: string}
        user: {type: string}
        amount: {type: integer, minimum: 0}
"#;

/// A clock that goes on by itself when somebody waits.
pub(super) struct Played(AtomicI64);

impl Clock for Played {
    fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn wait(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

/// A row as text, by column.
pub(super) type Row = BTreeMap<String, String>;

type Hook<'a> = Box<dyn FnOnce(&Lake) + Send + 'a>;

/// A lake in which something happens just before an object is put.
pub(super) struct Hooked<'a> {
    lake: &'a Lake,
    before: String,
    hook: Mutex<Option<Hook<'a>>>,
}

impl Store for Hooked<'_> {
    fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        if path.ends_with(&self.before)
            && let Some(hook) = self.hook.lock().unwrap().take()
        {
            hook(self.lake);
        }
        self.lake.put_if_absent(path, bytes)
    }

    fn put_many(&self, objects: Vec<(String, Bytes)>) -> Result<()> {
        self.lake.put_many(objects)
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        self.lake.get(path)
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        self.lake.list(prefix, after)
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.lake.delete(path)
    }
}

/// A pipeline in a folder of its own.
pub(super) struct Shop {
    pub folder: PathBuf,
    pub spec: PipelineSpec,
    pub lake: Lake,
    pub clock: Played,
    _held: tempfile::TempDir,
}

impl Shop {
    pub fn new(epoch_events: u64) -> Self {
        let held = tempfile::tempdir().unwrap();
        let folder = held.path().to_owned();
        let minute = 60_000_000i64;
        let spec = serde_json::json!({
            "name": NAME,
            "contract_text": CONTRACT,
            "contract_path": "contract.yaml",
            "source": {"files": {"paths": ["*.jsonl"], "bounded": true, "base_dir": folder}},
            "lake": folder.join("lake"),
            "watermark": {"lateness_us": 10 * minute, "idle_timeout_us": minute, "max_future_skew_us": 5 * minute},
            "deduplicate": {"horizon_us": 24 * 60 * minute},
            "sessions": {"gap_us": 30 * minute},
            "epoch": {"max_events": epoch_events, "max_bytes": 1 << 20, "max_wait_us": 1},
            "durability": "process",
        });
        let spec = PipelineSpec::from_json(&spec.to_string()).unwrap();
        let options = LakeOptions { durability: Durability::Process, ..LakeOptions::default() };
        let lake = Lake::open(&spec.lake, &options).unwrap();
        // Well after the events, and after everything that the file system says.
        let clock = Played(AtomicI64::new(4_000_000_000_000_000));
        Self { folder, spec, lake, clock, _held: held }
    }

    pub fn put(&self, file: &str, lines: &[String]) {
        std::fs::write(self.folder.join(file), lines.join("\n") + "\n").unwrap();
    }

    pub fn run_on(&self, store: &dyn Store, options: &RunOptions) -> Result<Report> {
        let shape = self.spec.shape();
        let contract = contract_of(&self.spec.contract_text, &self.spec.contract_path, &shape)?;
        let paths = vec!["*.jsonl".to_owned()];
        let settings = FilesSettings { base: self.folder.clone(), paths, bounded: true };
        let mut source = Files::new(settings)?;
        let mut runner = Runner::new(store, &self.clock, &self.spec, shape, contract, None, &Unwatched)?;
        runner.run(&mut source, options)
    }

    pub fn run(&self) -> Report {
        self.run_on(&self.lake, &RunOptions { until_caught_up: true, ..RunOptions::default() }).unwrap()
    }

    pub fn work<'a>(&'a self, store: &'a dyn Store) -> Work<'a> {
        Work::new(store, NAME, &self.clock, &Unwatched)
    }

    pub fn compact(&self, store: &dyn Store) -> CompactReport {
        compact(&mut self.work(store), &CompactOptions::default()).unwrap()
    }

    pub fn replay(&self, options: &ReplayOptions) -> ReplayReport {
        replay(&mut self.work(&self.lake), &self.spec, options, &Means::default()).unwrap()
    }

    pub fn live(&self, layer: &str) -> Vec<FileEntry> {
        let live = self.work(&self.lake).journal.live().unwrap().unwrap();
        live.files.into_values().filter(|f| f.layer == layer).collect()
    }

    /// The rows of a layer with their partitions, in order.
    pub fn rows(&self, layer: &str) -> Vec<Row> {
        let mut rows: Vec<Row> = vec![];
        for file in self.live(layer) {
            let folder = Path::new(&file.path).parent().unwrap().to_str().unwrap().to_owned();
            let stored = StoredFile::open(&self.lake, &file).unwrap();
            let read = stored.read(&self.lake, None, None, &mut |batch| {
                let options = FormatOptions::default().with_null("null");
                let plain: Vec<_> = batch
                    .columns()
                    .iter()
                    .map(|c| match c.data_type() {
                        DataType::Timestamp(..) => cast(c, &DataType::Int64).unwrap(),
                        _ => c.clone(),
                    })
                    .collect();
                let columns: Vec<_> =
                    plain.iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
                rows.extend((0..batch.num_rows()).map(|row| {
                    let cells = batch.schema_ref().fields().iter().zip(&columns);
                    let mut cells: Row = cells.map(|(f, c)| (f.name().clone(), c.value(row).to_string())).collect();
                    cells.insert("_folder".into(), folder.clone());
                    cells
                }));
                Ok(())
            });
            read.unwrap();
        }
        rows.sort();
        rows
    }

    pub fn all_rows(&self) -> BTreeMap<&'static str, Vec<Row>> {
        let layers = ["bronze/events", "silver/events", "silver/sessions", "dead_letters"];
        layers.into_iter().map(|layer| (layer, self.rows(layer))).collect()
    }

    pub fn assert_sound(&self) {
        let audit = audit_store(&self.lake, NAME).unwrap();
        let failed: Vec<_> = audit.checks.iter().filter(|c| !c.passed).collect();
        assert!(audit.balanced && failed.is_empty(), "{failed:#?}");
    }

    pub fn kinds(&self) -> Vec<Kind> {
        self.work(&self.lake).journal.commits(None).unwrap().iter().map(|c| c.kind).collect()
    }
}

/// An event as a line: minute of the day, key, user, amount.
pub(super) fn event(day: u32, minute: u32, id: &str, user: &str, amount: &str) -> String {
    let (h, m) = (minute / 60, minute % 60);
    format!(
        r#"{{"type":"view","at":"2024-12-{day:02}T{h:02}:{m:02}:00Z","id":"{id}","user":"{user}","amount":{amount}}}"#
    )
}

/// Some hours of events of a few users: good ones, bad ones, duplicates.
pub(super) fn some_events(n: u32) -> Vec<String> {
    (0..n)
        .map(|i| {
            let amount = if i % 11 == 3 { "-1".to_owned() } else { i.to_string() };
            let id = if i % 13 == 5 { i - 1 } else { i };
            event(17 + i / 400, (i * 3) % 1200, &format!("k{id}"), &format!("u{}", i % 5), &amount)
        })
        .collect()
}

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
    assert_eq!(shop.all_rows(), before);
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
        assert_eq!(strip(shop.all_rows()), strip(expected.clone()));
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
