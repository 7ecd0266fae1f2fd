//! Facts find the row of their entity by event time.

use std::sync::Arc;

use arrow::array::{BooleanArray, BooleanBufferBuilder, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::Schema;
use rayon::prelude::*;

use super::history::{History, gather};
use super::keys::{Keys, PARTS, surrogate};
use super::layout::{adapt, column_of, micros};
use super::merge::collision;
use super::part::{CLOSES, OPENS, Points, gallop};
use super::rows::{intervals, schema};
use super::sift::Sifter;
use crate::error::{Error, Result};

/// Where the first stretch of every entity begins: 0001-01-01T00:00:00Z, the first moment that databases and Python
/// both know.
pub const BEGINNING: i64 = -62_135_596_800_000_000;

/// Facts with the rows that they belong to.
#[derive(Debug, Clone)]
pub struct Pointed {
    /// For each fact the surrogate key of its row.
    pub surrogate_key: Int64Array,
    /// For each fact whether that row is an inferred one.
    pub is_inferred: BooleanArray,
    /// The inferred rows that the facts need, each once, by key and start: as the history's rows, attributes null, and
    /// `is_inferred`.
    pub inferred: RecordBatch,
}

/// Finds for each fact the row of its entity that holds at the fact's time.
///
/// Where none does (before the entity's first row, between a delete and a return, or the entity is unknown) the fact
/// gets an *inferred* row for just that stretch: from the delete, or [`BEGINNING`], to the next row. Which row that is,
/// and its surrogate key, follows from history and fact alone. Once a later load fills the stretch, pointing the facts
/// of [`super::Merge::changed_keys`] again gives them the real row; inferred rows of these entities that are not in the
/// new [`Pointed::inferred`] of all their facts are to be deleted.
///
/// # Errors
/// [`Error::Data`] where columns are missing or their types do not fit.
pub fn point(history: &History, facts: &[RecordBatch], key: &[String], at: &str) -> Result<Pointed> {
    let layout = &history.layout;
    if key.len() != layout.keys.len() {
        return Err(Error::settings(
            "key",
            format!("the history's key is {:?}; name as many columns of the facts", layout.spec.key),
        ));
    }
    let key_schema = Arc::new(layout.schema.project(&layout.keys.clone().collect::<Vec<_>>())?);
    let mut times = Vec::new();
    let mut pieces = Vec::with_capacity(facts.len());
    for batch in facts {
        let schema = batch.schema();
        micros(at, batch.column(column_of(&schema, at)?), &mut times)?;
        let columns = key.iter().zip(key_schema.fields());
        let columns = columns.map(|(name, field)| adapt(batch.column(column_of(&schema, name)?), field));
        pieces.push(RecordBatch::try_new(key_schema.clone(), columns.collect::<Result<_>>()?)?);
    }
    if times.len() > u32::MAX as usize {
        return Err(Error::Data(format!("{} facts at once are too many; point them in parts", times.len())));
    }
    let keyed = arrow::compute::concat_batches(&key_schema, &pieces)?;
    let keys = Keys::new(&keyed, 0..key.len())?;
    let sifter = Sifter::new(&keys, &times, &[]);
    let found = (0..PARTS).into_par_iter().map(|p| {
        let facts = sifter.part(p);
        let (mut pointed, mut inferred) = (Vec::with_capacity(facts.len()), Vec::new());
        let mut seeker = history.seeker(p);
        facts.each(|key, facts| {
            let hash = facts[0].hash;
            let mut cursor = Cursor::new(seeker.seek(hash, key).map_or(Points::EMPTY, |e| e.points()));
            let mut last = None;
            for fact in facts {
                let (start, row) = cursor.move_to(fact.at);
                let surrogate = surrogate(key, hash, start);
                pointed.push((fact.row, surrogate, !row));
                if !row && last != Some(start) {
                    let end = cursor.next_start();
                    inferred.push(Stretch { key: key.to_vec(), row: fact.row, start, end, surrogate });
                    last = Some(start);
                }
            }
            Ok::<_, Error>(())
        })?;
        Ok((pointed, inferred))
    });
    let found = found.collect::<Result<Vec<_>>>()?;
    let mut surrogates = vec![0; times.len()];
    let mut is_inferred = BooleanBufferBuilder::new(times.len());
    is_inferred.append_n(times.len(), false);
    let mut stretches = Vec::new();
    for (pointed, inferred) in found {
        for (row, key, inferred) in pointed {
            surrogates[row as usize] = key;
            is_inferred.set_bit(row as usize, inferred);
        }
        stretches.extend(inferred);
    }
    stretches.par_sort_unstable_by(|a, b| a.key.cmp(&b.key).then(a.start.cmp(&b.start)));
    let mut by_surrogate: Vec<&Stretch> = stretches.iter().collect();
    by_surrogate.par_sort_unstable_by_key(|s| s.surrogate);
    if let Some(pair) = by_surrogate.windows(2).find(|w| w[0].surrogate == w[1].surrogate) {
        return Err(collision(pair[0].surrogate, &pair[0].key, &pair[1].key));
    }
    let rows = history.layers.iter().flat_map(|l| &l.parts);
    for part in rows {
        let mut from = 0;
        for stretch in &by_surrogate {
            from += gallop(&part.surrogates[from..], |s| s.0 < stretch.surrogate);
            let same = part.surrogates.get(from).filter(|s| s.0 == stretch.surrogate).map(|s| part.key(s.1));
            if let Some(rival) = same.filter(|key| *key != stretch.key) {
                return Err(collision(stretch.surrogate, &stretch.key, rival));
            }
        }
    }
    Ok(Pointed {
        surrogate_key: surrogates.into(),
        is_inferred: BooleanArray::new(is_inferred.finish(), None),
        inferred: inferred_rows(history, &keyed, &stretches)?,
    })
}

/// A stretch without a row in which a fact lies.
struct Stretch {
    key: Vec<u8>,
    /// A fact of the entity.
    row: u32,
    start: i64,
    end: Option<i64>,
    surrogate: i64,
}

fn inferred_rows(history: &History, keyed: &RecordBatch, stretches: &[Stretch]) -> Result<RecordBatch> {
    let layout = &history.layout;
    let rows: Vec<_> = stretches.iter().map(|s| (0, s.row as usize)).collect();
    let key_schema: Arc<Schema> = keyed.schema();
    let mut columns = gather(&key_schema, &[keyed], &rows)?.columns().to_vec();
    let attributes = layout.tracked.start..layout.others.end;
    columns.extend(attributes.map(|i| new_null_array(layout.schema.field(i).data_type(), rows.len())));
    let spans: Vec<_> = stretches.iter().map(|s| (s.start, s.end, s.surrogate)).collect();
    columns.extend(intervals(&spans));
    columns.push(Arc::new(BooleanArray::from(vec![true; rows.len()])));
    Ok(RecordBatch::try_new(schema(layout, true), columns)?)
}

/// Goes along an entity's points with facts in the order of their times.
struct Cursor<'a> {
    points: Points<'a>,
    next: usize,
    start: i64,
    open: bool,
}

impl<'a> Cursor<'a> {
    fn new(points: Points<'a>) -> Self {
        Self { points, next: 0, start: BEGINNING, open: false }
    }

    /// The start of the row or stretch that holds at a moment, and whether it is a row. Moments never go back.
    fn move_to(&mut self, at: i64) -> (i64, bool) {
        while self.next < self.points.len() && self.points.at[self.next] <= at {
            if self.points.flags[self.next] & (OPENS | CLOSES) != 0 {
                self.start = self.points.at[self.next];
                self.open = self.points.flags[self.next] & OPENS != 0;
            }
            self.next += 1;
        }
        (self.start, self.open)
    }

    /// Where the next row begins.
    fn next_start(&self) -> Option<i64> {
        (self.next..self.points.len()).find(|&i| self.points.flags[i] & OPENS != 0).map(|i| self.points.at[i])
    }
}
