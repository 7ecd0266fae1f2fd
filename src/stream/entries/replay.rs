//! Replay: dead letters once more through today's contract, or late ones into their place; each position once.
//!
//! A key counts as known when Silver has it, or an event that the stream still holds. What the watermark has not passed
//! yet waits for a later replay: until then the stream itself may still bring the event. The keys that come into Silver
//! go into the stream's state too, so that a message sent again after the replay is a duplicate.

use std::collections::{BTreeMap, HashSet};

use arrow::array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use serde::{Deserialize, Serialize};

use super::judge::{Judge, Means};
use super::output::{Output, Table};
use super::place::place;
use super::settled::{self, Settled};
use super::{ATTEMPTS, Draft, Work, silver};
use crate::error::{Error, Result};
use crate::lake::layout::Partition;
use crate::sessions::Sessionizer;
use crate::sources::lake::{StoredFile, numbers, text, times};
use crate::stream::ledger::Counts;
use crate::stream::log::{FileEntry, Kind};
use crate::stream::spec::{Layer, PipelineSpec};
use crate::verdict::Code;

/// Which dead letters are judged again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayOptions {
    /// Those with one of these codes; all but `late` when empty.
    pub codes: Vec<String>,
    /// Those of these event types; all when empty.
    pub event_types: Vec<String>,
    /// Those that came at this moment or later, in microseconds since the Unix epoch.
    pub from_us: Option<i64>,
    /// Those that came before this moment.
    pub to_us: Option<i64>,
    /// Says what would become of them, and does nothing.
    pub dry_run: bool,
}

/// What became of dead letters.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReplayReport {
    /// The numbers of the log entries.
    pub entries: Vec<u64>,
    /// Dead letters that were judged again.
    pub letters: u64,
    /// Those that are in Silver now.
    pub silver: u64,
    /// Those whose key Silver had.
    pub duplicate: u64,
    /// Those that the contract still does not accept: they stay.
    pub still_bad: u64,
    /// Those that the watermark has not passed yet: they stay, for a later replay.
    pub waiting: u64,
    /// How many of `silver` fell into sessions that were there.
    pub joined_sessions: u64,
    /// How many sessions are new.
    pub new_sessions: u64,
    /// By the code that they had: how many went to Silver.
    pub silver_by_code: BTreeMap<String, u64>,
    /// By the code that they have now: how many stay.
    pub still_bad_by_code: BTreeMap<String, u64>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

impl ReplayReport {
    fn add(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.letters += other.letters;
        self.silver += other.silver;
        self.duplicate += other.duplicate;
        self.still_bad += other.still_bad;
        self.waiting += other.waiting;
        self.joined_sessions += other.joined_sessions;
        self.new_sessions += other.new_sessions;
        for (code, n) in other.silver_by_code {
            *self.silver_by_code.entry(code).or_default() += n;
        }
        for (code, n) in other.still_bad_by_code {
            *self.still_bad_by_code.entry(code).or_default() += n;
        }
    }
}

/// So many dead letters make one log entry at most,
const AN_ENTRY: usize = 200_000;
/// or so many bytes of them.
const AN_ENTRY_BYTES: usize = 128 << 20;

/// Judges dead letters again.
///
/// # Errors
/// [`Error::Settings`] for options that name nothing; lake, checkpoint and contract errors as they come.
pub fn replay(
    work: &mut Work<'_>,
    spec: &PipelineSpec,
    options: &ReplayOptions,
    means: &Means<'_>,
) -> Result<ReplayReport> {
    if let Some(unknown) = options.codes.iter().find(|c| code(c).is_none()) {
        let codes: Vec<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        return Err(Error::settings("code", format!("'{unknown}' is none; the codes are {}", codes.join(", "))));
    }
    if !spec.layers.contains(&Layer::Silver) {
        return Err(Error::settings("layers", "has no silver: there is nothing to replay into"));
    }
    let base = work.base()?;
    let judge = Judge::new(spec, &work.journal, means)?;
    let mut report = ReplayReport { dry_run: options.dry_run, ..ReplayReport::default() };
    let (mut waiting, mut rows, mut bytes) = (vec![], 0, 0);
    for file in base.files.values().filter(|f| f.layer == "dead_letters") {
        StoredFile::open(work.store(), file)?.read(work.store(), None, None, &mut |batch| {
            let chosen = filter_record_batch(&batch, &options.choose(&batch)?)?;
            if chosen.num_rows() == 0 {
                return Ok(());
            }
            rows += chosen.num_rows();
            bytes += chosen.get_array_memory_size();
            waiting.push(chosen);
            if rows >= AN_ENTRY || bytes >= AN_ENTRY_BYTES {
                (rows, bytes) = (0, 0);
                report.add(one(work, &judge, options, &std::mem::take(&mut waiting))?);
            }
            Ok(())
        })?;
    }
    report.add(one(work, &judge, options, &waiting)?);
    Ok(report)
}

fn code(text: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|c| c.as_str() == text)
}

impl ReplayOptions {
    /// The dead letters that are asked for.
    fn choose(&self, letters: &RecordBatch) -> Result<BooleanArray> {
        let (codes, kinds) = (text(letters, "code")?, text(letters, "event_type")?);
        let came = times(letters, "ingested_at")?;
        let late = Code::Late.as_str();
        let asked = |row: usize| {
            let code = codes.value(row);
            let by_code = if self.codes.is_empty() { code != late } else { self.codes.iter().any(|c| c == code) };
            let by_type = self.event_types.is_empty()
                || kinds.is_valid(row) && self.event_types.iter().any(|t| t == kinds.value(row));
            let at = came.value(row);
            by_code && by_type && self.from_us.is_none_or(|from| at >= from) && self.to_us.is_none_or(|to| at < to)
        };
        Ok((0..letters.num_rows()).map(|row| Some(asked(row))).collect())
    }
}

/// One log entry: tried again when something came in between.
fn one(work: &mut Work<'_>, judge: &Judge, options: &ReplayOptions, letters: &[RecordBatch]) -> Result<ReplayReport> {
    let Some(first) = letters.first() else { return Ok(ReplayReport::default()) };
    let letters = concat_batches(&first.schema(), letters)?;
    for _ in 0..=ATTEMPTS {
        work.stop_if_asked()?;
        if let Some(report) = attempt(work, judge, options, &letters)? {
            return Ok(report);
        }
    }
    Err(Error::lake(
        work.journal.control(),
        "other entries of the log, or the stream, keep settling the same events. Try again later; nothing was changed",
    ))
}

/// Valid events among dead letters, and which letters they were.
struct Candidates {
    rows: Vec<RecordBatch>,
    letters: Vec<u32>,
    keys: Vec<u128>,
    times: Vec<i64>,
}

fn attempt(
    work: &mut Work<'_>,
    judge: &Judge,
    options: &ReplayOptions,
    letters: &RecordBatch,
) -> Result<Option<ReplayReport>> {
    let base = work.base()?;
    let settled = settled::Index::read(work.store(), &base)?;
    let open: BooleanArray = settled.which(letters)?.into_iter().map(|settled| Some(!settled)).collect();
    let letters = filter_record_batch(letters, &open)?;
    let mut report = ReplayReport { letters: letters.num_rows() as u64, ..ReplayReport::default() };
    let watermark = base.last.watermark.unwrap_or(i64::MIN);
    let found = candidates(work, judge, &letters, watermark, &mut report)?;
    if found.letters.is_empty() {
        return Ok(Some(report));
    }
    let wanted: HashSet<u128> = found.keys.iter().copied().collect();
    let files: Vec<&FileEntry> = base.files.values().filter(|f| f.layer == silver::EVENTS).collect();
    let mut known = silver::known(work.store(), judge, &files, &wanted)?;
    known.extend(silver::known_held(work.store(), judge, &base.last, &wanted)?);
    // Of two letters with one key the first wins.
    let fresh: Vec<bool> = found.keys.iter().map(|key| known.insert(*key)).collect();
    let accepted: Vec<u32> = (0..).zip(&fresh).filter(|(_, fresh)| **fresh).map(|(n, _)| n).collect();
    let rows = concat_batches(&judge.events, &found.rows)?;
    let rows = take_record_batch(&rows, &UInt32Array::from(accepted.clone()))?;
    let placed = place(work, judge, &base, &rows)?;
    report.silver = accepted.len() as u64;
    report.duplicate = (fresh.len() - accepted.len()) as u64;
    report.joined_sessions = placed.joined;
    report.new_sessions = placed.sessions.num_rows() as u64;

    let records = settle(&letters, &found, &fresh)?;
    for (record, _) in records.iter().zip(&fresh).filter(|(_, fresh)| **fresh) {
        *report.silver_by_code.entry(record.code.clone()).or_default() += 1;
    }
    if options.dry_run {
        return Ok(Some(report));
    }
    work.renew();
    let mut output = Output::default();
    let mut events = Table::new(silver::EVENTS, &judge.silver);
    let date = if placed.rows["session_start"].null_count() == 0 { "session_start" } else { "event_time" };
    output.write_by_date(work, &mut events, &placed.rows, date)?;
    output.close(work, events)?;
    let mut sessions = Table::new(silver::SESSIONS, &Sessionizer::sessions_schema());
    output.write_by_date(work, &mut sessions, &placed.sessions, "session_start")?;
    output.close(work, sessions)?;
    let now = work.clock.now();
    let mut table = Table::new(settled::LAYER, &settled::schema());
    output.write(work, &mut table, &Partition::date(now), &settled::batch(&records, base.last.number, now)?)?;
    output.close(work, table)?;

    let keys: Vec<_> = accepted.iter().map(|n| (found.keys[*n as usize], found.times[*n as usize])).collect();
    let mut draft = Draft::new(Kind::Replay, options.note(judge));
    draft.counts = counts(&records, &report);
    draft.added = output.files;
    Ok(silver::commit(work, judge, &base.last, &mut draft, &keys)?.map(|number| {
        report.entries.push(number);
        report
    }))
}

/// Judges dead letters; those that are valid and passed by the watermark are candidates.
fn candidates(
    work: &Work<'_>,
    judge: &Judge,
    letters: &RecordBatch,
    watermark: i64,
    report: &mut ReplayReport,
) -> Result<Candidates> {
    let mut found = Candidates { rows: vec![], letters: vec![], keys: vec![], times: vec![] };
    for piece in judge.judge(letters, Some(work.clock.now()))? {
        work.stop_if_asked()?;
        for rejected in &piece.judged.rejected {
            report.still_bad += 1;
            if let Some(problem) = rejected.problems.first() {
                *report.still_bad_by_code.entry(problem.code.as_str().to_owned()).or_default() += 1;
            }
        }
        let valid = judge.valid(&piece)?;
        let passed: Vec<bool> = valid.times.iter().map(|t| *t < watermark).collect();
        report.waiting += passed.iter().filter(|p| !**p).count() as u64;
        for (n, _) in passed.iter().enumerate().filter(|(_, passed)| **passed) {
            found.letters.push((piece.rows.start + piece.judged.rows[n] as usize) as u32);
            found.keys.push(valid.keys[n]);
            found.times.push(valid.times[n]);
        }
        found.rows.push(filter_record_batch(&valid.rows, &BooleanArray::from(passed))?);
    }
    Ok(found)
}

fn settle(letters: &RecordBatch, found: &Candidates, fresh: &[bool]) -> Result<Vec<Settled>> {
    let (topics, codes) = (text(letters, "topic")?, text(letters, "code")?);
    let (partitions, offsets) = (numbers(letters, "partition")?, numbers(letters, "offset")?);
    let records = found.letters.iter().zip(&found.times).zip(fresh).map(|((letter, time), fresh)| {
        let row = *letter as usize;
        Settled {
            topic: topics.value(row).to_owned(),
            partition: partitions.value(row) as i32,
            offset: offsets.value(row),
            code: codes.value(row).to_owned(),
            became: if *fresh { "silver" } else { "duplicate" },
            event_time: Some(*time),
        }
    });
    Ok(records.collect())
}

fn counts(records: &[Settled], report: &ReplayReport) -> Counts {
    let mut counts = Counts {
        silver: report.silver as i64,
        duplicate: report.duplicate as i64,
        settled: records.len() as i64,
        sessions: report.new_sessions as i64,
        ..Counts::default()
    };
    for record in records {
        counts.leave(&record.code);
    }
    counts
}

impl Counts {
    /// A dead letter with this code is one no more.
    pub(super) fn leave(&mut self, text: &str) {
        match code(text) {
            Some(Code::Late) | None => self.late -= 1,
            Some(code) => {
                self.rejected -= 1;
                *self.rejected_by_code.entry(code).or_default() -= 1;
            }
        }
    }
}

impl ReplayOptions {
    fn note(&self, judge: &Judge) -> String {
        let codes = if self.codes.is_empty() { "all but late".to_owned() } else { self.codes.join(", ") };
        let digest = judge.contract.digest();
        format!("code {codes}, contract {}", digest.get(..16).unwrap_or(&digest))
    }
}
