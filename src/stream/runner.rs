//! The epoch loop: term → plan → run → state → commit, again and again.

use std::time::Instant;

use sha2::{Digest, Sha256};

use super::epoch::{Epoch, Names, judge_all};
use super::gather::{Gathered, Quiet, finish_partitions, observe, take_all, waiting};
use super::journal::{Journal, parse_key};
use super::lag;
use super::ledger::Ledger;
use super::log::{Commit, FORMAT, Plan, Planned, StateFile, Term};
use super::operators::Operators;
use super::run::{Event, Observer, Report, RunCounts, RunOptions, bounded, contract_of};
use super::spec::{PipelineSpec, Shape};
use super::state;
use super::store::{Clock, Store};
use crate::contract::{Contract, JudgeRules};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::hash::HashKey;
use crate::lake::layout;
use crate::sources::{PartitionState, Range, Source, Unread};

/// How long the loop waits before it looks for more, in microseconds.
pub(super) const POLL: i64 = 100_000;

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
    /// After so many epochs the changes of state are merged into one whole state.
    pub(super) merge_every: usize,
    pub(super) lag: lag::Told,
}

/// What the next epoch starts from.
pub(super) struct Position {
    pub(super) next: u64,
    pub(super) ledger: Ledger,
    pub(super) state: Vec<StateFile>,
    pub(super) watermark: Option<i64>,
    pub(super) unread: Vec<Unread>,
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
            merge_every: state::MERGE_EVERY,
            lag: lag::Told::default(),
        })
    }

    pub(super) fn run(&mut self, source: &mut dyn Source, options: &RunOptions) -> Result<Report> {
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
        let (commit, mut planned) = loop {
            let head = self.journal.head()?;
            match head.plan {
                Some(Planned::Entry(entry)) => self.journal.roll_forward(&entry)?,
                Some(Planned::Run(plan)) => break (head.commit, Some(*plan)),
                None => break (head.commit, None),
            }
        };
        let mut at = Position {
            next: commit.as_ref().map_or(0, |c| c.number + 1),
            ledger: commit.as_ref().map(|c| c.ledger.clone()).unwrap_or_default(),
            state: commit.as_ref().map(|c| c.state.clone()).unwrap_or_default(),
            watermark: commit.as_ref().and_then(|c| c.watermark),
            unread: commit.as_ref().map(|c| c.unread.clone()).unwrap_or_default(),
        };
        source.restore(commit.as_ref().map(|c| c.partitions.as_slice()).unwrap_or_default())?;
        let begin = if commit.is_none() && planned.is_none() { source.begin()? } else { vec![] };
        source.refresh()?;
        self.observer.event(&Event::Started { term: self.term.number, epoch: at.next, recovering: planned.is_some() });

        if !begin.is_empty() {
            // Where reading begins is settled once, by an epoch that reads nothing.
            let plan = self.plan(source, Gathered::default(), Quiet::default(), vec![], begin);
            if self.journal.put_plan(&self.term, &plan)?.is_some() {
                return Ok(None);
            }
            planned = Some(plan);
        }
        if let Some(plan) = planned {
            let same = plan.contract == self.digest && plan.shape == self.shape;
            let contract = if same { self.contract.clone() } else { self.pinned_contract(&plan)? };
            if plan.secret != fingerprint(&contract, self.secret) {
                return Err(Error::settings(
                    "secret",
                    format!(
                        "epoch {} was planned with another secret; give it once more to finish that epoch",
                        plan.number
                    ),
                ));
            }
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

    pub(super) fn stop_if_asked(&self) -> Result<()> {
        if self.observer.should_stop() { Err(Error::Interrupted) } else { Ok(()) }
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
            let gaps = source.gaps();
            if gathered.ticks.is_empty() && gaps.is_empty() && !flush && !moves_on {
                if options.until_caught_up {
                    return Ok(Some(at));
                }
                self.stop_if_asked()?;
                self.clock.wait(POLL);
                continue;
            }
            let caught_up = gathered.caught_up;
            let partitions = source.snapshot();
            let mut plan = self.plan(source, gathered, quiet, gaps, partitions);
            (plan.number, plan.flush, plan.unread) = (at.next, flush, unread);
            failpoint::pass("plan.before")?;
            self.stop_if_asked()?;
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
            self.tell_committed(source, &plan);
            if caught_up && options.until_caught_up {
                return Ok(Some(at));
            }
        }
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
        for tick in &plan.ticks {
            let pieces = self.read_tick_again(source, tick)?;
            events += pieces.iter().map(|p| p.len() as u64).sum::<u64>();
            let judged = judge_all(contract, &rules, self.key, pieces)?;
            observe(operators, &judged);
            take_all(&mut epoch, operators, &judged)?;
        }
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
        let committed = self.commit(plan, outcome, operators, at, began)?;
        if committed {
            self.tell_committed(source, plan);
        }
        Ok(committed)
    }

    /// The plan of an epoch: the first, unless its number is set; what was gathered, and what is as it is now.
    fn plan(
        &self,
        source: &dyn Source,
        gathered: Gathered,
        quiet: Quiet,
        gaps: Vec<Range>,
        partitions: Vec<PartitionState>,
    ) -> Plan {
        Plan {
            format: FORMAT,
            number: 0,
            term: self.term.number,
            term_id: self.term.id.clone(),
            ticks: gathered.ticks,
            partitions,
            waiting: waiting(source),
            flush: false,
            idle: quiet.partitions,
            idle_watermark: quiet.watermark,
            contract: self.digest.clone(),
            shape: self.shape.clone(),
            secret: fingerprint(&self.contract, self.secret),
            unread: vec![],
            gaps,
        }
    }

    /// Tells the source, and who watches, what has been committed. A source that cannot pass it on warns: what is
    /// committed is safe.
    fn tell_committed(&self, source: &mut dyn Source, plan: &Plan) {
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

/// What tells one secret from another without giving it away.
fn fingerprint(contract: &Contract, secret: Option<&[u8]>) -> Option<String> {
    let secret = secret.filter(|_| contract.needs_secret())?;
    let digest = Sha256::new().chain_update(b"penstock secret fingerprint").chain_update(secret).finalize();
    Some(digest[..8].iter().map(|b| format!("{b:02x}")).collect())
}
