//! What has arrived of an upload and is written next, in the pieces in which it came: small ones are copied together,
//! so that none keeps a buffer that it hardly uses.

use bytes::{Bytes, BytesMut};

/// A piece of this size keeps at most twice as much of what it was received in.
const KEPT_BYTES_MIN: usize = 32 << 10;

/// Pieces in their order.
#[derive(Debug, Default)]
pub(super) struct Block {
    pieces: Vec<Bytes>,
    /// Small ones, after those.
    tail: BytesMut,
    length: usize,
}

impl Block {
    /// One piece, whatever its size.
    pub(super) fn of(bytes: Bytes) -> Self {
        Self {
            length: bytes.len(),
            pieces: vec![bytes],
            tail: BytesMut::new(),
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.length += bytes.len();
        if bytes.len() < KEPT_BYTES_MIN {
            self.tail.extend_from_slice(&bytes);
        } else {
            self.close_tail();
            self.pieces.push(bytes);
        }
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// All of it; none is left.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.close_tail();
        self.length = 0;
        std::mem::take(&mut self.pieces)
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(std::mem::take(&mut self.tail).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_their_order_and_small_ones_together() {
        let mut block = Block::default();
        let large = Bytes::from(vec![b'x'; KEPT_BYTES_MIN]);
        for piece in [Bytes::from("a"), "b".into(), large.clone(), "c".into()] {
            block.push(piece);
        }
        assert_eq!(block.len(), KEPT_BYTES_MIN + 3);
        assert_eq!(block.take(), [Bytes::from("ab"), large, "c".into()]);
        assert_eq!((block.len(), block.take().len()), (0, 0));
    }
}
