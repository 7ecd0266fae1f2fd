//! Merging changes into a history.

use std::sync::Arc;

use arrow::array::RecordBatch;
use rayon::prelude::*;
use serde::Serialize;

use super::compare::{Comparators, Src, sums};
use super::history::{History, Layer, Live, Seeker};
use super::keys::{Keys, PARTS, sort_part, surrogate, surrogate_bucket};
use super::layout::{Input, Layout, Scd2Spec};
use super::part::{DELETE, NOWHERE, OPENS, Part, Place, Points};
use super::rows::{Blocks, Row};
use super::sift::{Change, Sifter};
use super::{rows, save};
use crate::error::{Error, Result};

/// What a merge did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// The changes handed in.
    pub changes: u64,
    /// Entities that were not known.
    pub entities_added: u64,
    /// Entities of whose changes at least one was new (also when no row changed).
    pub entities_changed: u64,
    /// Rows whose start is new.
    pub rows_added: u64,
    /// Rows whose start is gone.
    pub rows_removed: u64,
    /// Changes older than the moment up to which the history is settled.
    pub before_settled: u64,
}

impl Counts {
    fn add(mut self, other: Self) -> Self {
        self.changes += other.changes;
        self.entities_added += other.entities_added;
        self.entities_changed += other.entities_changed;
        self.rows_added += other.rows_added;
        self.rows_removed += other.rows_removed;
        self.before_settled += other.before_settled;
        self
    }
}

/// The outcome of a merge. Rows are made when they are asked for.
#[derive(Debug, Clone)]
pub struct Merge {
    /// What was merged into, under the layout of the outcome.
    before: Option<History>,
    /// The outcome with the changed entities in a layer of their own, if any changed.
    whole: History,
    changed: bool,
    state: History,
    counts: Counts,
    notes: Vec<String>,
}

/// Merges changes into a history.
///
/// # Errors
/// [`Error::Settings`] and [`Error::Data`] where columns are missing, have types that do not fit or hold no value where
/// one is needed, and where two rows would get the same surrogate key.
pub fn merge(current: Option<&History>, changes: &[RecordBatch], spec: &Scd2Spec) -> Result<Merge> {
    let (before, layout) = prepare(current, changes, spec)?;
    let input = layout.input(changes, spec)?;
    let mut whole = before.clone().unwrap_or_else(|| History::empty(layout.clone()));
    let settled = whole.settled.unwrap_or(i64::MIN);
    let mut counts = Counts {
        changes: input.at.len() as u64,
        before_settled: input.at.iter().filter(|at| **at < settled).count() as u64,
        ..Counts::default()
    };
    let mut notes = Vec::new();
    if whole.bare {
        notes.push("the history was made from bare rows, which have forgotten what confirmed them: a change that comes late may give another history than it would have given in time. Pass an earlier result instead".to_owned());
    }
    if counts.before_settled > 0 {
        notes.push(format!(
            "{} changes are older than the moment up to which the history is settled: they are placed as well as its rows allow",
            counts.before_settled
        ));
    }
    let (parts, done) = merge_parts(&whole, &layout, &input)?;
    counts = counts.add(done);
    let changed = counts.entities_changed > 0;
    if changed {
        whole.layers.push(Arc::new(Layer { batch: input.batch, parts }));
    }
    let state = whole.clone().compacted()?;
    Ok(Merge { before, whole, changed, state, counts, notes })
}

/// The layout of the outcome, and the history under it.
fn prepare(
    current: Option<&History>,
    changes: &[RecordBatch],
    spec: &Scd2Spec,
) -> Result<(Option<History>, Arc<Layout>)> {
    let theirs = changes.first().map(|first| Layout::of(spec, &first.schema())).transpose()?;
    match (current, theirs) {
        (None, None) => {
            Err(Error::Data("there are no changes and no history: nothing says what the columns are".to_owned()))
        }
        (None, Some(layout)) => Ok((None, Arc::new(layout))),
        (Some(history), None) => Ok((Some(history.clone()), history.layout.clone())),
        (Some(history), Some(theirs)) => {
            let history = match history.layout.joined(&theirs)? {
                Some(layout) => history.retyped(layout)?,
                None => history.clone(),
            };
            let layout = history.layout.clone();
            Ok((Some(history), layout))
        }
    }
}

fn merge_parts(whole: &History, layout: &Layout, input: &Input) -> Result<(Vec<Part>, Counts)> {
    let keys = Keys::new(&input.batch, layout.keys.clone())?;
    let sifter = Sifter::new(&keys, &input.at, &sums(layout, &input.batch)?);
    let mut batches = whole.batches();
    batches.push(&input.batch);
    let compare = Comparators::new(layout, batches);
    let done = (0..PARTS)
        .into_par_iter()
        .map(|p| {
            let sifted = sifter.part(p);
            let part = Part::with_capacity(sifted.hashes(), 2 * sifted.len());
            let seeker = whole.seeker(p);
            let mut merger = Merger { whole, seeker, input, compare: &compare, part, counts: Counts::default() };
            sifted.each(|key, changes| merger.entity(key, changes))?;
            let Merger { mut part, counts, .. } = merger;
            sort_part(&mut part.surrogates, |(surrogate, _)| surrogate_bucket(*surrogate));
            match part.rivals(whole.layers.iter().map(|l| &l.parts[p])) {
                Some((surrogate, key, rival)) => Err(collision(surrogate, key, rival)),
                None => Ok((part, counts)),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let counts = done.iter().fold(Counts::default(), |sum, (_, c)| sum.add(*c));
    Ok((done.into_iter().map(|(part, _)| part).collect(), counts))
}

/// Merges the changes of one part.
struct Merger<'a> {
    whole: &'a History,
    seeker: Seeker<'a>,
    input: &'a Input,
    compare: &'a Comparators<'a>,
    part: Part,
    counts: Counts,
}

impl Merger<'_> {
    /// Merges the changes of one entity, in the order of their times, with what is known of it.
    fn entity(&mut self, key: &[u8], changes: &[Change]) -> Result<()> {
        let hash = changes[0].hash;
        let known = self.seeker.seek(hash, key);
        let old = known.map_or(Points::EMPTY, |live| live.points());
        let mut fresh = false;
        let mut next = 0;
        for moment in changes.chunk_by(|a, b| a.at == b.at) {
            let at = moment[0].at;
            while next < old.len() && old.at[next] < at {
                self.part.push(old.at[next], old.flags[next], old.sums[next], old.src[next]);
                next += 1;
            }
            let same_time = next < old.len() && old.at[next] == at;
            let mut best = self.read(&moment[0]);
            for change in &moment[1..] {
                let rival = self.read(change);
                if self.compare.rank((best.2, best.0 != 0), (rival.2, rival.0 != 0)).is_lt() {
                    best = rival;
                }
            }
            if same_time {
                let there = (old.flags[next] & DELETE, old.sums[next], old.src[next]);
                next += 1;
                if self.compare.rank((there.2, there.0 != 0), (best.2, best.0 != 0)).is_lt() {
                    fresh = true;
                } else {
                    best = there;
                }
            } else {
                fresh = true;
            }
            self.part.push(at, best.0, best.1, best.2);
        }
        if !fresh {
            self.part.drop_tail();
            return Ok(());
        }
        for i in next..old.len() {
            self.part.push(old.at[i], old.flags[i], old.sums[i], old.src[i]);
        }
        self.part.mark_tail(self.compare);
        self.counts.entities_changed += 1;
        self.counts.entities_added += u64::from(known.is_none());
        let entity = self.part.close_entity(hash, key, known.map_or(NOWHERE, |live| live.place))?;
        self.compare_starts(key, hash, entity, old);
        Ok(())
    }

    fn read(&self, change: &Change) -> (u8, u64, Src) {
        let row = change.row as usize;
        let delete = self.input.deletes.as_ref().is_some_and(|d| d.value(row));
        let src = Src { layer: self.whole.layers.len() as u32, row: change.row };
        (u8::from(delete) * DELETE, change.sum, src)
    }

    /// Counts rows that are new or gone, and makes the surrogate keys of the new ones.
    fn compare_starts(&mut self, key: &[u8], hash: u64, entity: u32, old: Points<'_>) {
        let mut before = old.starts().peekable();
        for i in self.part.range(entity) {
            let at = self.part.at[i];
            if self.part.flags[i] & OPENS == 0 {
                continue;
            }
            while before.next_if(|b| *b < at).is_some() {
                self.counts.rows_removed += 1;
            }
            if before.next_if_eq(&at).is_some() {
                continue;
            }
            self.counts.rows_added += 1;
            let surrogate = surrogate(key, hash, at);
            self.part.surrogates.push((surrogate, entity));
        }
        self.counts.rows_removed += before.count() as u64;
    }
}

pub(super) fn collision(surrogate: i64, key: &[u8], rival: &[u8]) -> Error {
    Error::Data(format!(
        "surrogate key {surrogate} would stand for two rows, of '{}' and of '{}'; nothing was merged. Keep one of the two out and report it: 63 bits make this as good as impossible by chance",
        key.escape_ascii(),
        rival.escape_ascii()
    ))
}

impl Merge {
    /// The whole history: key, tracked and other columns, `effective_start`, `effective_end`, `is_current` and
    /// `surrogate_key`, ordered by key and start. Made anew at each call.
    ///
    /// # Errors
    /// [`Error::Data`] where the rows of a column are beyond what its type can address.
    pub fn history(&self) -> Result<RecordBatch> {
        self.state.rows()
    }

    /// The rows that are new or changed: what a warehouse has to write, by surrogate key.
    ///
    /// # Errors
    /// As [`Merge::history`].
    pub fn upserts(&self) -> Result<RecordBatch> {
        self.difference(true)
    }

    /// The rows that were there and are gone, as they were: what a warehouse has to delete, by surrogate key.
    ///
    /// # Errors
    /// As [`Merge::history`].
    pub fn removed(&self) -> Result<RecordBatch> {
        self.difference(false)
    }

    /// The change points that this merge brought, to be kept beside the history where [`History::to_batch`] is too
    /// much to write each time: one replaces what was kept for the same key and time.
    ///
    /// # Errors
    /// As [`Merge::history`].
    pub fn points(&self) -> Result<RecordBatch> {
        let delta = self.whole.layers.len().saturating_sub(1) as u32;
        save::points(&self.whole, &self.changed_entities(), |src| src.layer == delta)
    }

    /// The keys of the entities whose rows may have changed: their facts have to be pointed again.
    ///
    /// # Errors
    /// As [`Merge::history`].
    pub fn changed_keys(&self) -> Result<RecordBatch> {
        rows::keys(&self.whole, self.changed_entities().iter().map(|e| e.points().src[0]).collect())
    }

    /// The history to merge the next changes into.
    pub fn state(&self) -> &History {
        &self.state
    }

    /// Gives up the rest for the history.
    pub fn into_state(self) -> History {
        self.state
    }

    /// What was done.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What the caller should know about this merge.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The changed entities, by key.
    fn changed_entities(&self) -> Vec<Live<'_>> {
        let new = |p| self.delta(p).map(|(new, _)| new).collect::<Vec<_>>();
        rows::by_key(&(0..PARTS).into_par_iter().map(new).collect::<Vec<_>>().concat(), |e| e.key())
    }

    /// The changed entities of a part, now and before.
    fn delta(&self, p: usize) -> impl Iterator<Item = (Live<'_>, Option<Live<'_>>)> {
        let top = self.whole.layers.last().filter(|_| self.changed);
        let layer = self.whole.layers.len().saturating_sub(1) as u32;
        top.into_iter().flat_map(move |top| {
            let part = &top.parts[p];
            (0..part.entities() as u32).map(move |entity| {
                let place = Place { layer, entity };
                let older = self.before.as_ref().and_then(|b| b.at(p, part.older[entity as usize]));
                (Live { part, place }, older)
            })
        })
    }

    fn difference(&self, upserts: bool) -> Result<RecordBatch> {
        let compare = Comparators::new(&self.whole.layout, self.whole.batches());
        let found = (0..PARTS).into_par_iter().map(|p| {
            let mut out = Blocks::default();
            let (mut now, mut before) = (Vec::new(), Vec::new());
            for (new, old) in self.delta(p) {
                now.clear();
                before.clear();
                rows::push_rows(new, &mut now);
                if let Some(old) = old {
                    rows::push_rows(old, &mut before);
                }
                let (from, against) = if upserts { (&now, &before) } else { (&before, &now) };
                let mut others = against.iter().peekable();
                let mut differs = |row: &Row<'_>| {
                    while others.next_if(|o| o.start < row.start).is_some() {}
                    let same = |o: &&&Row<'_>| o.start == row.start && (!upserts || row.same(o, &compare));
                    others.peek().filter(same).is_none()
                };
                out.push(p, |rows| rows.extend(from.iter().filter(|row| differs(row)).copied()));
            }
            out
        });
        rows::assemble(&self.whole, &Blocks::sorted(&found.collect::<Vec<_>>()))
    }
}
