//! The system's allocator, with counters for each thread. Every test runs in a thread of its own.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static NOW: Cell<Held> = const { Cell::new(Held { allocations: 0, bytes: 0, peak: 0 }) };
}

#[derive(Clone, Copy)]
struct Held {
    allocations: isize,
    bytes: isize,
    peak: isize,
}

/// What a piece of code allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Calls to the allocator for new or larger blocks.
    pub(crate) allocations: isize,
    /// By how many bytes the memory in use grew. Negative if it freed more than it allocated.
    pub(crate) kept: isize,
    /// The peak growth of the memory in use, in bytes.
    pub(crate) peak: isize,
}

/// Runs the code and returns what it allocated.
pub(crate) fn measure<T>(code: impl FnOnce() -> T) -> (T, Usage) {
    let before = NOW.get();
    NOW.set(Held { peak: before.bytes, ..before });
    let result = code();
    let after = NOW.get();
    let usage = Usage {
        allocations: after.allocations - before.allocations,
        kept: after.bytes - before.bytes,
        peak: after.peak - before.bytes,
    };
    (result, usage)
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

impl Counting {
    fn count(allocations: isize, bytes: isize) {
        // A thread that is ending has no counter any more.
        _ = NOW.try_with(|now| {
            let mut held = now.get();
            held.allocations += allocations;
            held.bytes += bytes;
            held.peak = held.peak.max(held.bytes);
            now.set(held);
        });
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(1, layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(1, layout.size() as isize);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract, which is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Self::count(0, -(layout.size() as isize));
        // SAFETY: `ptr` came from the system's allocator with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::count(1, new_size as isize - layout.size() as isize);
        // SAFETY: `ptr` came from the system's allocator with this layout.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}
