//! SIGTERM and SIGINT end the relay in order.

#![allow(unsafe_code)] // the one place; std has no signals

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::Stopper;

/// The stopper's descriptor, for the handler; -1: none.
static STOPPER: AtomicI32 = AtomicI32::new(-1);

/// Lets SIGTERM and SIGINT use this stopper, for as long as the process lives. For programs, not for libraries.
pub fn stop_at_end(stopper: Stopper) {
    STOPPER.store(stopper.fd().as_raw_fd(), Ordering::Relaxed);
    // The handler may come at any time, so the descriptor must never be closed.
    std::mem::forget(stopper);
    let handler = handle as extern "C" fn(libc::c_int);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler does nothing that is not allowed in one: it loads an atomic and calls write(2).
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

extern "C" fn handle(_: libc::c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the descriptor is an eventfd that is never closed, and the buffer outlives the call. A failure
    // means that the counter is full, and then the relay ends already. errno is looked at nowhere after.
    unsafe { libc::write(STOPPER.load(Ordering::Relaxed), one.as_ptr().cast(), one.len()) };
}
