//! What an entry asks of Silver, and of the events that the stream still holds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array};
use rayon::prelude::*;

use super::judge::Judge;
use super::{Draft, Work};
use crate::dedup::Deduplicator;
use crate::error::{Error, Result};
use crate::lake::layout;
use crate::packed;
use crate::sources::lake::{StoredFile, column, numbers, text, times};
use crate::state::{Stateful, to_ipc};
use crate::stream::log::{Commit, FileEntry, Kind, StateFile};
use crate::stream::state;
use crate::stream::store::Store;

/// The layer.
pub const EVENTS: &str = "silver/events";
/// The layer of sessions.
pub const SESSIONS: &str = "silver/sessions";

/// Hands out the held events that the state of a commit has.
///
/// # Errors
/// [`Error::Checkpoint`] when the state is damaged.
pub fn held(store: &dyn Store, last: &Commit, each: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
    let watermark = last.watermark.unwrap_or(i64::MIN);
    for file in last.state.iter().filter(|f| f.table.starts_with("sessions/pending")) {
        let rows = state::read(store, file)?;
        let held: BooleanArray = times(&rows, "event_time")?.values().iter().map(|t| Some(*t >= watermark)).collect();
        each(arrow::compute::filter_record_batch(&rows, &held)?)?;
    }
    Ok(())
}

/// The sessions that are open by the state of a commit: entities and where their sessions began.
///
/// # Errors
/// [`Error::Checkpoint`] when the state is damaged.
pub fn open_sessions(store: &dyn Store, judge: &Judge, last: &Commit) -> Result<HashMap<Option<String>, i64>> {
    let mut open: HashMap<Option<String>, (i64, i64)> = HashMap::new();
    let mut gap = judge.gap().map_or(0, |(gap, _)| gap);
    let files: Vec<&StateFile> = last.state.iter().filter(|f| f.table.starts_with("sessions/")).collect();
    for epoch in files.chunk_by(|a, b| a.epoch == b.epoch) {
        if let Some(file) = epoch.iter().find(|f| f.table == "sessions/meta") {
            let meta = state::read(store, file)?;
            let flushed = column(&meta, "flushed")?.as_boolean();
            if flushed.iter().any(|f| f == Some(true)) {
                // With the end of bounded input every session was closed.
                open.clear();
            }
            gap = numbers(&meta, "gap")?.iter().flatten().next().unwrap_or(gap);
        }
        for file in epoch.iter().filter(|f| f.table == "sessions/open") {
            let rows = state::read(store, file)?;
            let (entities, starts) = (text(&rows, "entity")?, times(&rows, "session_start")?);
            let lasts = times(&rows, "last_event_time")?;
            for row in 0..rows.num_rows() {
                let entity = entities.is_valid(row).then(|| entities.value(row).to_owned());
                open.insert(entity, (starts.value(row), lasts.value(row)));
            }
        }
    }
    // What the watermark has passed by more than the gap is over.
    let over = |end: i64| last.watermark.is_some_and(|w| w > end.saturating_add(gap));
    Ok(open.into_iter().filter(|(_, (_, end))| !over(*end)).map(|(entity, (start, _))| (entity, start)).collect())
}

/// Those of these keys that stand in Silver's files.
///
/// # Errors
/// [`Error::Checkpoint`] when a file is missing or damaged.
pub fn known(store: &dyn Store, judge: &Judge, files: &[&FileEntry], wanted: &HashSet<u128>) -> Result<HashSet<u128>> {
    if wanted.is_empty() {
        return Ok(HashSet::new());
    }
    let found = files.par_iter().with_max_len(1).map(|file| {
        let mut found = vec![];
        StoredFile::open(store, file)?.read(store, Some(&["idempotency_key"]), None, &mut |batch| {
            found.extend(judge.keys(&batch)?.into_iter().filter(|key| wanted.contains(key)));
            Ok(())
        })?;
        Ok(found)
    });
    Ok(found.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Those of these keys that held events have.
///
/// # Errors
/// As [`held`].
pub fn known_held(store: &dyn Store, judge: &Judge, last: &Commit, wanted: &HashSet<u128>) -> Result<HashSet<u128>> {
    let mut found = HashSet::new();
    if !wanted.is_empty() {
        held(store, last, &mut |batch| {
            found.extend(judge.keys(&batch)?.into_iter().filter(|key| wanted.contains(key)));
            Ok(())
        })?;
    }
    Ok(found)
}

/// Whether the epochs since have brought one of these keys.
///
/// # Errors
/// As [`known`].
pub fn came_since(store: &dyn Store, judge: &Judge, since: &[Commit], keys: &HashSet<u128>) -> Result<bool> {
    let Some(last) = since.last() else { return Ok(false) };
    let files: Vec<&FileEntry> = since.iter().flat_map(|c| &c.files).filter(|f| f.layer == EVENTS).collect();
    Ok(!known(store, judge, &files, keys)?.is_empty() || !known_held(store, judge, last, keys)?.is_empty())
}

/// Commits a draft that puts events with these keys into Silver. `None`, and its files are gone again, when the stream or
/// another entry has brought one of them since `base`, or has settled what this one settles.
///
/// # Errors
/// As [`Work::commit`], and as [`known`].
pub fn commit(
    work: &Work<'_>,
    judge: &Judge,
    base: &Commit,
    draft: &mut Draft,
    keys: &[(u128, i64)],
) -> Result<Option<u64>> {
    draft.state = remember(work, judge, base, keys)?.into_iter().collect();
    let keys: HashSet<u128> = keys.iter().map(|(key, _)| *key).collect();
    let store = work.store();
    let committed = work.commit(base.number, draft, &mut |since| {
        let others = since.iter().any(|c| matches!(c.kind, Kind::Replay | Kind::Backfill));
        Ok(!others && !came_since(store, judge, since, &keys)?)
    })?;
    if committed.is_none() {
        work.discard(&draft.added)?;
    }
    Ok(committed.map(|c| c.number))
}

/// Rows as Silver has them: columns by name, what is missing null; `replayed` as given where it is missing.
///
/// # Errors
/// [`Error::Data`] when the columns do not fit.
pub fn rows(judge: &Judge, batch: &RecordBatch, replayed: bool) -> Result<RecordBatch> {
    let columns = judge.silver.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None if field.name() == "replayed" => {
            Arc::new(BooleanArray::from(vec![replayed; batch.num_rows()])) as ArrayRef
        }
        None => new_null_array(field.data_type(), batch.num_rows()),
    });
    // Session ids come packed from sessions, and files take them so.
    packed::batch(&judge.silver, columns.collect())
}

/// Writes keys as a file of state, so that the stream knows them when it has taken the entry in. `None` when there is
/// none that it would still remember.
///
/// # Errors
/// [`Error::Lake`] when it cannot be put.
pub fn remember(work: &Work<'_>, judge: &Judge, last: &Commit, keys: &[(u128, i64)]) -> Result<Option<StateFile>> {
    let oldest = last.watermark.map_or(i64::MIN, |w| w.saturating_sub(judge.shape.deduplicate.horizon_us));
    let (hashes, times): (Vec<u128>, Vec<i64>) = keys.iter().copied().filter(|(_, time)| *time >= oldest).unzip();
    if hashes.is_empty() {
        return Ok(None);
    }
    let mut known = Deduplicator::new(None);
    known.judge(&hashes, &times, None, &mut vec![])?;
    let parts = known.snapshot()?;
    let (table, rows) = parts
        .into_iter()
        .find(|(table, _)| table == "dedup/keys")
        .ok_or_else(|| Error::Internal("no table of keys".into()))?;
    let path = layout::state(work.journal.log(), last.number + 1, work.id(), &table);
    let content = to_ipc(&rows)?;
    let file = StateFile {
        newest: known.newest(&table, &rows)?,
        table,
        path: path.clone(),
        epoch: last.number + 1,
        bytes: content.len() as u64,
        rows: rows.num_rows() as u64,
    };
    work.store().put_many(vec![(path, content)])?;
    Ok(Some(file))
}
