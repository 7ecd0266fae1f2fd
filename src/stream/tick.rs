//! A tick: what is read in one go and goes through contract and operators together.
//!
//! A source whose partitions grow side by side (Kafka) gathers what came within `epoch.tick`, or a burst of it, in
//! several partitions at once; each has one range then, in the order (topic, partition), so that which of two equal keys
//! came first follows from the plan. For any other source one read is one tick.

use std::collections::BTreeMap;

use arrow::array::{Array, BinaryArray, BinaryViewArray, Int64Array, TimestampMicrosecondArray};
use arrow::compute::concat;

use super::gather::BURST_BYTES;
use super::log::Tick;
use super::run::RunOptions;
use super::runner::Runner;
use crate::error::{Error, Result};
use crate::events::{RawEvents, Truncated};
use crate::sources::{PartitionTimes, Range, Source, Want};

/// How long a tick waits at a time for more to come, in microseconds.
const GLANCE: i64 = 5_000;
/// A piece of a gathered tick ends with the event that brings it to so many bytes,
const PIECE_BYTES: usize = 2 << 20;
/// or to so many events.
const PIECE_EVENTS: usize = 16 << 10;

/// What was read for one tick.
pub(super) struct Read {
    /// What the plan keeps of it.
    pub(super) tick: Tick,
    /// The events, in the order of the ranges.
    pub(super) pieces: Vec<RawEvents>,
}

/// A partition, and where in it.
type Place = (String, i32, i64);

/// What of one partition came within a tick, without a break.
struct Gathered {
    range: Range,
    pieces: Vec<RawEvents>,
}

impl Runner<'_> {
    /// Reads one tick: `events` and `bytes` are what the epoch has room for. None when nothing more is there.
    pub(super) fn read_tick(
        &self,
        source: &mut dyn Source,
        times: &dyn PartitionTimes,
        (events, bytes): (u64, u64),
        options: &RunOptions,
    ) -> Result<Option<Read>> {
        let burst = BURST_BYTES.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        let most = usize::try_from(events).unwrap_or(usize::MAX);
        let want = Want { bytes: burst, events: most, arrival: self.clock.now() };
        if source.gathers() { self.gather_tick(source, times, want, options) } else { one_read(source, times, want) }
    }

    fn gather_tick(
        &self,
        source: &mut dyn Source,
        times: &dyn PartitionTimes,
        mut want: Want,
        options: &RunOptions,
    ) -> Result<Option<Read>> {
        let arrival = want.arrival;
        let mut partitions: BTreeMap<Place, Gathered> = BTreeMap::new();
        let (mut events, mut bytes, mut waited) = (0, 0, 0);
        // A partition ended, or more is there that has not come yet: the source is to be asked again.
        let mut again = false;
        while want.bytes > 0 && want.events > 0 {
            let Some(chunk) = source.next(times, &want)? else {
                let rest = self.spec.epoch.tick_us - waited.max(self.clock.now() - arrival);
                if partitions.is_empty() || options.until_caught_up || rest <= 0 || self.observer.should_stop() {
                    break;
                }
                let glance = rest.min(GLANCE);
                self.clock.wait(glance);
                waited += glance;
                source.refresh(self.clock.now())?;
                continue;
            };
            again |= chunk.finished || chunk.range.from == chunk.range.to;
            if chunk.range.from < chunk.range.to {
                let size = usize::try_from(chunk.bytes).unwrap_or(usize::MAX);
                let count: usize = chunk.pieces.iter().map(RawEvents::len).sum();
                bytes += size as u64;
                events += count as u64;
                // A range that holds no events (aborted transactions, control records) must not keep the tick open.
                want.bytes = want.bytes.saturating_sub(size.max(1));
                want.events = want.events.saturating_sub(count);
                add(&mut partitions, chunk.range, chunk.pieces);
            }
            if self.clock.now() - arrival >= self.spec.epoch.tick_us || self.observer.should_stop() {
                break;
            }
        }
        if partitions.is_empty() && !again {
            return Ok(None);
        }
        let mut ranges = vec![];
        let mut pieces = vec![];
        for (_, gathered) in partitions {
            ranges.push(gathered.range);
            pieces.extend(cut(gathered.pieces)?);
        }
        Ok(Some(Read { tick: Tick { arrival, ranges, events, bytes }, pieces }))
    }

    /// Reads a tick of a plan again, cut as it was the first time.
    pub(super) fn read_tick_again(&self, source: &mut dyn Source, tick: &Tick) -> Result<Vec<RawEvents>> {
        let mut pieces = vec![];
        for range in &tick.ranges {
            let mut partition = vec![];
            source.read_range(range, tick.arrival, &mut |piece| {
                self.stop_if_asked()?;
                partition.push(piece);
                Ok(())
            })?;
            pieces.extend(if source.gathers() { cut(partition)? } else { partition });
        }
        Ok(pieces)
    }
}

/// A tick that is one read: the pieces are cut by the source.
fn one_read(source: &mut dyn Source, times: &dyn PartitionTimes, want: Want) -> Result<Option<Read>> {
    let Some(chunk) = source.next(times, &want)? else { return Ok(None) };
    let events = chunk.pieces.iter().map(|p| p.len() as u64).sum();
    let bytes = chunk.bytes;
    let ranges = if chunk.range.from < chunk.range.to { vec![chunk.range] } else { vec![] };
    Ok(Some(Read { tick: Tick { arrival: want.arrival, ranges, events, bytes }, pieces: chunk.pieces }))
}

/// Takes in what one read brought. Where it does not follow on what came before (events between them are gone, and that was
/// accepted), it is a range of its own.
fn add(partitions: &mut BTreeMap<Place, Gathered>, range: Range, pieces: Vec<RawEvents>) {
    let place = (range.topic.clone(), range.partition, range.from);
    let before = partitions.range_mut(..place.clone()).next_back();
    let same = |r: &Range| (&r.topic, r.partition, r.to) == (&range.topic, range.partition, range.from);
    match before.filter(|(_, gathered)| same(&gathered.range)) {
        Some((_, gathered)) => {
            gathered.range.to = range.to;
            gathered.pieces.extend(pieces);
        }
        None => {
            partitions.insert(place, Gathered { range, pieces });
        }
    }
}

/// Cuts the events of one partition anew: where follows from the events alone, however they were read.
fn cut(pieces: Vec<RawEvents>) -> Result<Vec<RawEvents>> {
    let mut out = vec![];
    let mut open: Vec<RawEvents> = vec![];
    let (mut events, mut bytes) = (0, 0);
    for piece in pieces.into_iter().filter(|p| !p.is_empty()) {
        if open.last().is_some_and(|last| !alike(last, &piece)) {
            out.push(join(std::mem::take(&mut open))?);
            (events, bytes) = (0, 0);
        }
        let mut from = 0;
        for row in 0..piece.len() {
            events += 1;
            bytes += if piece.values.is_valid(row) { piece.values.value(row).len() } else { 0 };
            if bytes >= PIECE_BYTES || events >= PIECE_EVENTS {
                open.push(slice(&piece, from, row + 1));
                out.push(join(std::mem::take(&mut open))?);
                (events, bytes, from) = (0, 0, row + 1);
            }
        }
        if from == 0 {
            open.push(piece);
        } else if from < piece.len() {
            open.push(slice(&piece, from, piece.len()));
        }
    }
    if !open.is_empty() {
        out.push(join(open)?);
    }
    Ok(out)
}

/// Whether two pieces can be one: a piece has one kind of timestamp.
fn alike(a: &RawEvents, b: &RawEvents) -> bool {
    a.timestamp_type == b.timestamp_type
        && a.timestamps.is_some() == b.timestamps.is_some()
        && a.keys.is_some() == b.keys.is_some()
        && a.headers.is_some() == b.headers.is_some()
}

fn slice(piece: &RawEvents, from: usize, to: usize) -> RawEvents {
    let rows = from as u32..to as u32;
    let truncated = piece.truncated.iter().filter(|t| rows.contains(&t.row));
    RawEvents {
        topic: piece.topic.clone(),
        partition: piece.partition,
        offsets: piece.offsets.slice(from, to - from),
        values: piece.values.slice(from, to - from),
        timestamps: piece.timestamps.as_ref().map(|t| t.slice(from, to - from)),
        timestamp_type: piece.timestamp_type,
        keys: piece.keys.as_ref().map(|k| k.slice(from, to - from)),
        headers: piece.headers.as_ref().map(|h| h[from..to].to_vec()),
        truncated: truncated.map(|t| Truncated { row: t.row - rows.start, ..t.clone() }).collect(),
        arrival: piece.arrival,
    }
}

/// One piece of consecutive ones that are alike.
fn join(mut pieces: Vec<RawEvents>) -> Result<RawEvents> {
    let Some(last) = pieces.pop() else { return Err(Error::Internal("a piece of nothing".into())) };
    if pieces.is_empty() {
        return Ok(last);
    }
    pieces.push(last);
    let first = &pieces[0];
    let mut truncated = vec![];
    let mut before = 0;
    for piece in &pieces {
        truncated.extend(piece.truncated.iter().map(|t| Truncated { row: t.row + before, ..t.clone() }));
        before += piece.len() as u32;
    }
    let timestamps: Option<Vec<&TimestampMicrosecondArray>> = pieces.iter().map(|p| p.timestamps.as_ref()).collect();
    let keys: Option<Vec<&BinaryArray>> = pieces.iter().map(|p| p.keys.as_ref()).collect();
    let headers = first.headers.is_some().then(|| pieces.iter().flat_map(|p| p.headers.iter().flatten().cloned()));
    Ok(RawEvents {
        topic: first.topic.clone(),
        partition: first.partition,
        offsets: one::<Int64Array>(pieces.iter().map(|p| &p.offsets))?,
        values: one::<BinaryViewArray>(pieces.iter().map(|p| &p.values))?,
        timestamps: timestamps.map(|t| one(t.into_iter())).transpose()?,
        timestamp_type: first.timestamp_type,
        keys: keys.map(|k| one(k.into_iter())).transpose()?,
        headers: headers.map(Iterator::collect),
        truncated,
        arrival: first.arrival,
    })
}

fn one<'a, A: Array + Clone + 'static>(arrays: impl Iterator<Item = &'a A>) -> Result<A> {
    let arrays: Vec<&dyn Array> = arrays.map(|a| a as &dyn Array).collect();
    let joined = concat(&arrays)?;
    joined.as_any().downcast_ref::<A>().cloned().ok_or_else(|| Error::Internal("arrays of another type".into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(from: i64, values: &[Option<Vec<u8>>], kind: &'static str) -> RawEvents {
        let n = values.len();
        let truncated = (0..n as u32).filter(|row| (from + i64::from(*row)) % 7 == 0);
        RawEvents {
            topic: "t".into(),
            partition: 0,
            offsets: Int64Array::from_iter_values(from..from + n as i64),
            values: values.iter().map(Option::as_deref).collect(),
            timestamps: Some((from..from + n as i64).map(Some).collect()),
            timestamp_type: Some(kind),
            keys: Some((0..n).map(|i| (i % 2 == 0).then_some(b"k".as_slice())).collect()),
            headers: Some((0..n).map(|i| vec![(format!("{}", from + i as i64), Some(vec![]))]).collect()),
            truncated: truncated.map(|row| Truncated { row, length: 9, sha256: [row as u8; 32] }).collect(),
            arrival: 5,
        }
    }

    /// Everything that a piece holds, to compare it.
    fn told(pieces: &[RawEvents]) -> Vec<String> {
        let rows = |p: &RawEvents| p.truncated.iter().map(|t| p.offsets.value(t.row as usize)).collect::<Vec<_>>();
        let one = |p: &RawEvents| {
            let values: Vec<_> = p.values.iter().map(|v| v.map(<[u8]>::len)).collect();
            format!("{:?} {values:?} {:?} {:?} {:?}", p.offsets, p.timestamps, p.headers, rows(p))
        };
        pieces.iter().map(one).collect()
    }

    proptest! {
        #[test]
        fn where_events_are_cut_follows_from_the_events_alone(
            sizes in prop::collection::vec(prop::option::of(0usize..3_000_000), 1..40),
            cuts in prop::collection::vec(1usize..40, 0..6),
        ) {
            let values: Vec<_> = sizes.iter().map(|s| s.map(|s| vec![b'x'; s / 4])).collect();
            let mut ends: Vec<usize> = cuts.into_iter().filter(|c| *c < values.len()).chain([values.len()]).collect();
            ends.sort_unstable();
            let mut from = 0;
            let mut read = vec![];
            for end in ends {
                read.push(piece(from as i64, &values[from..end], "create_time"));
                from = end;
            }
            // Keys are told by the row of the read that they came in; leave them out.
            let keyless = |mut p: RawEvents| { p.keys = None; p };
            let whole = cut(vec![keyless(piece(0, &values, "create_time"))]).unwrap();
            let parts = cut(read.into_iter().map(keyless).collect()).unwrap();
            prop_assert_eq!(told(&whole), told(&parts));
            let all: usize = whole.iter().map(RawEvents::len).sum();
            prop_assert_eq!(all, values.len());
        }
    }

    #[test]
    fn a_piece_has_one_kind_of_timestamp() {
        let values = vec![Some(b"x".to_vec()); 3];
        let read = vec![piece(0, &values, "create_time"), piece(3, &values, "log_append_time")];
        let out = cut(read).unwrap();
        assert_eq!(
            out.iter().map(|p| p.timestamp_type).collect::<Vec<_>>(),
            [Some("create_time"), Some("log_append_time")]
        );
    }

    #[test]
    fn many_small_events_are_cut_by_their_number() {
        let values = vec![Some(vec![b'x']); PIECE_EVENTS + 1];
        let out = cut(vec![piece(0, &values, "create_time")]).unwrap();
        assert_eq!(out.iter().map(RawEvents::len).collect::<Vec<_>>(), [PIECE_EVENTS, 1]);
        assert_eq!(out[1].keys.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn reads_of_a_partition_follow_on_one_another() {
        let range = |topic: &str, from, to| Range { topic: topic.into(), partition: 0, from, to };
        let mut partitions = BTreeMap::new();
        for read in [range("t", 0, 3), range("s", 3, 4), range("t", 3, 5), range("t", 9, 10), range("t", 10, 12)] {
            add(&mut partitions, read, vec![]);
        }
        let ranges: Vec<_> = partitions.into_values().map(|g| g.range).collect();
        assert_eq!(ranges, [range("s", 3, 4), range("t", 0, 5), range("t", 9, 12)], "5 to 9 are gone");
    }
}
