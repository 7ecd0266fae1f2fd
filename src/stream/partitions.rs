//! How far each partition of the source was read, as a table of the state: of each epoch those that moved.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;

use super::log::Commit;
use super::state;
use super::store::Store;
use crate::error::{Error, Result};
use crate::sources::PartitionState;
use crate::state::{Change, latest, typed};

/// The table of the state.
pub const TABLE: &str = "source/partitions";

/// Every partition that anything was read of, by topic and number.
#[derive(Debug, Clone, Default)]
pub struct Partitions(BTreeMap<(String, i32), PartitionState>);

impl Partitions {
    /// Those of a commit, out of its state.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the state is missing or damaged.
    pub fn read(store: &dyn Store, commit: &Commit) -> Result<Self> {
        let mut partitions = Self::default();
        if !are_saved(commit) {
            partitions.take(&commit.partitions);
            return Ok(partitions);
        }
        for file in commit.state.iter().filter(|f| f.table == TABLE) {
            partitions.load(&state::read(store, file)?)?;
        }
        Ok(partitions)
    }

    /// All of them, sorted.
    pub fn all(&self) -> Vec<PartitionState> {
        self.0.values().cloned().collect()
    }

    /// Takes in those that moved.
    pub fn take(&mut self, moved: &[PartitionState]) {
        for state in moved {
            self.0.insert((state.topic.clone(), state.partition), state.clone());
        }
    }

    /// Takes in what one epoch wrote.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the table is not what it should be.
    pub fn load(&mut self, rows: &RecordBatch) -> Result<()> {
        let topics: &StringArray = typed(TABLE, rows, "topic")?;
        let numbers: &Int32Array = typed(TABLE, rows, "partition")?;
        let positions: &Int64Array = typed(TABLE, rows, "position")?;
        let finished: &BooleanArray = typed(TABLE, rows, "finished")?;
        let more: &StringArray = typed(TABLE, rows, "more")?;
        for row in 0..rows.num_rows() {
            let damaged =
                |e: serde_json::Error| Error::checkpoint(TABLE, format!("damaged: {}: {e}", topics.value(row)));
            let mut state: serde_json::Map<String, Value> = if more.is_valid(row) {
                serde_json::from_str(more.value(row)).map_err(damaged)?
            } else {
                Default::default()
            };
            state.insert("topic".into(), topics.value(row).into());
            state.insert("partition".into(), numbers.value(row).into());
            state.insert("position".into(), positions.value(row).into());
            state.insert("finished".into(), finished.value(row).into());
            let state: PartitionState = serde_json::from_value(Value::Object(state)).map_err(damaged)?;
            self.0.insert((state.topic.clone(), state.partition), state);
        }
        Ok(())
    }
}

/// Whether a commit has its partitions in its state. One of the first version has them in itself.
pub fn are_saved(commit: &Commit) -> bool {
    commit.state.iter().any(|f| f.table == TABLE)
}

/// Partitions as a table: `more` is what only their kind of source knows of them, as JSON.
///
/// # Errors
/// [`Error::Data`] when Arrow cannot hold them.
pub fn change(states: &[PartitionState], replaces: bool) -> Result<Change> {
    let mut more = vec![];
    for state in states {
        let value = serde_json::to_value(state).map_err(|e| Error::Internal(e.to_string()))?;
        let Value::Object(mut fields) = value else {
            return Err(Error::Internal("a partition that is no object".into()));
        };
        fields.retain(|name, _| !matches!(name.as_str(), "topic" | "partition" | "position" | "finished"));
        more.push((!fields.is_empty()).then(|| Value::Object(fields).to_string()));
    }
    let schema = Schema::new(vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("position", DataType::Int64, false),
        Field::new("finished", DataType::Boolean, false),
        Field::new("more", DataType::Utf8, true),
    ]);
    let rows = RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(StringArray::from_iter_values(states.iter().map(|s| s.topic.as_str()))),
            Arc::new(Int32Array::from_iter_values(states.iter().map(|s| s.partition))),
            Arc::new(Int64Array::from_iter_values(states.iter().map(|s| s.position))),
            Arc::new(states.iter().map(|s| Some(s.finished)).collect::<BooleanArray>()),
            Arc::new(StringArray::from(more)),
        ],
    )?;
    Ok(Change { table: TABLE.to_owned(), rows, replaces })
}

/// Saved partitions put together, older ones first: of each the last.
///
/// # Errors
/// [`Error::Checkpoint`] when the table is not what it should be.
pub fn combine(saved: &[RecordBatch]) -> Result<RecordBatch> {
    latest(TABLE, saved, ["topic", "partition"].into_iter(), None, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(topic: &str, partition: i32, position: i64) -> PartitionState {
        let json = serde_json::json!({"topic": topic, "partition": partition, "position": position, "finished": false,
            "file": {"format": "plain", "length": 9, "modified": 1, "head_length": 4, "head": "ab", "ended": true}});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_moved_is_added_to_the_whole() {
        let mut partitions = Partitions::default();
        let whole = change(&[state("b", 1, 3), state("b", 0, 2), state("a", 0, 1)], true).unwrap().rows;
        let moved = change(&[state("b", 0, 9)], false).unwrap().rows;
        let mut combined = Partitions::default();
        combined.load(&combine(&[whole.clone(), moved.clone()]).unwrap()).unwrap();
        partitions.load(&whole).unwrap();
        partitions.load(&moved).unwrap();
        assert_eq!(combined.all(), partitions.all());
        assert_eq!(partitions.all(), [state("a", 0, 1), state("b", 0, 9), state("b", 1, 3)]);
    }
}
