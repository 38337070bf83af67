//! Bytes that their receiver does not take yet.

use rustix::io::Errno;

use crate::side::Side;

/// A queue of bytes; none is allocated while it is empty. Its users bound it: by the credit of the link where
/// the pod is slow, by one frame and one RESET where the host is. Invariant: `from <= bytes.len()`.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    bytes: Vec<u8>,
    from: usize,
}

impl Leftover {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.from
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Sent bytes are dropped once they are the larger part, so that each byte is moved at most once.
        if self.from > self.bytes.len() / 2 {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes as much as fits; returns how many bytes went.
    pub(crate) fn flush(&mut self, to: &mut Side) -> Result<usize, Errno> {
        if self.is_empty() {
            return Ok(0);
        }
        let sent = to.write(&self.bytes[self.from..])?;
        self.from += sent;
        if self.from == self.bytes.len() {
            *self = Self::default();
        }
        Ok(sent)
    }

    /// Writes as much as fits, after what is here already, and keeps the rest. Returns how many of these bytes went.
    pub(crate) fn send(&mut self, to: &mut Side, bytes: &[u8]) -> Result<usize, Errno> {
        let sent = if self.is_empty() { to.write(bytes)? } else { 0 };
        if sent < bytes.len() {
            self.push(&bytes[sent..]);
        }
        Ok(sent)
    }
}
