//! State as tables for whoever wants to look at it.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use super::journal::Journal;
use super::log::Commit;
use super::operators::Operators;
use super::run::{contract_of, open_lake};
use super::spec::PipelineSpec;
use super::{partitions, shards, state};
use crate::error::{Error, Result};

/// A table of the state: its files put together, so that of what was saved more than once only the newest stands.
///
/// # Errors
/// [`Error::Lake`] when there is no such pipeline; [`Error::Settings`] when there is no such table, naming those that are;
/// [`Error::Checkpoint`] when log or state is damaged.
pub fn read(spec: &PipelineSpec, table: &str) -> Result<RecordBatch> {
    let lake = open_lake(spec, false)?;
    let (mut found, mut tables) = (vec![], BTreeSet::new());
    for journal in shards::journals(&lake, &spec.name)? {
        if let Some(last) = journal.head()?.commit {
            tables.extend(last.state.iter().map(|f| f.table.clone()));
            found.extend(of_log(&journal, spec, &last, table)?);
        }
    }
    if let Some(first) = found.first() {
        if found.iter().any(|rows| rows.schema().fields() != first.schema().fields()) {
            let reason = "has other columns in some shards than in others: some have not yet run with today's contract";
            return Err(Error::settings("table", format!("{table} {reason}")));
        }
        return Ok(concat_batches(first.schema_ref(), &found)?);
    }
    if tables.is_empty() {
        return Err(Error::lake(&spec.lake, format!("pipeline {} has committed nothing yet; run it first", spec.name)));
    }
    let tables: Vec<String> = tables.into_iter().collect();
    Err(Error::settings("table", format!("there is no {table}; there are: {}", tables.join(", "))))
}

fn of_log(journal: &Journal<'_>, spec: &PipelineSpec, last: &Commit, table: &str) -> Result<Option<RecordBatch>> {
    let files = last.state.iter().filter(|f| f.table == table);
    let saved = files.map(|f| state::read(journal.store(), f)).collect::<Result<Vec<_>>>()?;
    if saved.is_empty() {
        return Ok(None);
    }
    if table == partitions::TABLE {
        return Ok(Some(partitions::combine(&saved)?));
    }
    // The state is that of the contract and the settings that the commit was made with.
    let origin = journal.origin(last)?;
    let shape = origin.as_ref().map_or_else(|| spec.shape(), |o| o.shape.clone());
    let text = origin.map_or_else(|| Ok(spec.contract_text.clone()), |o| journal.contract(&o.contract))?;
    let contract = contract_of(&text, &spec.contract_path, &shape)?;
    Ok(Some(Operators::new(&shape, &contract.schema())?.combine(table, &saved)?))
}
