//! Deduplication of a whole input at once.

use std::hash::{BuildHasher, RandomState};

use arrow::array::{Array, AsArray, BooleanArray, GenericStringArray, OffsetSizeTrait, RecordBatch};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::prelude::*;

use super::Key;
use super::table::{self, Table};
use crate::columns::{index_of, micros, same_schema};
use crate::error::{Error, Result};
use crate::hash::HashKey;
use crate::packed::{Rows, plain};

/// Rows that one core takes at a time.
const PIECE: usize = 1 << 16;

/// Drops every row whose key (these columns; nulls are equal, and equal to nothing else) stood in a row before it, and
/// tells how many were dropped. The rest keeps its order. Exact over the whole input.
///
/// With a `horizon` (microseconds; needs the time column `at`), a key counts from the row that was kept until `horizon`
/// of event time later: a row further on is kept, and counts from there. In a stream this is what is found at the
/// latest; there, a key may be remembered longer by the lateness and the length of an epoch.
///
/// # Errors
/// [`Error::Data`] when a column is missing or of a type that cannot be a key or a time; [`Error::Settings`] for a
/// horizon without `at`, or no key.
pub fn deduplicate(
    batches: &[RecordBatch],
    key: &[&str],
    at: Option<&str>,
    horizon: Option<i64>,
) -> Result<(Vec<RecordBatch>, u64)> {
    let rows: Vec<Rows> = batches.iter().cloned().map(Rows::from).collect();
    let (kept, dropped) = deduplicate_rows(&rows, key, at, horizon)?;
    let kept = kept.par_iter().map(Rows::packed).collect::<Result<_>>()?;
    Ok((kept, dropped))
}

/// The same over rows of which some are left out already; nothing is copied.
///
/// # Errors
/// As [`deduplicate`].
pub fn deduplicate_rows(
    rows: &[Rows],
    key: &[&str],
    at: Option<&str>,
    horizon: Option<i64>,
) -> Result<(Vec<Rows>, u64)> {
    if key.is_empty() {
        return Err(Error::settings("key", "name at least one column"));
    }
    if horizon.is_some_and(|h| h < 0) {
        return Err(Error::settings("horizon", "must not be negative"));
    }
    same_schema(rows.iter().map(Rows::batch))?;
    let Some(first) = rows.first().map(Rows::batch) else { return Ok((Vec::new(), 0)) };
    let columns: Vec<usize> = key.iter().map(|name| index_of(first.schema_ref(), name)).collect::<Result<_>>()?;
    let time_column = at.map(|at| index_of(first.schema_ref(), at).map(|i| (i, at))).transpose()?;
    let horizon = match (horizon, time_column) {
        (Some(horizon), Some(at)) => Some((horizon, at)),
        (Some(_), None) => return Err(Error::settings("horizon", "needs the column of event times: give 'at' too")),
        (None, _) => None,
    };
    let pieces: Vec<Rows> = rows.iter().flat_map(|rows| rows.cut(PIECE)).collect();
    // A secret of this run: nobody can prepare keys that collide. What is kept does not depend on it.
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&RandomState::new().hash_one(1).to_le_bytes());
    secret[8..].copy_from_slice(&RandomState::new().hash_one(2).to_le_bytes());
    let secret = HashKey(secret);
    let hashes: Vec<Vec<u128>> = pieces.par_iter().map(|p| hash_keys(p, &columns, &secret)).collect::<Result<_>>()?;
    let times: Option<Vec<ScalarBuffer<i64>>> =
        horizon.map(|(_, (i, at))| pieces.par_iter().map(|p| micros(&p.column(i)?, at)).collect()).transpose()?;
    // More parts than cores: a table is in memory while its part is looked through, and a small one is near.
    let parts = (rayon::current_num_threads() * 4).next_power_of_two().min(64);
    let dropped: Vec<Vec<(u32, u32)>> = (0..parts)
        .into_par_iter()
        .map(|part| match (&times, horizon) {
            (Some(times), Some((horizon, _))) => repeated_within(&hashes, times, horizon, part, parts),
            _ => repeated(&hashes, part, parts),
        })
        .collect();
    let mut dropped_of: Vec<Vec<u32>> = vec![Vec::new(); pieces.len()];
    for (piece, row) in dropped.iter().flatten() {
        dropped_of[*piece as usize].push(*row);
    }
    let kept = pieces
        .par_iter()
        .zip(dropped_of)
        .map(|(piece, dropped)| without(piece, dropped))
        .collect::<Result<Vec<_>>>()?;
    Ok((kept, dropped.iter().map(|d| d.len() as u64).sum()))
}

/// The part of the keys that one core looks after.
fn part_of(hash: u128, parts: usize) -> usize {
    (hash >> 122) as usize & (parts - 1)
}

fn repeated(hashes: &[Vec<u128>], part: usize, parts: usize) -> Vec<(u32, u32)> {
    let rows: usize = hashes.iter().map(Vec::len).sum();
    let mut seen: HashTable<[u64; 2]> = HashTable::with_capacity(rows / parts + rows / parts / 16);
    let mut dropped = Vec::new();
    for (piece, hashes) in hashes.iter().enumerate() {
        for (row, hash) in hashes.iter().enumerate().filter(|(_, h)| part_of(**h, parts) == part) {
            let key = [*hash as u64, (*hash >> 64) as u64];
            match seen.entry(key[0], |k| *k == key, |k| k[0]) {
                Entry::Occupied(_) => dropped.push((piece as u32, row as u32)),
                Entry::Vacant(place) => {
                    place.insert(key);
                }
            }
        }
    }
    dropped
}

fn repeated_within(
    hashes: &[Vec<u128>],
    times: &[ScalarBuffer<i64>],
    horizon: i64,
    part: usize,
    parts: usize,
) -> Vec<(u32, u32)> {
    let mut seen = Table::default();
    let mut dropped = Vec::new();
    for (piece, (hashes, times)) in hashes.iter().zip(times).enumerate() {
        for (row, hash) in hashes.iter().enumerate().filter(|(_, h)| part_of(**h, parts) == part) {
            let key = Key::new(*hash, times[row]);
            match seen.entry(key) {
                table::Entry::Held(known) if key.time.saturating_sub(horizon) <= known.time => {
                    dropped.push((piece as u32, row as u32));
                }
                table::Entry::Held(expired) => expired.time = key.time,
                table::Entry::Vacant(place) => place.insert(),
            }
        }
    }
    dropped
}

/// The same rows without some of those that count, given by their numbers among these.
fn without(rows: &Rows, mut dropped: Vec<u32>) -> Result<Rows> {
    if dropped.is_empty() {
        return Ok(rows.clone());
    }
    // They come from several cores.
    dropped.sort_unstable();
    let mut dropped = dropped.iter().map(|row| *row as usize).peekable();
    let mut number = 0..;
    let mask = BooleanBuffer::collect_bool(rows.batch().num_rows(), |row| {
        let counts = rows.chosen().is_none_or(|chosen| chosen.value(row));
        counts && number.next().is_some_and(|n: usize| dropped.next_if_eq(&n).is_none())
    });
    Rows::new(rows.batch().clone(), Some(BooleanArray::new(mask, None)))
}

fn hash_keys(rows: &Rows, columns: &[usize], secret: &HashKey) -> Result<Vec<u128>> {
    let columns = columns.iter().map(|i| Ok(plain(&rows.column(*i)?)?.into_owned())).collect::<Result<Vec<_>>>()?;
    if let [one] = columns.as_slice() {
        match one.data_type() {
            DataType::Utf8 => return Ok(hash_text(one.as_string::<i32>(), secret)),
            DataType::LargeUtf8 => return Ok(hash_text(one.as_string::<i64>(), secret)),
            _ => {}
        }
    }
    let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(&columns)?;
    Ok(rows.iter().map(|row| secret.hash(row.as_ref())).collect())
}

fn hash_text<O: OffsetSizeTrait>(keys: &GenericStringArray<O>, secret: &HashKey) -> Vec<u128> {
    // No text holds the byte 0xFF.
    let null = secret.hash(&[0xFF]);
    keys.iter().map(|key| key.map_or(null, |key| secret.hash(key.as_bytes()))).collect()
}
