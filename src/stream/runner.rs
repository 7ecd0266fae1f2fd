//! The epoch loop: term → plan → run → state → commit, again and again.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::epoch::{Epoch, Names};
use super::gather::{Gathered, Quiet, finish_partitions, gone, waiting};
use super::journal::{Journal, parse_key};
use super::lag;
use super::log::{Commit, FORMAT, Plan, Planned, Term};
use super::operators::Operators;
use super::run::{Event, Observer, Report, RunCounts, RunOptions, bounded};
use super::shards;
use super::sink::EpochSink;
use super::spec::{PipelineSpec, Shape};
use super::state;
use super::store::{Clock, Store};
use super::sweep::{Swept, YOUNG, sweep};
use super::take_up::{Position, fingerprint};
use super::transform::Transform;
use super::void::with_way_out;
use crate::contract::{Contract, JudgeRules};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::hash::HashKey;
use crate::lake::layout;
use crate::sources::{PartitionState, Range, Source, Unread};
use crate::spill::Budget;
use crate::spill::disk::Disk;

/// How long the loop waits before it looks for more, in microseconds.
pub(super) const POLL: i64 = 100_000;

/// How often a run that nothing comes to looks whether it still owns the pipeline, in microseconds.
const CHECK: i64 = 10_000_000;

/// A run of a pipeline that owns a term.
pub(super) struct Runner<'a> {
    pub(super) journal: Journal<'a>,
    pub(super) clock: &'a dyn Clock,
    pub(super) observer: &'a dyn Observer,
    pub(super) term: Term,
    pub(super) key: HashKey,
    pub(super) names: Names,
    /// Today's settings and contract.
    pub(super) shape: Shape,
    pub(super) contract: Contract,
    pub(super) digest: String,
    pub(super) secret: Option<&'a [u8]>,
    pub(super) spec: &'a PipelineSpec,
    pub(super) run: RunCounts,
    /// How much memory state may take, and where the rest goes.
    pub(super) budget: Budget,
    /// Whether it was said that state takes more.
    pub(super) told_over_memory: bool,
    /// Requests that were sent again, as told to whoever watches.
    pub(super) retries: u64,
    /// So many files of state of like size are put together.
    pub(super) merge_every: usize,
    pub(super) lag: lag::Told,
    /// Sinks that write epochs into databases.
    pub(super) sinks: Vec<Arc<dyn EpochSink + 'a>>,
    /// The users' own logic.
    pub(super) transform: Option<Arc<dyn Transform>>,
    /// When it was first seen that the run should stop.
    pub(super) asked_at: OnceLock<i64>,
    /// Whether the run ends because it was asked to.
    pub(super) stopped: bool,
    /// When what no longer counts was last removed.
    pub(super) swept_at: Option<i64>,
    /// Whether the epoch that was to be made void is.
    pub(super) voided: bool,
    /// When it was last looked, while nothing came, whether another run owns the pipeline now.
    pub(super) checked_at: Option<i64>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        store: &'a dyn Store,
        clock: &'a dyn Clock,
        spec: &'a PipelineSpec,
        shape: Shape,
        contract: Contract,
        secret: Option<&'a [u8]>,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let shard = spec.shard.map_or(0, |shard| shard.number);
        let journal = Journal::of_shard(store, &spec.name, shard);
        let wanted = spec.fixed.as_ref().map(|f| parse_key(&f.key)).transpose()?;
        let of = spec.shard.map(|shard| shard.of);
        let identity = journal.identity(of, || wanted.map_or_else(rand::random, |k| k.0), clock.now())?;
        shards::agree(&identity, spec.shard)?;
        let key = parse_key(&identity.key)
            .map_err(|e| Error::checkpoint(layout::pipeline(journal.pipeline()), format!("damaged: {e}")))?;
        let digest = contract.digest();
        journal.keep_contract(&digest, contract.text())?;
        let term = journal.take_term(clock)?;
        let names = Names { pipeline: spec.name.clone(), shard };
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
            budget: Budget { bytes: spec.state_memory(), spill: Arc::new(Disk::from_env()) },
            told_over_memory: false,
            retries: 0,
            merge_every: state::MERGE_EVERY,
            lag: lag::Told::default(),
            sinks: vec![],
            transform: None,
            asked_at: OnceLock::new(),
            stopped: false,
            swept_at: None,
            voided: false,
            checked_at: None,
        })
    }

    pub(super) fn run(&mut self, source: &mut dyn Source, options: &RunOptions) -> Result<Report> {
        let began = Instant::now();
        self.transform.clone_from(&options.transform);
        self.sinks.extend(options.sinks.iter().cloned());
        loop {
            if let Some(position) = self.run_from_log(source, options)? {
                self.run.seconds = began.elapsed().as_secs_f64();
                return Ok(Report {
                    balanced: position.ledger.counts.balanced(),
                    shard: self.spec.shard,
                    ledger: position.ledger,
                    run: self.run.clone(),
                    watermark: position.watermark,
                    epoch: position.next.checked_sub(1),
                    term: self.term.number,
                    unread: position.unread,
                    stopped: self.stopped,
                });
            }
        }
    }

    /// Loads what the log says and goes on from there. `None` when another run's entry was met and the log has to be
    /// read again.
    fn run_from_log(&mut self, source: &mut dyn Source, options: &RunOptions) -> Result<Option<Position>> {
        let (commit, mut planned) = loop {
            let head = self.journal.head()?;
            let planned = match head.plan {
                Some(Planned::Entry(entry)) => {
                    self.journal.roll_forward(&entry)?;
                    continue;
                }
                Some(Planned::Run(plan)) => Some(*plan),
                None => None,
            };
            match options.void.filter(|_| !self.voided) {
                Some(number) => {
                    self.void(number, head.commit.as_ref(), planned.as_ref())?;
                    self.voided = true;
                }
                None => break (head.commit, planned),
            }
        };
        let mut at = self.position(commit.as_ref())?;
        let mut partitions = at.partitions.clone();
        if let Some(plan) = &planned {
            // The ranges of a plan are read by themselves; what is looked for is what comes behind them.
            partitions.take(&plan.partitions);
        }
        let partitions = partitions.all();
        source.restore(&partitions)?;
        if planned.is_some() {
            source.planned();
        }
        // An epoch 0 that was made void has settled nothing.
        let fresh = commit.as_ref().is_none_or(|c| c.ledger.epochs == 0) && planned.is_none() && partitions.is_empty();
        let begin = if fresh { source.begin()? } else { None };
        source.refresh(self.clock.now())?;
        self.observer.event(&Event::Started { term: self.term.number, epoch: at.next, recovering: planned.is_some() });
        if let Some(commit) = &commit {
            self.sweep_if_due(commit)?;
        }

        if let Some(begin) = begin {
            // Where reading begins is settled once, by an epoch that reads nothing.
            let mut plan = self.plan(Gathered::default(), Quiet::default(), vec![], begin);
            plan.number = at.next;
            if self.journal.put_plan(&self.term, &plan)?.is_some() {
                return Ok(None);
            }
            planned = Some(plan);
        }
        if let Some(plan) = planned {
            let same = plan.contract == self.digest && plan.shape == self.shape;
            let contract = if same { self.contract.clone() } else { self.pinned_contract(&plan)? };
            self.check_pins(&plan, &contract).map_err(|e| with_way_out(e, &plan, self.spec.shard))?;
            let mut operators = self.take_up(&plan.shape, &contract, &plan.contract, &mut at)?;
            let ran = self.run_plan(source, &plan, &contract, &mut operators, &mut at);
            if !ran.map_err(|e| with_way_out(e, &plan, self.spec.shard))? {
                return Ok(None);
            }
            if self.done(options) {
                return Ok(Some(at));
            }
            return if same { self.run_epochs(source, options, operators, at) } else { Ok(None) };
        }
        let operators = self.take_up(&self.shape, &self.contract, &self.digest, &mut at)?;
        if let Some(change) = &at.change {
            self.observer.event(&Event::Changed { epoch: at.next, change: change.clone() });
        }
        self.run_epochs(source, options, operators, at)
    }

    /// Removes what no longer counts, at the start and every ten minutes.
    pub(super) fn sweep_if_due(&mut self, commit: &Commit) -> Result<()> {
        let now = self.clock.now();
        if self.swept_at.is_some_and(|at| now - at < YOUNG) {
            return Ok(());
        }
        self.swept_at = Some(now);
        match sweep(&self.journal, &self.term, commit, now) {
            Ok(swept) if swept == Swept::default() => {}
            Ok(swept) => self.observer.event(&Event::Swept { swept }),
            Err(Error::Lake { path, reason }) => {
                let message = format!("what no longer counts could not be removed: {reason}");
                self.observer.event(&Event::Warning { code: "not_swept".into(), place: path, message });
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Ends a run that nothing comes to and that another has taken the place of: it would hear of it with its next plan. A
    /// lake that is away is no reason to end.
    fn check_term_if_due(&mut self) -> Result<()> {
        let now = self.clock.now();
        if self.checked_at.is_some_and(|at| now - at < CHECK) {
            return Ok(());
        }
        self.checked_at = Some(now);
        match self.journal.check_term(&self.term) {
            Err(error @ Error::Superseded { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    fn done(&self, options: &RunOptions) -> bool {
        options.max_epochs.is_some_and(|max| self.run.epochs >= max)
    }

    pub(super) fn rules(&self, shape: &Shape) -> JudgeRules {
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
        // What is held does not change while nothing is read.
        let mut next_release: Option<Option<i64>> = None;
        loop {
            if self.done(options) {
                return Ok(Some(at));
            }
            let began = Instant::now();
            let mut epoch = Epoch::new(at.next, &contract, &shape, &operators)?;
            if !options.until_caught_up {
                source.refresh(self.clock.now())?;
            }
            let gathered = self.gather(source, &contract, &mut operators, &mut epoch, options)?;
            let unread = source.unread();
            for line in unread.iter().filter(|l| !told.contains(l)) {
                self.observer.event(&Event::Unread { line: line.clone() });
            }
            told = unread.clone();
            at.unread = unread.clone();

            let bounded = bounded(self.spec, options) || options.drain;
            let flush = bounded && gathered.caught_up && flushable(&operators);
            let quiet = Quiet::of(source.partitions(), &operators.watermark, &shape.watermark);
            // Only where something comes out: else an idle pipeline would commit for ever.
            let moves_on = gathered.ticks.is_empty()
                && quiet.watermark.is_some_and(|to| {
                    next_release.get_or_insert_with(|| operators.next_release()).is_some_and(|release| release <= to)
                });
            let gaps = source.gaps();
            if gathered.ticks.is_empty() && gaps.is_empty() && (gathered.stopped || !flush && !moves_on) {
                if gathered.stopped || options.until_caught_up {
                    self.stopped = gathered.stopped;
                    return Ok(Some(at));
                }
                self.check_term_if_due()?;
                self.clock.wait(POLL);
                continue;
            }
            source.verify()?;
            let (caught_up, stopped) = (gathered.caught_up, gathered.stopped);
            let mut plan = self.plan(gathered, quiet, gaps, source.changes());
            (plan.number, plan.flush, plan.unread) = (at.next, flush, unread);
            (plan.waiting, plan.gone) = (waiting(source, &operators), gone(source, &operators));
            plan.change.clone_from(&at.change);
            failpoint::pass("plan.before")?;
            self.stop_if_late()?;
            loop {
                match self.journal.put_plan(&self.term, &plan)? {
                    None => break,
                    // Another run planned this epoch first. Its plan is the one that is run.
                    Some(Planned::Run(_)) => {
                        self.observer.event(&Event::Conflict { what: "plan", epoch: plan.number });
                        return Ok(None);
                    }
                    Some(Planned::Entry(entry)) => {
                        self.journal.roll_forward(&entry)?;
                        if !take_in(&entry.commit, &mut at, &mut epoch)? {
                            return Ok(None);
                        }
                        plan.number = at.next;
                    }
                }
            }
            failpoint::pass("plan.after")?;
            finish_partitions(&mut operators, &plan);
            let outcome = epoch.close(&mut operators, flush, plan.idle_watermark, &self.names)?;
            if !self.commit(&plan, outcome, &mut operators, &mut at, began)? {
                return Ok(None);
            }
            next_release = None;
            self.tell_committed(source, &plan);
            if stopped || caught_up && options.until_caught_up {
                self.stopped = stopped;
                return Ok(Some(at));
            }
        }
    }

    /// The plan of an epoch: the first, unless its number is set; what was gathered, and what is as it is now.
    fn plan(&self, gathered: Gathered, quiet: Quiet, gaps: Vec<Range>, partitions: Vec<PartitionState>) -> Plan {
        Plan {
            format: FORMAT,
            number: 0,
            term: self.term.number,
            term_id: self.term.id.clone(),
            ticks: gathered.ticks,
            partitions,
            waiting: vec![],
            gone: vec![],
            flush: false,
            idle: quiet.fell_asleep,
            woken: Some(quiet.woken),
            idle_watermark: quiet.watermark,
            contract: self.digest.clone(),
            shape: self.shape.clone(),
            change: None,
            secret: fingerprint(&self.contract, self.secret),
            unread: vec![],
            gaps,
        }
    }

    /// Tells the source, and who watches, what has been committed. A source that cannot pass it on warns: what is
    /// committed is safe.
    pub(super) fn tell_committed(&self, source: &mut dyn Source, plan: &Plan) {
        for range in &plan.gaps {
            self.observer.event(&Event::Gap { range: range.clone() });
        }
        if let Err(error) = source.committed(&plan.partitions) {
            self.observer.event(&Event::Warning {
                code: "offsets_not_committed".into(),
                place: "consumer group".into(),
                message: error.to_string(),
            });
        }
        self.lag.tell(source, self.observer);
    }
}

/// Takes in an entry that is no epoch, and goes on with the next number. False when the epoch in hand has to be begun
/// again: the entry changed the state, or the epoch's number stands in files already.
fn take_in(entry: &Commit, at: &mut Position, epoch: &mut Epoch) -> Result<bool> {
    if entry.state != at.state || !epoch.renumber(entry.number + 1)? {
        return Ok(false);
    }
    at.next = entry.number + 1;
    at.ledger = entry.ledger.clone();
    Ok(true)
}

/// Whether the end of the input would change anything.
fn flushable(operators: &Operators) -> bool {
    operators.watermark.highest().is_some_and(|h| operators.watermark.current().is_none_or(|w| w <= h))
}
