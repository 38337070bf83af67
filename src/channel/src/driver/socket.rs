//! A non-blocking stream socket with two users, a reader and a writer, that may be different tasks.
//!
//! Each may wait for either direction: a writer without credit waits for what it must read, a reader that
//! returns credit waits for room. The runtime knows one waker a direction, so where both wait for the same
//! direction, it gets one that wakes both.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::ReadBuf;

use super::readv::readv;
use crate::descriptor::{Descriptor, watch_writing};

#[derive(Debug)]
pub(crate) struct Socket {
    /// Watched for reading.
    descriptor: Descriptor,
    /// The same socket, watched for writing while it is full. That is rare, as the link's window is smaller than
    /// what the transports hold; and watched for all the time, Unix sockets and AF_VSOCK would wake the runtime
    /// whenever the peer reads.
    full: Option<Box<Descriptor>>,
    readable: Waiting,
    writable: Waiting,
}

/// On whose behalf a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Reader,
    Writer,
}

impl Socket {
    pub(crate) fn new(descriptor: Descriptor) -> Self {
        Self { descriptor, full: None, readable: Waiting::default(), writable: Waiting::default() }
    }

    /// Whether a read is worth a try.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>, role: Role) -> Poll<io::Result<()>> {
        self.readable.poll(role, cx, |cx| self.descriptor.poll_read_ready(cx)).map_ok(|_| ())
    }

    /// Reads once, as [`readv`] does; 0 is the end. A short read means that the socket is empty, so that no
    /// further call is needed to learn it (epoll's man page, question 9).
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        role: Role,
        into: &mut ReadBuf<'_>,
        split: usize,
        lead: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let room = if lead.is_empty() { split } else { into.remaining() + lead.len() };
        loop {
            let polled = self.readable.poll(role, cx, |cx| self.descriptor.poll_read_ready(cx));
            let mut guard = ready!(polled)?;
            match readv(guard.get_inner().as_fd(), into, split, lead) {
                Ok(len) => {
                    if 0 < len && len < room {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes once; gives how many bytes went. A short write means that the socket is full.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        role: Role,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole = parts.iter().map(|part| part.len()).sum();
        loop {
            if let Some(full) = &self.full {
                let mut guard = ready!(self.writable.poll(role, cx, |cx| full.poll_write_ready(cx)))?;
                guard.clear_ready();
            }
            match send(self.descriptor.get_ref(), parts) {
                Ok(len) => {
                    if len == whole && self.full.take().is_some() {
                        self.writable.wake_all();
                    }
                    return Poll::Ready(Ok(len));
                }
                Err(Errno::WOULDBLOCK) if self.full.is_some() => {}
                Err(Errno::WOULDBLOCK) => self.full = Some(Box::new(watch_writing(&self.descriptor)?)),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Whether the last write found no room.
    pub(crate) fn is_full(&self) -> bool {
        self.full.is_some()
    }

    /// Writes what goes without waiting; for last words.
    pub(crate) fn try_write(&self, parts: &[IoSlice<'_>]) {
        let _ = send(self.descriptor.get_ref(), parts);
    }

    /// Wakes a waiting reader: a writer has read payload for it.
    pub(crate) fn wake_reader(&mut self) {
        wake(&mut self.readable.reader);
        wake(&mut self.writable.reader);
    }

    /// The channel has failed: neither user needs to wait.
    pub(crate) fn wake_all(&mut self) {
        self.readable.wake_all();
        self.writable.wake_all();
    }
}

/// `writev` without SIGPIPE, for programs that have not disabled it.
fn send(fd: &OwnedFd, parts: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    rustix::net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
}

/// The tasks that wait for one direction.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Waiting {
    /// Polls for this role, so that afterwards all who wait are registered.
    pub(super) fn poll<T>(
        &mut self,
        role: Role,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let (own, other) = match role {
            Role::Reader => (&mut self.reader, &self.writer),
            Role::Writer => (&mut self.writer, &self.reader),
        };
        let polled = match other {
            Some(other) if !other.will_wake(cx.waker()) => {
                let both = Waker::from(Arc::new(Both(other.clone(), cx.waker().clone())));
                poll(&mut Context::from_waker(&both))
            }
            _ => poll(cx),
        };
        *own = polled.is_pending().then(|| cx.waker().clone());
        polled
    }

    fn wake_all(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

/// Wakes two tasks.
struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}
