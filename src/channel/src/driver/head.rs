//! Bytes that count as sent but are not out yet: control frames, or the rest of a DATA header.

use crate::link::MAX_CONTROL;

/// At most one round of control frames, or a part of a header. Invariant: `from <= to <= MAX_CONTROL`.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: [u8; MAX_CONTROL],
    from: u8,
    to: u8,
}

impl Head {
    /// Keeps at most [`MAX_CONTROL`] bytes.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        head.bytes[..bytes.len()].copy_from_slice(bytes);
        head.to = bytes.len() as u8;
        head
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.from.into()..self.to.into()]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// So many of the bytes are out, at most as many as there are.
    pub(super) fn sent(&mut self, len: usize) {
        debug_assert!(len <= self.bytes().len());
        self.from = (self.from + len as u8).min(self.to);
    }
}
