//! Sends file descriptors over a Unix socket (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Sends bytes with a descriptor attached to the first; returns how many bytes were sent.
///
/// Our copy of the descriptor is closed then: the kernel keeps its own until the caller receives it.
pub(super) async fn send(stream: &UnixStream, bytes: &[u8], descriptor: OwnedFd) -> io::Result<usize> {
    stream
        .async_io(Interest::WRITABLE, || {
            let descriptors = [descriptor.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            let slices = [IoSlice::new(bytes)];
            Ok(rustix::net::sendmsg(stream, &slices, &mut ancillary, SendFlags::NOSIGNAL)?)
        })
        .await
}
