//! Payload that a writer had to read before its reader wanted it.

use tokio::io::ReadBuf;

/// The least room for a read: where no payload is announced, control frames are expected.
const MIN_ROOM: usize = 4 << 10;

/// A queue of bytes; none is allocated while it is empty. What it holds is bounded by the link's credit.
/// Invariant: `from <= bytes.len()`.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    /// Where the room begins that was last asked for.
    kept: usize,
}

impl Buffer {
    /// Room behind what is held, for a read that expects so much payload. [`keep`](Self::keep) must follow.
    pub(super) fn room(&mut self, expected: usize) -> &mut [u8] {
        self.kept = self.bytes.len();
        self.bytes.resize(self.kept + expected.max(MIN_ROOM), 0);
        &mut self.bytes[self.kept..]
    }

    /// Keeps the first `len` bytes of the room.
    pub(super) fn keep(&mut self, len: usize) {
        self.bytes.truncate(self.kept + len);
        self.free_if_empty();
    }

    /// Moves as much as fits.
    pub(super) fn give(&mut self, into: &mut ReadBuf<'_>) {
        let len = into.remaining().min(self.bytes.len() - self.from);
        into.put_slice(&self.bytes[self.from..self.from + len]);
        self.from += len;
        self.free_if_empty();
    }

    fn free_if_empty(&mut self) {
        if self.from == self.bytes.len() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buffer: &mut Buffer, bytes: &[u8]) {
        buffer.room(0)[..bytes.len()].copy_from_slice(bytes);
        buffer.keep(bytes.len());
    }

    fn take(buffer: &mut Buffer, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let mut into = ReadBuf::new(&mut bytes);
        buffer.give(&mut into);
        into.filled().to_vec()
    }

    #[test]
    fn gives_in_order_what_was_kept() {
        let mut buffer = Buffer::default();
        put(&mut buffer, b"one");
        put(&mut buffer, b"two");
        assert_eq!(take(&mut buffer, 4), b"onet");
        put(&mut buffer, b"three");
        assert_eq!(take(&mut buffer, 100), b"wothree");
    }

    #[test]
    fn holds_no_memory_while_empty() {
        let mut buffer = Buffer::default();
        put(&mut buffer, b"");
        assert_eq!(buffer.bytes.capacity(), 0);
        put(&mut buffer, b"one");
        take(&mut buffer, 3);
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}
