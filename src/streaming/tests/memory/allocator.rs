//! The system's allocator, counting for each thread what it holds. The server under test has a thread to itself.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes of heap.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    pub(crate) now: isize,
    /// The most since [`forget_peak`].
    pub(crate) peak: isize,
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held { now: 0, peak: 0 }) };
}

/// What this thread has allocated and nobody has freed.
pub(crate) fn held() -> Held {
    HELD.get()
}

/// Measures the peak from now on.
pub(crate) fn forget_peak() {
    let now = HELD.get().now;
    HELD.set(Held { now, peak: now });
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

impl Counting {
    fn count(bytes: isize) {
        // A thread that is ending has no counter any more.
        let _ = HELD.try_with(|held| {
            let now = held.get().now + bytes;
            held.set(Held { now, peak: held.get().peak.max(now) });
        });
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract, which is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Self::count(-(layout.size() as isize));
        // SAFETY: `ptr` came from the system's allocator with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::count(new_size as isize - layout.size() as isize);
        // SAFETY: `ptr` came from the system's allocator with this layout.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}
