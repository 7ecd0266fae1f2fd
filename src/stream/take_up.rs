//! What a run takes up from the log: the state after the last commit, and an epoch that was planned and not committed.

use std::time::Instant;

use sha2::{Digest, Sha256};

use super::carry::carry;
use super::change::Change;
use super::epoch::{Epoch, judge_all};
use super::gather::{finish_partitions, observe};
use super::ledger::Ledger;
use super::log::{Commit, Origin, Plan, StateFile};
use super::operators::Operators;
use super::partitions::{Partitions, are_saved};
use super::run::contract_of;
use super::runner::Runner;
use super::spec::Shape;
use super::state;
use super::void::with_way_out;
use crate::contract::Contract;
use crate::error::{Error, Result};
use crate::sources::{Source, Unread};

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

impl Runner<'_> {
    /// What follows on a commit.
    pub(super) fn position(&self, commit: Option<&Commit>) -> Result<Position> {
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
    pub(super) fn check_pins(&self, plan: &Plan, contract: &Contract) -> Result<()> {
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
    pub(super) fn take_up(
        &self,
        shape: &Shape,
        contract: &Contract,
        digest: &str,
        at: &mut Position,
    ) -> Result<Operators> {
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

    pub(super) fn pinned_contract(&self, plan: &Plan) -> Result<Contract> {
        let pinned = self.journal.contract(&plan.contract);
        let pinned = pinned.and_then(|text| contract_of(&text, &self.spec.contract_path, &plan.shape));
        Ok(pinned.map_err(|e| with_way_out(e, plan, self.spec.shard))?.with_secret(self.secret))
    }

    /// Runs an epoch that was planned before: the same ranges, the same bytes.
    pub(super) fn run_plan(
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
            epoch.take(operators, &judged)?;
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
        if !plan.ticks.is_empty() {
            source.verify()?;
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
}

/// What tells one secret from another without giving it away.
pub(super) fn fingerprint(contract: &Contract, secret: Option<&[u8]>) -> Option<String> {
    let secret = secret.filter(|_| contract.needs_secret())?;
    let digest = Sha256::new().chain_update(b"penstock secret fingerprint").chain_update(secret).finalize();
    Some(digest[..8].iter().map(|b| format!("{b:02x}")).collect())
}
