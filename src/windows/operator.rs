//! The operator: events into panes, panes into windows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use rayon::prelude::*;

use super::groups::{Groups, Row};
use super::plan::{Plan, plain, to_plain};
use super::{Pane, WindowSpec};
use crate::columns::{cut, index_of, micros, moment_field, moments, same_schema, text};
use crate::error::{Error, Result};

/// Windows over a stream of events.
pub struct Windows {
    pub(super) spec: WindowSpec,
    at: usize,
    event_type: Option<usize>,
    by: Vec<usize>,
    pub(super) by_fields: Vec<Field>,
    pub(super) converter: RowConverter,
    pub(super) plans: Vec<Plan>,
    output: SchemaRef,
    pub(super) panes: BTreeMap<i64, Groups>,
    pub(super) watermark: Option<i64>,
    /// Everything was flushed since the last delta.
    pub(super) flushed: bool,
}

impl Windows {
    /// Windows over events with these columns; `event_time` says when they happened.
    ///
    /// # Errors
    /// [`Error::Data`] for a column that is not there (with the nearest name) or of a type that does not serve;
    /// [`Error::Settings`] for sizes and names that make no sense.
    pub fn new(spec: WindowSpec, schema: &Schema) -> Result<Self> {
        Self::at(spec, schema, "event_time")
    }

    fn at(spec: WindowSpec, schema: &Schema, at: &str) -> Result<Self> {
        spec.check()?;
        let within = |e: Error| match e {
            Error::Data(reason) => Error::Data(format!("windows.{}: {reason}", spec.name)),
            other => other,
        };
        let find = |name: &str| index_of(schema, name).map_err(within);
        let at_index = find(at)?;
        micros(&arrow::array::new_empty_array(schema.field(at_index).data_type()), at).map_err(within)?;
        let event_type = if spec.from.is_empty() { None } else { Some(find("event_type")?) };
        let by: Vec<usize> = spec.by.iter().map(|name| find(name)).collect::<Result<_>>()?;
        let by_fields: Vec<Field> =
            by.iter().map(|i| schema.field(*i)).map(|f| Field::new(f.name(), plain(f.data_type()), true)).collect();
        let converter = RowConverter::new(by_fields.iter().map(|f| SortField::new(f.data_type().clone())).collect())?;
        let plan = |(name, aggregate): &(String, super::Aggregate)| {
            let column = aggregate.column().map(find).transpose()?;
            Plan::new(name, aggregate, column.map(|i| (i, schema.field(i).data_type()))).map_err(within)
        };
        let plans: Vec<Plan> = spec.aggregates.iter().map(plan).collect::<Result<_>>()?;
        let mut output = vec![moment_field("window_start", false), moment_field("window_end", false)];
        output.extend(by_fields.iter().cloned());
        output.extend(plans.iter().map(Plan::field));
        Ok(Self {
            at: at_index,
            event_type,
            by,
            by_fields,
            converter,
            plans,
            output: Arc::new(Schema::new(output)),
            panes: BTreeMap::new(),
            watermark: None,
            flushed: false,
            spec,
        })
    }

    /// The memory that open windows take, in bytes.
    pub fn memory(&self) -> usize {
        self.panes.values().map(Groups::memory).sum()
    }

    /// The columns of windows: `window_start`, `window_end`, those grouped by, the aggregates.
    pub fn schema(&self) -> SchemaRef {
        self.output.clone()
    }

    /// Whether no window is open.
    pub fn is_empty(&self) -> bool {
        self.panes.is_empty()
    }

    /// Takes events in.
    ///
    /// # Errors
    /// When a column has a null time, or cannot be read.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let name = batch.schema_ref().fields().get(self.at).map(|f| f.name().clone()).unwrap_or_default();
        let times = micros(batch.column(self.at), &name)?;
        let by: Vec<ArrayRef> = self.by.iter().map(|i| to_plain(batch.column(*i))).collect::<Result<_>>()?;
        let keys = if by.is_empty() { None } else { Some(self.converter.convert_columns(&by)?) };
        let inputs = self.plans.iter().map(|plan| plan.read(batch)).collect::<Result<Vec<_>>>()?;
        for (start, rows) in self.rows_of_panes(batch, &times)? {
            let groups = self.panes.entry(start).or_insert_with(|| Groups::new(&self.plans));
            let mut pair = |row: u32| match &keys {
                Some(keys) => (row, groups.group(keys.row(row as usize).as_ref())),
                None => (row, groups.group(&[])),
            };
            let pairs: Vec<(u32, u32)> = rows.into_iter().map(&mut pair).collect();
            groups.grow()?;
            pairs.iter().for_each(|(_, group)| groups.change(*group));
            for (column, input) in groups.columns.iter_mut().zip(&inputs) {
                column.update(input, &pairs);
            }
        }
        Ok(())
    }

    /// The windows that have become final: those that end at or before the watermark. Ordered by start and group.
    ///
    /// # Errors
    /// [`Error::Data`] that names the window whose sum its column cannot hold.
    pub fn advance(&mut self, watermark: i64) -> Result<RecordBatch> {
        let before = self.watermark;
        let watermark = before.map_or(watermark, |w| w.max(watermark));
        self.watermark = Some(watermark);
        let mut last = BTreeSet::new();
        let mut over = Vec::new();
        for pane in self.panes.keys().take_while(|pane| **pane < watermark) {
            let mut open = false;
            for window in self.spec.windows_of(*pane) {
                let end = self.spec.end_of(window);
                if end > watermark {
                    open = true;
                } else if before.is_none_or(|before| end > before) {
                    last.insert(window);
                }
            }
            if !open {
                over.push(*pane);
            }
        }
        let rows = self.windows(&last, None)?;
        over.iter().for_each(|pane| drop(self.panes.remove(pane)));
        Ok(rows)
    }

    /// The lowest watermark at which a window comes out; none when none is open.
    pub fn next_release(&self) -> Option<i64> {
        // Later panes have later windows only.
        let ends = self.panes.keys().next().into_iter().flat_map(|pane| self.spec.windows_of(*pane));
        ends.map(|window| self.spec.end_of(window)).find(|end| self.watermark.is_none_or(|w| *end > w))
    }

    /// All windows that have not come out yet: the end of bounded input. An event that comes after it begins its window
    /// anew.
    ///
    /// # Errors
    /// [`Error::Data`] that names the window whose sum its column cannot hold.
    pub fn flush_all(&mut self) -> Result<RecordBatch> {
        let open = |window: &i64| self.watermark.is_none_or(|w| self.spec.end_of(*window) > w);
        let last = self.panes.keys().flat_map(|pane| self.spec.windows_of(*pane)).filter(open).collect();
        let rows = self.windows(&last, None)?;
        self.panes.clear();
        self.flushed = true;
        Ok(rows)
    }

    /// The rows of windows that changed since this was last called, as they stand now (absolute values). Windows that have
    /// become final since come out of [`Windows::advance`] alone.
    ///
    /// # Errors
    /// [`Error::Data`] that names the window whose sum its column cannot hold.
    pub fn changed(&mut self) -> Result<RecordBatch> {
        let mut changed: BTreeMap<i64, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (pane, groups) in &mut self.panes {
            let keys: Vec<Vec<u8>> = groups.take_unshown().into_iter().map(|n| groups.key(n).to_vec()).collect();
            if keys.is_empty() {
                continue;
            }
            for window in self.spec.windows_of(*pane) {
                if self.watermark.is_none_or(|w| self.spec.end_of(window) > w) {
                    changed.entry(window).or_default().extend(keys.iter().cloned());
                }
            }
        }
        let windows = changed.keys().copied().collect();
        self.windows(&windows, Some(&changed))
    }

    /// Rows in panes, grouped.
    fn rows_of_panes(&self, batch: &RecordBatch, times: &[i64]) -> Result<BTreeMap<i64, Vec<u32>>> {
        let types = self.event_type.map(|i| text(batch.column(i), "event_type")).transpose()?;
        let counts = |row: usize| {
            types
                .as_ref()
                .is_none_or(|types| types.is_valid(row) && self.spec.from.iter().any(|t| t == types.value(row)))
        };
        let mut places: HashMap<i64, usize> = HashMap::new();
        let mut panes: Vec<(i64, Vec<u32>)> = Vec::new();
        let mut current = (Pane { start: 0, end: 0 }, 0);
        for (row, time) in times.iter().enumerate().filter(|(row, _)| counts(*row)) {
            if *time < current.0.start || *time >= current.0.end {
                let pane = self.spec.pane(*time);
                let place = *places.entry(pane.start).or_insert_with(|| {
                    panes.push((pane.start, Vec::new()));
                    panes.len() - 1
                });
                current = (pane, place);
            }
            panes[current.1].1.push(row as u32);
        }
        Ok(panes.into_iter().collect())
    }

    /// These windows as rows, or those groups of them.
    fn windows(&self, starts: &BTreeSet<i64>, only: Option<&BTreeMap<i64, BTreeSet<Vec<u8>>>>) -> Result<RecordBatch> {
        let mut merged: Vec<(i64, Groups)> = Vec::new();
        let mut single: Vec<(i64, &Groups)> = Vec::new();
        for start in starts {
            let mut panes = self.panes.range(*start..self.spec.end_of(*start)).map(|(_, groups)| groups);
            let wanted = only.and_then(|only| only.get(start));
            let Some(first) = panes.next() else { continue };
            match (panes.next(), wanted) {
                (None, None) => single.push((*start, first)),
                (second, wanted) => {
                    let mut all = Groups::new(&self.plans);
                    for groups in std::iter::once(first).chain(second).chain(panes) {
                        match wanted {
                            None => (0..groups.len() as u32).try_for_each(|n| all.merge(groups, n).map(drop))?,
                            Some(keys) => keys
                                .iter()
                                .filter_map(|key| groups.find(key))
                                .try_for_each(|n| all.merge(groups, n).map(drop))?,
                        }
                    }
                    merged.push((*start, all));
                }
            }
        }
        let merged = merged.iter().map(|(start, groups)| (*start, groups));
        let mut rows: Vec<Row<'_>> = single.into_iter().chain(merged).flat_map(|(start, g)| g.rows(start)).collect();
        rows.sort_unstable_by(|a, b| a.start.cmp(&b.start).then_with(|| a.key().cmp(b.key())));
        let end = |row: &Row<'_>| self.spec.end_of(row.start);
        let place =
            |row: &Row<'_>| format!("'{}' from {} to {}", self.spec.name, written(row.start), written(end(row)));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(moments(rows.iter().map(|row| row.start).collect::<Vec<_>>())),
            Arc::new(moments(rows.iter().map(end).collect::<Vec<_>>())),
        ];
        columns.extend(self.keys(&rows)?);
        for (n, plan) in self.plans.iter().enumerate() {
            columns.push(plan.finish(n, &rows, place)?);
        }
        Ok(RecordBatch::try_new(self.output.clone(), columns)?)
    }

    /// The columns grouped by.
    pub(super) fn keys(&self, rows: &[Row<'_>]) -> Result<Vec<ArrayRef>> {
        if self.by.is_empty() {
            return Ok(Vec::new());
        }
        let parser = self.converter.parser();
        Ok(self.converter.convert_rows(rows.iter().map(|row| parser.parse(row.key())))?)
    }

    /// Takes in what another has counted of the same stream.
    fn merge(&mut self, other: Self) -> Result<()> {
        for (start, theirs) in other.panes {
            match self.panes.entry(start) {
                std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(theirs)),
                std::collections::btree_map::Entry::Occupied(mut ours) => {
                    for n in 0..theirs.len() as u32 {
                        let to = ours.get_mut().merge(&theirs, n)?;
                        ours.get_mut().change(to);
                    }
                }
            }
        }
        Ok(())
    }
}

/// A moment for people.
fn written(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |t| t.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string())
}

/// Aggregates a whole input; `at` names the column of event times. Ordered by window and group.
///
/// # Errors
/// As [`Windows::new`] and [`Windows::flush_all`].
pub fn aggregate_windows(batches: &[RecordBatch], at: &str, spec: WindowSpec) -> Result<RecordBatch> {
    same_schema(batches)?;
    let Some(first) = batches.first() else {
        return Err(Error::Data("there is nothing to aggregate: not even columns".to_string()));
    };
    let pieces = cut(batches, 1 << 16);
    // Every aggregate is independent of order, so each core counts for itself.
    let share = pieces.len().div_ceil(rayon::current_num_threads()).max(1);
    let parts: Vec<Windows> = pieces
        .par_chunks(share)
        .map(|pieces| {
            let mut windows = Windows::at(spec.clone(), first.schema_ref(), at)?;
            pieces.iter().try_for_each(|piece| windows.push(piece))?;
            Ok(windows)
        })
        .collect::<Result<_>>()?;
    let mut all = Windows::at(spec, first.schema_ref(), at)?;
    parts.into_iter().try_for_each(|part| all.merge(part))?;
    all.flush_all()
}
