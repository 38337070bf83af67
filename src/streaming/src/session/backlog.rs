//! Bytes that a connection has not taken yet.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Smallest block: what a few small writes take.
const MIN_BLOCK: usize = 2 << 10;
/// Largest block, so that room is freed as the connection takes bytes.
const MAX_BLOCK: usize = 64 << 10;

/// A queue of bytes in blocks, charged by the room that it takes and not by its length.
///
/// Invariant: `head` is less than the length of the first block, and 0 when there is none.
#[derive(Default)]
pub(super) struct Backlog {
    blocks: VecDeque<Vec<u8>>,
    head: usize,
    charge: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Bytes of memory in use.
    pub(super) fn charge(&self) -> usize {
        self.charge
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.blocks.back().map_or(0, |block| block.capacity() - block.len());
            if room == 0 {
                let size = bytes.len().next_power_of_two().clamp(MIN_BLOCK, MAX_BLOCK);
                let block = Vec::with_capacity(size);
                self.charge += block.capacity();
                self.blocks.push_back(block);
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(block) = self.blocks.back_mut() {
                block.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    /// Fills `slices` with the first bytes; gives how many slices that took.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, block) in slices.iter_mut().zip(&self.blocks) {
            let start = if filled == 0 { self.head } else { 0 };
            *slice = IoSlice::new(&block[start..]);
            filled += 1;
        }
        filled
    }

    /// Drops `n` bytes from the front.
    pub(super) fn consume(&mut self, n: usize) {
        self.head += n;
        while let Some(first) = self.blocks.front() {
            if self.head < first.len() {
                return;
            }
            self.head -= first.len();
            self.charge -= first.capacity();
            self.blocks.pop_front();
        }
        self.blocks = VecDeque::new();
        self.head = 0;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(backlog: &Backlog) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let n = backlog.slices(&mut slices);
        slices[..n].iter().flat_map(|s| s.to_vec()).collect()
    }

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut backlog = Backlog::default();
        let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        for piece in bytes.chunks(777) {
            backlog.push(piece);
        }
        let mut seen = Vec::new();
        while !backlog.is_empty() {
            let now = content(&backlog);
            let n = now.len().min(50_001);
            seen.extend_from_slice(&now[..n]);
            backlog.consume(n);
        }
        assert_eq!(seen, bytes);
        assert_eq!(backlog.charge(), 0);
    }

    #[test]
    fn the_charge_counts_rooms_and_is_near_the_length() {
        let mut backlog = Backlog::default();
        backlog.push(&[1]);
        assert_eq!(backlog.charge(), MIN_BLOCK);
        backlog.push(&[0; 1 << 20]);
        assert!(backlog.charge() >= 1 << 20);
        assert!(backlog.charge() <= (1 << 20) + MIN_BLOCK + MAX_BLOCK);
        backlog.consume(1 << 20);
        assert!(backlog.charge() <= MAX_BLOCK);
    }
}
