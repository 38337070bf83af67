//! SIGTERM and SIGINT stop the relay cleanly.

#![allow(unsafe_code)] // the only module that sets a signal handler; std cannot

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::Stopper;

/// The stopper's descriptor, for the handler. -1: none.
static STOPPER: AtomicI32 = AtomicI32::new(-1);

/// Has SIGTERM and SIGINT use this stopper for the life of the process. For programs, not for libraries.
pub fn stop_at_end(stopper: Stopper) {
    STOPPER.store(stopper.fd().as_raw_fd(), Ordering::Relaxed);
    // The handler may run at any time, so the descriptor must never be closed.
    std::mem::forget(stopper);
    let handler = handle as extern "C" fn(libc::c_int);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler is async-signal-safe: it loads an atomic and calls write(2).
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

extern "C" fn handle(_: libc::c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the descriptor is an eventfd that is never closed, and the buffer outlives the call. A failure
    // means that the counter is full, and then the relay is already stopping. Nothing reads errno afterwards.
    unsafe { libc::write(STOPPER.load(Ordering::Relaxed), one.as_ptr().cast(), one.len()) };
}
