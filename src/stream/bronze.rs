//! Bronze of one epoch: every event as it came.

use super::epoch::{Judgment, Table};
use crate::contract::Contract;
use crate::error::Result;
use crate::sinks::bronze;

/// The files of Bronze as they grow. What they hold follows from what was read alone: neither duplicates nor lateness
/// count.
pub(super) struct Bronze {
    table: Table,
    event_types: Vec<String>,
}

impl Bronze {
    /// No file yet.
    pub(super) fn new(contract: &Contract) -> Self {
        Self {
            table: Table::new("bronze/events", &bronze::schema(), "event_time"),
            event_types: contract.event_types().into_iter().map(str::to_owned).collect(),
        }
    }

    /// Writes all events of these pieces; how many they were.
    pub(super) fn write(&mut self, judgments: &[Judgment]) -> Result<i64> {
        let names: Vec<&str> = self.event_types.iter().map(String::as_str).collect();
        self.table.writer.write_all_grouped(judgments.iter().map(|Judgment { piece, judged, .. }| {
            let (groups, partitions) = bronze::partitions(piece, &judged.event_type, &names);
            Ok((bronze::batch(piece, &judged.event_time)?, groups, partitions))
        }))?;
        Ok(judgments.iter().map(|judgment| judgment.piece.len() as i64).sum())
    }

    /// The table with all that was written.
    pub(super) fn into_table(self) -> Table {
        self.table
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use arrow::array::{BinaryViewArray, Int64Array};
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::contract::JudgeRules;
    use crate::events::RawEvents;
    use crate::hash::HashKey;
    use crate::stream::epoch::{Epoch, Names, Outcome, judge_all};
    use crate::stream::operators::Operators;
    use crate::stream::spec::{Layer, SessionsSpec, Shape};
    use crate::stream::tests::shape;
    use crate::time::SECOND;

    const CONTRACT: &str = "
name: n
roles: {event_type: /kind, event_time: {path: /at, unit: us}, idempotency_key: /key, entity: /who}
events:
  click: {v1: {type: object, properties: {kind: {type: string}, at: {type: integer}, key: {type: string}, who: {type: string}}}}
  order: {v1: {type: object, properties: {kind: {type: string}, at: {type: integer}, key: {type: string}, who: {type: string}}}}
";

    fn pieces(events: &[(u8, u8, u8)], sizes: &[usize]) -> Vec<RawEvents> {
        let value = |&(kind, key, who): &(u8, u8, u8)| match kind {
            0 => b"no event".to_vec(),
            kind => {
                let kind = if kind == 1 { "click" } else { "order" };
                let at = i64::from(key) * SECOND;
                format!(r#"{{"kind":"{kind}","at":{at},"key":"{key}","who":"{who}"}}"#).into_bytes()
            }
        };
        let mut pieces = vec![];
        let mut from = 0;
        for size in sizes.iter().copied().chain([events.len()]) {
            let rows = &events[from..events.len().min(from + size)];
            pieces.push(RawEvents {
                topic: Arc::from("t"),
                partition: 0,
                offsets: Int64Array::from_iter_values((0..rows.len()).map(|row| (from + row) as i64)),
                values: rows.iter().map(|row| Some(value(row))).collect::<BinaryViewArray>(),
                timestamps: None,
                timestamp_type: None,
                keys: None,
                headers: None,
                truncated: vec![],
                arrival: 7,
            });
            from += rows.len();
        }
        pieces
    }

    /// An epoch over these pieces, so many at a time.
    fn epoch(shape: &Shape, pieces: &[RawEvents], at_a_time: usize) -> Outcome {
        let contract = Contract::from_text(CONTRACT, Path::new("c.yaml")).unwrap();
        let mut operators = Operators::new(shape, &contract.schema()).unwrap();
        let mut epoch = Epoch::new(3, &contract, shape, &operators).unwrap();
        for tick in pieces.chunks(at_a_time) {
            let rules = JudgeRules { max_future_skew: None };
            let judged = judge_all(&contract, &rules, HashKey([1; 16]), tick.to_vec()).unwrap();
            epoch.take(&mut operators, &judged).unwrap();
        }
        let names = Names { pipeline: "p".into(), shard: 0 };
        epoch.close(&mut operators, true, None, &names).unwrap()
    }

    fn files(outcome: &Outcome, layer: impl Fn(&str) -> bool) -> Vec<(&str, Bytes)> {
        let of = outcome.files.iter().filter(|(name, _)| layer(name));
        of.map(|(_, file)| (file.path.as_str(), file.content.clone().into_whole())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn bronze_is_all_that_was_read_and_the_rest_does_not_know_of_it(
            events in prop::collection::vec((0u8..3, 0u8..40, 0u8..4), 0..120),
            sizes in prop::collection::vec(0usize..30, 0..8),
            at_a_time in 2usize..5,
        ) {
            let pieces = pieces(&events, &sizes);
            let sessions = Some(SessionsSpec { gap_us: 5 * SECOND, max_duration_us: Some(60 * SECOND) });
            let with = Shape { layers: vec![Layer::Bronze, Layer::Silver], sessions, ..shape() };
            let without = Shape { layers: vec![Layer::Silver], ..with.clone() };
            let (one, many, none) = (epoch(&with, &pieces, 1), epoch(&with, &pieces, at_a_time), epoch(&without, &pieces, 1));
            prop_assert_eq!(one.counts.bronze, events.len() as i64);
            prop_assert_eq!(one.files.iter().filter(|(l, _)| l == "bronze/events").map(|(_, f)| f.rows).sum::<u64>(), events.len() as u64);
            prop_assert!(files(&one, |_| true) == files(&many, |_| true), "pieces taken together make the same files");
            prop_assert_eq!(&one.counts, &many.counts);
            prop_assert!(files(&one, |layer| layer != "bronze/events") == files(&none, |_| true));
            prop_assert_eq!(none.counts.bronze, 0);
        }
    }
}
