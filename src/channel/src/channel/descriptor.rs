//! A socket's descriptor, known to the runtime.

#![allow(unsafe_code)] // the one place; the runtime wants a promise about what it registers

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// A non-blocking stream socket, known to the runtime.
pub(crate) type Descriptor = AsyncFd<OwnedFd>;

/// Makes a non-blocking socket known to the current runtime.
pub(crate) fn register(socket: OwnedFd) -> io::Result<Descriptor> {
    // SAFETY: `OwnedFd` owns a valid descriptor, and `AsyncFd` gives it out by reference only, so that it is
    // neither closed nor replaced while it is registered.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}
