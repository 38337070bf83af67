//! Buffers that belong to the thread that moves bytes, not to the sessions that wait for them.
//!
//! A session takes one when its socket is readable and gives it back before it waits again, so ten thousand
//! idle sessions own no buffer, and a busy thread works in the same 256 KiB, which stay in its cache.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Size of a buffer: four frames of the largest size that we send. Larger ones gained nothing measurable and
/// leave the second-level cache.
pub(super) const READ_BUFFER: usize = 256 << 10;

/// Buffers that a thread keeps: one to read the client and one to read a connection.
const KEPT: usize = 2;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer on loan.
pub(super) struct ReadBuffer(Box<[u8]>);

impl ReadBuffer {
    pub(super) fn take() -> Self {
        let pooled = POOL.with_borrow_mut(Vec::pop);
        Self(pooled.unwrap_or_else(|| vec![0; READ_BUFFER].into_boxed_slice()))
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // The thread may be ending: then the buffer is simply freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < KEPT {
                pool.push(buffer);
            }
        });
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for ReadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
