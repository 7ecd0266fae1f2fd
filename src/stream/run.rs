//! The epoch loop: term → plan → run → state → commit, again and again.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use bytes::Bytes;
use rayon::prelude::*;
use serde::Serialize;

use super::epoch::{Epoch, Judgment, Names, Outcome, judge_all};
use super::journal::{Journal, parse_key};
use super::ledger::{Counts, Ledger};
use super::log::{Commit, FORMAT, FileEntry, Kind, Plan, StateFile, Term, Tick};
use super::operators::Operators;
use super::spec::{Layer, PipelineSpec, Shape, SourceSpec};
use super::state;
use super::store::{Clock, FixedClock, Store, SystemClock};
use crate::contract::{Contract, JudgeRules, Limits};
use crate::error::{Error, Result};
use crate::events::RawEvents;
use crate::failpoint;
use crate::hash::HashKey;
use crate::lake::{Lake, layout};
use crate::sinks::parquet::DataFile;
use crate::sources::files::{Files, FilesSettings};
use crate::sources::{PartitionStatus, Progress, Source, Unread, Want};
use crate::state::to_ipc;

/// How much is read at once, in bytes: a few pieces, so that every core has one to judge.
const BURST_BYTES: usize = 8 << 20;
/// How long the loop waits before it looks for more, in microseconds.
const POLL: i64 = 100_000;

/// How a run goes.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Ends when everything that was there has been committed.
    pub until_caught_up: bool,
    /// Ends after so many epochs, if set.
    pub max_epochs: Option<u64>,
}

/// Who watches a run, and may ask it to stop.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: &Event);
    /// Whether the run should stop before its next durable step.
    fn should_stop(&self) -> bool;
}

/// What a watcher is told.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run owns the pipeline.
    Started {
        /// Its term.
        term: u64,
        /// The next epoch.
        epoch: u64,
        /// Whether an epoch that was planned before is finished first.
        recovering: bool,
    },
    /// More was read.
    Progress {
        /// The epoch.
        epoch: u64,
        /// Events of this epoch so far.
        events: u64,
        /// Bytes of this epoch so far.
        bytes: u64,
        /// What is being read.
        reading: String,
    },
    /// An epoch was committed.
    Committed {
        /// The epoch.
        epoch: u64,
        /// What became of its events.
        counts: Counts,
        /// Files put.
        files: usize,
        /// The watermark after it, in microseconds since the Unix epoch.
        watermark: Option<i64>,
        /// Seconds spent reading and judging, putting files, putting state, and in all.
        seconds: [f64; 4],
    },
    /// A last line has no end yet and stays unread.
    Unread {
        /// Which.
        #[serde(flatten)]
        line: Unread,
    },
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The sums since the pipeline began.
    #[serde(flatten)]
    pub ledger: Ledger,
    /// Whether every event is accounted for.
    pub balanced: bool,
    /// This run's own counts.
    pub run: RunCounts,
    /// The watermark, in microseconds since the Unix epoch.
    pub watermark: Option<i64>,
    /// The newest epoch.
    pub epoch: Option<u64>,
    /// The run's term.
    pub term: u64,
    /// Lines left unread.
    pub unread: Vec<Unread>,
}

/// This run's own counts.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunCounts {
    /// The counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Epochs committed.
    pub epochs: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// Opens the lake of a pipeline; makes it where that is asked for.
///
/// # Errors
/// [`Error::Lake`] when it cannot be used.
pub fn open_lake(spec: &PipelineSpec, create: bool) -> Result<Lake> {
    use crate::lake::{Durability, LakeOptions};
    let durability = match spec.durability {
        super::spec::DurabilitySpec::Disk => Durability::Disk,
        super::spec::DurabilitySpec::Process => Durability::Process,
    };
    Lake::open(&spec.lake, &LakeOptions { durability, create, ..LakeOptions::default() })
}

/// Reads a pipeline's contract under the settings that shape rows.
///
/// # Errors
/// [`Error::Contract`] when it is broken.
pub fn contract_of(text: &str, path: &str, shape: &Shape) -> Result<Contract> {
    let defaults = Limits::default();
    let limits = Limits {
        max_bytes: shape.max_event_bytes.unwrap_or(defaults.max_bytes),
        max_depth: shape.max_event_depth.unwrap_or(defaults.max_depth),
    };
    let contract = Contract::from_text(text, std::path::Path::new(path))?.with_limits(limits)?;
    contract.with_format_assertion(shape.assert_formats.unwrap_or(true))
}

/// Runs a pipeline over its lake and its files.
///
/// # Errors
/// Settings, contract, source, lake and checkpoint errors as they come; [`Error::Superseded`] when a newer run took
/// over; [`Error::Ledger`] when an event is not accounted for; [`Error::Interrupted`] when the observer asked to stop.
pub fn run(
    spec: &PipelineSpec,
    options: &RunOptions,
    secret: Option<&[u8]>,
    observer: &dyn Observer,
) -> Result<Report> {
    let lake = open_lake(spec, true)?;
    let clock: Box<dyn Clock> = match &spec.fixed {
        Some(fixed) => Box::new(FixedClock(fixed.clock_us)),
        None => Box::new(SystemClock),
    };
    let shape = spec.shape();
    let contract = contract_of(&spec.contract_text, &spec.contract_path, &shape)?.with_secret(secret);
    // Settings that cannot work are found before the term is taken: a mistyped retry must not stop a good run.
    Operators::new(&shape, &contract.schema())?;
    let mut source = open_source(spec, options)?;
    let mut runner = Runner::new(&lake, clock.as_ref(), spec, shape, contract, secret, observer)?;
    runner.run(source.as_mut(), options)
}

/// Opens the source of a pipeline.
fn open_source(spec: &PipelineSpec, options: &RunOptions) -> Result<Box<dyn Source>> {
    match &spec.source {
        SourceSpec::Files(files) => {
            let settings = FilesSettings {
                base: files.base_dir.clone().unwrap_or_else(|| ".".to_owned()).into(),
                paths: files.paths.clone(),
                bounded: files.bounded && options.until_caught_up,
            };
            Ok(Box::new(Files::new(settings)?))
        }
    }
}

/// Whether the end of the source is the end of the input.
fn bounded(spec: &PipelineSpec, options: &RunOptions) -> bool {
    match &spec.source {
        SourceSpec::Files(files) => files.bounded && options.until_caught_up,
    }
}

/// A run of a pipeline that owns a term.
struct Runner<'a> {
    journal: Journal<'a>,
    clock: &'a dyn Clock,
    observer: &'a dyn Observer,
    term: Term,
    key: HashKey,
    names: Names,
    /// Today's settings and contract.
    shape: Shape,
    contract: Contract,
    digest: String,
    secret: Option<&'a [u8]>,
    spec: &'a PipelineSpec,
    run: RunCounts,
}

/// What the next epoch starts from.
struct Position {
    next: u64,
    ledger: Ledger,
    state: Vec<StateFile>,
    watermark: Option<i64>,
    unread: Vec<Unread>,
}

/// Partitions that nothing comes from.
struct Quiet {
    partitions: Vec<(String, i32)>,
    watermark: Option<i64>,
}

/// What was read for an epoch.
#[derive(Default)]
struct Gathered {
    ticks: Vec<Tick>,
    events: u64,
    bytes: u64,
    /// Whether the source had nothing more.
    caught_up: bool,
}

impl<'a> Runner<'a> {
    fn new(
        store: &'a dyn Store,
        clock: &'a dyn Clock,
        spec: &'a PipelineSpec,
        shape: Shape,
        contract: Contract,
        secret: Option<&'a [u8]>,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let journal = Journal::new(store, &spec.name);
        let wanted = spec.fixed.as_ref().map(|f| parse_key(&f.key)).transpose()?;
        let identity = journal.identity(&spec.name, || wanted.map_or_else(rand::random, |k| k.0), clock.now())?;
        let key = parse_key(&identity.key)
            .map_err(|e| Error::checkpoint(layout::pipeline(journal.pipeline()), format!("damaged: {e}")))?;
        let digest = contract.digest();
        journal.keep_contract(&digest, contract.text())?;
        let term = journal.take_term(clock)?;
        let names = Names { pipeline: spec.name.clone() };
        Ok(Self {
            journal,
            clock,
            observer,
            term,
            key,
            names,
            shape,
            contract,
            digest,
            secret,
            spec,
            run: RunCounts::default(),
        })
    }

    fn run(&mut self, source: &mut dyn Source, options: &RunOptions) -> Result<Report> {
        let began = Instant::now();
        loop {
            if let Some(position) = self.run_from_log(source, options)? {
                self.run.seconds = began.elapsed().as_secs_f64();
                return Ok(Report {
                    balanced: position.ledger.counts.balanced(),
                    ledger: position.ledger,
                    run: self.run.clone(),
                    watermark: position.watermark,
                    epoch: position.next.checked_sub(1),
                    term: self.term.number,
                    unread: position.unread,
                });
            }
        }
    }

    /// Loads what the log says and goes on from there. `None` when another run's entry was met and the log has to be
    /// read again.
    fn run_from_log(&mut self, source: &mut dyn Source, options: &RunOptions) -> Result<Option<Position>> {
        let head = self.journal.head()?;
        let commit = head.commit;
        let mut at = Position {
            next: commit.as_ref().map_or(0, |c| c.number + 1),
            ledger: commit.as_ref().map(|c| c.ledger.clone()).unwrap_or_default(),
            state: commit.as_ref().map(|c| c.state.clone()).unwrap_or_default(),
            watermark: commit.as_ref().and_then(|c| c.watermark),
            unread: commit.as_ref().map(|c| c.unread.clone()).unwrap_or_default(),
        };
        source.restore(commit.as_ref().map(|c| c.partitions.as_slice()).unwrap_or_default())?;
        source.refresh()?;
        self.observer.event(&Event::Started {
            term: self.term.number,
            epoch: at.next,
            recovering: head.plan.is_some(),
        });

        if let Some(plan) = head.plan {
            let same = plan.contract == self.digest && plan.shape == self.shape;
            let contract = if same { self.contract.clone() } else { self.pinned_contract(&plan)? };
            let mut operators = self.operators(&plan.shape, &contract, &at.state)?;
            if !self.run_plan(source, &plan, &contract, &mut operators, &mut at)? {
                return Ok(None);
            }
            if !same || self.done(options) {
                return if self.done(options) { Ok(Some(at)) } else { Ok(None) };
            }
            return self.run_epochs(source, options, operators, at);
        }
        let operators = self.operators(&self.shape, &self.contract, &at.state)?;
        self.run_epochs(source, options, operators, at)
    }

    fn done(&self, options: &RunOptions) -> bool {
        options.max_epochs.is_some_and(|max| self.run.epochs >= max)
    }

    fn pinned_contract(&self, plan: &Plan) -> Result<Contract> {
        let text = self.journal.contract(&plan.contract)?;
        Ok(contract_of(&text, &self.spec.contract_path, &plan.shape)?.with_secret(self.secret))
    }

    fn operators(&self, shape: &Shape, contract: &Contract, files: &[StateFile]) -> Result<Operators> {
        let mut operators = Operators::new(shape, &contract.schema())?;
        for parts in state::read(self.journal.store(), files)? {
            operators.load(parts)?;
        }
        Ok(operators)
    }

    fn stop_if_asked(&self) -> Result<()> {
        if self.observer.should_stop() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn rules(&self, shape: &Shape) -> JudgeRules {
        JudgeRules { max_future_skew: Some(shape.watermark.max_future_skew_us) }
    }

    fn run_epochs(
        &mut self,
        source: &mut dyn Source,
        options: &RunOptions,
        mut operators: Operators,
        mut at: Position,
    ) -> Result<Option<Position>> {
        let shape = self.shape.clone();
        let contract = self.contract.clone();
        let mut told: Vec<Unread> = vec![];
        loop {
            if self.done(options) {
                return Ok(Some(at));
            }
            let began = Instant::now();
            let mut epoch = Epoch::new(at.next, &contract, &shape, &operators)?;
            if !options.until_caught_up {
                source.refresh()?;
            }
            let gathered = self.gather(source, &contract, &mut operators, &mut epoch, options)?;
            let unread = source.unread();
            for line in unread.iter().filter(|l| !told.contains(l)) {
                self.observer.event(&Event::Unread { line: line.clone() });
            }
            told = unread.clone();
            at.unread = unread.clone();

            let flush = bounded(self.spec, options) && gathered.caught_up && flushable(&operators);
            let quiet = self.quiet(source, &operators);
            let moves_on =
                quiet.watermark.is_some_and(|to| operators.pending() > 0 && operators.watermark.current() < Some(to));
            if gathered.ticks.is_empty() && !flush && !moves_on {
                if options.until_caught_up {
                    return Ok(Some(at));
                }
                self.stop_if_asked()?;
                self.clock.wait(POLL);
                continue;
            }
            let plan = Plan {
                format: FORMAT,
                number: at.next,
                term: self.term.number,
                term_id: self.term.id.clone(),
                ticks: gathered.ticks,
                partitions: source.snapshot(),
                waiting: waiting(source),
                flush,
                idle: quiet.partitions,
                idle_watermark: quiet.watermark,
                contract: self.digest.clone(),
                shape: shape.clone(),
                unread,
            };
            failpoint::pass("plan.before")?;
            self.stop_if_asked()?;
            if self.journal.put_plan(&self.term, &plan)?.is_some() {
                // Another run planned this epoch first. Its plan is the one that is run.
                return Ok(None);
            }
            failpoint::pass("plan.after")?;
            finish_partitions(&mut operators, &plan);
            let outcome = epoch.close(&mut operators, flush, plan.idle_watermark, &self.names)?;
            if !self.commit(&plan, outcome, &mut operators, &mut at, began)? {
                return Ok(None);
            }
            if gathered.caught_up && options.until_caught_up {
                return Ok(Some(at));
            }
        }
    }

    /// Reads and judges until the epoch is full or nothing more is there. What was judged goes through the operators on
    /// one core while the next pieces are read and judged on the others.
    fn gather(
        &self,
        source: &mut dyn Source,
        contract: &Contract,
        operators: &mut Operators,
        epoch: &mut Epoch,
        options: &RunOptions,
    ) -> Result<Gathered> {
        let limits = &self.spec.epoch;
        let rules = self.rules(&self.shape);
        let mut gathered = Gathered::default();
        let mut waiting: Vec<Judgment> = vec![];
        let mut idle_since: Option<i64> = None;
        failpoint::pass("read.before")?;
        loop {
            self.stop_if_asked()?;
            let room = limits.max_events.saturating_sub(gathered.events);
            let full = room == 0 || gathered.bytes >= limits.max_bytes;
            if full {
                take_all(epoch, operators, &waiting)?;
                // Where the last line was read just now, the input ends with this epoch and not with an empty one.
                gathered.caught_up = source.partitions().iter().all(|p| p.progress == Progress::Finished);
                break;
            }
            let want_bytes = BURST_BYTES.min(usize::try_from(limits.max_bytes - gathered.bytes).unwrap_or(usize::MAX));
            let want_events = usize::try_from(room).unwrap_or(usize::MAX);
            let want = Want { bytes: want_bytes, events: want_events, arrival: self.clock.now() };
            let times = |topic: &str, partition: i32| operators.watermark.partition_time(topic, partition);
            let Some(chunk) = source.next(&times, &want)? else {
                take_all(epoch, operators, &waiting)?;
                waiting.clear();
                gathered.caught_up = true;
                if options.until_caught_up {
                    break;
                }
                // `max_wait` counts only while nothing more waits.
                let now = self.clock.now();
                let since = *idle_since.get_or_insert(now);
                if gathered.events == 0 || now - since >= limits.max_wait_us {
                    break;
                }
                self.clock.wait(POLL);
                source.refresh()?;
                continue;
            };
            idle_since = None;
            gathered.caught_up = false;
            if chunk.range.from < chunk.range.to {
                let events = chunk.pieces.iter().map(|p| p.len() as u64).sum();
                let bytes = chunk.range.to.abs_diff(chunk.range.from);
                gathered.events += events;
                gathered.bytes += bytes;
                self.observer.event(&Event::Progress {
                    epoch: epoch.number(),
                    events: gathered.events,
                    bytes: gathered.bytes,
                    reading: chunk.range.topic.clone(),
                });
                gathered.ticks.push(Tick { arrival: want.arrival, range: chunk.range, events, bytes });
            }
            let pieces = chunk.pieces;
            // The watermark's view of partitions is read by `next` alone, and `take` changes everything but it.
            let (taken, judged) =
                rayon::join(|| take_all(epoch, operators, &waiting), || judge_all(contract, &rules, self.key, pieces));
            taken?;
            waiting = judged?;
            observe(operators, &waiting);
        }
        failpoint::pass("read.after")?;
        Ok(gathered)
    }

    /// Runs an epoch that was planned before: the same ranges, the same bytes.
    fn run_plan(
        &mut self,
        source: &mut dyn Source,
        plan: &Plan,
        contract: &Contract,
        operators: &mut Operators,
        at: &mut Position,
    ) -> Result<bool> {
        let began = Instant::now();
        let rules = self.rules(&plan.shape);
        let mut epoch = Epoch::new(plan.number, contract, &plan.shape, operators)?;
        let mut events = 0;
        let mut pieces = vec![];
        for tick in &plan.ticks {
            source.read_range(&tick.range, tick.arrival, &mut |piece| {
                self.stop_if_asked()?;
                events += piece.len() as u64;
                pieces.push(piece);
                // As many at once as there are in a burst.
                if pieces.len() < 4 { Ok(()) } else { self.rerun(&mut pieces, contract, &rules, operators, &mut epoch) }
            })?;
        }
        self.rerun(&mut pieces, contract, &rules, operators, &mut epoch)?;
        let planned: u64 = plan.ticks.iter().map(|t| t.events).sum();
        if events != planned {
            return Err(Error::source(
                format!("epoch {}", plan.number),
                format!(
                    "was planned over {planned} events, and {events} are there now: the input was changed after it was read"
                ),
            ));
        }
        source.restore(&plan.partitions)?;
        finish_partitions(operators, plan);
        let outcome = epoch.close(operators, plan.flush, plan.idle_watermark, &self.names)?;
        at.unread.clone_from(&plan.unread);
        self.commit(plan, outcome, operators, at, began)
    }

    fn rerun(
        &self,
        pieces: &mut Vec<RawEvents>,
        contract: &Contract,
        rules: &JudgeRules,
        operators: &mut Operators,
        epoch: &mut Epoch,
    ) -> Result<()> {
        let judged = judge_all(contract, rules, self.key, std::mem::take(pieces))?;
        observe(operators, &judged);
        take_all(epoch, operators, &judged)
    }

    /// Which partitions are quiet by now, and how far that lets the watermark move.
    fn quiet(&self, source: &dyn Source, operators: &Operators) -> Quiet {
        let now = self.clock.now();
        let settings = &self.shape.watermark;
        let open: Vec<_> = source.partitions().into_iter().filter(|p| p.progress != Progress::Finished).collect();
        let is_idle = |p: &&PartitionStatus| {
            p.progress == Progress::CaughtUp && p.newest.is_none_or(|newest| now - newest > settings.idle_timeout_us)
        };
        let partitions: Vec<_> = open.iter().filter(is_idle).map(|p| (p.topic.clone(), p.partition)).collect();
        let all = !open.is_empty() && partitions.len() == open.len();
        let newest = open.iter().filter_map(|p| p.newest).max();
        let watermark = match (all, newest, operators.watermark.highest()) {
            (true, Some(newest), Some(highest)) => {
                let moved = highest - settings.lateness_us + (now - newest);
                Some(moved.min(now - settings.lateness_us))
            }
            _ => None,
        };
        Quiet { partitions, watermark }
    }

    /// Puts files, state and commit. False when another run had committed the epoch before.
    fn commit(
        &mut self,
        plan: &Plan,
        outcome: Outcome,
        operators: &mut Operators,
        at: &mut Position,
        began: Instant,
    ) -> Result<bool> {
        let read = began.elapsed().as_secs_f64();
        let with_bronze = plan.shape.layers.contains(&Layer::Bronze);
        let mut ledger = at.ledger.clone();
        ledger.take(plan.number, &outcome.counts, with_bronze)?;
        let entries = self.put_files(outcome.files)?;
        let files_done = began.elapsed().as_secs_f64();

        let whole = state::merge_is_due(&at.state);
        // A snapshot does not settle what the next delta begins with: a delta does.
        let changes = operators.delta()?;
        let parts = if whole { operators.snapshot()? } else { changes };
        let written = self.put_state(plan.number, parts)?;
        let mut state = if whole { vec![] } else { at.state.clone() };
        state.extend(written);
        let state_done = began.elapsed().as_secs_f64();

        let commit = Commit {
            format: FORMAT,
            number: plan.number,
            kind: Kind::Run,
            term: self.term.number,
            term_id: self.term.id.clone(),
            counts: outcome.counts.clone(),
            ledger: ledger.clone(),
            watermark: outcome.watermark,
            files: entries,
            removed: vec![],
            state: state.clone(),
            partitions: plan.partitions.clone(),
            contract: plan.contract.clone(),
            committed_at: self.clock.now(),
            unread: plan.unread.clone(),
        };
        failpoint::pass("commit.before")?;
        if self.journal.put_commit(&self.term, &commit)?.is_some() {
            // Another run committed this epoch over the same plan: its files are ours, byte for byte; its state counts.
            return Ok(false);
        }
        failpoint::pass("commit.after")?;
        self.journal.maybe_snapshot(&self.term, &commit)?;
        *at = Position {
            next: plan.number + 1,
            ledger,
            state,
            watermark: outcome.watermark,
            unread: plan.unread.clone(),
        };
        self.run.counts.add(&outcome.counts);
        self.run.epochs += 1;
        self.observer.event(&Event::Committed {
            epoch: plan.number,
            counts: outcome.counts,
            files: commit.files.len(),
            watermark: outcome.watermark,
            seconds: [read, files_done - read, state_done - files_done, began.elapsed().as_secs_f64()],
        });
        Ok(true)
    }

    fn put_files(&self, files: Vec<(String, DataFile)>) -> Result<Vec<FileEntry>> {
        failpoint::pass("files.before")?;
        let entries = files
            .iter()
            .map(|(layer, f)| FileEntry {
                path: f.path.clone(),
                layer: layer.clone(),
                rows: f.rows,
                bytes: f.bytes.len() as u64,
                min_event_time: f.min_time,
                max_event_time: f.max_time,
            })
            .collect();
        // Two halves, with a look at the term before each: a writer that slept in between stops there.
        let mut objects: Vec<_> = files.into_iter().map(|(_, f)| (f.path, f.bytes)).collect();
        let rest = objects.split_off(objects.len() / 2);
        self.journal.check_term(&self.term)?;
        self.journal.store().put_many(objects)?;
        failpoint::pass("files.between")?;
        self.journal.check_term(&self.term)?;
        self.journal.store().put_many(rest)?;
        failpoint::pass("files.after")?;
        Ok(entries)
    }

    fn put_state(&self, epoch: u64, parts: Vec<(String, RecordBatch)>) -> Result<Vec<StateFile>> {
        failpoint::pass("state.before")?;
        let parts: Vec<_> = parts.into_iter().filter(|(_, rows)| rows.num_rows() > 0).collect();
        let objects = parts
            .into_par_iter()
            .map(|(table, rows)| {
                let path = layout::state(self.journal.pipeline(), epoch, &self.term.id, &table);
                Ok::<_, Error>((table, path, Bytes::from(to_ipc(&rows)?)))
            })
            .collect::<Result<Vec<_>>>()?;
        let written = objects
            .iter()
            .map(|(table, path, bytes)| StateFile {
                table: table.clone(),
                path: path.clone(),
                epoch,
                bytes: bytes.len() as u64,
            })
            .collect();
        self.journal.check_term(&self.term)?;
        failpoint::pass("state.between")?;
        self.journal.store().put_many(objects.into_iter().map(|(_, path, bytes)| (path, bytes)).collect())?;
        failpoint::pass("state.after")?;
        Ok(written)
    }
}

fn take_all(epoch: &mut Epoch, operators: &mut Operators, judgments: &[Judgment]) -> Result<()> {
    judgments.iter().try_for_each(|j| epoch.take(operators, j))
}

/// Tells the watermark how far the event time of each partition has come.
fn observe(operators: &mut Operators, judgments: &[Judgment]) {
    for judgment in judgments {
        if let Some(highest) = judgment.highest() {
            operators.watermark.observe(judgment.topic(), judgment.partition(), highest);
        }
    }
}

/// The partitions that are known and not yet begun.
fn waiting(source: &dyn Source) -> Vec<(String, i32)> {
    let all = source.partitions().into_iter().filter(|p| p.progress == Progress::Waiting);
    all.map(|p| (p.topic, p.partition)).collect()
}

/// Tells the watermark which partitions hold it from this epoch on.
fn finish_partitions(operators: &mut Operators, plan: &Plan) {
    for (topic, partition) in &plan.waiting {
        operators.watermark.open_partition(topic, *partition);
    }
    for partition in &plan.partitions {
        if partition.finished {
            operators.watermark.finish_partition(&partition.topic, partition.partition);
        } else {
            operators.watermark.open_partition(&partition.topic, partition.partition);
            let quiet = plan.idle.iter().any(|(t, p)| *t == partition.topic && *p == partition.partition);
            operators.watermark.set_idle(&partition.topic, partition.partition, quiet);
        }
    }
}

/// Whether the end of the input would change anything.
fn flushable(operators: &Operators) -> bool {
    operators.watermark.highest().is_some_and(|h| operators.watermark.current().is_none_or(|w| w <= h))
}

/// What a run that nobody watches uses.
pub struct Unwatched;

impl Observer for Unwatched {
    fn event(&self, _: &Event) {}

    fn should_stop(&self) -> bool {
        false
    }
}

/// Shares an observer between threads.
impl<T: Observer + Send> Observer for Arc<T> {
    fn event(&self, event: &Event) {
        self.as_ref().event(event);
    }

    fn should_stop(&self) -> bool {
        self.as_ref().should_stop()
    }
}
