//! The history kept between loads: layers of entities with their change points, as structures of arrays.
//!
//! A merge never touches what is there. It puts a layer on top that holds the entities it changed, whole; the layers
//! below keep theirs, and the newest counts. Layers are joined when they are about as large as the one below, so there
//! are few of them and each change is copied a logarithmic number of times.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use rayon::prelude::*;

use super::compare::Src;
use super::keys::{PARTS, sort_part, surrogate, surrogate_bucket};
use super::layout::{Layout, adapt};
use super::part::{CLOSES, DELETE, NOWHERE, OPENS, Part, Place, Points};
use crate::error::{Error, Result};

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

    pub fn hash(&self) -> u64 {
        self.part.hashes[self.place.entity as usize]
    }

    pub fn points(&self) -> Points<'a> {
        self.part.points(self.place.entity)
    }
}

/// Walks along the layers of one part.
pub(super) struct Seeker<'a> {
    layers: Vec<(&'a Part, usize)>,
}

impl<'a> Seeker<'a> {
    /// Finds an entity; hashes come in ascending order.
    pub fn seek(&mut self, hash: u64, key: &[u8]) -> Option<Live<'a>> {
        self.layers.iter_mut().enumerate().rev().find_map(|(l, (part, from))| {
            part.seek(from, hash, key).map(|entity| Live { part, place: Place { layer: l as u32, entity } })
        })
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

    /// A search through one part for entities in the order of their hashes.
    pub(super) fn seeker(&self, part: usize) -> Seeker<'_> {
        Seeker { layers: self.layers.iter().map(|l| (&l.parts[part], 0)).collect() }
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
                let mut live = self.live(from, p);
                live.sort_unstable_by(|a, b| a.hash().cmp(&b.hash()).then_with(|| a.key().cmp(b.key())));
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
                    let hash = entity.hash();
                    let new = part.close_entity(hash, entity.key(), older)?;
                    let starts: Vec<i64> = part.points(new).starts().collect();
                    part.surrogates.extend(starts.iter().map(|at| (surrogate(entity.key(), hash, *at), new)));
                }
                sort_part(&mut part.surrogates, |(surrogate, _)| surrogate_bucket(*surrogate));
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
