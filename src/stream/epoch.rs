//! One epoch: pieces of the source go through contract and operators into files that are encoded as the pieces come.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use rayon::prelude::*;

use super::bronze::Bronze;
use super::ledger::Counts;
use super::operators::{Operators, event_schema};
use super::spec::{Layer, Shape};
use crate::contract::{Contract, JudgeRules, Judged};
use crate::error::{Error, Result};
use crate::events::RawEvents;
use crate::hash::HashKey;
use crate::lake::layout::{Partition, data_file};
use crate::packed::{self, Text};
use crate::sessions::{Cut, Sessionizer};
use crate::sinks::dead_letters::{self, Letter};
use crate::sinks::parquet::{DataFile, ParquetSettings, PartitionedWriter};
use crate::verdict::{Problem, Verdict};

/// A piece of the source with what the contract says of it.
pub struct Judgment {
    pub(super) piece: RawEvents,
    pub(super) judged: Judged,
    hashes: Vec<u128>,
}

impl Judgment {
    /// Where the piece came from.
    pub fn topic(&self) -> &str {
        &self.piece.topic
    }

    /// The partition that the piece came from.
    pub fn partition(&self) -> i32 {
        self.piece.partition
    }

    /// The valid events.
    pub fn valid(&self) -> &RecordBatch {
        &self.judged.valid
    }

    /// Puts other columns in place of those of the valid events, row for row.
    pub fn set_valid(&mut self, rows: RecordBatch) {
        self.judged.valid = rows;
    }

    /// The highest event time among the valid events.
    pub fn highest(&self) -> Option<i64> {
        self.judged.valid.column_by_name("event_time").and_then(|c| {
            c.as_any().downcast_ref::<TimestampMicrosecondArray>().and_then(|t| t.values().iter().copied().max())
        })
    }
}

/// Judges pieces on all cores.
///
/// # Errors
/// Whatever [`Contract::judge`] answers.
pub fn judge_all(
    contract: &Contract,
    rules: &JudgeRules,
    key: HashKey,
    pieces: Vec<RawEvents>,
) -> Result<Vec<Judgment>> {
    pieces.into_par_iter().map(|piece| judge(contract, rules, key, piece)).collect()
}

/// Judges a piece.
///
/// # Errors
/// Whatever [`Contract::judge`] answers.
pub(super) fn judge(contract: &Contract, rules: &JudgeRules, key: HashKey, piece: RawEvents) -> Result<Judgment> {
    let judged = contract.judge_packed(&piece, rules)?;
    let keys = text(&judged.valid, "idempotency_key")?;
    let mut hashes = Vec::with_capacity(judged.valid.num_rows());
    keys.map(|k| key.hash(k.unwrap_or_default().as_bytes()), |hash| hashes.push(hash));
    Ok(Judgment { piece, judged, hashes })
}

/// The files of an epoch as they grow, and the count of what went into them.
pub struct Epoch {
    number: u64,
    late_below: Option<i64>,
    pending_before: i64,
    contract_version: String,
    bronze: Option<Bronze>,
    /// Whether accepted events and sessions are written.
    with_silver: bool,
    silver: Table,
    sessions: Table,
    dead_letters: Table,
    /// Dead letters that are not encoded yet: the epoch's number stands in them, and may still change.
    letters: Vec<RecordBatch>,
    letters_bytes: usize,
    gold: Vec<Table>,
    silver_schema: SchemaRef,
    events: SchemaRef,
    verdicts: Vec<Verdict>,
    counts: Counts,
}

/// So many bytes of dead letters wait at most until the epoch's number is certain.
const LETTERS_HELD: usize = 16 << 20;

/// A table of the lake while its files grow.
pub(super) struct Table {
    layer: String,
    pub(super) writer: PartitionedWriter,
}

/// What came out of an epoch.
pub struct Outcome {
    /// The data files, encoded, with the layers that they belong to.
    pub files: Vec<(String, DataFile)>,
    /// What became of the events.
    pub counts: Counts,
    /// The watermark after it.
    pub watermark: Option<i64>,
}

/// The columns of `silver/events`, from those of valid rows.
pub fn silver_schema(contract: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = contract.fields().iter().cloned().collect();
    let start = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    fields.push(Arc::new(Field::new("session_id", DataType::Utf8, true)));
    fields.push(Arc::new(Field::new("session_start", start, true)));
    fields.push(Arc::new(Field::new("session_seq", DataType::Int64, true)));
    fields.push(Arc::new(Field::new("replayed", DataType::Boolean, false)));
    fields.push(Arc::new(Field::new("_topic", DataType::Utf8, false)));
    fields.push(Arc::new(Field::new("_partition", DataType::Int32, false)));
    fields.push(Arc::new(Field::new("_offset", DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

impl Epoch {
    /// An epoch that nothing has gone into yet.
    ///
    /// # Errors
    /// [`Error::Data`] when a schema cannot be written as Parquet.
    pub fn new(number: u64, contract: &Contract, shape: &Shape, operators: &Operators) -> Result<Self> {
        let rows = shape.rows(&contract.schema())?;
        let silver_schema = silver_schema(&rows);
        let gold = operators
            .windows
            .iter()
            .map(|(name, windows)| Table::new(&format!("gold/{name}"), &windows.schema(), "window_start"))
            .collect();
        Ok(Self {
            number,
            late_below: operators.watermark.current(),
            pending_before: operators.pending(),
            contract_version: contract.digest(),
            bronze: shape.layers.contains(&Layer::Bronze).then(|| Bronze::new(contract)),
            with_silver: shape.layers.contains(&Layer::Silver),
            silver: Table::new("silver/events", &silver_schema, "event_time"),
            sessions: Table::new("silver/sessions", &Sessionizer::sessions_schema(), "session_start"),
            dead_letters: Table::new("dead_letters", &dead_letters::schema(), "event_time"),
            letters: vec![],
            letters_bytes: 0,
            gold,
            silver_schema,
            events: event_schema(&rows),
            verdicts: vec![],
            counts: Counts::default(),
        })
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Takes the next judged pieces through the operators, one after the other. Bronze does not ask what becomes of an
    /// event: it is written beside, and begun first, as it takes longer.
    ///
    /// # Errors
    /// Whatever an operator or an encoder answers.
    pub fn take(&mut self, operators: &mut Operators, judgments: &[Judgment]) -> Result<()> {
        let mut bronze = self.bronze.take();
        let (written, taken) = rayon::join(
            || bronze.as_mut().map_or(Ok(0), |bronze| bronze.write(judgments)),
            || judgments.iter().try_for_each(|judgment| self.take_piece(operators, judgment)),
        );
        taken?;
        self.counts.bronze += written?;
        self.bronze = bronze;
        Ok(())
    }

    fn take_piece(&mut self, operators: &mut Operators, judgment: &Judgment) -> Result<()> {
        let Judgment { piece, judged, hashes } = judgment;
        let times = time(&judged.valid, "event_time")?;
        self.verdicts.clear();
        operators.dedup.judge(hashes, times.values(), self.late_below, &mut self.verdicts)?;

        let accepted: BooleanArray = self.verdicts.iter().map(|v| Some(*v == Verdict::Accepted)).collect();
        let late: Vec<usize> = positions(&self.verdicts, Verdict::Late);
        let duplicates = self.verdicts.iter().filter(|v| **v == Verdict::Duplicate).count();
        self.counts.consumed += piece.len() as i64;
        self.counts.rejected += judged.rejected.len() as i64;
        self.counts.duplicate += duplicates as i64;
        self.counts.late += late.len() as i64;
        for rejected in &judged.rejected {
            let code = rejected.problems.first().map(|p| p.code).ok_or_else(|| {
                Error::Internal(format!("an event was rejected without a problem: {} {}", piece.topic, rejected.row))
            })?;
            *self.counts.rejected_by_code.entry(code).or_default() += 1;
        }

        if !judged.rejected.is_empty() || !late.is_empty() {
            self.bury(piece, judged, &late)?;
        }
        self.accept(operators, piece, judged, &accepted)?;
        operators.keep_within()
    }

    /// Writes dead letters: what the contract does not accept, and what came too late.
    fn bury(&mut self, piece: &RawEvents, judged: &Judged, late: &[usize]) -> Result<()> {
        let times = time(&judged.valid, "event_time")?;
        let below = self.late_below.unwrap_or(i64::MIN);
        let problems: Vec<[Problem; 1]> = late.iter().map(|i| [dead_letters::late(times.value(*i), below)]).collect();
        let [kinds, versions, keys, entities] =
            ["event_type", "schema_version", "idempotency_key", "entity"].map(|name| text(&judged.valid, name));
        let (kinds, versions, keys, entities) = (kinds?, versions?, keys?, entities?);
        let at = |column: Text<'_>, i: usize| column.get(i).map(str::to_owned);
        let late_texts: Vec<_> =
            late.iter().map(|&i| (at(kinds, i), at(versions, i), at(keys, i), at(entities, i))).collect();
        let mut letters: Vec<Letter<'_>> = Letter::rejected(judged).collect();
        letters.extend(late.iter().zip(&problems).zip(&late_texts).map(
            |((&i, problems), (kind, version, key, entity))| Letter {
                row: judged.rows[i],
                problems,
                event_type: kind.as_deref(),
                schema_version: version.as_deref(),
                idempotency_key: key.as_deref(),
                entity: entity.as_deref(),
                event_time: Some(times.value(i)),
            },
        ));
        letters.sort_by_key(|l| l.row);
        let rows = dead_letters::batch(piece, &letters, &self.contract_version, self.number)?;
        self.counts.dead_letters += rows.num_rows() as i64;
        self.letters_bytes += rows.get_array_memory_size();
        self.letters.push(rows);
        if self.letters_bytes > LETTERS_HELD { self.write_letters() } else { Ok(()) }
    }

    fn write_letters(&mut self) -> Result<()> {
        self.letters_bytes = 0;
        std::mem::take(&mut self.letters)
            .iter()
            .try_for_each(|rows| self.dead_letters.writer.write_by_date(rows, "ingested_at"))
    }

    /// Gives the epoch another number, because an entry that is no epoch took its own. False when that cannot be done any
    /// more: the number stands in files already.
    ///
    /// # Errors
    /// [`Error::Data`] when Arrow cannot hold the rows.
    pub fn renumber(&mut self, number: u64) -> Result<bool> {
        if !self.dead_letters.writer.is_empty() {
            return Ok(false);
        }
        for rows in &mut self.letters {
            *rows = dead_letters::renumbered(rows, number)?;
        }
        self.number = number;
        Ok(true)
    }

    fn accept(
        &mut self,
        operators: &mut Operators,
        piece: &RawEvents,
        judged: &Judged,
        accepted: &BooleanArray,
    ) -> Result<()> {
        let all = accepted.true_count() == accepted.len();
        let rows = if all { judged.valid.clone() } else { packed::filter(&judged.valid, accepted)? };
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let whole = all && judged.rows.len() == piece.len();
        let offsets = if whole {
            piece.offsets.clone()
        } else {
            let known = piece.offsets.values();
            let offset = |i: usize| known[judged.rows[i] as usize];
            Int64Array::from_iter_values(accepted.values().set_indices().map(offset))
        };
        let mut columns = rows.columns().to_vec();
        columns.push(packed::repeated(&piece.topic, offsets.len())?);
        columns.push(Arc::new(Int32Array::from_value(piece.partition, offsets.len())));
        columns.push(Arc::new(offsets));
        let rows = packed::batch(&self.events, columns)?;
        if !operators.windows.is_empty() {
            let plain = packed::unpack(&self.events, &rows)?;
            operators.windows.iter_mut().try_for_each(|(_, windows)| windows.push(&plain))?;
        }
        match &mut operators.sessions {
            Some(sessions) if self.with_silver => sessions.push(rows),
            _ => self.write_silver(&rows),
        }
    }

    /// Writes accepted rows to Silver that never get session columns.
    fn write_silver(&mut self, rows: &RecordBatch) -> Result<()> {
        self.counts.silver += rows.num_rows() as i64;
        if !self.with_silver || rows.num_rows() == 0 {
            return Ok(());
        }
        self.silver.writer.write_by_date(&silver_rows(&self.silver_schema, rows)?, "event_time")
    }

    /// Writes what sessions have let go to Silver, and gives the memory of each batch back as it is done. The sessions that
    /// are over are closed beside.
    fn write_sessions(&mut self, mut cut: Cut<'_>) -> Result<()> {
        let events = cut.take_events();
        self.counts.silver += events.iter().map(|rows| rows.num_rows() as i64).sum::<i64>();
        let Self { with_silver, silver_schema, silver, sessions: table, .. } = self;
        let write_events = || {
            let rows = events.into_iter().filter(|rows| rows.num_rows() > 0);
            silver.writer.write_all_by_date(rows.map(|rows| silver_rows(silver_schema, &rows)), "session_start")
        };
        let (events, closed) = rayon::join(
            || if *with_silver { write_events() } else { Ok(()) },
            || {
                let closed = cut.close()?;
                table.writer.write_by_date(&closed, "session_start")?;
                Ok::<_, Error>(closed.num_rows())
            },
        );
        self.counts.sessions += closed? as i64;
        events
    }

    /// Ends the epoch: the watermark moves, held events and windows come out, files are finished.
    ///
    /// # Errors
    /// Whatever an operator or an encoder answers.
    pub fn close(
        mut self,
        operators: &mut Operators,
        flush: bool,
        idle_watermark: Option<i64>,
        names: &Names,
    ) -> Result<Outcome> {
        let number = self.number;
        let finish = |Table { layer, writer }: Table| -> Result<Vec<(String, DataFile)>> {
            let finished = writer.finish(&|partition, part| names.data(number, &layer, partition, part))?;
            Ok(finished.into_iter().map(|file| (layer.clone(), file)).collect())
        };
        self.write_letters()?;
        let (bronze, dead_letters) = (self.bronze.take().map(Bronze::into_table), self.dead_letters.take());
        // Nothing more goes into these: they are finished on one core while the sessions are cut on another.
        let (early, late) = rayon::join(
            || Ok::<_, Error>((bronze.map_or(Ok(vec![]), finish)?, finish(dead_letters)?)),
            || self.release(operators, flush, idle_watermark),
        );
        let ((bronze, dead_letters), watermark) = (early?, late?);
        let mut files = bronze;
        let (silver, sessions) = (self.silver, self.sessions);
        let (silver, sessions) = rayon::join(|| finish(silver), || finish(sessions));
        files.extend(silver?);
        files.extend(sessions?);
        files.extend(dead_letters);
        for table in self.gold {
            files.extend(finish(table)?);
        }
        Ok(Outcome { files, counts: self.counts, watermark })
    }

    /// Moves the watermark, and writes what the operators let go.
    fn release(&mut self, operators: &mut Operators, flush: bool, idle_watermark: Option<i64>) -> Result<Option<i64>> {
        let mut watermark = operators.watermark.advance();
        if let Some(to) = idle_watermark {
            operators.watermark.advance_to(to);
            watermark = operators.watermark.current();
        }
        if let Some(highest) = operators.watermark.highest().filter(|_| flush) {
            operators.watermark.advance_to(highest.saturating_add(1));
            watermark = operators.watermark.current();
        }
        let Operators { dedup, sessions, .. } = operators;
        // What sessions let go is written while keys are still put away: each alone takes longer than the other at times.
        let (advanced, written) = rayon::join(
            || watermark.map_or(Ok(()), |watermark| dedup.advance(watermark)),
            || {
                let cut = match (sessions, watermark) {
                    (Some(sessions), _) if flush => sessions.cut_all()?,
                    (Some(sessions), Some(watermark)) => sessions.cut(watermark)?,
                    _ => return Ok(()),
                };
                self.write_sessions(cut)
            },
        );
        advanced.and(written)?;
        for ((_, windows), table) in operators.windows.iter_mut().zip(&mut self.gold) {
            let done = match watermark {
                _ if flush => Some(windows.flush_all()?),
                Some(watermark) => Some(windows.advance(watermark)?),
                None => None,
            };
            if let Some(rows) = done {
                table.writer.write_by_date(&rows, "window_start")?;
            }
        }
        self.counts.pending = operators.pending() - self.pending_before;
        Ok(watermark)
    }
}

impl Table {
    /// A table of this layer that nothing was written to yet; `time` is the column that its files are known by.
    pub(super) fn new(layer: &str, schema: &SchemaRef, time: &str) -> Self {
        let settings = ParquetSettings { time_column: time.to_owned(), ..ParquetSettings::default() };
        Self { layer: layer.to_owned(), writer: PartitionedWriter::new(schema, &settings) }
    }

    /// The table as it has grown, and an empty one in its place.
    fn take(&mut self) -> Self {
        Self { layer: self.layer.clone(), writer: self.writer.take() }
    }
}

/// Accepted rows with all columns of Silver.
fn silver_rows(schema: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch> {
    let column = |field: &FieldRef| match rows.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None if field.name() == "replayed" => Arc::new(BooleanArray::from(vec![false; rows.num_rows()])) as ArrayRef,
        None => arrow::array::new_null_array(field.data_type(), rows.num_rows()),
    };
    packed::batch(schema, schema.fields().iter().map(column).collect())
}

/// Names of data files: a function of pipeline, shard, epoch and part.
pub struct Names {
    /// The pipeline's name.
    pub pipeline: String,
    /// The shard's number; 0 where it has none.
    pub shard: u32,
}

impl Names {
    /// What the names of an epoch's data files begin with.
    pub fn epoch(&self, epoch: u64) -> String {
        let first = self.data(epoch, "", &Partition::none(), 0);
        first.trim_start_matches('/').trim_end_matches("0000.parquet").to_owned()
    }

    /// The path of a data file below the lake's root.
    pub fn data(&self, epoch: u64, layer: &str, partition: &Partition, part: u32) -> String {
        data_file(layer, partition, &self.pipeline, self.shard, epoch, part)
    }
}

fn positions(verdicts: &[Verdict], of: Verdict) -> Vec<usize> {
    verdicts.iter().enumerate().filter(|(_, v)| **v == of).map(|(i, _)| i).collect()
}

fn text<'a>(rows: &'a RecordBatch, column: &str) -> Result<Text<'a>> {
    let found = rows.column_by_name(column).and_then(|c| Text::of(c));
    found.ok_or_else(|| Error::Internal(format!("column {column} is missing or no text")))
}

fn time<'a>(rows: &'a RecordBatch, column: &str) -> Result<&'a TimestampMicrosecondArray> {
    let found = rows.column_by_name(column).and_then(|c| c.as_any().downcast_ref());
    found.ok_or_else(|| Error::Internal(format!("column {column} is missing or no timestamp")))
}
