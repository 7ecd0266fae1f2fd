//! Dead letters that a backfill settles, and those that it makes.

use std::collections::HashSet;

use arrow::array::{Array, BooleanArray};
use arrow::compute::filter_record_batch;

use super::super::output::{Output, Table};
use super::super::settled::{self, Index, Settled, positions};
use super::Backfill;
use super::fates::Fates;
use super::scope::Window;
use crate::error::{Error, Result};
use crate::lake::layout::Partition;
use crate::sinks::dead_letters::{self, Letter};
use crate::sources::lake::{StoredFile, numbers, text, times};

const POSITION: [&str; 3] = ["topic", "partition", "offset"];

impl Backfill<'_> {
    /// Writes both.
    pub fn settle(&self, fates: &Fates, window: Window, output: &mut Output) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        if !fates.settled.is_empty() {
            self.write_settled(fates, output)?;
        }
        if !fates.letters.is_empty() {
            self.write_letters(&fates.letters, window, output)?;
        }
        Ok(())
    }

    fn write_settled(&self, fates: &Fates, output: &mut Output) -> Result<()> {
        let store = self.work.store();
        let index = Index::read(store, self.base)?;
        let now = self.work.clock.now();
        let mut table = Table::new(settled::LAYER, &settled::schema());
        for file in self.base.files.values().filter(|f| f.layer == "dead_letters") {
            let names = ["topic", "partition", "offset", "epoch", "code", "event_time"];
            StoredFile::open(store, file)?.read(store, Some(&names), None, &mut |batch| {
                let gone = index.which(&batch)?;
                let (topics, codes) = (text(&batch, "topic")?, text(&batch, "code")?);
                let (partitions, offsets) = (numbers(&batch, "partition")?, numbers(&batch, "offset")?);
                let at = times(&batch, "event_time")?;
                let mut rows = vec![];
                for (row, place) in positions(&batch, POSITION)?.into_iter().enumerate() {
                    let Some(silver) = fates.settled.get(&place).filter(|_| !gone[row]) else { continue };
                    rows.push(Settled {
                        topic: topics.value(row).to_owned(),
                        partition: partitions.value(row) as i32,
                        offset: offsets.value(row),
                        code: codes.value(row).to_owned(),
                        became: if *silver { "silver" } else { "duplicate" },
                        event_time: at.is_valid(row).then(|| at.value(row)),
                    });
                }
                let rows = settled::batch(&rows, self.base.last.number, now)?;
                output.write(self.work, &mut table, &Partition::date(now), &rows)
            })?;
        }
        if table.rows != fates.settled.len() as u64 {
            return Err(Error::Internal(format!(
                "{} dead letters to settle, {} found",
                fates.settled.len(),
                table.rows
            )));
        }
        output.close(self.work, table)
    }

    fn write_letters(&self, wanted: &HashSet<u128>, window: Window, output: &mut Output) -> Result<()> {
        let store = self.work.store();
        let mut table = Table::new("dead_letters", &dead_letters::schema());
        let digest = self.judge.contract.digest();
        for file in self.files("bronze/events", window) {
            StoredFile::open(store, file)?.read(store, None, None, &mut |batch| {
                let chosen: BooleanArray =
                    positions(&batch, POSITION)?.into_iter().map(|p| Some(wanted.contains(&p))).collect();
                if chosen.true_count() == 0 {
                    return Ok(());
                }
                for piece in self.judge.judge(&filter_record_batch(&batch, &chosen)?, None)? {
                    let letters: Vec<Letter<'_>> = Letter::rejected(&piece.judged).collect();
                    let rows = dead_letters::batch(&piece.events, &letters, &digest, self.base.last.number + 1)?;
                    output.write_by_date(self.work, &mut table, &rows, "ingested_at")?;
                }
                Ok(())
            })?;
        }
        if table.rows != wanted.len() as u64 {
            return Err(Error::Internal(format!("{} dead letters to write, {} written", wanted.len(), table.rows)));
        }
        output.close(self.work, table)
    }
}
