//! Payload of one stream, gathered from several frames of one read.

use std::io::IoSlice;

/// Slices that one write takes: Go clients send frames of 32 KiB, of which a read holds eight.
const SLICES: usize = 16;

/// Invariant: all slices belong to stream `id`.
pub(super) struct Batch<'a> {
    id: u32,
    slices: [IoSlice<'a>; SLICES],
    len: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn new() -> Self {
        Self { id: 0, slices: [IoSlice::new(&[]); SLICES], len: 0 }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Whether payload of this stream must wait until the batch is delivered.
    pub(super) fn is_in_the_way(&self, id: u32) -> bool {
        self.len == SLICES || (self.len > 0 && self.id != id)
    }

    pub(super) fn push(&mut self, id: u32, payload: &'a [u8]) {
        debug_assert!(!self.is_in_the_way(id));
        self.id = id;
        self.slices[self.len] = IoSlice::new(payload);
        self.len += 1;
    }

    /// Empties the batch.
    pub(super) fn take(&mut self) -> &mut [IoSlice<'a>] {
        let len = std::mem::take(&mut self.len);
        &mut self.slices[..len]
    }
}
