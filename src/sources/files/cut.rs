//! Cutting text into pieces and lines.
//!
//! A piece ends at the first line end at or after the next point of a fixed grid, so that where text is cut follows from
//! where a range begins and ends, never from how much was asked for at a time. A line too large to carry whole stands in
//! a piece of its own.

use std::sync::Arc;

use arrow::array::{BinaryViewArray, Int64Array, make_view};
use arrow::buffer::{Buffer, ScalarBuffer};
use memchr::{memchr, memchr_iter, memrchr};
use sha2::{Digest, Sha256};

use super::text::Text;
use crate::error::{Error, Result};
use crate::events::{KEPT_OF_LARGER, RawEvents, Truncated, WHOLE_VALUE};

/// The sizes that reading goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// The first piece of a file ends here, so that a glance at each of many files costs little.
    pub first: u64,
    /// All others end at multiples of this.
    pub cell: u64,
    /// A line up to this many bytes is carried whole.
    pub whole: usize,
    /// So much is kept of a larger one.
    pub kept: usize,
}

impl Grid {
    pub(super) const STANDARD: Self =
        Self { first: 256 << 10, cell: 2 << 20, whole: WHOLE_VALUE, kept: KEPT_OF_LARGER };

    /// The point of the grid after a position.
    pub(super) fn after(&self, position: u64) -> u64 {
        if position < self.first { self.first } else { (position / self.cell + 1) * self.cell }
    }
}

/// What is done with a last line that has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// It stays: more may come.
    Leave,
    /// It is taken if it is a whole JSON value.
    IfWhole,
    /// It is taken: it was the first time.
    Take,
}

/// What one piece is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// Where it ends, or the end of the line that stands across.
    pub stop: u64,
    /// So many events at most.
    pub events: usize,
    /// What is done with a last line that has no end.
    pub tail: Tail,
    /// The time that the events get as their arrival.
    pub arrival: i64,
}

/// A piece of text, cut into events.
#[derive(Debug)]
pub(super) struct Piece {
    pub events: RawEvents,
    /// The position after it.
    pub end: u64,
    /// If the text ended: how many bytes at its end are left unread.
    pub ended: Option<u64>,
}

/// The room beyond the stop that is read at once, to find the end of the line that stands across.
pub(super) const SLACK: usize = 16 << 10;

/// Reads the next piece. The text stands after it then, unless it ended.
pub(super) fn piece(text: &mut Text, topic: &Arc<str>, grid: &Grid, order: &Order) -> Result<Piece> {
    let from = text.position();
    let target = usize::try_from(order.stop.saturating_sub(from)).unwrap_or(usize::MAX).clamp(1, grid.cell as usize);
    let slack = SLACK.min(target);
    let mut buffer = text.buffer(target + slack);
    let mut ended = false;
    while buffer.len() < target && !ended {
        let more = target + slack - buffer.len();
        ended = text.read(&mut buffer, more)? == 0;
    }

    // The line that holds the last byte before the stop ends the piece.
    let mut searched = target.min(buffer.len()).saturating_sub(1);
    let mut line = None;
    let cut = loop {
        if let Some(i) = memchr(b'\n', &buffer[searched..]) {
            break Some(searched + i + 1);
        }
        let begin = *line.get_or_insert_with(|| memrchr(b'\n', &buffer).map_or(0, |i| i + 1));
        if ended || buffer.len() - begin > grid.whole + 1 {
            break None;
        }
        searched = buffer.len();
        let more = (buffer.len() - begin).clamp(slack, 1 << 20);
        ended = text.read(&mut buffer, more)? == 0;
    };
    let begin = memrchr(b'\n', &buffer[..cut.map_or(buffer.len(), |c| c - 1)]).map_or(0, |i| i + 1);
    let size = without_cr(&buffer[begin..cut.map_or(buffer.len(), |c| c - 1)]).len();
    if size > grid.whole {
        if begin == 0 {
            return huge(text, from, buffer, topic, grid, order);
        }
        text.back(&buffer[begin..]);
        buffer.truncate(begin);
        return lines(buffer, from, topic, order, None, text);
    }

    match cut {
        Some(cut) => {
            text.back(&buffer[cut..]);
            buffer.truncate(cut);
            // The text may end right here; the next piece will tell.
            lines(buffer, from, topic, order, None, text)
        }
        None => {
            let tail = &buffer[begin..];
            let taken = match order.tail {
                Tail::Take => true,
                Tail::Leave => tail.is_empty(),
                Tail::IfWhole => blank(tail) || is_whole(without_bom(tail, from + begin as u64)),
            };
            if !taken {
                let left = buffer.len() - begin;
                buffer.truncate(begin);
                return lines(buffer, from, topic, order, Some(left as u64), text);
            }
            lines(buffer, from, topic, order, Some(0), text)
        }
    }
}

/// Finds the events in whole lines, up to as many as are wanted.
fn lines(
    mut buffer: Vec<u8>,
    from: u64,
    topic: &Arc<str>,
    order: &Order,
    mut ended: Option<u64>,
    text: &mut Text,
) -> Result<Piece> {
    let guess = buffer.len() / 128 + 1;
    let (mut offsets, mut views) = (Vec::with_capacity(guess), Vec::with_capacity(guess));
    let mut start = 0;
    let mut cut = buffer.len();
    let ends = memchr_iter(b'\n', &buffer).map(|i| (i, i + 1));
    let last = if buffer.ends_with(b"\n") { None } else { Some((buffer.len(), buffer.len())) };
    for (end, next) in ends.chain(last) {
        let line = without_bom(without_cr(&buffer[start..end]), from + start as u64);
        if !blank(line) {
            if offsets.len() == order.events {
                // The rest is for another time, with the blank lines before it.
                cut = start;
                break;
            }
            offsets.push((from + start as u64) as i64);
            let skipped = if start == 0 && from == 0 && buffer.starts_with(BOM) { BOM.len() } else { 0 };
            views.push(make_view(line, 0, (start + skipped) as u32));
        }
        start = next;
    }
    if cut < buffer.len() {
        if ended.take().is_none() {
            text.back(&buffer[cut..]);
        } else {
            text.reset();
        }
        buffer.truncate(cut);
    }
    let end = from + buffer.len() as u64;
    Ok(Piece { events: events(topic, offsets, views, text.lend(buffer), Vec::new(), order.arrival)?, end, ended })
}

/// One line too large to carry: its beginning, its length and its hash.
fn huge(
    text: &mut Text,
    from: u64,
    mut buffer: Vec<u8>,
    topic: &Arc<str>,
    grid: &Grid,
    order: &Order,
) -> Result<Piece> {
    let skipped = buffer.len() - without_bom(&buffer, from).len();
    let mut kept: Vec<u8> = Vec::with_capacity(grid.kept);
    let mut hash = Sha256::new();
    let (mut length, mut end, mut held_cr) = (0, from, false);
    let mut skip = skipped;
    let ended = loop {
        let newline = memchr(b'\n', &buffer);
        let mut part = &buffer[skip..newline.unwrap_or(buffer.len())];
        end += newline.map_or(buffer.len(), |i| i + 1) as u64;
        skip = 0;
        // A carriage return at the end of a part belongs to the value only if something follows.
        if held_cr && !part.is_empty() {
            hash.update(b"\r");
            length += 1;
        }
        held_cr = if part.is_empty() { held_cr } else { part.ends_with(b"\r") };
        part = without_cr(part);
        hash.update(part);
        length += part.len() as u64;
        kept.extend_from_slice(&part[..part.len().min(grid.kept - kept.len())]);
        if let Some(i) = newline {
            text.back(&buffer[i + 1..]);
            break false;
        }
        buffer.clear();
        if text.read(&mut buffer, 1 << 20)? == 0 {
            break true;
        }
    };
    if ended && order.tail != Tail::Take {
        // Whether it is whole JSON cannot be told without holding it.
        let left = end - from;
        let none = events(topic, Vec::new(), Vec::new(), Buffer::default(), Vec::new(), order.arrival)?;
        return Ok(Piece { events: none, end: from, ended: Some(left) });
    }
    let truncated = vec![Truncated { row: 0, length, sha256: hash.finalize().into() }];
    let view = make_view(&kept, 0, 0);
    let events = events(topic, vec![from as i64], vec![view], kept.into(), truncated, order.arrival)?;
    Ok(Piece { events, end, ended: ended.then_some(0) })
}

fn events(
    topic: &Arc<str>,
    offsets: Vec<i64>,
    views: Vec<u128>,
    buffer: Buffer,
    truncated: Vec<Truncated>,
    arrival: i64,
) -> Result<RawEvents> {
    // Checks each view against the buffer: a nanosecond an event.
    let values = BinaryViewArray::try_new(ScalarBuffer::from(views), vec![buffer], None)?;
    Ok(RawEvents {
        topic: Arc::clone(topic),
        partition: 0,
        offsets: Int64Array::from(offsets),
        values,
        timestamps: None,
        timestamp_type: None,
        keys: None,
        headers: None,
        truncated,
        arrival,
    })
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// A line without the byte order mark that some editors put at the beginning of a file.
fn without_bom(line: &[u8], position: u64) -> &[u8] {
    if position == 0 { line.strip_prefix(BOM).unwrap_or(line) } else { line }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// Whether this is one whole JSON value, so that nothing of it can still be on its way.
fn is_whole(text: &[u8]) -> bool {
    simdutf8::basic::from_utf8(text).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

/// A place in a file, for messages.
pub(super) fn place(path: &str, byte: u64) -> String {
    format!("{path}, byte {byte}")
}

/// The position as the rest of the engine counts.
pub(super) fn offset(position: u64, path: &str) -> Result<i64> {
    i64::try_from(position).map_err(|_| Error::source(path, "is larger than a position can count"))
}
