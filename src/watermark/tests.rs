use proptest::prelude::*;

use super::*;
use crate::state::{Saved, from_ipc, to_ipc};

/// Everything that can happen to a watermark.
#[derive(Debug, Clone)]
enum Step {
    Observe(u8, i32, i64),
    Open(u8, i32),
    Finish(u8, i32),
    Idle(u8, i32, bool),
    Advance,
    AdvanceTo(i64),
    SaveAndLoad,
    Delta(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let partition = (0u8..3, 0i32..3);
    prop_oneof![
        4 => (partition.clone(), -50i64..50).prop_map(|((t, p), at)| Step::Observe(t, p, at)),
        1 => partition.clone().prop_map(|(t, p)| Step::Open(t, p)),
        1 => partition.clone().prop_map(|(t, p)| Step::Finish(t, p)),
        1 => (partition, any::<bool>()).prop_map(|((t, p), idle)| Step::Idle(t, p, idle)),
        2 => Just(Step::Advance),
        1 => (-50i64..60).prop_map(Step::AdvanceTo),
        1 => Just(Step::SaveAndLoad),
        1 => any::<bool>().prop_map(Step::Delta),
    ]
}

/// A partition: which, its highest event time, whether it is idle, whether it is finished.
type Known = ((u8, i32), Option<i64>, bool, bool);

/// The obviously right watermark: the list of all partitions, looked through at each commit.
#[derive(Default)]
struct Model {
    partitions: Vec<Known>,
    current: Option<i64>,
}

impl Model {
    fn at(&mut self, key: (u8, i32)) -> &mut ((u8, i32), Option<i64>, bool, bool) {
        if !self.partitions.iter().any(|p| p.0 == key) {
            self.partitions.push((key, None, false, false));
        }
        self.partitions.iter_mut().find(|p| p.0 == key).unwrap()
    }

    fn advance(&mut self, lateness: i64) {
        let holding: Vec<Option<i64>> = self.partitions.iter().filter(|p| !p.2 && !p.3).map(|p| p.1).collect();
        if holding.is_empty() || holding.contains(&None) {
            return;
        }
        let lowest = holding.into_iter().flatten().min().unwrap() - lateness;
        self.current = Some(self.current.map_or(lowest, |c| c.max(lowest)));
    }
}

fn through_ipc(parts: &StateParts) -> StateParts {
    parts
        .iter()
        .map(|(name, batch)| (name.clone(), from_ipc(name, &to_ipc(batch).unwrap().into_whole()).unwrap()))
        .collect()
}

proptest! {
    #[test]
    fn is_the_minimum_of_what_holds_it_and_never_goes_back(steps in prop::collection::vec(step(), 0..60), lateness in 0i64..20) {
        let mut watermark = Watermark::new(lateness);
        let mut model = Model::default();
        let mut log = Saved::default();
        for step in steps {
            let before = watermark.current();
            match step {
                Step::Observe(t, p, at) => {
                    watermark.observe(&t.to_string(), p, at);
                    let partition = model.at((t, p));
                    partition.1 = Some(partition.1.map_or(at, |old| old.max(at)));
                    partition.2 = false;
                }
                Step::Open(t, p) => {
                    watermark.open_partition(&t.to_string(), p);
                    model.at((t, p)).3 = false;
                }
                Step::Finish(t, p) => {
                    watermark.finish_partition(&t.to_string(), p);
                    model.at((t, p)).3 = true;
                }
                Step::Idle(t, p, idle) => {
                    watermark.set_idle(&t.to_string(), p, idle);
                    model.at((t, p)).2 = idle;
                }
                Step::Advance => {
                    watermark.advance();
                    model.advance(lateness);
                }
                Step::AdvanceTo(at) => {
                    watermark.advance_to(at);
                    model.current = Some(model.current.map_or(at, |c| c.max(at)));
                }
                Step::Delta(few) => log.add(&mut watermark, few),
                Step::SaveAndLoad => {
                    // From the whole, or from the deltas so far.
                    let mut loaded = Watermark::new(lateness);
                    loaded.load(&through_ipc(&watermark.snapshot().unwrap())).unwrap();
                    log.add(&mut watermark, false);
                    let mut replayed = Watermark::new(lateness);
                    log.load(&mut replayed);
                    prop_assert_eq!(replayed.snapshot().unwrap(), watermark.snapshot().unwrap());
                    prop_assert_eq!(loaded.snapshot().unwrap(), watermark.snapshot().unwrap());
                    watermark = loaded;
                }
            }
            prop_assert_eq!(watermark.current(), model.current);
            prop_assert!(watermark.current() >= before);
            let highest = model.partitions.iter().filter_map(|p| p.1).max();
            prop_assert_eq!(watermark.highest(), highest);
        }
    }
}

#[test]
fn a_partition_not_begun_holds_it_and_a_finished_one_leaves() {
    let mut watermark = Watermark::new(10);
    watermark.open_partition("a", 0);
    watermark.open_partition("b", 0);
    watermark.observe("a", 0, 100);
    assert_eq!(watermark.advance(), None);
    watermark.observe("b", 0, 50);
    assert_eq!(watermark.advance(), Some(40));
    watermark.finish_partition("b", 0);
    assert_eq!(watermark.advance(), Some(90));
    watermark.finish_partition("a", 0);
    assert_eq!(watermark.advance(), Some(90), "nothing holds it: it stays");
    watermark.open_partition("b", 0);
    assert_eq!(watermark.advance(), Some(90), "a file that grew cannot pull it back");
    assert_eq!((watermark.partition_time("b", 0), watermark.partition_time("c", 0)), (Some(50), None));
}

#[test]
fn extreme_times_do_not_overflow() {
    let mut watermark = Watermark::new(i64::MAX);
    watermark.observe("a", 0, i64::MIN);
    assert_eq!(watermark.advance(), Some(i64::MIN));
}

#[test]
fn a_delta_holds_what_changed() {
    let mut watermark = Watermark::new(0);
    (0..100).for_each(|p| watermark.observe("t", p, 1));
    assert_eq!(watermark.delta().unwrap()[0].rows.num_rows(), 100);
    watermark.observe("t", 7, 2);
    watermark.observe("t", 8, 0);
    assert_eq!(watermark.delta().unwrap()[0].rows.num_rows(), 1);
}
