//! A socket's descriptor, known to the runtime.

#![allow(unsafe_code)] // the one place; the runtime wants a promise about what it registers

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A non-blocking stream socket, known to the runtime.
pub(crate) type Descriptor = AsyncFd<OwnedFd>;

/// Makes a non-blocking socket known to the current runtime, for reading.
pub(crate) fn watch_reading(socket: OwnedFd) -> io::Result<Descriptor> {
    register(socket, Interest::READABLE)
}

/// Makes a duplicate of a descriptor known to the current runtime, for writing.
pub(crate) fn watch_writing(socket: &impl std::os::fd::AsFd) -> io::Result<Descriptor> {
    register(socket.as_fd().try_clone_to_owned()?, Interest::WRITABLE)
}

fn register(socket: OwnedFd, interest: Interest) -> io::Result<Descriptor> {
    // SAFETY: `OwnedFd` owns a valid descriptor, and `AsyncFd` gives it out by reference only, so that it is
    // neither closed nor replaced while it is registered.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(io::Error::from)
}
