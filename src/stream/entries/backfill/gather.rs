//! What a backfill reads: Bronze judged again, the Silver there is, the dead letters that are open.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Schema;
use rayon::prelude::*;

use super::super::judge::Piece;
use super::super::settled::{Index, position, positions};
use super::super::silver;
use super::Backfill;
use super::fates::{Fate, MARK};
use super::scope::{Scope, Window, hash_of};
use super::shuffle::{Records, Rows};
use crate::columns::{moment_field, moments};
use crate::error::{Error, Result};
use crate::sources::lake::{StoredFile, numbers, text, times};
use crate::verdict::Code;

/// The column of a judged event that says when it came.
pub const CAME: &str = "__ingested_at";

/// What was read, parted into buckets.
pub struct Gathered<'a> {
    /// Valid events, by entity: the columns of an accepted event, and when it came.
    pub valid: Rows<'a>,
    /// Rows of Silver, by entity: hash of the entity, time, session (two words), its start, position (two words).
    pub old: Records<'a, 7>,
    /// What was found out about a position, by position.
    pub marks: Records<'a, MARK>,
    /// Positions of events whose key another event has, by entity.
    pub losers: Records<'a, 2>,
    /// The topics that valid events came from, in order.
    pub topics: BTreeSet<String>,
    /// Events judged.
    pub judged: u64,
    /// Events of the range that are the stream's.
    pub left_to_stream: u64,
}

/// What several threads add to.
struct Sinks<'a, 'b> {
    valid: &'b mut Rows<'a>,
    marks: &'b mut Records<'a, MARK>,
    topics: BTreeSet<String>,
    judged: u64,
    left: u64,
}

/// The bucket of a hash.
pub fn bucket(hash: u64, buckets: usize) -> usize {
    // The low bits are those that hash tables take.
    ((hash >> 32) % buckets as u64) as usize
}

/// The bucket of a position.
pub fn bucket_of(position: u128, buckets: usize) -> usize {
    bucket((position >> 64) as u64 ^ position as u64, buckets)
}

/// A number of 128 bits as two words.
pub fn words(n: u128) -> [u64; 2] {
    [(n >> 64) as u64, n as u64]
}

/// The number of two words.
pub fn number(words: &[u64]) -> u128 {
    u128::from(words[0]) << 64 | u128::from(words[1])
}

/// The place of a code among all.
pub fn code_number(code: Code) -> u64 {
    Code::ALL.iter().position(|c| *c == code).unwrap_or_default() as u64
}

impl<'a> Backfill<'a> {
    /// Reads and judges what touches the window.
    pub fn gather(&self, scope: &Scope, window: Window) -> Result<Gathered<'a>> {
        let n = self.buckets;
        let mut fields = self.judge.events.fields().to_vec();
        fields.push(Arc::new(moment_field(CAME, false)));
        let mut gathered = Gathered {
            valid: Rows::new(self.folder, "valid", Arc::new(Schema::new(fields)), n),
            old: Records::new(self.folder, "old", n),
            marks: Records::new(self.folder, "marks", n),
            losers: Records::new(self.folder, "losers", n),
            topics: BTreeSet::new(),
            judged: 0,
            left_to_stream: 0,
        };
        let (valid, marks) = (&mut gathered.valid, &mut gathered.marks);
        let sinks = Mutex::new(Sinks { valid, marks, topics: BTreeSet::new(), judged: 0, left: 0 });
        let files = self.files("bronze/events", window);
        files.into_par_iter().with_max_len(1).try_for_each(|file| {
            let range = ("event_time", window.from..window.to);
            StoredFile::open(self.work.store(), file)?.read(self.work.store(), None, Some(range), &mut |batch| {
                self.work.stop_if_asked()?;
                let at = times(&batch, "event_time")?;
                let inside: BooleanArray = at.iter().map(|t| Some(t.is_some_and(|t| window.holds(t)))).collect();
                self.take(&filter_record_batch(&batch, &inside)?, scope, window, &sinks)
            })
        })?;
        self.take_letters(scope, window, &sinks)?;
        let Sinks { judged, left, topics, .. } =
            sinks.into_inner().map_err(|_| Error::Internal("a reader panicked".into()))?;
        gathered.judged = judged;
        gathered.left_to_stream = left;
        gathered.topics = topics;
        gathered.valid.finish()?;
        self.take_old(window, &mut gathered)?;
        Ok(gathered)
    }

    /// Judges events and puts them into their buckets.
    fn take(&self, batch: &RecordBatch, scope: &Scope, window: Window, sinks: &Mutex<Sinks<'_, '_>>) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let pieces = self.judge.judge(batch, None)?;
        let mut rows = vec![];
        for piece in &pieces {
            let valid = self.judge.valid(piece)?;
            let mut columns = valid.rows.columns().to_vec();
            columns.push(Arc::new(moments(vec![piece.events.arrival; valid.rows.num_rows()])));
            rows.push(columns);
        }
        let mut sinks = sinks.lock().map_err(|_| Error::Internal("a reader panicked".into()))?;
        sinks.judged += batch.num_rows() as u64;
        for (piece, columns) in pieces.iter().zip(rows) {
            self.mark_rejected(piece, scope, &mut sinks)?;
            if !sinks.topics.contains(piece.events.topic.as_ref()) {
                sinks.topics.insert(piece.events.topic.to_string());
            }
            let schema = sinks.valid.schema();
            let rows = RecordBatch::try_new(schema, columns)?;
            let (entities, at) = (text(&rows, "entity")?, times(&rows, "event_time")?);
            let places = positions(&rows, ["_topic", "_partition", "_offset"])?;
            let mut mine = Vec::with_capacity(rows.num_rows());
            let mut buckets = vec![];
            for (row, place) in places.into_iter().enumerate() {
                let entity = hash_of(entities.is_valid(row).then(|| entities.value(row)));
                let time = at.value(row);
                let streams = scope.is_streams(entity, time);
                if streams || !window.holds(time) {
                    // Not to be decided here: today's contract reads a time that is far away, or the stream is at it.
                    sinks.left += u64::from(streams && scope.range.holds(time));
                    let fate = if streams { Fate::Streams } else { Fate::Elsewhere };
                    sinks.marks.push(bucket_of(place, self.buckets), fate.mark(place))?;
                } else {
                    buckets.push(bucket(entity, self.buckets));
                }
                mine.push(!streams && window.holds(time));
            }
            sinks.valid.push(&filter_record_batch(&rows, &BooleanArray::from(mine))?, &buckets)?;
        }
        Ok(())
    }

    fn mark_rejected(&self, piece: &Piece, scope: &Scope, sinks: &mut Sinks<'_, '_>) -> Result<()> {
        for rejected in &piece.judged.rejected {
            let row = rejected.row as usize;
            let place = position(&piece.events.topic, piece.events.partition, piece.events.offsets.value(row));
            let time = piece.judged.event_time.get(row).copied().flatten();
            let inside = time.is_some_and(|t| scope.range.holds(t));
            let code = rejected.problems.first().map_or(0, |p| code_number(p.code));
            let fate = Fate::Rejected { code, inside };
            sinks.marks.push(bucket_of(place, self.buckets), fate.mark(place))?;
        }
        Ok(())
    }

    /// Open dead letters: those of the window are noted, those without a time that could be read are judged again.
    fn take_letters(&self, scope: &Scope, window: Window, sinks: &Mutex<Sinks<'_, '_>>) -> Result<()> {
        let index = Index::read(self.work.store(), self.base)?;
        for file in self.base.files.values().filter(|f| f.layer == "dead_letters") {
            let stored = StoredFile::open(self.work.store(), file)?;
            let mut timeless = false;
            let names = ["topic", "partition", "offset", "epoch", "code", "event_time"];
            stored.read(self.work.store(), Some(&names), None, &mut |batch| {
                let (codes, at) = (text(&batch, "code")?, times(&batch, "event_time")?);
                let settled = index.which(&batch)?;
                let places = positions(&batch, ["topic", "partition", "offset"])?;
                let mut sinks = sinks.lock().map_err(|_| Error::Internal("a reader panicked".into()))?;
                for (row, place) in places.into_iter().enumerate() {
                    let time = at.is_valid(row).then(|| at.value(row));
                    timeless |= time.is_none() && !settled[row];
                    if settled[row] || time.is_some_and(|t| !window.holds(t)) {
                        continue;
                    }
                    let code = Code::ALL.iter().find(|c| c.as_str() == codes.value(row)).copied();
                    let fate = Fate::Letter { code: code.map_or(0, code_number) };
                    sinks.marks.push(bucket_of(place, self.buckets), fate.mark(place))?;
                }
                Ok(())
            })?;
            if timeless {
                stored.read(self.work.store(), None, None, &mut |batch| {
                    let at = times(&batch, "event_time")?;
                    let settled = index.which(&batch)?;
                    let chosen: BooleanArray =
                        (0..batch.num_rows()).map(|row| Some(at.is_null(row) && !settled[row])).collect();
                    self.take(&filter_record_batch(&batch, &chosen)?, scope, window, sinks)
                })?;
            }
        }
        Ok(())
    }

    /// The rows of Silver in the window.
    fn take_old(&self, window: Window, gathered: &mut Gathered<'_>) -> Result<()> {
        for file in self.files(silver::EVENTS, window) {
            let stored = StoredFile::open(self.work.store(), file)?;
            let columns = ["entity", "event_time", "session_id", "session_start", "_topic", "_partition", "_offset"];
            stored.read(self.work.store(), Some(&columns), None, &mut |batch| {
                self.work.stop_if_asked()?;
                let (entities, at) = (text(&batch, "entity")?, times(&batch, "event_time")?);
                let (ids, starts) = (text(&batch, "session_id")?, times(&batch, "session_start")?);
                let places = positions(&batch, ["_topic", "_partition", "_offset"])?;
                for (row, place) in places.into_iter().enumerate().filter(|(row, _)| window.holds(at.value(*row))) {
                    let entity = hash_of(entities.is_valid(row).then(|| entities.value(row)));
                    let id = if ids.is_valid(row) { xxhash_rust::xxh3::xxh3_128(ids.value(row).as_bytes()) } else { 0 };
                    let start = if starts.is_valid(row) { starts.value(row) } else { at.value(row) };
                    let ([a, b], [c, d]) = (words(id), words(place));
                    let record = [entity, at.value(row) as u64, a, b, start as u64, c, d];
                    gathered.old.push(bucket(entity, self.buckets), record)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Finds what is replaced. False when a session reaches beyond the window.
    pub fn find(&self, gathered: &mut Gathered<'a>, scope: &mut Scope, window: Window) -> Result<bool> {
        let mut kept: Records<'a, 7> = Records::new(self.folder, "seen", self.buckets);
        let mut inside = true;
        for n in 0..self.buckets {
            let mut events: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
            let mut sessions: HashMap<(u64, u128), (i64, i64)> = HashMap::new();
            for batch in gathered.valid.read(n)? {
                let (entities, at) = (text(&batch, "entity")?, times(&batch, "event_time")?);
                for row in 0..batch.num_rows() {
                    let entity = hash_of(entities.is_valid(row).then(|| entities.value(row)));
                    events.entry(entity).or_default().push(at.value(row));
                }
            }
            for record in gathered.old.take(n)? {
                let (entity, time) = (record[0], record[1] as i64);
                if !scope.is_streams(entity, time) {
                    events.entry(entity).or_default().push(time);
                    let session = sessions.entry((entity, number(&record[2..4]))).or_insert((time, time));
                    session.0 = session.0.min(time).min(record[4] as i64);
                    session.1 = session.1.max(time);
                }
                kept.push(n, record)?;
            }
            let mut by_entity: HashMap<u64, Vec<(i64, i64)>> = HashMap::new();
            for ((entity, _), session) in sessions {
                by_entity.entry(entity).or_default().push(session);
            }
            for (entity, times) in events {
                inside &= scope.find(entity, times, by_entity.remove(&entity).unwrap_or_default(), window);
            }
        }
        gathered.old = kept;
        Ok(inside || (window.from == i64::MIN && window.to == i64::MAX))
    }

    /// The valid events of a bucket that are in the scope, in the order in which they came; of those that are not their
    /// positions are marked.
    pub fn in_scope(
        &self,
        gathered: &mut Gathered<'a>,
        scope: &Scope,
        bucket_n: usize,
        mark: bool,
    ) -> Result<Option<RecordBatch>> {
        let mut parts = vec![];
        for batch in gathered.valid.read(bucket_n)? {
            let (entities, at) = (text(&batch, "entity")?, times(&batch, "event_time")?);
            let places = positions(&batch, ["_topic", "_partition", "_offset"])?;
            let mut mine = vec![];
            for (row, place) in places.into_iter().enumerate() {
                let entity = hash_of(entities.is_valid(row).then(|| entities.value(row)));
                let inside = scope.holds(entity, at.value(row));
                if mark && !inside {
                    gathered.marks.push(bucket_of(place, self.buckets), Fate::Elsewhere.mark(place))?;
                }
                mine.push(inside);
            }
            parts.push(filter_record_batch(&batch, &BooleanArray::from(mine))?);
        }
        let Some(first) = parts.first() else { return Ok(None) };
        let all = concat_batches(&first.schema(), &parts)?;
        let order = [CAME, "_topic", "_partition", "_offset"].into_iter();
        Ok(Some(crate::state::sorted(&all, order)?))
    }

    /// Decides which events of one key stay: none where a row that stays has the key, else the one that came first.
    pub fn choose(&self, gathered: &mut Gathered<'a>, scope: &Scope, window: Window) -> Result<()> {
        // Key (two words), when it came, topic and partition, offset, bucket of its entity, position (two words).
        let mut keys: Records<'a, 8> = Records::new(self.folder, "keys", self.buckets);
        let mut wanted = false;
        for n in 0..self.buckets {
            let Some(rows) = self.in_scope(gathered, scope, n, true)? else { continue };
            wanted |= rows.num_rows() > 0;
            let came = numbers(&rows, CAME)?;
            let places = positions(&rows, ["_topic", "_partition", "_offset"])?;
            let (topics, partitions) = (text(&rows, "_topic")?, numbers(&rows, "_partition")?);
            let offsets = numbers(&rows, "_offset")?;
            for (row, (key, place)) in self.judge.keys(&rows)?.into_iter().zip(places).enumerate() {
                let ([a, b], [c, d]) = (words(key), words(place));
                let topic = gathered.topics.range(..topics.value(row).to_owned()).count() as u64;
                let order = topic << 32 | partitions.value(row) as u64;
                let record = [a, b, came.value(row) as u64, order, offsets.value(row) as u64, n as u64, c, d];
                keys.push(bucket_of(key, self.buckets), record)?;
            }
        }
        if !wanted {
            return Ok(());
        }
        let mut staying: Records<'a, 2> = Records::new(self.folder, "staying", self.buckets);
        self.staying_keys(scope, window, &mut |key| staying.push(bucket_of(key, self.buckets), words(key)))?;
        for n in 0..self.buckets {
            let mut taken: HashSet<u128> = staying.take(n)?.iter().map(|r| number(r)).collect();
            let mut candidates = keys.take(n)?;
            candidates.sort_unstable_by_key(|r| (r[2] as i64, r[3], r[4] as i64));
            for record in candidates {
                if !taken.insert(number(&record[..2])) {
                    gathered.losers.push(record[5] as usize, [record[6], record[7]])?;
                }
            }
        }
        Ok(())
    }

    /// The keys of the rows that stay, as far as the horizon reaches, and of the events that the stream holds.
    fn staying_keys(&self, scope: &Scope, window: Window, each: &mut dyn FnMut(u128) -> Result<()>) -> Result<()> {
        let reach = window.wider(self.judge.shape.deduplicate.horizon_us);
        for file in self.files(silver::EVENTS, reach) {
            let columns = ["entity", "event_time", "idempotency_key"];
            StoredFile::open(self.work.store(), file)?.read(self.work.store(), Some(&columns), None, &mut |batch| {
                self.work.stop_if_asked()?;
                let (entities, at) = (text(&batch, "entity")?, times(&batch, "event_time")?);
                for (row, key) in self.judge.keys(&batch)?.into_iter().enumerate() {
                    let entity = hash_of(entities.is_valid(row).then(|| entities.value(row)));
                    if !scope.holds(entity, at.value(row)) {
                        each(key)?;
                    }
                }
                Ok(())
            })?;
        }
        silver::held(self.work.store(), &self.base.last, &mut |batch| {
            self.judge.keys(&batch)?.into_iter().try_for_each(&mut *each)
        })
    }
}
