//! What happens between epochs: one that is given up, a contract that changed, a run that is asked to stop, users' own
//! logic.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use _core::generate::{GenerateOptions, Profile, generate_file};
use _core::lake::LakeOptions;
use _core::stream::audit::audit;
use _core::stream::inspect::inspect;
use _core::stream::transform::Transform;
use _core::stream::{Event, Observer, PipelineSpec, Report, RunOptions, Unwatched, run};
use _core::{Error, Result};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;

const MINUTE: i64 = 60_000_000;

/// A pipeline over generated events, in a folder of its own.
struct Shop {
    folder: TempDir,
    settings: Value,
    truth: Value,
}

impl Shop {
    fn new(events: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options =
            GenerateOptions { total: events, seed: 3, bad_rate: 0.05, duplicate_rate: 0.05, ..Default::default() };
        let truth =
            generate_file(Profile::Ecommerce, &options, &folder.path().join("in.jsonl"), &mut |_| Ok(())).unwrap();
        let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/penstock/pipelines/ecommerce/contract.yaml");
        let settings = json!({
            "name": "shop",
            "contract_text": std::fs::read_to_string(&contract).unwrap(),
            "contract_path": contract,
            "source": {"files": {"paths": ["*.jsonl"], "base_dir": folder.path()}},
            "lake": folder.path().join("lake"),
            "watermark": {"lateness_us": 2 * MINUTE, "idle_timeout_us": MINUTE, "max_future_skew_us": 5 * MINUTE},
            "deduplicate": {"horizon_us": 60 * MINUTE},
            "sessions": {"gap_us": 5 * MINUTE},
            "epoch": {"max_events": 700, "max_bytes": 64 << 20, "max_wait_us": 1_000_000},
            "durability": "process",
        });
        Self { folder, settings, truth: serde_json::to_value(&truth).unwrap() }
    }

    fn spec(&self) -> PipelineSpec {
        PipelineSpec::from_json(&self.settings.to_string()).unwrap()
    }

    fn try_run(&self, options: &RunOptions) -> Result<Report> {
        run(&self.spec(), options, None, &Unwatched)
    }

    fn run(&self, options: &RunOptions) -> Report {
        self.try_run(options).unwrap()
    }

    fn control(&self, path: &str) -> PathBuf {
        self.folder.path().join("lake/_penstock/shop").join(path)
    }

    fn log(&self, number: u64, kind: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.control(&format!("epochs/{number:010}.{kind}"))).unwrap()).unwrap()
    }

    /// Makes the newest epoch one that was killed just before its commit.
    fn lose_commit(&self, number: u64) {
        std::fs::remove_file(self.control(&format!("epochs/{number:010}.commit"))).unwrap();
    }

    fn files_of(&self, number: u64) -> Vec<PathBuf> {
        let mut found = vec![];
        let mut folders = vec![self.folder.path().join("lake")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if name.starts_with(&format!("shop-0000-{number:010}-")) {
                    found.push(path);
                }
            }
        }
        found
    }

    /// All rows of a layer, by the log.
    fn rows(&self, layer: &str) -> Vec<RecordBatch> {
        let lake = self.folder.path().join("lake");
        let files =
            _core::stream::inspect::live_files(lake.to_str().unwrap(), &LakeOptions::default(), layer, None).unwrap();
        let read = |path: &str| {
            let file = std::fs::File::open(lake.join(path)).unwrap();
            ParquetRecordBatchReaderBuilder::try_new(file)
                .unwrap()
                .build()
                .unwrap()
                .map(|b| b.unwrap())
                .collect::<Vec<_>>()
        };
        files.iter().flat_map(|f| read(&f.path)).collect()
    }

    fn assert_whole(&self, report: &Report) {
        let counts = serde_json::to_value(&report.ledger).unwrap();
        for name in ["consumed", "silver", "rejected", "duplicate", "late"] {
            assert_eq!(counts[name], self.truth["expected"][name], "{name}");
        }
        let audited = audit(&self.spec()).unwrap();
        let failed: Vec<_> = audited.checks.iter().filter(|c| !c.passed).collect();
        assert!(audited.balanced, "{failed:?}");
        assert!(audited.uncommitted_files.is_empty(), "{:?}", audited.uncommitted_files);
    }
}

fn caught_up() -> RunOptions {
    RunOptions { until_caught_up: true, ..RunOptions::default() }
}

fn epochs(n: u64) -> RunOptions {
    RunOptions { max_epochs: Some(n), ..caught_up() }
}

fn void(n: u64) -> RunOptions {
    RunOptions { void: Some(n), ..caught_up() }
}

#[test]
fn an_epoch_that_cannot_be_run_any_more_is_given_up_and_read_again() {
    let shop = Shop::new(4_000);
    shop.run(&epochs(3));
    shop.lose_commit(2);
    let contract = shop.log(2, "plan")["contract"].as_str().unwrap().to_owned();
    let text = shop.control(&format!("contracts/{contract}.json"));
    // The text of the contract is gone, and today's is another.
    std::fs::remove_file(&text).unwrap();
    let mut changed = Shop { settings: shop.settings.clone(), ..shop };
    let own = changed.settings["contract_text"].as_str().unwrap().replacen("name: ecommerce", "name: shop", 1);
    assert_ne!(changed.settings["contract_text"], own);
    changed.settings["contract_text"] = own.into();

    let refused = changed.try_run(&caught_up()).unwrap_err().to_string();
    assert!(refused.contains("--void 2") && refused.contains(&contract), "{refused}");
    assert!(!changed.files_of(2).is_empty());
    for (number, why) in [(1, "epoch 1 is committed"), (3, "epoch 3 was never planned")] {
        let refused = changed.try_run(&void(number)).unwrap_err().to_string();
        assert!(refused.contains(why) && refused.contains("void is 2"), "{refused}");
    }

    let report = changed.run(&void(2));
    assert_eq!(changed.log(2, "commit")["kind"], "void");
    assert!(changed.files_of(2).is_empty());
    assert!(!changed.files_of(3).is_empty());
    assert_eq!(changed.log(3, "commit")["change"]["contract"]["verdict"], "unknown");
    let (before, after) = (changed.log(1, "commit"), changed.log(2, "commit"));
    assert_eq!(before["ledger"], after["ledger"], "a void epoch counts nothing");
    changed.assert_whole(&report);
    // The same command once more, as a scheduler tries it: there is nothing left to give up.
    let again = changed.run(&void(2));
    assert_eq!(again.ledger, report.ledger);
    let refused = changed.try_run(&void(99)).unwrap_err().to_string();
    assert!(refused.contains("nothing to make void"), "{refused}");
}

#[test]
fn an_input_that_changed_under_a_plan_names_the_way_out() {
    let shop = Shop::new(3_000);
    shop.run(&epochs(2));
    shop.lose_commit(1);
    let path = shop.folder.path().join("in.jsonl");
    let mut text = std::fs::read(&path).unwrap();
    // Behind the beginning, which is looked at by itself: a line of the second epoch is no longer there.
    let ends: Vec<usize> = (0..text.len()).filter(|i| text[*i] == b'\n').skip(1_000).take(2).collect();
    text[ends[0] + 1..ends[1]].fill(b' ');
    std::fs::write(&path, text).unwrap();
    let refused = shop.try_run(&caught_up()).unwrap_err().to_string();
    assert!(refused.contains("the input was changed") && refused.contains("--void 1"), "{refused}");
    let report = shop.run(&void(1));
    assert_eq!(report.ledger.counts.consumed, shop.truth["expected"]["consumed"].as_i64().unwrap() - 1);
    assert!(audit(&shop.spec()).unwrap().balanced);
}

fn small_contract(properties: &str) -> String {
    format!(
        r#"{{"name":"small","roles":{{"event_type":"/t","event_time":"/at","idempotency_key":"/id","entity":"/who"}},
        "events":{{"A":{{"v1":{{"type":"object","properties":{{"t":{{"type":"string"}},
        "at":{{"type":"string","format":"date-time"}},"id":{{"type":"string"}},"who":{{"type":"string"}},{properties}}}}}}}}}}}"#
    )
}

/// Ten events, one a second, held by a lateness of two minutes; the file does not end.
fn held(properties: &str) -> Shop {
    let mut shop = Shop::new(1);
    shop.settings["contract_text"] = small_contract(properties).into();
    shop.settings["source"]["files"]["bounded"] = false.into();
    append(&shop, 0, 10);
    shop
}

fn append(shop: &Shop, from: i64, to: i64) {
    let path = shop.folder.path().join("in.jsonl");
    let mut text = if from == 0 { String::new() } else { std::fs::read_to_string(&path).unwrap() };
    for n in from..to {
        let at = format!("2026-01-01T00:{:02}:{:02}Z", n / 60, n % 60);
        text +=
            &json!({"t": "A", "at": at, "id": format!("{n}"), "who": "w", "n": n, "note": format!("n{n}")}).to_string();
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn held_events_go_over_to_a_contract_that_changed() {
    let mut shop = held(r#""n":{"type":"integer"},"note":{"type":"string"}"#);
    let first = shop.run(&caught_up());
    assert_eq!((first.ledger.counts.consumed, first.ledger.counts.pending), (10, 10));
    // One column comes, one goes, one gets another type.
    let properties = r#""n":{"type":"number","x-penstock-decimal":[12,2]},"more":{"type":"string"}"#;
    shop.settings["contract_text"] = small_contract(properties).into();
    append(&shop, 10, 20);
    let told = Told::default();
    run(&shop.spec(), &caught_up(), None, &told).unwrap();
    assert!(told.said("changed"), "who watches is told");
    let commit = shop.log(1, "commit");
    let change = &commit["change"]["contract"];
    assert_eq!(change["verdict"], "backward");
    let lines: BTreeSet<String> =
        change["changes"].as_array().unwrap().iter().map(|c| c["change"].as_str().unwrap().to_owned()).collect();
    assert!(lines.iter().any(|l| l.starts_with("column added")), "{lines:?}");
    let newest = inspect(&shop.spec(), 10, 0).unwrap();
    assert!(newest.epochs.last().unwrap().change.is_some());

    let drained = shop.run(&RunOptions { drain: true, ..caught_up() });
    assert_eq!((drained.ledger.counts.silver, drained.ledger.counts.pending), (20, 0));
    assert!(shop.log(2, "commit").get("change").is_none(), "it is recorded once");
    let rows = shop.rows("silver/events");
    let rows = concat_batches(&rows[0].schema(), &rows).unwrap();
    assert!(rows.column_by_name("note").is_none());
    assert_eq!(rows.column_by_name("n").unwrap().data_type(), &DataType::Decimal128(12, 2));
    let extra = rows.column_by_name("_extra").unwrap().as_string::<i32>();
    let mut notes: Vec<_> = extra.iter().map(|e| e.unwrap().to_owned()).collect();
    notes.sort();
    let mut expected: Vec<_> = (0..20).map(|n| format!(r#"{{"note":"n{n}"}}"#)).collect();
    expected.sort();
    assert_eq!(notes, expected, "what was held is as if judged today");
    assert!(audit(&shop.spec()).unwrap().balanced);
}

#[test]
fn what_cannot_go_over_is_refused_and_can_be_drained() {
    let before = r#""n":{"type":"integer"},"note":{"type":"string"}"#;
    let mut shop = held(before);
    shop.run(&caught_up());
    shop.settings["contract_text"] = small_contract(r#""n":{"type":"string"}"#).into();
    append(&shop, 10, 20);
    let refused = shop.try_run(&caught_up()).unwrap_err().to_string();
    assert!(refused.contains("'n'") && refused.contains("--drain"), "{refused}");
    assert!(!shop.control("epochs/0000000001.plan").exists(), "nothing is half done");
    shop.settings["contract_text"] = small_contract(before).into();
    shop.run(&RunOptions { drain: true, ..caught_up() });
    shop.settings["contract_text"] = small_contract(r#""n":{"type":"string"}"#).into();
    append(&shop, 20, 30);
    let report = shop.run(&caught_up());
    assert_eq!((report.ledger.counts.silver, report.ledger.counts.rejected), (20, 10));
}

#[test]
fn settings_that_would_lose_what_is_open_are_refused() {
    let mut shop = held(r#""n":{"type":"integer"}"#);
    let window =
        |size: i64, what: &str| json!([{"name": "w", "size_us": size, "by": ["who"], "aggregates": [["x", what]]}]);
    shop.settings["windows"] = window(MINUTE, "sum(n)");
    shop.run(&caught_up());
    for other in [window(2 * MINUTE, "sum(n)"), window(MINUTE, "count()"), json!([])] {
        shop.settings["windows"] = other;
        append(&shop, 10, 11);
        let refused = shop.try_run(&caught_up()).unwrap_err().to_string();
        assert!(refused.contains("windows.w") && refused.contains("--drain"), "{refused}");
    }
    shop.settings["windows"] = window(MINUTE, "sum(n)");
    shop.settings["sessions"] = Value::Null;
    let refused = shop.try_run(&caught_up()).unwrap_err().to_string();
    assert!(refused.contains("sessions") && refused.contains("10 events are held"), "{refused}");
    shop.settings["sessions"] = json!({"gap_us": 5 * MINUTE});
    shop.run(&RunOptions { drain: true, ..caught_up() });
    // Nothing is open any more: all of it can change, and the change is recorded.
    shop.settings["sessions"] = Value::Null;
    shop.settings["windows"] = window(2 * MINUTE, "count()");
    append(&shop, 200, 210);
    let report = shop.run(&RunOptions { drain: true, ..caught_up() });
    assert_eq!((report.ledger.counts.silver, report.ledger.counts.pending), (21, 0));
    let names: Vec<Value> = shop.log(report.epoch.unwrap(), "commit")["change"]["settings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].clone())
        .collect();
    assert_eq!(names, ["sessions", "windows"]);
    assert!(audit(&shop.spec()).unwrap().balanced);
}

#[test]
fn a_commit_follows_the_epoch_and_not_the_number_of_files() {
    let mut shop = held(r#""n":{"type":"integer"}"#);
    for n in 0..300 {
        let at = format!("2026-01-01T01:{:02}:{:02}Z", n / 60, n % 60);
        let line = json!({"t": "A", "at": at, "id": format!("f{n}"), "who": "w", "n": n}).to_string();
        std::fs::write(shop.folder.path().join(format!("f{n:03}.jsonl")), line + "\n").unwrap();
    }
    shop.run(&caught_up());
    append(&shop, 10, 12);
    let report = shop.run(&caught_up());
    let number = report.epoch.unwrap();
    let (plan, commit) = (shop.log(number, "plan"), shop.log(number, "commit"));
    assert_eq!(plan["partitions"].as_array().unwrap().len(), 1, "one file moved");
    assert_eq!(commit["partitions"].as_array().unwrap().len(), 1);
    assert!(plan["waiting"].as_array().unwrap().is_empty());
    assert!(plan.to_string().len() < 3_000, "{} bytes", plan.to_string().len());
    assert_eq!(inspect(&shop.spec(), 1, 0).unwrap().partitions.len(), 301);

    // A log of the first version has all partitions in each commit, and none in the state.
    let mut old = commit.clone();
    old["partitions"] = serde_json::to_value(inspect(&shop.spec(), 1, 0).unwrap().partitions).unwrap();
    old["state"].as_array_mut().unwrap().retain(|f| f["table"] != "source/partitions");
    old.as_object_mut().unwrap().remove("origin");
    std::fs::write(shop.control(&format!("epochs/{number:010}.commit")), old.to_string()).unwrap();
    append(&shop, 12, 14);
    shop.settings["source"]["files"]["bounded"] = true.into();
    let report = shop.run(&caught_up());
    assert_eq!(report.run.counts.consumed, 2, "nothing is read twice");
    assert_eq!(inspect(&shop.spec(), 1, 0).unwrap().partitions.len(), 301);
    assert!(audit(&shop.spec()).unwrap().balanced);
}

/// Remembers what happened; may ask the run to stop once something was read.
#[derive(Default)]
struct Told {
    events: std::sync::Mutex<Vec<String>>,
    stop_when_reading: bool,
    late: bool,
    stop: AtomicBool,
}

impl Told {
    fn said(&self, name: &str) -> bool {
        self.events.lock().unwrap().iter().any(|e| e == name)
    }
}

impl Observer for Told {
    fn event(&self, event: &Event) {
        let name = serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned();
        if name == "progress" && self.stop_when_reading {
            self.stop.store(true, Ordering::SeqCst);
        }
        self.events.lock().unwrap().push(name);
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn asked_for(&self) -> Option<Duration> {
        (self.late && self.should_stop()).then_some(Duration::from_secs(60))
    }
}

#[test]
fn a_run_that_is_asked_to_stop_finishes_the_epoch_in_hand() {
    let shop = Shop::new(4_000);
    let told = Told { stop_when_reading: true, ..Told::default() };
    let report = run(&shop.spec(), &caught_up(), None, &told).unwrap();
    assert!(report.stopped);
    assert_eq!(report.run.epochs, 1);
    assert!(report.ledger.counts.consumed > 0, "what was read is committed");
    let rest = shop.run(&caught_up());
    assert!(!rest.stopped);
    assert_eq!(rest.ledger.counts.consumed, report.run.counts.consumed + rest.run.counts.consumed);
    shop.assert_whole(&rest);
}

#[test]
fn a_run_that_cannot_finish_in_time_gives_the_epoch_up() {
    let shop = Shop::new(4_000);
    let told = Told { stop_when_reading: true, late: true, ..Told::default() };
    let ended = run(&shop.spec(), &caught_up(), None, &told);
    assert!(matches!(ended, Err(Error::Interrupted)));
    assert!(!told.said("committed"));
    shop.assert_whole(&shop.run(&caught_up()));
}

/// Adds a column, and counts its calls.
#[derive(Debug, Default)]
struct Shout {
    calls: AtomicUsize,
    rows: AtomicUsize,
    lose_a_row: bool,
}

impl Transform for Shout {
    fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.rows.fetch_add(rows.num_rows(), Ordering::SeqCst);
        let types = rows.column_by_name("event_type").unwrap().as_string::<i32>();
        let loud: StringArray = types.iter().map(|t| t.map(str::to_uppercase)).collect();
        let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("loud", DataType::Utf8, true)));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(loud) as ArrayRef);
        let made = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        Ok(if self.lose_a_row { made.slice(1, made.num_rows() - 1) } else { made })
    }
}

#[test]
fn a_transform_is_called_once_a_tick() {
    let mut shop = Shop::new(20_000);
    shop.settings["epoch"]["max_events"] = 15_000.into();
    shop.settings["transform"] = json!({"function": "m:shout", "code": "1", "columns": [["loud", "text"]]});
    let shout = Arc::new(Shout::default());
    let with = |options: RunOptions, transform: &Arc<Shout>| RunOptions {
        transform: Some(Arc::clone(transform) as Arc<dyn Transform>),
        ..options
    };
    shop.run(&with(epochs(1), &shout));
    shop.lose_commit(0);
    let ticks = shop.log(0, "plan")["ticks"].as_array().unwrap().len();
    assert!(ticks > 0);
    assert_eq!(shout.calls.load(Ordering::SeqCst), ticks);

    // Another code since: the planned epoch is not run with it.
    shop.settings["transform"]["code"] = "2".into();
    let refused = shop.try_run(&with(caught_up(), &shout)).unwrap_err().to_string();
    assert!(refused.contains("m:shout") && refused.contains("--void 0"), "{refused}");
    shop.settings["transform"]["code"] = "1".into();
    let again = Arc::new(Shout::default());
    let report = shop.run(&with(caught_up(), &again));
    let all: usize = (0..=report.epoch.unwrap()).map(|n| shop.log(n, "plan")["ticks"].as_array().unwrap().len()).sum();
    assert_eq!(again.calls.load(Ordering::SeqCst), all, "once a tick, and not once an event");
    assert!(again.rows.load(Ordering::SeqCst) > 15_000);
    shop.assert_whole(&report);
    for rows in shop.rows("silver/events") {
        let loud = rows.column_by_name("loud").unwrap().as_string::<i32>();
        let types = rows.column_by_name("event_type").unwrap().as_string::<i32>();
        assert!(loud.iter().zip(types).all(|(l, t)| l.unwrap() == t.unwrap().to_uppercase()));
    }

    let bad = Arc::new(Shout { lose_a_row: true, ..Shout::default() });
    append_line(&shop);
    let refused = shop.try_run(&with(caught_up(), &bad)).unwrap_err().to_string();
    assert!(refused.contains("transform m:shout, epoch") && refused.contains("tick 0"), "{refused}");
    assert!(refused.contains("gave 0 rows for 1"), "{refused}");
}

/// One more valid event: the first one again, under another key.
fn append_line(shop: &Shop) {
    let text = std::fs::read(shop.folder.path().join("in.jsonl")).unwrap();
    let text = String::from_utf8_lossy(&text);
    let valid = shop.rows("silver/events");
    let key = valid[0].column_by_name("idempotency_key").unwrap().as_string::<i32>().value(0).to_owned();
    let line = text.lines().find(|l| l.contains(&key)).unwrap();
    std::fs::write(shop.folder.path().join("more.jsonl"), format!("{line}\n")).unwrap();
}
