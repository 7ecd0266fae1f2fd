//! A file that is written while it grows, on a thread of its own, and gets its name when it is whole.

use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::local::{Staged, io_error};
use crate::content::Content;
use crate::error::{Error, Result};

/// So much is handed to the system at a time. Of more it makes pages of the cache that are as large as that, and takes
/// memory for them that nothing has used yet: on a virtual machine ten times as slow as memory that was just given back.
const PIECE: usize = 64 << 10;

/// A file under a name that nobody reads.
pub(super) struct Open {
    pub(super) path: String,
    pub(super) file: File,
    pub(super) staged: Staged,
    /// Whether it is to be on disk when it ends.
    pub(super) sync: bool,
}

impl Open {
    pub(super) fn write(&mut self, content: &Content) -> Result<()> {
        let mut pieces = content.pieces().iter().flat_map(|bytes| bytes.chunks(PIECE));
        let written = pieces.try_for_each(|piece| self.file.write_all(piece));
        written.map_err(|e| io_error(&self.path, "cannot be written", &e))
    }

    pub(super) fn end(self) -> Result<Staged> {
        let synced = if self.sync { self.file.sync_all() } else { Ok(()) };
        // Some file systems say only at the close that there was no room; `Staged` removes the file either way.
        drop(self.file);
        synced.map_err(|e| io_error(&self.path, "cannot be written", &e))?;
        Ok(self.staged)
    }
}

/// A file that is being written. Given up, it leaves nothing.
pub struct Growing {
    path: String,
    send: Option<SyncSender<Content>>,
    writer: Option<JoinHandle<Result<Staged>>>,
}

impl Growing {
    pub(super) fn new(mut open: Open) -> Result<Self> {
        // One piece waits while another is written: who encodes is not held up, and memory does not grow.
        let (send, receive) = sync_channel::<Content>(1);
        let path = open.path.clone();
        let write = move || {
            for content in receive {
                open.write(&content)?;
                if open.sync {
                    // The disk works while the rest is encoded; the end has little left to wait for.
                    open.file.sync_data().map_err(|e| io_error(&open.path, "cannot be written", &e))?;
                }
            }
            open.end()
        };
        let writer = Builder::new().name("penstock-write".into()).spawn(write);
        let writer = writer.map_err(|e| Error::Internal(format!("cannot start a thread: {e}")))?;
        Ok(Self { path, send: Some(send), writer: Some(writer) })
    }

    /// The path that it will have.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Adds the next piece.
    ///
    /// # Errors
    /// [`Error::Lake`] when a piece before could not be written.
    pub fn write(&mut self, content: Content) -> Result<()> {
        match &self.send {
            Some(send) if send.send(content).is_ok() => Ok(()),
            _ => Err(self.join().err().unwrap_or_else(|| Error::Internal("a file has ended already".into()))),
        }
    }

    pub(super) fn end(mut self) -> Result<Staged> {
        self.join()
    }

    fn join(&mut self) -> Result<Staged> {
        self.send = None;
        let writer = self.writer.take().map(JoinHandle::join);
        writer.and_then(Result::ok).unwrap_or_else(|| Err(Error::Internal("a writer panicked".into())))
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if self.writer.is_some() {
            drop(self.join());
        }
    }
}
