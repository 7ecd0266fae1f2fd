//! The log against a store that races, loses replies and forgets nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use bytes::Bytes;

use super::journal::Journal;
use super::ledger::{Counts, Ledger};
use super::log::{Commit, EntryPlan, FORMAT, FileEntry, Kind, Plan, Planned, Tick};
use super::spec::{DeduplicateSpec, Layer, Shape, WatermarkSpec};
use super::store::{Clock, FixedClock, Store};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::lake::{ObjectMeta, Put};
use crate::sources::Range;

/// A store in memory. It can lose the reply of a put: the put is done, and the caller told that it was there before.
#[derive(Default)]
pub(super) struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// When each was put, by the store's own clock.
    put_at: Mutex<BTreeMap<String, i64>>,
    pub(super) now: AtomicI64,
    lose_replies: AtomicU32,
}

impl Store for Memory {
    fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        let mut objects = self.objects.lock().unwrap();
        if objects.contains_key(path) {
            return Ok(Put::Exists);
        }
        objects.insert(path.to_owned(), bytes);
        self.put_at.lock().unwrap().insert(path.to_owned(), self.now.load(Ordering::SeqCst));
        let lost = self.lose_replies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        // A client that retries after a lost reply meets its own object.
        Ok(if lost { Put::Exists } else { Put::Created })
    }

    fn put_many(&self, objects: Vec<(String, Content)>) -> Result<()> {
        let now = self.now.load(Ordering::SeqCst);
        self.put_at.lock().unwrap().extend(objects.iter().map(|(path, _)| (path.clone(), now)));
        self.objects.lock().unwrap().extend(objects.into_iter().map(|(path, content)| (path, content.into_whole())));
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        Ok(self.objects.lock().unwrap().get(path).cloned())
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        let objects = self.objects.lock().unwrap();
        let below =
            objects.iter().filter(|(path, _)| path.starts_with(prefix) && after.is_none_or(|a| path.as_str() > a));
        let put_at = self.put_at.lock().unwrap();
        let meta = |(path, bytes): (&String, &Bytes)| ObjectMeta {
            path: path.clone(),
            size: bytes.len() as u64,
            modified_us: put_at.get(path).copied().unwrap_or_default(),
        };
        Ok(below.map(meta).collect())
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.objects.lock().unwrap().remove(path);
        Ok(())
    }
}

pub(super) const CLOCK: FixedClock = FixedClock(1_000);

fn shape() -> Shape {
    Shape {
        output_version: 1,
        layers: vec![Layer::Silver],
        watermark: WatermarkSpec { lateness_us: 0, idle_timeout_us: 0, max_future_skew_us: 0 },
        deduplicate: DeduplicateSpec { horizon_us: 0 },
        sessions: None,
        windows: vec![],
        transform: None,
        max_event_bytes: None,
        max_event_depth: None,
        assert_formats: None,
    }
}

fn plan(number: u64, term: &super::log::Term) -> Plan {
    let range = Range { topic: "in".into(), partition: 0, from: number as i64, to: number as i64 + 1 };
    Plan {
        format: FORMAT,
        number,
        term: term.number,
        term_id: term.id.clone(),
        ticks: vec![Tick { arrival: CLOCK.now(), ranges: vec![range], events: 1, bytes: 1 }],
        partitions: vec![],
        waiting: vec![],
        gone: vec![],
        flush: false,
        idle: vec![],
        woken: Some(vec![]),
        idle_watermark: None,
        contract: "c".into(),
        shape: shape(),
        change: None,
        secret: None,
        unread: vec![],
        gaps: vec![],
    }
}

pub(super) fn commit(number: u64, term: &super::log::Term) -> Commit {
    let file = FileEntry {
        path: format!("silver/events/{number}"),
        layer: "silver/events".into(),
        rows: 1,
        bytes: 1,
        min_event_time: None,
        max_event_time: None,
        digest: None,
    };
    Commit {
        format: FORMAT,
        number,
        kind: Kind::Run,
        term: term.number,
        term_id: term.id.clone(),
        counts: Counts::default(),
        ledger: Ledger { epochs: number + 1, ..Ledger::default() },
        watermark: None,
        files: vec![file],
        removed: vec![],
        state: vec![],
        partitions: vec![],
        contract: "c".into(),
        origin: None,
        change: None,
        committed_at: 0,
        note: None,
        unread: vec![],
    }
}

#[test]
fn the_newest_term_owns_the_pipeline() {
    let store = Memory::default();
    let journal = Journal::new(&store, "p");
    let older = journal.take_term(&CLOCK).unwrap();
    journal.check_term(&older).unwrap();
    let newer = journal.take_term(&CLOCK).unwrap();
    assert_eq!((older.number, newer.number), (1, 2));
    let refused = journal.put_plan(&older, &plan(0, &older)).unwrap_err();
    assert!(matches!(&refused, Error::Superseded { ours: 1, theirs: 2, .. }), "{refused}");
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    assert_eq!(journal.put_plan(&newer, &plan(0, &newer)).unwrap().map(|p| p.number()), None);
    journal.check_term(&newer).unwrap();
}

#[test]
fn a_put_whose_reply_was_lost_is_known_as_ones_own() {
    let store = Memory::default();
    let journal = Journal::new(&store, "p");
    store.lose_replies.store(1, Ordering::SeqCst);
    let term = journal.take_term(&CLOCK).unwrap();
    assert_eq!(term.number, 1, "the term is not taken twice");
    store.lose_replies.store(2, Ordering::SeqCst);
    assert!(journal.put_plan(&term, &plan(0, &term)).unwrap().is_none());
    assert!(journal.put_commit(&term, &commit(0, &term)).unwrap().is_none());
}

#[test]
fn anothers_plan_and_commit_stand() {
    let store = Memory::default();
    let journal = Journal::new(&store, "p");
    let older = journal.take_term(&CLOCK).unwrap();
    assert!(journal.put_plan(&older, &plan(0, &older)).unwrap().is_none());
    let newer = journal.take_term(&CLOCK).unwrap();
    let standing = journal.put_plan(&newer, &plan(0, &newer)).unwrap().and_then(Planned::run).unwrap();
    assert_eq!(standing.term, older.number);
    assert_eq!(journal.head().unwrap().plan.and_then(Planned::run).map(|p| p.term), Some(older.number));
    assert!(journal.put_commit(&newer, &commit(0, &newer)).unwrap().is_none());
    assert!(journal.head().unwrap().plan.is_none());
}

#[test]
fn snapshots_shorten_what_is_listed_and_change_nothing() {
    let store = Memory::default();
    let journal = Journal::new(&store, "p");
    let term = journal.take_term(&CLOCK).unwrap();
    for number in 0..250 {
        journal.put_plan(&term, &plan(number, &term)).unwrap();
        let commit = commit(number, &term);
        journal.put_commit(&term, &commit).unwrap();
        journal.maybe_snapshot(&term, &commit).unwrap();
    }
    assert_eq!(store.list("_penstock/p/snapshots/", None).unwrap().len(), 2);
    assert_eq!(journal.head().unwrap().commit.map(|c| c.number), Some(249));
    assert_eq!(journal.live().unwrap().map(|s| s.files.len()), Some(250));
    // What lies before the newest snapshot is no longer needed to start or to read.
    for number in 0..200 {
        store.delete(&format!("_penstock/p/epochs/{number:010}.plan")).unwrap();
        store.delete(&format!("_penstock/p/epochs/{number:010}.commit")).unwrap();
    }
    assert_eq!(journal.head().unwrap().commit.map(|c| c.number), Some(249));
    assert_eq!(journal.live().unwrap().map(|s| s.files.len()), Some(250));
}

#[test]
fn a_log_with_a_hole_is_refused() {
    let store = Memory::default();
    let journal = Journal::new(&store, "p");
    let term = journal.take_term(&CLOCK).unwrap();
    for number in 0..3 {
        journal.put_plan(&term, &plan(number, &term)).unwrap();
        journal.put_commit(&term, &commit(number, &term)).unwrap();
    }
    store.delete("_penstock/p/epochs/0000000001.commit").unwrap();
    let refused = journal.head().unwrap_err();
    assert!(refused.to_string().contains("0000000001.commit"), "{refused}");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let store = Memory::default();
    let journal = Journal::new(&store, "p");
    store
        .put_many(vec![("_penstock/p/epochs/0000000000.commit".into(), Bytes::from_static(b"{\"format\": 99}").into())])
        .unwrap();
    let refused = journal.head().unwrap_err().to_string();
    assert!(refused.contains("newer Penstock") && refused.contains("0000000000.commit"), "{refused}");
}

#[test]
fn an_entry_counts_with_its_plan_and_is_finished_by_whoever_meets_it() {
    let store = Memory::default();
    let journal = Journal::new(&store, "p");
    let term = journal.take_term(&CLOCK).unwrap();
    journal.put_plan(&term, &plan(0, &term)).unwrap();
    journal.put_commit(&term, &commit(0, &term)).unwrap();
    let entry = |id: &str| {
        let commit = Commit { kind: Kind::Compact, term_id: id.to_owned(), ..commit(1, &term) };
        EntryPlan { format: FORMAT, kind: Kind::Compact, commit }
    };
    // The reply is lost: read back, it is known as ours.
    store.lose_replies.store(1, Ordering::SeqCst);
    assert!(journal.put_entry(&entry("a")).unwrap());
    assert!(!journal.put_entry(&entry("b")).unwrap(), "the number is taken");
    // Its owner is dead. A stream that wants the number meets it, finishes it, and takes the next.
    let Some(Planned::Entry(met)) = journal.put_plan(&term, &plan(1, &term)).unwrap() else { panic!("no entry") };
    assert_eq!(met.commit.term_id, "a");
    assert_eq!(journal.live().unwrap().unwrap().last.number, 0, "readers see what is committed");
    journal.roll_forward(&met).unwrap();
    journal.roll_forward(&met).unwrap();
    assert!(journal.put_plan(&term, &plan(2, &term)).unwrap().is_none());
    assert_eq!(journal.commit(1).unwrap().kind, Kind::Compact);
    let epochs: Vec<_> = journal.plans().unwrap().iter().map(|p| p.number).collect();
    assert_eq!(epochs, [0, 2], "entries are no epochs");
}
