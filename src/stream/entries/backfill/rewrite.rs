//! The rows that a backfill writes: new sessions whole, and what stays of files that lose rows.

use std::collections::HashSet;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;

use super::super::output::{Output, Table};
use super::super::settled::positions;
use super::super::silver;
use super::Backfill;
use super::fates::Fate;
use super::gather::{CAME, Gathered, bucket_of, number};
use super::scope::{Scope, Window, hash_of};
use crate::error::Result;
use crate::lake::layout;
use crate::sessions::{SessionSettings, Sessionizer};
use crate::sources::lake::{StoredFile, text, times};
use crate::stream::log::FileEntry;

/// What went.
#[derive(Default)]
pub struct Rewritten {
    /// The files.
    pub removed: Vec<FileEntry>,
    /// Rows of `silver/sessions` among them.
    pub sessions: u64,
}

impl<'a> Backfill<'a> {
    /// Puts the events of the scope into sessions and writes them; how many sessions there are.
    pub fn write_new(&self, gathered: &mut Gathered<'a>, scope: &Scope, output: &mut Output) -> Result<u64> {
        let mut events = Table::new(silver::EVENTS, &self.judge.silver);
        let mut sessions = Table::new(silver::SESSIONS, &Sessionizer::sessions_schema());
        let mut count = 0;
        for n in 0..self.buckets {
            self.work.stop_if_asked()?;
            for record in gathered.old.take(n)? {
                let place = number(&record[5..7]);
                let fate = if scope.holds(record[0], record[1] as i64) { Fate::Removed } else { Fate::Stays };
                gathered.marks.push(bucket_of(place, self.buckets), fate.mark(place))?;
            }
            let Some(rows) = self.in_scope(gathered, scope, n, false)? else { continue };
            let losers: HashSet<u128> = gathered.losers.take(n)?.iter().map(|r| number(r)).collect();
            let at = times(&rows, "event_time")?;
            let places = positions(&rows, ["_topic", "_partition", "_offset"])?;
            let mut winners = vec![];
            for ((row, place), key) in places.into_iter().enumerate().zip(self.judge.keys(&rows)?) {
                let lost = losers.contains(&place);
                let fate = if lost { Fate::Duplicate } else { Fate::Silver { key, time: at.value(row) } };
                gathered.marks.push(bucket_of(place, self.buckets), fate.mark(place))?;
                winners.push(!lost);
            }
            let rows = filter_record_batch(&rows, &BooleanArray::from(winners))?;
            count += self.write_sessions(&rows, &mut events, &mut sessions, output)?;
        }
        if !self.dry_run {
            output.close(self.work, events)?;
            output.close(self.work, sessions)?;
        }
        Ok(count)
    }

    fn write_sessions(
        &self,
        rows: &RecordBatch,
        events: &mut Table,
        sessions: &mut Table,
        output: &mut Output,
    ) -> Result<u64> {
        let came = rows.schema_ref().index_of(CAME)?;
        let columns: Vec<usize> = (0..rows.num_columns()).filter(|c| *c != came).collect();
        let rows = rows.project(&columns)?;
        let Some((gap, max_duration)) = self.judge.gap() else {
            if !self.dry_run && rows.num_rows() > 0 {
                output.write_by_date(self.work, events, &silver::rows(self.judge, &rows, false)?, "event_time")?;
            }
            return Ok(0);
        };
        let mut kernel = Sessionizer::new(SessionSettings { gap, max_duration }, self.judge.events.clone())?;
        kernel.push(rows)?;
        let released = kernel.flush_all()?;
        if !self.dry_run {
            for batch in &released.events {
                output.write_by_date(self.work, events, &silver::rows(self.judge, batch, false)?, "session_start")?;
            }
            output.write_by_date(self.work, sessions, &released.sessions, "session_start")?;
        }
        Ok(released.sessions.num_rows() as u64)
    }

    /// Files of Silver that lose rows: what stays of each is written again.
    pub fn rewrite(&self, scope: &Scope, window: Window, output: &mut Output) -> Result<Rewritten> {
        let mut rewritten = Rewritten::default();
        for (layer, time) in [(silver::EVENTS, "event_time"), (silver::SESSIONS, "session_start")] {
            for file in self.files(layer, window) {
                let gone = self.rewrite_file(file, time, scope, output)?;
                if gone > 0 {
                    rewritten.removed.push(file.clone());
                    rewritten.sessions += if layer == silver::SESSIONS { gone } else { 0 };
                }
            }
        }
        Ok(rewritten)
    }

    /// How many rows of a file go. Where some do, the others are written to a new one.
    fn rewrite_file(&self, file: &FileEntry, time: &str, scope: &Scope, output: &mut Output) -> Result<u64> {
        let store = self.work.store();
        let stored = StoredFile::open(store, file)?;
        let kept = |batch: &RecordBatch| -> Result<BooleanArray> {
            let (entities, at) = (text(batch, "entity")?, times(batch, time)?);
            let stays = |row: usize| {
                let entity = hash_of(entities.is_valid(row).then(|| entities.value(row)));
                !scope.holds(entity, at.value(row))
            };
            Ok((0..batch.num_rows()).map(|row| Some(stays(row))).collect())
        };
        let mut gone = 0;
        stored.read(store, Some(&["entity", time]), None, &mut |batch| {
            self.work.stop_if_asked()?;
            gone += (batch.num_rows() - kept(&batch)?.true_count()) as u64;
            Ok(())
        })?;
        if gone == 0 || gone == file.rows || self.dry_run {
            return Ok(gone);
        }
        let partition = layout::partition_of(&file.path);
        let mut table = Table::new(&file.layer, stored.schema());
        stored.read(store, None, None, &mut |batch| {
            let rows = filter_record_batch(&batch, &kept(&batch)?)?;
            output.write(self.work, &mut table, &partition, &rows)
        })?;
        output.close(self.work, table)?;
        Ok(gone)
    }
}
