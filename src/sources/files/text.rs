//! The text of a file: plain, or decompressed as it is read.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use arrow::buffer::Buffer;
use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::cut::place;
use super::pool::Pool;
use crate::error::{Error, Result};

/// How a file holds its text; told by its first bytes, not by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As it is.
    Plain,
    /// Gzip, of any number of members.
    Gzip,
    /// Zstandard, of any number of frames.
    Zstd,
}

impl Format {
    /// Tells the format from the first bytes.
    pub(super) fn of(head: &[u8], path: &str) -> Result<Self> {
        let foreign =
            |what: &str, advice: &str| Err(Error::source(path, format!("is {what}, which is not read; {advice}")));
        match head {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => foreign("xz", "use plain text, gzip or zstd"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => {
                foreign("bzip2", "use plain text, gzip or zstd")
            }
            [b'P', b'K', 3, 4, ..] => foreign("a zip archive", "unpack it"),
            [b'P', b'A', b'R', b'1', ..] => foreign("Parquet", "events are JSON lines"),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => foreign("UTF-16", "write it as UTF-8"),
            _ => Ok(Self::Plain),
        }
    }
}

/// The text of a file from some position on, up to an end.
pub(super) struct Text {
    path: String,
    inner: Inner,
    /// Of the next byte to be handed out.
    position: u64,
    end: u64,
    /// Whether what is handed out no longer follows from the position.
    stale: bool,
    pool: Pool,
}

enum Inner {
    Plain(File),
    Compressed {
        decoder: Box<dyn Read + Send>,
        /// Read from the decoder, handed back by the reader; the last byte comes first.
        again: Vec<u8>,
        format: Format,
    },
}

impl Text {
    /// Opens a text at a position. `length` is how much of a plain file may be read; `end` ends the text, where it is
    /// known.
    pub(super) fn open(
        file: File,
        path: &str,
        format: Format,
        position: u64,
        length: u64,
        end: Option<u64>,
        pool: Pool,
    ) -> Result<Self> {
        let mut text = match format {
            Format::Plain => {
                let end = end.unwrap_or(length);
                if end > length || position > length {
                    return Err(shrank(path, end.max(position), length));
                }
                Self { path: path.to_owned(), inner: Inner::Plain(file), position, end, stale: false, pool }
            }
            Format::Gzip | Format::Zstd => {
                // What is appended while we read is for the next look.
                let raw = BufReader::with_capacity(64 << 10, file.take(length));
                let decoder: Box<dyn Read + Send> = if format == Format::Gzip {
                    Box::new(MultiGzDecoder::new(raw))
                } else {
                    Box::new(zstd::stream::read::Decoder::with_buffer(raw).map_err(|e| Error::source(path, e))?)
                };
                let inner = Inner::Compressed { decoder, again: Vec::new(), format };
                Self { path: path.to_owned(), inner, position: 0, end: end.unwrap_or(u64::MAX), stale: false, pool }
            }
        };
        text.skip_to(position)?;
        Ok(text)
    }

    /// Where reading goes on.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether nothing is left, as far as that can be told without reading.
    pub(super) fn at_end(&self) -> bool {
        !self.stale && self.position >= self.end
    }

    /// Whether it has to be opened again before it is read on.
    pub(super) fn stale(&self) -> bool {
        self.stale
    }

    /// Whether it is decompressed as it is read.
    pub(super) fn compressed(&self) -> bool {
        matches!(self.inner, Inner::Compressed { .. })
    }

    /// The smaller of a number of bytes and what is left, as far as that is known.
    fn at_most(&self, bytes: usize) -> usize {
        usize::try_from(self.end.saturating_sub(self.position)).map_or(bytes, |left| left.min(bytes))
    }

    /// An empty buffer for so many bytes, or for what is left.
    pub(super) fn buffer(&self, bytes: usize) -> Vec<u8> {
        self.pool.take(self.at_most(bytes))
    }

    /// What was read into a buffer, for others to look at.
    pub(super) fn lend(&self, bytes: Vec<u8>) -> Buffer {
        self.pool.lend(bytes)
    }

    /// Appends up to `more` bytes; fewer, at last 0, when the text ends.
    pub(super) fn read(&mut self, out: &mut Vec<u8>, more: usize) -> Result<usize> {
        let more = self.at_most(more);
        if more == 0 {
            return Ok(0);
        }
        let before = out.len();
        match &mut self.inner {
            Inner::Plain(file) => {
                let read = file
                    .seek(SeekFrom::Start(self.position))
                    .and_then(|_| file.take(more as u64).read_to_end(out))
                    .map_err(|e| refused(&self.path, self.position, &e))?;
                if read < more {
                    return Err(shrank(&self.path, self.end, self.position + read as u64));
                }
            }
            Inner::Compressed { decoder, again, format } => {
                let handed_back = more.min(again.len());
                out.extend(again.drain(again.len() - handed_back..).rev());
                if let Err(e) = decoder.take((more - handed_back) as u64).read_to_end(out) {
                    return Err(corrupt(&self.path, *format, self.position + (out.len() - before) as u64, &e));
                }
            }
        }
        self.position += (out.len() - before) as u64;
        Ok(out.len() - before)
    }

    /// Takes back the last bytes that were handed out.
    pub(super) fn back(&mut self, bytes: &[u8]) {
        self.position -= bytes.len() as u64;
        if let Inner::Compressed { again, .. } = &mut self.inner {
            again.extend(bytes.iter().rev());
        }
    }

    /// What was handed out last is not to count, and is not at hand to be taken back.
    pub(super) fn reset(&mut self) {
        self.stale = true;
    }

    fn skip_to(&mut self, position: u64) -> Result<()> {
        if let Inner::Compressed { decoder, format, .. } = &mut self.inner {
            let skipped = io::copy(&mut decoder.take(position), &mut io::sink())
                .map_err(|e| corrupt(&self.path, *format, 0, &e))?;
            if skipped < position {
                return Err(shrank(&self.path, position, skipped));
            }
            self.position = position;
        }
        Ok(())
    }
}

/// Opens a file for reading, with errors that people can act on.
pub(super) fn open(file: &Path, path: &str) -> Result<File> {
    let opened = File::open(file).map_err(|e| refused(path, 0, &e))?;
    let meta = opened.metadata().map_err(|e| refused(path, 0, &e))?;
    if meta.is_file() { Ok(opened) } else { Err(no_file(path, meta.is_dir())) }
}

/// Something that is no regular file stands where events should be.
pub(super) fn no_file(path: &str, folder: bool) -> Error {
    let reason = if folder {
        format!("is a folder; name the files in it ('{}/*.jsonl')", path.trim_end_matches('/'))
    } else {
        "is no regular file (a pipe, a device); files are read more than once after a crash, so copy it to one"
            .to_owned()
    };
    Error::source(path, reason)
}

/// The first `length` bytes, or all if there are fewer.
pub(super) fn head(file: &mut File, path: &str, length: u64) -> Result<Vec<u8>> {
    let mut head = Vec::with_capacity(length as usize);
    file.seek(SeekFrom::Start(0))
        .and_then(|_| (&*file).take(length).read_to_end(&mut head))
        .and_then(|_| file.seek(SeekFrom::Start(0)))
        .map_err(|e| refused(path, 0, &e))?;
    Ok(head)
}

/// The file is smaller than it was.
pub(super) fn shrank(path: &str, needed: u64, there: u64) -> Error {
    let reason = format!(
        "had {needed} bytes when it was read before and has {there} now. A file may only grow: put it back, or give the new content a new name"
    );
    Error::source(place(path, there), reason)
}

pub(super) fn refused(path: &str, byte: u64, error: &io::Error) -> Error {
    let reason = match error.kind() {
        ErrorKind::PermissionDenied => {
            "permission denied; give the user of this process the right to read it".to_owned()
        }
        ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    Error::source(if byte == 0 { path.to_owned() } else { place(path, byte) }, reason)
}

fn corrupt(path: &str, format: Format, byte: u64, error: &io::Error) -> Error {
    let name = if format == Format::Gzip { "gzip" } else { "zstd" };
    let message = error.to_string();
    let reason = if error.kind() == ErrorKind::UnexpectedEof {
        format!(
            "the {name} data ends in the middle: the file is cut off, and the run stops before it. If it is still being \
             written, move it here when it is whole; else fetch it again, or take it out of source.files.paths"
        )
    } else if message.contains("too much memory") || message.contains("window") {
        format!("the {name} data needs a window above 128 MiB; compress it again without --long=28 or more")
    } else if error.kind() == ErrorKind::PermissionDenied {
        return refused(path, byte, error);
    } else {
        format!("the {name} data is damaged ({message}); fetch the file again, or take it out of source.files.paths")
    };
    Error::source(format!("{path}, byte {byte} of its text"), reason)
}
