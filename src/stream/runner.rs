//! The epoch loop: term → plan → run → state → commit, again and again.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::carry::carry;
use super::change::Change;
use super::epoch::{Epoch, Names, judge_all};
use super::gather::{Gathered, Quiet, finish_partitions, gone, observe, take_all, waiting};
use super::journal::{Journal, parse_key};
use super::lag;
use super::ledger::Ledger;
use super::log::{Commit, FORMAT, Kind, Origin, Plan, Planned, StateFile, Term};
use super::operators::Operators;
use super::partitions::{Partitions, are_saved};
use super::run::{Event, Observer, Report, RunCounts, RunOptions, bounded, contract_of};
use super::shards;
use super::spec::{PipelineSpec, Shape};
use super::state;
use super::store::{Clock, Store};
use super::sweep::{Swept, YOUNG, sweep};
use super::transform::Transform;
use super::void::{EpochSink, with_way_out};
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
    pub(super) sinks: Vec<Box<dyn EpochSink>>,
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
    /// When the source was last looked at, by our clock: what is known of its partitions is as old as that.
    pub(super) looked_at: AtomicI64,
}

/// What the next epoch starts from.
pub(super) struct Position {
    pub(super) next: u64,
    pub(super) ledger: Ledger,
    pub(super) state: Vec<StateFile>,
    pub(super) watermark: Option<i64>,
    pub(super) unread: Vec<Unread>,
    /// How far every partition was read.
    pub(super) partitions: Partitions,
    /// What the state follows from.
    pub(super) origin: Option<Origin>,
    /// Whether the next epoch writes its state whole, however small the changes: the state of before is in another form.
    pub(super) whole: bool,
    /// What changed of contract and settings since the last commit.
    pub(super) change: Option<Change>,
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
            looked_at: AtomicI64::new(i64::MIN),
        })
    }

    pub(super) fn run(&mut self, source: &mut dyn Source, options: &RunOptions) -> Result<Report> {
        let began = Instant::now();
        self.transform.clone_from(&options.transform);
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
        // An epoch 0 that was made void has settled nothing.
        let fresh = commit.as_ref().is_none_or(|c| c.kind == Kind::Void) && planned.is_none() && partitions.is_empty();
        let begin = if fresh { source.begin()? } else { vec![] };
        self.refresh(source)?;
        self.observer.event(&Event::Started { term: self.term.number, epoch: at.next, recovering: planned.is_some() });
        if let Some(commit) = &commit {
            self.sweep_if_due(commit)?;
        }

        if !begin.is_empty() {
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

    /// What follows on a commit.
    fn position(&self, commit: Option<&Commit>) -> Result<Position> {
        let Some(commit) = commit else { return Ok(Position::default()) };
        Ok(Position {
            next: commit.number + 1,
            ledger: commit.ledger.clone(),
            state: commit.state.clone(),
            watermark: commit.watermark,
            unread: commit.unread.clone(),
            partitions: Partitions::read(self.journal.store(), commit)?,
            origin: self.journal.origin(commit)?,
            whole: !are_saved(commit),
            change: None,
        })
    }

    /// Refuses a plan that follows from what is not there now.
    fn check_pins(&self, plan: &Plan, contract: &Contract) -> Result<()> {
        if plan.secret != fingerprint(contract, self.secret) {
            return Err(Error::settings(
                "pii.secret",
                format!(
                    "epoch {} was planned with another secret; give it once more to finish that epoch",
                    plan.number
                ),
            ));
        }
        let pinned = plan.shape.transform.as_ref().map(|t| (&t.function, &t.code));
        if pinned.is_some() && pinned != self.shape.transform.as_ref().map(|t| (&t.function, &t.code)) {
            let function = plan.shape.transform.as_ref().map_or("", |t| &t.function);
            return Err(Error::settings(
                "transform",
                format!(
                    "epoch {} was planned with {function}, which is not there any more or has other code now",
                    plan.number
                ),
            ));
        }
        Ok(())
    }

    /// The operators with the state of the last commit, which goes over to this contract and these settings.
    fn take_up(&self, shape: &Shape, contract: &Contract, digest: &str, at: &mut Position) -> Result<Operators> {
        let store = self.journal.store();
        let mut files = at.state.clone();
        let (then, now) = (at.origin.as_ref().and_then(|o| o.secret.as_ref()), fingerprint(contract, self.secret));
        if then.is_some() && now.is_some() && then != now.as_ref() {
            return Err(Error::settings(
                "pii.secret",
                "is not the one that this pipeline has hashed with so far: the same person would become another. Give that one; to change it, begin a new lake",
            ));
        }
        if let Some(then) = at.origin.as_ref().filter(|o| o.contract != digest || o.shape != *shape) {
            let before = self.journal.contract(&then.contract);
            let before = before.and_then(|text| contract_of(&text, &self.spec.contract_path, &then.shape)).ok();
            at.change = Change::between(then, before.as_ref(), digest, contract, shape)?;
            let load = |operators: Operators, files: &[StateFile]| {
                let mut operators = operators.within(self.budget.clone());
                state::load(store, &mut operators, files)?;
                Ok(operators)
            };
            files = carry(then, before.as_ref(), shape, contract, &files, load)?;
            at.whole = true;
        }
        let mut operators = Operators::new(shape, &contract.schema())?.within(self.budget.clone());
        state::load(store, &mut operators, &files)?;
        Ok(operators)
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

    fn done(&self, options: &RunOptions) -> bool {
        options.max_epochs.is_some_and(|max| self.run.epochs >= max)
    }

    fn pinned_contract(&self, plan: &Plan) -> Result<Contract> {
        let pinned = self.journal.contract(&plan.contract);
        let pinned = pinned.and_then(|text| contract_of(&text, &self.spec.contract_path, &plan.shape));
        Ok(pinned.map_err(|e| with_way_out(e, plan, self.spec.shard))?.with_secret(self.secret))
    }

    /// Looks for what is new, and keeps when that was.
    pub(super) fn refresh(&self, source: &mut dyn Source) -> Result<()> {
        let now = self.clock.now();
        source.refresh()?;
        self.looked_at.store(now, Ordering::Relaxed);
        Ok(())
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
                self.refresh(source)?;
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
            let quiet = self.quiet(source, &operators);
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
        let call = self.call(contract, &plan.shape, plan.number)?;
        for (number, tick) in plan.ticks.iter().enumerate() {
            let pieces = self.read_tick_again(source, tick)?;
            events += pieces.iter().map(|p| p.len() as u64).sum::<u64>();
            let mut judged = judge_all(contract, &rules, self.key, pieces)?;
            if let Some(call) = &call {
                call.apply(number, tick, &mut judged)?;
            }
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
        let mut partitions = at.partitions.clone();
        partitions.take(&plan.partitions);
        source.restore(&partitions.all())?;
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

impl Default for Position {
    fn default() -> Self {
        Self {
            next: 0,
            ledger: Ledger::default(),
            state: vec![],
            watermark: None,
            unread: vec![],
            partitions: Partitions::default(),
            origin: None,
            whole: true,
            change: None,
        }
    }
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
