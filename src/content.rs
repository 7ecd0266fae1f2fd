//! What is put under a name: bytes that may lie in several places, so that nobody has to copy them behind one another.

use bytes::{Bytes, BytesMut};

/// The content of an object, piece after piece.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pieces: Vec<Bytes>,
    length: usize,
}

impl Content {
    /// Adds what comes next.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.length += bytes.len();
            self.pieces.push(bytes);
        }
    }

    /// Adds all of another one.
    pub fn append(&mut self, other: Self) {
        self.length += other.length;
        self.pieces.extend(other.pieces);
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes, in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The bytes behind one another: a copy, unless there is one piece.
    pub fn into_whole(mut self) -> Bytes {
        if self.pieces.len() < 2 {
            return self.pieces.pop().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(self.length);
        self.pieces.into_iter().for_each(|piece| whole.extend_from_slice(&piece));
        whole.freeze()
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        let mut content = Self::default();
        content.push(bytes);
        content
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_to_the_whole() {
        let mut content = Content::from(vec![1, 2]);
        content.push(Bytes::new());
        content.push(Bytes::from_static(&[3]));
        let mut all = Content::default();
        assert!(all.is_empty() && all.clone().into_whole().is_empty());
        all.append(content.clone());
        all.append(content);
        assert_eq!((all.len(), all.pieces().len()), (6, 4));
        assert_eq!(all.into_whole(), [1, 2, 3, 1, 2, 3].as_slice());
        // One piece is not copied.
        let one = Bytes::from(vec![7; 100]);
        assert_eq!(Content::from(one.clone()).into_whole().as_ptr(), one.as_ptr());
    }
}
