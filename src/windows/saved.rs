//! The state of windows: what each pane has of each group, and the watermark.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::WindowSpec;
use super::groups::{Groups, Row};
use super::operator::Windows;
use crate::columns::{moment_field, moments, one_moment};
use crate::error::Result;
use crate::state::{self, Change, StateParts, Stateful, column, typed};
use crate::watermark::moment_of;

const PANE: &str = "__pane";

impl Windows {
    fn panes_table(&self) -> String {
        format!("windows/{}/panes", self.spec.name)
    }

    fn meta_table(&self) -> String {
        format!("windows/{}/meta", self.spec.name)
    }

    fn tables(&self, mut rows: Vec<Row<'_>>, flushed: bool) -> Result<StateParts> {
        rows.sort_unstable_by(|a, b| a.start.cmp(&b.start).then_with(|| a.key().cmp(b.key())));
        let mut fields = vec![moment_field(PANE, false)];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(moments(rows.iter().map(|row| row.start).collect::<Vec<_>>()))];
        fields.extend(self.by_fields.iter().cloned());
        columns.extend(self.keys(&rows)?);
        for (n, plan) in self.plans.iter().enumerate() {
            fields.extend(plan.saved_fields(n));
            columns.extend(plan.save(n, &rows)?);
        }
        // Only windows of one entity each can be parted by entity.
        let split = if self.spec.by.iter().any(|name| name == "entity") { "entity" } else { "" };
        let order: Vec<&str> = std::iter::once(PANE).chain(self.spec.by.iter().map(String::as_str)).collect();
        let panes = RecordBatch::try_new(state::schema(fields, split, &order), columns)?;
        let meta = RecordBatch::try_new(
            Arc::new(Schema::new(vec![
                moment_field("watermark", true),
                Field::new("flushed", DataType::Boolean, false),
            ])),
            vec![one_moment(self.watermark), Arc::new(BooleanArray::from(vec![flushed]))],
        )?;
        Ok(vec![(self.panes_table(), panes), (self.meta_table(), meta)])
    }
}

/// Whether every window that a pane is part of has ended.
fn is_over(spec: &WindowSpec, pane: i64, watermark: i64) -> bool {
    spec.windows_of(pane).next_back().is_none_or(|last| spec.end_of(last) <= watermark)
}

impl Stateful for Windows {
    fn delta(&mut self) -> Result<Vec<Change>> {
        let mut changed = Vec::new();
        for (start, groups) in &mut self.panes {
            changed.extend(groups.take_unsaved().into_iter().map(|n| (*start, n)));
        }
        let rows = changed
            .into_iter()
            .filter_map(|(start, index)| Some(Row { start, groups: self.panes.get(&start)?, index }))
            .collect();
        let parts = self.tables(rows, self.flushed)?;
        let flushed = std::mem::take(&mut self.flushed);
        let meta = self.meta_table();
        Ok(parts.into_iter().map(|(table, rows)| Change { replaces: flushed || table == meta, table, rows }).collect())
    }

    fn snapshot(&self) -> Result<StateParts> {
        self.tables(self.panes.iter().flat_map(|(start, groups)| groups.rows(*start)).collect(), false)
    }

    fn load(&mut self, parts: &[(String, RecordBatch)]) -> Result<()> {
        let meta_table = self.meta_table();
        let meta = state::table(parts, &meta_table);
        if let Some(meta) = meta
            && typed::<BooleanArray>(&meta_table, meta, "flushed")?.iter().any(|f| f == Some(true))
        {
            self.panes.clear();
        }
        let table = self.panes_table();
        if let Some(batch) = state::table(parts, &table) {
            let starts: &TimestampMicrosecondArray = typed(&table, batch, PANE)?;
            let by: Vec<ArrayRef> =
                self.by_fields.iter().map(|f| column(&table, batch, f.name()).cloned()).collect::<Result<_>>()?;
            let keys = if by.is_empty() { None } else { Some(self.converter.convert_columns(&by)?) };
            let saved = self
                .plans
                .iter()
                .enumerate()
                .map(|(n, plan)| plan.load(n, &table, batch))
                .collect::<Result<Vec<_>>>()?;
            for (row, start) in starts.values().iter().enumerate() {
                let groups = self.panes.entry(*start).or_insert_with(|| Groups::new(&self.plans));
                let n = match &keys {
                    Some(keys) => groups.group(keys.row(row).as_ref()),
                    None => groups.group(&[]),
                };
                groups.grow()?;
                for (column, saved) in groups.columns.iter_mut().zip(&saved) {
                    column.replace(n as usize, saved, row)?;
                }
            }
        }
        if let Some(meta) = meta
            && let Some(watermark) = moment_of(&meta_table, meta, "watermark")?
        {
            self.watermark = Some(watermark);
        }
        if let Some(watermark) = self.watermark {
            let spec = &self.spec;
            self.panes.retain(|pane, _| !is_over(spec, *pane, watermark));
        }
        Ok(())
    }

    fn newest(&self, table: &str, rows: &RecordBatch) -> Result<Option<i64>> {
        if table == self.panes_table() { state::highest(table, rows, PANE) } else { Ok(None) }
    }

    fn expired(&self, _: &str, newest: i64) -> bool {
        self.watermark.is_some_and(|watermark| is_over(&self.spec, newest, watermark))
    }

    fn combine(&self, table: &str, saved: &[RecordBatch]) -> Result<RecordBatch> {
        let key = std::iter::once(PANE).chain(self.spec.by.iter().map(String::as_str));
        state::latest(table, saved, key, Some(PANE), |pane| !self.expired(table, pane))
    }
}
