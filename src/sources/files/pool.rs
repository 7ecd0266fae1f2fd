//! Buffers for pieces, used again: fresh memory costs the system more time than reading into it.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::buffer::Buffer;
use bytes::Bytes;

/// Buffers that are kept for later at most.
const KEPT: usize = 16;

/// Buffers of one size that come back when nobody looks at them any more.
#[derive(Clone)]
pub(super) struct Pool {
    size: usize,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer on loan.
struct Lent {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// A pool of buffers that hold so many bytes.
    pub(super) fn new(size: usize) -> Self {
        Self { size, free: Arc::default() }
    }

    /// An empty buffer with room for so many bytes.
    pub(super) fn take(&self, room: usize) -> Vec<u8> {
        if room * 2 <= self.size || room > self.size {
            return Vec::with_capacity(room);
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Vec::with_capacity(self.size))
    }

    /// What was read into a buffer, for others to look at.
    pub(super) fn lend(&self, bytes: Vec<u8>) -> Buffer {
        if bytes.len() * 2 <= bytes.capacity() {
            // Little in a large buffer: that must not be held as long as the little is.
            let small = Buffer::from_slice_ref(&bytes);
            self.give_back(bytes);
            return small;
        }
        Bytes::from_owner(Lent { bytes, pool: self.clone() }).into()
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        // One that grew for a long line is let go.
        if bytes.capacity() != self.size {
            return;
        }
        bytes.clear();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(bytes);
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_the_last_view_is_gone() {
        let pool = Pool::new(100);
        let free = || pool.free.lock().unwrap().len();
        let mut bytes = pool.take(90);
        bytes.extend_from_slice(&[7; 60]);
        let at = bytes.as_ptr();
        let buffer = pool.lend(bytes);
        let view = buffer.slice(10);
        drop(buffer);
        assert_eq!((free(), view[0]), (0, 7));
        drop(view);
        assert_eq!(free(), 1);
        let again = pool.take(100);
        assert!(again.is_empty() && again.as_ptr() == at);
        // Small ones are copied, large ones are not kept, and there is an end to what is.
        let small = pool.lend([&again[..], &[1]].concat());
        assert_eq!(small.as_slice(), [1]);
        drop(pool.lend(vec![0; 101]));
        let many: Vec<_> =
            (0..2 * KEPT).map(|_| pool.lend(pool.take(100).into_iter().chain([0; 100]).collect())).collect();
        drop(many);
        assert!(free() <= KEPT);
    }
}
