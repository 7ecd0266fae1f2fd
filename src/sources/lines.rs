//! JSON lines that are in memory already.

use std::sync::Arc;

use arrow::array::{BinaryViewArray, Int64Array, make_view};
use arrow::buffer::{Buffer, ScalarBuffer};
use memchr::memchr;

use crate::error::Result;
use crate::events::RawEvents;

/// Bytes that one core judges at a time.
const PIECE: usize = 2 << 20;

/// The events in a text, one a line, in pieces; nothing is copied. Blank lines are no events. A position is the line's
/// first byte.
///
/// # Errors
/// [`crate::Error::Data`] when Arrow cannot hold a line (4 GiB).
pub fn pieces(text: Vec<u8>, arrival: i64) -> Result<Vec<RawEvents>> {
    let whole = Buffer::from_vec(text);
    let mut pieces = vec![];
    let mut from = 0;
    while from < whole.len() {
        let to = match whole.len() - from {
            rest if rest <= PIECE => whole.len(),
            _ => memchr(b'\n', &whole[from + PIECE..]).map_or(whole.len(), |end| from + PIECE + end + 1),
        };
        pieces.push(piece(&whole, from, to, arrival)?);
        from = to;
    }
    Ok(pieces)
}

fn piece(whole: &Buffer, from: usize, to: usize, arrival: i64) -> Result<RawEvents> {
    let buffer = whole.slice_with_length(from, to - from);
    let mut views = vec![];
    let mut offsets = vec![];
    let mut at = 0;
    while at < buffer.len() {
        let end = memchr(b'\n', &buffer[at..]).map_or(buffer.len(), |n| at + n);
        let line = buffer[at..end].strip_suffix(b"\r").unwrap_or(&buffer[at..end]);
        if !line.iter().all(u8::is_ascii_whitespace) {
            views.push(make_view(line, 0, at as u32));
            offsets.push((from + at) as i64);
        }
        at = end + 1;
    }
    let values = BinaryViewArray::try_new(ScalarBuffer::from(views), vec![buffer], None)?;
    Ok(RawEvents {
        topic: Arc::from(""),
        partition: 0,
        offsets: Int64Array::from(offsets),
        values,
        timestamps: None,
        timestamp_type: None,
        keys: None,
        headers: None,
        truncated: vec![],
        arrival,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_events_and_blank_ones_are_not() {
        let events = pieces(b"{}\r\n\n  \n{\"a\": \"a value longer than a view\"}".to_vec(), 0).unwrap();
        assert_eq!(events.len(), 1);
        let values: Vec<_> = events[0].values.iter().flatten().collect();
        assert_eq!(values, [b"{}".as_slice(), b"{\"a\": \"a value longer than a view\"}"]);
        assert_eq!(events[0].offsets.values().as_ref(), [0, 8]);
    }

    #[test]
    fn a_long_text_comes_in_pieces_that_end_with_a_line() {
        let line = [b"x".repeat(1000), b"\n".to_vec()].concat();
        let events = pieces(line.repeat(5_000), 0).unwrap();
        assert_eq!(events.len(), 3);
        assert_eq!(events.iter().map(RawEvents::len).sum::<usize>(), 5_000);
        assert!(events.iter().all(|e| e.values.iter().flatten().all(|v| v.len() == 1000)));
    }
}
