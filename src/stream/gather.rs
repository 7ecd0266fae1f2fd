//! What goes into an epoch: read, judged and taken through the operators until it is full or nothing more is there.

use std::collections::HashSet;

use rayon::ScopeFifo;

use super::epoch::{Epoch, Judgment};
use super::judging::{By, Judging};
use super::log::{Plan, Tick};
use super::operators::Operators;
use super::run::{Event, RunOptions};
use super::runner::{POLL, Runner};
use super::spec::WatermarkSpec;
use crate::contract::Contract;
use crate::error::Result;
use crate::failpoint;
use crate::sources::{PartitionStatus, Progress, Source};
use crate::watermark::Watermark;

/// How much is read at once, in bytes: a few pieces, so that every core has one to judge.
pub(super) const BURST_BYTES: usize = 6 << 20;
/// How much is read first in an epoch, in bytes: one piece for each of a few cores, which wait for it.
const FIRST_BYTES: u64 = 2 << 20;

/// Partitions that nothing comes from.
#[derive(Default)]
pub(super) struct Quiet {
    /// Those that nothing has come from for long enough now, and that did not count as quiet.
    pub(super) fell_asleep: Vec<(String, i32)>,
    /// Those that counted as quiet and do no longer.
    pub(super) woken: Vec<(String, i32)>,
    /// How far that lets the watermark move, when all are quiet.
    pub(super) watermark: Option<i64>,
}

/// What was read for an epoch.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) ticks: Vec<Tick>,
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// Whether the source had nothing more.
    pub(super) caught_up: bool,
    /// Whether reading ended because the run was asked to stop.
    pub(super) stopped: bool,
}

impl Runner<'_> {
    /// Reads and judges until the epoch is full or nothing more is there. Three ticks are under way at a time: what was
    /// judged goes into the epoch while the next is judged and the one after it is read, and judged as soon as a core is
    /// free.
    pub(super) fn gather(
        &self,
        source: &mut dyn Source,
        contract: &Contract,
        operators: &mut Operators,
        epoch: &mut Epoch,
        options: &RunOptions,
    ) -> Result<Gathered> {
        let rules = self.rules(&self.shape);
        let by = By { contract, rules: &rules, key: self.key };
        failpoint::pass("read.before")?;
        let gathered =
            rayon::in_place_scope_fifo(|scope| self.gather_in(scope, by, source, operators, epoch, options))?;
        failpoint::pass("read.after")?;
        Ok(gathered)
    }

    fn gather_in<'s>(
        &self,
        scope: &ScopeFifo<'s>,
        by: By<'s>,
        source: &mut dyn Source,
        operators: &mut Operators,
        epoch: &mut Epoch,
        options: &RunOptions,
    ) -> Result<Gathered> {
        let limits = &self.spec.epoch;
        let mut gathered = Gathered::default();
        let mut waiting: Vec<Judgment> = vec![];
        // What was read while the tick before it was judged.
        let mut ahead: Option<Option<Judging>> = None;
        let mut idle_since: Option<i64> = None;
        let call = self.call(by.contract, &self.shape, epoch.number())?;
        loop {
            let stopping = self.asked_to_stop();
            // What was read ahead belongs to this epoch: the positions are behind it already.
            if stopping && !matches!(ahead, Some(Some(_))) {
                epoch.take(operators, &waiting)?;
                gathered.stopped = true;
                gathered.caught_up = false;
                break;
            }
            self.lag.tell_now_and_then(source, self.observer);
            let room = limits.max_events.saturating_sub(gathered.events);
            let full = room == 0 || gathered.bytes >= limits.max_bytes;
            if full {
                epoch.take(operators, &waiting)?;
                // Where the last line was read just now, the input ends with this epoch and not with an empty one.
                gathered.caught_up = source.partitions().iter().all(|p| p.progress == Progress::Finished);
                break;
            }
            let begun = match ahead.take() {
                Some(begun) => begun,
                None => {
                    // Until a source that does not gather by itself has read something, there is nothing to judge.
                    let most = if source.gathers() { limits.max_bytes } else { FIRST_BYTES };
                    let room = (room, most.min(limits.max_bytes - gathered.bytes));
                    self.read_and_begin(scope, by, source, &operators.watermark, room, options)?
                }
            };
            let Some(judging) = begun else {
                epoch.take(operators, &waiting)?;
                waiting.clear();
                gathered.caught_up = true;
                if options.until_caught_up {
                    break;
                }
                // `max_wait` counts from when nothing more waited, and only then: a trickle does not put it off.
                let now = self.clock.now();
                let since = *idle_since.get_or_insert(now);
                if gathered.events == 0 || now - since >= limits.max_wait_us {
                    break;
                }
                self.clock.wait(POLL);
                source.refresh(self.clock.now())?;
                continue;
            };
            gathered.caught_up = false;
            let tick = &judging.tick;
            if let Some(last) = tick.ranges.last() {
                gathered.events += tick.events;
                gathered.bytes += tick.bytes;
                self.observer.event(&Event::Progress {
                    epoch: epoch.number(),
                    events: gathered.events,
                    bytes: gathered.bytes,
                    reading: last.topic.clone(),
                });
                gathered.ticks.push(tick.clone());
            }
            let number = gathered.ticks.len().saturating_sub(1);
            let room =
                (limits.max_events.saturating_sub(gathered.events), limits.max_bytes.saturating_sub(gathered.bytes));
            // Reading changes neither operators nor epoch, and `take` does not look at the watermark: which partition is
            // read next follows from what was taken before, however fast either is. A source that gathers reads ahead
            // by itself, and may wait.
            let reads_on = room.0 > 0 && room.1 > 0 && !source.gathers() && !stopping;
            let watermark = std::mem::replace(&mut operators.watermark, Watermark::new(0));
            let (taken, read) = rayon::join(
                || epoch.take(operators, &waiting),
                || reads_on.then(|| self.read_and_begin(scope, by, source, &watermark, room, options)).transpose(),
            );
            operators.watermark = watermark;
            taken?;
            waiting.clear();
            waiting = judging.end()?;
            if let (Some(call), Some(tick)) = (&call, gathered.ticks.last()) {
                call.apply(number, tick, &mut waiting)?;
            }
            ahead = read?;
            observe(operators, &waiting);
        }
        Ok(gathered)
    }

    /// Reads the next tick, and begins to judge it. None when nothing more is there.
    fn read_and_begin<'s>(
        &self,
        scope: &ScopeFifo<'s>,
        by: By<'s>,
        source: &mut dyn Source,
        watermark: &Watermark,
        room: (u64, u64),
        options: &RunOptions,
    ) -> Result<Option<Judging>> {
        let times = |topic: &str, partition: i32| watermark.partition_time(topic, partition);
        let read = self.read_tick(source, &times, room, options)?;
        Ok(read.map(|read| Judging::begin(scope, by, read)))
    }
}

impl Quiet {
    /// Which partitions were quiet when they were last known to be read to their end, and how far that lets the watermark
    /// move. What came since is not known yet: by the clock of now a partition would be quiet though much waits in it.
    pub(super) fn of(partitions: Vec<PartitionStatus>, watermark: &Watermark, settings: &WatermarkSpec) -> Self {
        let open: Vec<_> = partitions.into_iter().filter(|p| p.progress != Progress::Finished).collect();
        let latest = open.iter().filter_map(|p| p.as_of).max().unwrap_or(i64::MIN);
        // One that nothing has been heard of for as long is not known to be idle: its leader may be away, and may have
        // taken events that nobody could read yet.
        let is_idle = |p: &&PartitionStatus| {
            let past = |as_of: i64, time: i64| as_of.saturating_sub(time) > settings.idle_timeout_us;
            p.as_of.is_some_and(|as_of| !past(latest, as_of) && p.newest.is_none_or(|newest| past(as_of, newest)))
        };
        let (quiet, awake): (Vec<_>, Vec<_>) = open.iter().partition(is_idle);
        let all = !open.is_empty() && awake.is_empty();
        let idle = |p: &&&PartitionStatus| watermark.is_idle(&p.topic, p.partition);
        let name = |p: &PartitionStatus| (p.topic.clone(), p.partition);
        let fell_asleep = quiet.iter().filter(|p| !idle(p)).map(|p| name(p)).collect();
        let woken = awake.iter().filter(idle).map(|p| name(p)).collect();
        let newest = open.iter().filter_map(|p| p.newest).max();
        let now = open.iter().filter_map(|p| p.as_of).min().unwrap_or(i64::MIN);
        let watermark = match (all, newest, watermark.highest()) {
            (true, Some(newest), Some(highest)) => {
                let moved = highest - settings.lateness_us + (now - newest);
                Some(moved.min(now - settings.lateness_us))
            }
            _ => None,
        };
        Self { fell_asleep, woken, watermark }
    }
}

/// Tells the watermark how far the event time of each partition has come.
pub(super) fn observe(operators: &mut Operators, judgments: &[Judgment]) {
    for judgment in judgments {
        if let Some(highest) = judgment.highest() {
            operators.watermark.observe(judgment.topic(), judgment.partition(), highest);
        }
    }
}

/// The partitions that are known from now on and not yet begun.
pub(super) fn waiting(source: &dyn Source, operators: &Operators) -> Vec<(String, i32)> {
    let all = source.partitions().into_iter().filter(|p| p.progress == Progress::Waiting);
    all.filter(|p| !operators.watermark.knows(&p.topic, p.partition)).map(|p| (p.topic, p.partition)).collect()
}

/// The partitions that were known, and went before anything of them was read.
pub(super) fn gone(source: &dyn Source, operators: &Operators) -> Vec<(String, i32)> {
    let mut unbegun = operators.watermark.unbegun().peekable();
    if unbegun.peek().is_none() {
        return vec![];
    }
    let there: HashSet<_> = source.partitions().into_iter().map(|p| (p.topic, p.partition)).collect();
    unbegun.map(|(topic, p)| (topic.to_owned(), p)).filter(|p| !there.contains(p)).collect()
}

/// Tells the watermark which partitions hold it from this epoch on.
pub(super) fn finish_partitions(operators: &mut Operators, plan: &Plan) {
    let watermark = &mut operators.watermark;
    for (topic, partition) in &plan.waiting {
        watermark.open_partition(topic, *partition);
    }
    for (topic, partition) in &plan.gone {
        watermark.finish_partition(topic, *partition);
    }
    for partition in &plan.partitions {
        if partition.finished {
            watermark.finish_partition(&partition.topic, partition.partition);
        } else {
            watermark.open_partition(&partition.topic, partition.partition);
            if plan.woken.is_none() {
                let quiet = plan.idle.iter().any(|(t, p)| *t == partition.topic && *p == partition.partition);
                watermark.set_idle(&partition.topic, partition.partition, quiet);
            }
        }
    }
    if let Some(woken) = &plan.woken {
        plan.idle.iter().for_each(|(topic, p)| watermark.set_idle(topic, *p, true));
        woken.iter().for_each(|(topic, p)| watermark.set_idle(topic, *p, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: WatermarkSpec = WatermarkSpec { lateness_us: 10, idle_timeout_us: 30, max_future_skew_us: 0 };

    /// Partition `n`, whose newest message is as old as that, and which was known to be read to its end then.
    fn partition(n: i32, newest: i64, as_of: Option<i64>) -> PartitionStatus {
        let progress = if as_of.is_some() { Progress::CaughtUp } else { Progress::Open };
        PartitionStatus {
            topic: "t".into(),
            partition: n,
            progress,
            newest: Some(newest),
            position: 1,
            end: None,
            as_of,
        }
    }

    /// A watermark that has seen an event of time 100 in each partition; these are idle.
    fn seen(partitions: i32, idle: &[i32]) -> Watermark {
        let mut watermark = Watermark::new(10);
        (0..partitions).for_each(|n| watermark.observe("t", n, 100));
        idle.iter().for_each(|n| watermark.set_idle("t", *n, true));
        watermark
    }

    fn numbers(of: &[(String, i32)]) -> Vec<i32> {
        of.iter().map(|(_, n)| *n).collect()
    }

    #[test]
    fn a_partition_is_idle_by_what_was_known_of_it_last() {
        let now = |as_of| {
            Quiet::of(vec![partition(0, 1_000, Some(as_of)), partition(1, 900, Some(as_of))], &seen(2, &[]), &SETTINGS)
        };
        assert_eq!(numbers(&now(1_000).fell_asleep), [1]);
        assert_eq!(now(1_030).watermark, None, "not yet older than the time-out");
        let all = now(1_031);
        assert_eq!((numbers(&all.fell_asleep), all.watermark), (vec![0, 1], Some(100 - 10 + 31)));
    }

    #[test]
    fn one_whose_leader_is_away_is_not_idle() {
        // Its leader was heard of at 1,000; the others go on. What it took since then, nobody could read.
        let away = |now| {
            Quiet::of(vec![partition(0, now, Some(now)), partition(1, 900, Some(1_000))], &seen(2, &[1]), &SETTINGS)
        };
        assert!(away(1_030).woken.is_empty());
        assert_eq!(numbers(&away(1_031).woken), [1], "it holds the watermark again");
        let unknown =
            Quiet::of(vec![partition(0, 900, Some(1_000)), partition(1, 900, None)], &seen(2, &[]), &SETTINGS);
        assert_eq!((numbers(&unknown.fell_asleep), unknown.watermark), (vec![0], None));
    }

    #[test]
    fn while_nobody_answers_the_clock_stands_still() {
        // Both were heard of at 1,040 and 1,035: a machine that slept, or a cluster that is away, moves nothing.
        let quiet =
            Quiet::of(vec![partition(0, 1_000, Some(1_040)), partition(1, 900, Some(1_035))], &seen(2, &[]), &SETTINGS);
        assert_eq!(quiet.watermark, Some(100 - 10 + 35));
    }
}
