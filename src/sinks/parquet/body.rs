//! The bytes of a Parquet file while they come, with the column chunks where they were encoded.
//!
//! The file writer of the `parquet` crate knows where chunks and footer go, but copies every chunk into its output. So it
//! is handed blanks of the same length, and the chunks stand in their place.

use std::collections::VecDeque;
use std::io::{self, Read, Repeat, Take, Write};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use crate::content::Content;

/// What the file writer writes to.
#[derive(Debug, Default)]
pub(super) struct Body {
    done: Content,
    /// What came since, but for chunks.
    open: Vec<u8>,
    /// How many bytes came, blanks among them.
    position: usize,
    /// So many more are blanks.
    blanks: usize,
    /// Where blanks will come, and what stands in their place.
    expected: VecDeque<(usize, Content)>,
}

impl Body {
    /// From this position on blanks will come, as many as these bytes are. Positions rise from call to call.
    pub(super) fn expect(&mut self, position: usize, chunk: Content) {
        self.expected.push_back((position, chunk));
    }

    /// How many bytes it has, as far as they came.
    pub(super) fn len(&self) -> usize {
        self.done.len() + self.open.len() - self.blanks
    }

    /// Whether all that was expected has come.
    pub(super) fn is_complete(&self) -> bool {
        self.expected.is_empty() && self.blanks == 0
    }

    /// All that came since it was last asked.
    pub(super) fn take(&mut self) -> Content {
        self.seal();
        std::mem::take(&mut self.done)
    }

    fn seal(&mut self) {
        self.done.push(std::mem::take(&mut self.open).into());
    }
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.expected.front().is_some_and(|(at, _)| *at == self.position)
            && let Some((_, chunk)) = self.expected.pop_front()
        {
            self.seal();
            self.blanks = chunk.len();
            self.done.append(chunk);
        }
        let taken = if self.blanks > 0 {
            let taken = bytes.len().min(self.blanks);
            self.blanks -= taken;
            taken
        } else {
            let room = self.expected.front().map_or(usize::MAX, |(at, _)| at - self.position);
            let taken = bytes.len().min(room);
            self.open.extend_from_slice(&bytes[..taken]);
            taken
        };
        self.position += taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// So many blanks, in the place of a chunk.
pub(super) struct Blanks(pub(super) usize);

impl Length for Blanks {
    fn len(&self) -> u64 {
        self.0 as u64
    }
}

impl ChunkReader for Blanks {
    type T = Take<Repeat>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(io::repeat(0).take(self.len().saturating_sub(start)))
    }

    fn get_bytes(&self, _: u64, _: usize) -> Result<Bytes> {
        Err(ParquetError::General("blanks are read, not looked at".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_stand_where_blanks_came() {
        for step in 1..12 {
            let mut body = Body::default();
            body.expect(3, vec![7; 5].into());
            body.expect(8, vec![8; 2].into());
            body.expect(11, vec![9].into());
            let all: Vec<u8> = [&[1, 2, 3][..], &[0; 7], &[4], &[0], &[5, 6]].concat();
            let mut taken = Vec::new();
            for bytes in all.chunks(step) {
                body.write_all(bytes).unwrap();
                if body.position > 9 && taken.is_empty() {
                    let length = body.len();
                    taken = body.take().into_whole().to_vec();
                    assert_eq!(taken.len(), length + body.blanks);
                }
            }
            assert!(body.is_complete());
            taken.extend_from_slice(&body.take().into_whole());
            assert_eq!(taken, [1, 2, 3, 7, 7, 7, 7, 7, 8, 8, 4, 9, 5, 6]);
        }
    }
}
