//! The history kept between loads: layers of entities with their change points, as structures of arrays.
//!
//! A merge never touches what is there. It puts a layer on top that holds the entities it changed, whole; the layers
//! below keep theirs, and the newest counts. Layers are joined when they are about as large as the one below, so there
//! are few of them and each change is copied a logarithmic number of times.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashTable;
use rayon::prelude::*;

use super::compare::{Comparators, Src};
use super::keys::{PARTS, surrogate};
use super::layout::{Layout, adapt};
use crate::error::{Error, Result};

/// The change is a delete.
pub(super) const DELETE: u8 = 1;
/// The change opens a row.
pub(super) const OPENS: u8 = 2;
/// The change closes a row and opens none.
pub(super) const CLOSES: u8 = 4;

/// An entity as one layer holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub layer: u32,
    pub entity: u32,
}

/// No place: the entity is in no lower layer.
pub(super) const NOWHERE: Place = Place { layer: u32::MAX, entity: u32::MAX };

/// The change points of an entity, by time.
#[derive(Clone, Copy)]
pub(super) struct Points<'a> {
    pub at: &'a [i64],
    pub flags: &'a [u8],
    pub sums: &'a [u64],
    pub src: &'a [Src],
}

impl<'a> Points<'a> {
    pub const EMPTY: Points<'static> = Points { at: &[], flags: &[], sums: &[], src: &[] };

    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// The starts of the rows.
    pub fn starts(self) -> impl Iterator<Item = i64> + 'a {
        self.at.iter().zip(self.flags).filter(|(_, f)| **f & OPENS != 0).map(|(at, _)| *at)
    }

    /// The newest change that carries attributes.
    pub fn newest(&self) -> Option<Src> {
        self.flags.iter().rposition(|f| f & DELETE == 0).map(|i| self.src[i])
    }
}

/// The entities of one layer whose hashes fall into one part.
#[derive(Default)]
pub(super) struct Part {
    pub index: HashTable<u32>,
    pub hashes: Vec<u64>,
    key_ends: Vec<u32>,
    key_bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Where each entity was before, in a lower layer.
    pub older: Vec<Place>,
    pub at: Vec<i64>,
    pub flags: Vec<u8>,
    pub sums: Vec<u64>,
    pub src: Vec<Src>,
    /// The surrogate keys of the rows that came with this layer, to find collisions.
    pub surrogates: HashTable<(i64, u32)>,
}

impl Part {
    pub fn with_capacity(entities: usize, points: usize) -> Self {
        Self {
            index: HashTable::with_capacity(entities),
            hashes: Vec::with_capacity(entities),
            key_ends: Vec::with_capacity(entities),
            key_bytes: Vec::with_capacity(entities * 16),
            ends: Vec::with_capacity(entities),
            older: Vec::with_capacity(entities),
            at: Vec::with_capacity(points),
            flags: Vec::with_capacity(points),
            sums: Vec::with_capacity(points),
            src: Vec::with_capacity(points),
            surrogates: HashTable::with_capacity(entities),
        }
    }

    pub fn entities(&self) -> usize {
        self.hashes.len()
    }

    pub fn key(&self, entity: u32) -> &[u8] {
        let e = entity as usize;
        let begin = if e == 0 { 0 } else { self.key_ends[e - 1] as usize };
        &self.key_bytes[begin..self.key_ends[e] as usize]
    }

    pub fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |&e| self.hashes[e as usize] == hash && self.key(e) == key).copied()
    }

    pub fn points(&self, entity: u32) -> Points<'_> {
        let e = entity as usize;
        let range = if e == 0 { 0 } else { self.ends[e - 1] as usize }..self.ends[e] as usize;
        Points {
            at: &self.at[range.clone()],
            flags: &self.flags[range.clone()],
            sums: &self.sums[range.clone()],
            src: &self.src[range],
        }
    }

    /// Where the points begin that belong to no entity yet.
    fn tail_begin(&self) -> usize {
        self.ends.last().map_or(0, |&e| e as usize)
    }

    pub fn push(&mut self, at: i64, flags: u8, sum: u64, src: Src) {
        self.at.push(at);
        self.flags.push(flags);
        self.sums.push(sum);
        self.src.push(src);
    }

    pub fn drop_tail(&mut self) {
        let begin = self.tail_begin();
        self.at.truncate(begin);
        self.flags.truncate(begin);
        self.sums.truncate(begin);
        self.src.truncate(begin);
    }

    /// Says which points of the tail open and close rows: a delete closes, a change that changes nothing does not open.
    pub fn mark_tail(&mut self, compare: &Comparators<'_>) {
        let begin = self.tail_begin();
        let mut open: Option<usize> = None;
        for i in begin..self.at.len() {
            let delete = self.flags[i] & DELETE;
            self.flags[i] = match (delete != 0, open) {
                (true, Some(_)) => {
                    open = None;
                    DELETE | CLOSES
                }
                (true, None) => DELETE,
                (false, Some(o)) if self.sums[o] == self.sums[i] && compare.same_tracked(self.src[o], self.src[i]) => 0,
                (false, _) => {
                    open = Some(i);
                    OPENS
                }
            };
        }
    }

    /// Makes the points after the last entity into one.
    pub fn close_entity(&mut self, hash: u64, key: &[u8], older: Place) -> Result<u32> {
        let small = |n: usize| {
            u32::try_from(n).map_err(|_| Error::Data("a history of this size does not fit; split it by key".to_owned()))
        };
        let entity = small(self.hashes.len())?;
        self.key_bytes.extend_from_slice(key);
        self.key_ends.push(small(self.key_bytes.len())?);
        self.hashes.push(hash);
        self.older.push(older);
        self.ends.push(small(self.at.len())?);
        let hashes = &self.hashes;
        self.index.insert_unique(hash, entity, |&e| hashes[e as usize]);
        Ok(entity)
    }

    pub fn add_surrogate(&mut self, surrogate: i64, entity: u32) {
        self.surrogates.insert_unique(spread(surrogate), (surrogate, entity), |s| spread(s.0));
    }

    /// The key of another entity that has this surrogate key, if there is one.
    pub fn rival(&self, surrogate: i64, key: &[u8]) -> Option<&[u8]> {
        let found = self.surrogates.find(spread(surrogate), |s| s.0 == surrogate && self.key(s.1) != key);
        found.map(|s| self.key(s.1))
    }
}

/// Surrogate keys of one part share their highest bits; the hash table wants those to differ.
fn spread(surrogate: i64) -> u64 {
    (surrogate as u64).rotate_left(7)
}

/// What one merge brought, or several of them joined.
pub(super) struct Layer {
    pub batch: RecordBatch,
    pub parts: Vec<Part>,
}

impl Layer {
    fn points(&self) -> usize {
        self.parts.iter().map(|p| p.at.len()).sum()
    }
}

/// A dimension's history: every change point of every entity, also those that only confirmed what was known.
///
/// Cheap to clone. See the module's text for what it costs and how to bound it ([`History::settle`]).
#[derive(Clone)]
pub struct History {
    pub(super) layout: Arc<Layout>,
    pub(super) layers: Vec<Arc<Layer>>,
    pub(super) bare: bool,
    pub(super) settled: Option<i64>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History")
            .field("entities", &self.entities())
            .field("points", &self.points())
            .field("complete", &self.is_complete())
            .field("settled", &self.settled)
            .finish_non_exhaustive()
    }
}

/// An entity where it counts: in the newest layer that has it.
#[derive(Clone, Copy)]
pub(super) struct Live<'a> {
    pub part: &'a Part,
    pub place: Place,
}

impl<'a> Live<'a> {
    pub fn key(&self) -> &'a [u8] {
        self.part.key(self.place.entity)
    }

    pub fn points(&self) -> Points<'a> {
        self.part.points(self.place.entity)
    }
}

impl History {
    pub(super) fn empty(layout: Arc<Layout>) -> Self {
        Self { layout, layers: Vec::new(), bare: false, settled: None }
    }

    /// How many entities there are, deleted ones too.
    pub fn entities(&self) -> usize {
        let all = self.layers.iter().flat_map(|l| &l.parts);
        all.map(|p| p.older.iter().filter(|o| **o == NOWHERE).count()).sum()
    }

    /// How many change points are remembered.
    pub fn points(&self) -> usize {
        (0..PARTS).into_par_iter().map(|p| self.live(0, p).iter().map(|e| e.points().len()).sum::<usize>()).sum()
    }

    /// Whether what confirmed each row is remembered, so that any order of arrival gives the same history. False for a
    /// history made from bare rows.
    pub fn is_complete(&self) -> bool {
        !self.bare
    }

    /// The moment before which confirmations were dropped ([`History::settle`]).
    pub fn settled(&self) -> Option<i64> {
        self.settled
    }

    /// Which columns play which part.
    pub fn spec(&self) -> &super::Scd2Spec {
        &self.layout.spec
    }

    pub(super) fn batches(&self) -> Vec<&RecordBatch> {
        self.layers.iter().map(|l| &l.batch).collect()
    }

    /// Finds an entity.
    pub(super) fn find(&self, part: usize, hash: u64, key: &[u8]) -> Option<Live<'_>> {
        self.layers.iter().enumerate().rev().find_map(|(l, layer)| {
            let part = &layer.parts[part];
            part.find(hash, key).map(|entity| Live { part, place: Place { layer: l as u32, entity } })
        })
    }

    /// An entity at a place.
    pub(super) fn at(&self, part: usize, place: Place) -> Option<Live<'_>> {
        (place != NOWHERE).then(|| Live { part: &self.layers[place.layer as usize].parts[part], place })
    }

    /// The entities of one part that count, among the layers from `from` on.
    pub(super) fn live(&self, from: usize, part: usize) -> Vec<Live<'_>> {
        let mut replaced: Vec<Vec<bool>> = self.layers.iter().map(|l| vec![false; l.parts[part].entities()]).collect();
        for older in self.layers.iter().flat_map(|l| &l.parts[part].older).filter(|o| **o != NOWHERE) {
            replaced[older.layer as usize][older.entity as usize] = true;
        }
        let mut out = Vec::new();
        for (l, layer) in self.layers.iter().enumerate().skip(from) {
            let part = &layer.parts[part];
            let alive = (0..part.entities()).filter(|&e| !replaced[l][e]);
            out.extend(alive.map(|e| Live { part, place: Place { layer: l as u32, entity: e as u32 } }));
        }
        out
    }

    /// Joins layers that have grown about as large as the one below, so that there are never many.
    pub(super) fn compacted(self) -> Result<Self> {
        const MOST: usize = 8;
        let sizes: Vec<usize> = self.layers.iter().map(|l| l.points()).collect();
        let mut from = sizes.len();
        let mut sum = 0;
        while from > 0 && (from == sizes.len() || sum + sum / 2 >= sizes[from - 1]) {
            from -= 1;
            sum += sizes[from];
        }
        if sizes.len() > MOST {
            from = from.min(1);
        }
        if from + 1 >= sizes.len() { Ok(self) } else { self.rebuilt(from, None) }
    }

    /// The same history without what confirmed rows before a moment: changes at `before` or later still give the same
    /// history in any order, older ones are placed as well as the rows allow. Costs a copy of the history.
    ///
    /// # Errors
    /// [`Error::Data`] where the joined text of a column is beyond what its type can address.
    pub fn settle(&self, before: i64) -> Result<Self> {
        let mut settled = self.clone().rebuilt(0, Some(before))?;
        settled.settled = Some(self.settled.map_or(before, |s| s.max(before)));
        Ok(settled)
    }

    /// Joins the layers from `from` on into one that holds only what is used.
    fn rebuilt(mut self, from: usize, settle: Option<i64>) -> Result<Self> {
        let upper = from as u32;
        let parts = (0..PARTS)
            .into_par_iter()
            .map(|p| {
                let live = self.live(from, p);
                let mut part = Part::with_capacity(live.len(), live.iter().map(|e| e.points().len()).sum());
                let mut gathered = Vec::new();
                for entity in live {
                    let points = entity.points();
                    // The untracked attributes follow from it once no later change holds.
                    let settled = settle.map_or(0, |before| points.at.partition_point(|at| *at < before));
                    let newest = points.flags[..settled].iter().rposition(|f| f & DELETE == 0);
                    for i in 0..points.len() {
                        let shapes = points.flags[i] & (OPENS | CLOSES) != 0 || Some(i) == newest;
                        if !shapes && i < settled {
                            continue;
                        }
                        let mut src = points.src[i];
                        if src.layer >= upper {
                            gathered.push(((src.layer - upper) as usize, src.row as usize));
                            src = Src { layer: upper, row: (gathered.len() - 1) as u32 };
                        }
                        part.push(points.at[i], points.flags[i], points.sums[i], src);
                    }
                    let mut older = entity.place;
                    while older != NOWHERE && older.layer >= upper {
                        older = self.layers[older.layer as usize].parts[p].older[older.entity as usize];
                    }
                    let hash = entity.part.hashes[entity.place.entity as usize];
                    let new = part.close_entity(hash, entity.key(), older)?;
                    for i in 0..part.points(new).len() {
                        let points = part.points(new);
                        if points.flags[i] & OPENS != 0 {
                            let key = surrogate(entity.key(), hash, points.at[i]);
                            part.add_surrogate(key, new);
                        }
                    }
                }
                Ok((part, gathered))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut all = Vec::with_capacity(parts.iter().map(|(_, g)| g.len()).sum());
        let mut joined = Vec::with_capacity(PARTS);
        for (mut part, gathered) in parts {
            let offset = all.len() as u32;
            for src in part.src.iter_mut().filter(|s| s.layer == upper) {
                src.row += offset;
            }
            all.extend(gathered);
            joined.push(part);
        }
        if all.len() > u32::MAX as usize {
            return Err(Error::Data(format!(
                "{} change points are too many for one history; split it by key",
                all.len()
            )));
        }
        let batches: Vec<&RecordBatch> = self.layers[from..].iter().map(|l| &l.batch).collect();
        let batch = gather(&self.layout.schema, &batches, &all)?;
        self.layers.truncate(from);
        self.layers.push(Arc::new(Layer { batch, parts: joined }));
        Ok(self)
    }

    /// The same history under a layout in which columns of nulls have got a type.
    pub(super) fn retyped(&self, layout: Layout) -> Result<Self> {
        let layers = self.layers.iter().map(|layer| {
            let fields = layout.schema.fields();
            let columns = fields.iter().zip(layer.batch.columns()).map(|(f, c)| adapt(c, f)).collect::<Result<_>>()?;
            let batch = RecordBatch::try_new_with_options(
                layout.schema.clone(),
                columns,
                &RecordBatchOptions::new().with_row_count(Some(layer.batch.num_rows())),
            )?;
            // The sums of nulls differ between types only where the column is tracked; make them again then.
            let sums = super::compare::sums(&layout, &batch)?;
            Ok((batch, sums))
        });
        let made = layers.collect::<Result<Vec<_>>>()?;
        let layers = self.layers.iter().zip(&made).map(|(layer, (batch, _))| {
            let parts = layer.parts.iter().map(|p| p.resummed(|src| made[src.layer as usize].1[src.row as usize]));
            Arc::new(Layer { batch: batch.clone(), parts: parts.collect() })
        });
        Ok(Self { layers: layers.collect(), layout: Arc::new(layout), bare: self.bare, settled: self.settled })
    }
}

impl Part {
    fn resummed(&self, sum: impl Fn(Src) -> u64) -> Self {
        Self {
            index: self.index.clone(),
            hashes: self.hashes.clone(),
            key_ends: self.key_ends.clone(),
            key_bytes: self.key_bytes.clone(),
            ends: self.ends.clone(),
            older: self.older.clone(),
            at: self.at.clone(),
            flags: self.flags.clone(),
            sums: self.src.iter().map(|s| sum(*s)).collect(),
            src: self.src.clone(),
            surrogates: self.surrogates.clone(),
        }
    }
}

/// Rows from several batches of one schema, column by column on all cores.
pub(super) fn gather(schema: &SchemaRef, batches: &[&RecordBatch], rows: &[(usize, usize)]) -> Result<RecordBatch> {
    let columns = (0..schema.fields().len())
        .into_par_iter()
        .map(|i| {
            gather_column(schema.field(i).data_type(), batches.iter().map(|b| b.column(i).as_ref()).collect(), rows)
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

pub(super) fn gather_column(
    data_type: &DataType,
    arrays: Vec<&dyn Array>,
    rows: &[(usize, usize)],
) -> Result<ArrayRef> {
    if *data_type == DataType::Null || arrays.is_empty() {
        return Ok(new_null_array(data_type, rows.len()));
    }
    Ok(interleave(&arrays, rows)?)
}
