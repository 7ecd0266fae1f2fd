//! The columns of a batch while it is built.

use std::sync::Arc;

use arrow::array::RecordBatch;

use super::builders::Builder;
use super::columns::ColumnType;
use super::compile::Compiled;
use crate::error::{Error, Result};
use crate::packed;

/// One row a valid event.
pub(super) struct Output {
    pub event_type: Builder,
    /// None where a typed column is the same.
    event_time: Option<Builder>,
    pub key: Builder,
    /// None where a typed column is the same.
    pub entity: Option<Builder>,
    pub version: Builder,
    pub columns: Vec<Builder>,
    pub extra: Builder,
}

impl Output {
    pub fn new(compiled: &Compiled, rows: usize) -> Self {
        let packed = |n: usize, kind: &ColumnType| Builder::packed(kind, rows, compiled.seed, &compiled.habits[n]);
        let columns: Vec<Builder> = compiled.columns.iter().enumerate().map(|(n, c)| packed(n, &c.kind)).collect();
        let role = |n: usize| packed(columns.len() + n, &ColumnType::Text);
        Self {
            event_type: role(0),
            event_time: compiled.time_column.is_none().then(|| Builder::new(&ColumnType::Timestamp)),
            // Keys are taken one by one, and hardly ever repeat.
            key: Builder::plain(rows, &compiled.habits[columns.len() + 2]),
            entity: compiled.entity_column.is_none().then(|| role(3)),
            version: role(1),
            extra: role(4),
            columns,
        }
    }

    /// Puts the event time, where no typed column has it.
    #[inline]
    pub fn event_time(&mut self, row: usize, micros: i64) {
        if let Some(builder) = &mut self.event_time {
            builder.int(row, micros);
        }
    }

    /// Takes back everything from `row` on.
    pub fn truncate(&mut self, row: usize) {
        for builder in [&mut self.event_type, &mut self.key, &mut self.version, &mut self.extra] {
            builder.truncate(row);
        }
        let roles = self.event_time.iter_mut().chain(&mut self.entity);
        roles.chain(&mut self.columns).for_each(|b| b.truncate(row));
    }

    /// The batch, packed.
    pub fn finish(self, compiled: &Compiled, rows: usize) -> Result<RecordBatch> {
        let habit = |n: usize| Some(&compiled.habits[n]);
        let first = self.columns.len();
        let columns = self.columns.into_iter().enumerate().map(|(n, b)| b.finish_with(rows, habit(n)));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let event_type = self.event_type.finish_with(rows, habit(first))?;
        let version = self.version.finish_with(rows, habit(first + 1))?;
        let extra = self.extra.finish_with(rows, habit(first + 4))?;
        let shared = |builder: Option<Builder>, column: Option<usize>, n: usize| match (builder, column) {
            (Some(builder), _) => builder.finish_with(rows, habit(n)),
            (None, Some(column)) => Ok(Arc::clone(&columns[column])),
            (None, None) => Err(Error::Internal("a role has neither a column nor a builder".into())),
        };
        let event_time = shared(self.event_time, compiled.time_column, first)?;
        let entity = shared(self.entity, compiled.entity_column, first + 3)?;
        let roles = [event_type, event_time, self.key.finish_with(rows, habit(first + 2))?, entity, version];
        packed::batch(&compiled.schema, roles.into_iter().chain(columns).chain([extra]).collect())
    }
}
