//! The log of one pipeline in the lake: names of its objects, terms, and what may be put when.
//!
//! Everything that decides is put if absent: a term, a plan, a commit. A put whose reply was lost is read back and known
//! as our own by the term's random id. The owner looks for a newer term before each put.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::log::{
    Commit, EntryPlan, FORMAT, FileEntry, Identity, Origin, Plan, Planned, Snapshot, Term, parse, render,
};
use super::store::{Clock, Store};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::hash::HashKey;
use crate::lake::{Put, layout};

/// How many epochs lie between two snapshots.
pub const SNAPSHOT_EVERY: u64 = 100;

/// The log of a pipeline, or of one of its shards.
pub struct Journal<'a> {
    store: &'a dyn Store,
    pipeline: String,
    shard: u32,
    /// Its name.
    log: String,
    /// How many epochs lie between two snapshots.
    pub(super) snapshot_every: u64,
}

/// Where the log stands.
#[derive(Debug, Default)]
pub struct Head {
    /// The newest commit.
    pub commit: Option<Commit>,
    /// A plan after it that has no commit.
    pub plan: Option<Planned>,
}

impl<'a> Journal<'a> {
    /// The log of `pipeline`, which has no shards.
    pub fn new(store: &'a dyn Store, pipeline: &str) -> Self {
        Self::of_shard(store, pipeline, 0)
    }

    /// The log of a shard of `pipeline`, counted from 1; 0: it has none.
    pub fn of_shard(store: &'a dyn Store, pipeline: &str, shard: u32) -> Self {
        let log = layout::log(pipeline, shard);
        Self { store, pipeline: pipeline.to_owned(), shard, log, snapshot_every: SNAPSHOT_EVERY }
    }

    /// The store that the log lies in.
    pub fn store(&self) -> &'a dyn Store {
        self.store
    }

    /// The pipeline's name.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// The shard's number; 0 where the pipeline has none.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// The log's name: that of the pipeline, or `{pipeline}/{shard:04}`.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// The log's folder, with the slash.
    pub fn control(&self) -> String {
        layout::control(&self.log)
    }

    fn plan_path(&self, number: u64) -> String {
        layout::plan(&self.log, number)
    }

    fn commit_path(&self, number: u64) -> String {
        layout::commit(&self.log, number)
    }

    /// A folder of this log.
    fn folder(&self, name: &str) -> String {
        format!("{}{name}/", self.control())
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        self.store.get(path)?.map(|bytes| parse(path, &bytes)).transpose()
    }

    /// What the pipeline keeps for ever, all shards together; made with the pipeline, in so many `shards` if it has any.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is damaged or too new, [`Error::Lake`] when the lake cannot be used.
    pub fn identity(&self, shards: Option<u32>, key: impl FnOnce() -> [u8; 16], now: i64) -> Result<Identity> {
        let path = layout::pipeline(&self.pipeline);
        if let Some(identity) = self.get(&path)? {
            return Ok(identity);
        }
        let key = key().iter().map(|b| format!("{b:02x}")).collect();
        let identity = Identity { format: FORMAT, name: self.pipeline.clone(), key, created_at: now, shards };
        match self.store.put_if_absent(&path, render(&identity)?)? {
            Put::Created => Ok(identity),
            Put::Exists => self.get(&path)?.ok_or_else(|| Error::checkpoint(path, "came and went")),
        }
    }

    /// The identity of a pipeline that was made before.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is damaged or too new.
    pub fn existing_identity(&self) -> Result<Option<Identity>> {
        self.get(&layout::pipeline(&self.pipeline))
    }

    /// Takes the next term: from now on this run owns the pipeline.
    ///
    /// # Errors
    /// [`Error::Lake`] when the lake cannot be used.
    pub fn take_term(&self, clock: &dyn Clock) -> Result<Term> {
        failpoint::pass("term.before")?;
        let mut number = self.newest_term()?.map_or(0, |t| t.number) + 1;
        let id = format!("{:032x}", rand::random::<u128>());
        loop {
            let term = Term {
                format: FORMAT,
                number,
                id: id.clone(),
                host: host(),
                process: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                taken_at: clock.now(),
            };
            let path = layout::term(&self.log, number);
            match self.store.put_if_absent(&path, render(&term)?)? {
                Put::Created => {
                    failpoint::pass("term.after")?;
                    return Ok(term);
                }
                Put::Exists => {
                    // Another run took it, unless our own reply was lost.
                    if self.get::<Term>(&path)?.is_some_and(|t| t.id == id) {
                        return Ok(term);
                    }
                    number += 1;
                }
            }
        }
    }

    fn newest_term(&self) -> Result<Option<Term>> {
        match self.store.list(&self.folder("terms"), None)?.last() {
            Some(object) => self.get(&object.path),
            None => Ok(None),
        }
    }

    /// Looks for a newer term.
    ///
    /// # Errors
    /// [`Error::Superseded`] naming its holder.
    pub fn check_term(&self, ours: &Term) -> Result<()> {
        let next = layout::term(&self.log, ours.number + 1);
        if self.store.get(&next)?.is_none() {
            return Ok(());
        }
        let newest = self.newest_term()?.ok_or_else(|| Error::checkpoint(next, "a term that was there is gone"))?;
        Err(Error::Superseded { ours: ours.number, theirs: newest.number, holder: newest.holder() })
    }

    fn snapshot(&self) -> Result<Option<Snapshot>> {
        match self.store.list(&self.folder("snapshots"), None)?.last() {
            Some(object) => self.get(&object.path),
            None => Ok(None),
        }
    }

    /// The numbers of the plans and commits after `after`, as listed: (commits, plans).
    fn numbers(&self, after: Option<u64>) -> Result<(Vec<u64>, Vec<u64>)> {
        let from = after.map(|n| self.plan_path(n));
        let mut numbers = (vec![], vec![]);
        for object in self.store.list(&self.folder("epochs"), from.as_deref())? {
            let kind = object.path.rsplit('.').next();
            match (layout::number(&object.path), kind) {
                (Some(n), Some("commit")) => numbers.0.push(n),
                (Some(n), Some("plan")) => numbers.1.push(n),
                _ => {
                    return Err(Error::checkpoint(object.path, "is no plan and no commit; take it out of this folder"));
                }
            }
        }
        let first = after.map_or(0, |n| n + 1);
        for (expected, found) in (first..).zip(&numbers.0) {
            if expected != *found {
                return Err(Error::checkpoint(
                    self.commit_path(expected),
                    format!(
                        "missing, though {} is there. Bring it back from a backup; nothing was changed",
                        self.commit_path(*found)
                    ),
                ));
            }
        }
        Ok(numbers)
    }

    /// Where the log stands: the newest commit, and the plan after it if there is one.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the log is damaged or too new.
    pub fn head(&self) -> Result<Head> {
        let snapshot = self.snapshot()?;
        let (commits, plans) = self.numbers(snapshot.as_ref().map(|s| s.last.number))?;
        let commit = match commits.last() {
            Some(&number) => Some(self.commit(number)?),
            None => snapshot.map(|s| s.last),
        };
        let next = commit.as_ref().map_or(0, |c| c.number + 1);
        if let Some(beyond) = plans.iter().find(|&&n| n > next) {
            return Err(Error::checkpoint(
                self.commit_path(next),
                format!("missing, though epoch {beyond} was planned"),
            ));
        }
        let plan = if plans.contains(&next) { Some(self.plan(next)?) } else { None };
        Ok(Head { commit, plan })
    }

    /// The plan of an epoch.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is missing or damaged.
    pub fn plan(&self, number: u64) -> Result<Planned> {
        let path = self.plan_path(number);
        let bytes = self.store.get(&path)?.ok_or_else(|| Error::checkpoint(&path, "missing"))?;
        Planned::parse(&path, &bytes)
    }

    /// The commit of an epoch.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is missing or damaged.
    pub fn commit(&self, number: u64) -> Result<Commit> {
        let path = self.commit_path(number);
        self.get(&path)?.ok_or_else(|| Error::checkpoint(path, "missing"))
    }

    /// Puts a plan. `None` when it is ours that stands; else what another put before.
    ///
    /// # Errors
    /// [`Error::Superseded`] when a newer term was taken.
    pub fn put_plan(&self, term: &Term, plan: &Plan) -> Result<Option<Planned>> {
        let path = self.plan_path(plan.number);
        let Some(bytes) = self.put_own(term, &path, render(plan)?)? else { return Ok(None) };
        let standing = Planned::parse(&path, &bytes)?;
        Ok(match standing {
            Planned::Run(plan) if plan.term_id == term.id => None,
            other => Some(other),
        })
    }

    /// Puts the plan of an entry that is no epoch: with this, it counts. False when its number is taken.
    ///
    /// # Errors
    /// [`Error::Lake`] when it cannot be put.
    pub fn put_entry(&self, entry: &EntryPlan) -> Result<bool> {
        let path = self.plan_path(entry.commit.number);
        let put = self.store.put_if_absent(&path, render(entry)?);
        if let Ok(Put::Created) = put {
            return Ok(true);
        }
        // It was there, or nobody knows: read back, it is ours or it is not.
        match self.store.get(&path)?.map(|bytes| Planned::parse(&path, &bytes)).transpose()? {
            Some(Planned::Entry(there)) => Ok(there.commit.term_id == entry.commit.term_id),
            Some(Planned::Run(_)) => Ok(false),
            None => put.and_then(|_| Err(Error::checkpoint(path, "came and went"))),
        }
    }

    /// Finishes an entry that was planned: puts its commit, unless somebody did.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when another commit stands there, [`Error::Lake`] when it cannot be put.
    pub fn roll_forward(&self, entry: &EntryPlan) -> Result<()> {
        let path = self.commit_path(entry.commit.number);
        failpoint::pass("entry.commit.before")?;
        let put = self.store.put_if_absent(&path, render(&entry.commit)?);
        if !matches!(put, Ok(Put::Created)) {
            let there: Option<Commit> = self.get(&path)?;
            match there {
                Some(there) if there.term_id == entry.commit.term_id => {}
                Some(_) => return Err(Error::checkpoint(path, "is not the commit that the entry planned")),
                None => return put.and_then(|_| Err(Error::checkpoint(path, "came and went"))),
            }
        }
        failpoint::pass("entry.commit.after")?;
        self.snapshot_if_due(entry.commit.number)
    }

    /// Puts a commit. `None` when it is ours that stands; else the one that another run put before.
    ///
    /// # Errors
    /// [`Error::Superseded`] when a newer term was taken.
    pub fn put_commit(&self, term: &Term, commit: &Commit) -> Result<Option<Commit>> {
        let standing = self.put_own(term, &self.commit_path(commit.number), render(commit)?)?;
        let standing: Option<Commit> = match standing {
            None => None,
            Some(bytes) => Some(parse(&self.commit_path(commit.number), &bytes)?),
        };
        Ok(standing.filter(|c| c.term_id != term.id))
    }

    /// Puts if absent under a term; gives back what stands there when it is not (known to be) ours.
    fn put_own(&self, term: &Term, path: &str, bytes: Bytes) -> Result<Option<Bytes>> {
        self.check_term(term)?;
        match self.store.put_if_absent(path, bytes)? {
            Put::Created => Ok(None),
            Put::Exists => self.store.get(path)?.map(Some).ok_or_else(|| Error::checkpoint(path, "came and went")),
        }
    }

    /// Keeps the text of a contract by its digest.
    ///
    /// # Errors
    /// [`Error::Lake`] when it cannot be put.
    pub fn keep_contract(&self, digest: &str, text: &str) -> Result<()> {
        let path = layout::contract(&self.pipeline, digest);
        self.store.put_if_absent(&path, Bytes::copy_from_slice(text.as_bytes())).map(|_| ())
    }

    /// The text of a contract by its digest.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is missing or not text.
    pub fn contract(&self, digest: &str) -> Result<String> {
        let path = layout::contract(&self.pipeline, digest);
        let bytes = self.store.get(&path)?.ok_or_else(|| Error::checkpoint(path.clone(), "missing"))?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Error::checkpoint(path, "damaged: not text"))
    }

    /// What the state of a commit follows from; a commit of the first version leaves it to its plan.
    ///
    /// # Errors
    /// [`Error::Lake`] when the plan cannot be read.
    pub fn origin(&self, commit: &Commit) -> Result<Option<Origin>> {
        if commit.origin.is_some() {
            return Ok(commit.origin.clone());
        }
        // Entries that are no epochs leave the state as it was.
        for number in (0..=commit.number).rev() {
            let path = self.plan_path(number);
            match self.store.get(&path)?.map(|bytes| Planned::parse(&path, &bytes)).transpose()? {
                Some(Planned::Run(plan)) => {
                    return Ok(Some(Origin { contract: plan.contract, shape: plan.shape, secret: plan.secret }));
                }
                Some(Planned::Entry(entry)) if entry.commit.origin.is_some() => return Ok(entry.commit.origin),
                Some(Planned::Entry(_)) => {}
                None => break,
            }
        }
        Ok(None)
    }

    /// The data files that count, and the newest commit: what a reader sees.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the log is damaged or too new.
    pub fn live(&self) -> Result<Option<Snapshot>> {
        let snapshot = self.snapshot()?;
        let (commits, _) = self.numbers(snapshot.as_ref().map(|s| s.last.number))?;
        let mut files = snapshot.as_ref().map(|s| s.files.clone()).unwrap_or_default();
        let mut last = snapshot.map(|s| s.last);
        for number in commits {
            let commit = self.commit(number)?;
            apply(&mut files, &commit);
            last = Some(commit);
        }
        Ok(last.map(|last| Snapshot { format: FORMAT, last, files }))
    }

    /// Every commit after `after` (all that are kept when not given), in order.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the log is damaged or too new.
    pub fn commits(&self, after: Option<u64>) -> Result<Vec<Commit>> {
        self.numbers(after)?.0.into_iter().map(|n| self.commit(n)).collect()
    }

    /// Every plan of an epoch, in order.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the log is damaged or too new.
    pub fn plans(&self) -> Result<Vec<Plan>> {
        let plans = self.numbers(None)?.1.into_iter().map(|n| Ok(self.plan(n)?.run()));
        plans.filter_map(Result::transpose).collect()
    }

    /// Puts a snapshot when it is time for one.
    ///
    /// # Errors
    /// [`Error::Lake`] when it cannot be put.
    pub fn maybe_snapshot(&self, term: &Term, commit: &Commit) -> Result<()> {
        if !(commit.number + 1).is_multiple_of(self.snapshot_every) {
            return Ok(());
        }
        self.check_term(term)?;
        self.snapshot_if_due(commit.number)
    }

    fn snapshot_if_due(&self, number: u64) -> Result<()> {
        if !(number + 1).is_multiple_of(self.snapshot_every) {
            return Ok(());
        }
        failpoint::pass("snapshot.before")?;
        if let Some(live) = self.live()? {
            let path = layout::snapshot(&self.log, live.last.number);
            self.store.put_if_absent(&path, render(&live)?)?;
        }
        failpoint::pass("snapshot.after")
    }
}

fn apply(files: &mut BTreeMap<String, FileEntry>, commit: &Commit) {
    for file in &commit.removed {
        files.remove(&file.path);
    }
    for file in &commit.files {
        files.insert(file.path.clone(), file.clone());
    }
}

/// Reads the key of a pipeline's deduplication.
///
/// # Errors
/// [`Error::Settings`] when it is not 32 hex digits.
pub fn parse_key(text: &str) -> Result<HashKey> {
    let number = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    number.map(|n| HashKey(n.to_be_bytes())).ok_or_else(|| Error::settings("key", "must be 32 hex digits"))
}

fn host() -> String {
    let read = |path| std::fs::read_to_string(path).ok().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty());
    read("/proc/sys/kernel/hostname")
        .or_else(|| read("/etc/hostname"))
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_else(|| "unknown host".to_owned())
}
