//! One of the two sockets of a connection, and whether it is ready.
//!
//! epoll reports only changes (edge-triggered), so that its interest need not be changed while bytes move. What it has
//! reported is kept here until a call uses it up. A short read or write means that it is used up (epoll(7), question 9).

use std::io::IoSliceMut;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::relay::EventKey;

/// What epoll watches at first. It does not watch for room in a socket that was never full, since Unix sockets and
/// AF_VSOCK report room whenever the peer reads.
pub(crate) const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// What epoll watches once a socket was full, or while it is being connected.
pub(crate) const BOTH: EventFlags = READING.union(EventFlags::OUT);

const CLOSED: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

#[derive(Debug)]
pub(crate) struct Side {
    fd: OwnedFd,
    /// The most bytes of one write.
    most: usize,
    readable: bool,
    writable: bool,
    /// What epoll watches.
    interest: EventFlags,
    /// The peer has ended. The end or an error follows a short read, so that such a read does not use up readiness.
    closed: bool,
}

impl Side {
    /// The host's socket, which epoll is about to watch, and the most bytes of one write to it.
    pub(crate) fn host(fd: OwnedFd, most: usize) -> Self {
        Self { most, ..Self::new(fd) }
    }

    /// A socket to the pod, which epoll is about to watch.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, most: usize::MAX, readable: false, writable: true, interest: READING, closed: false }
    }

    /// A socket on which a connect is in progress. It becomes writable when that ends.
    pub(crate) fn connecting(fd: OwnedFd) -> Self {
        Self { writable: false, interest: BOTH, ..Self::new(fd) }
    }

    /// Has epoll watch it from now on.
    pub(crate) fn watch(&self, epoll: BorrowedFd<'_>, key: EventKey) -> Result<(), Errno> {
        epoll::add(epoll, &self.fd, key.into(), self.interest)
    }

    /// Has epoll report when there is room, if the socket is full.
    pub(crate) fn watch_room(&mut self, epoll: BorrowedFd<'_>, key: EventKey) -> Result<(), Errno> {
        if self.writable || self.interest == BOTH {
            return Ok(());
        }
        self.interest = BOTH;
        epoll::modify(epoll, &self.fd, key.into(), self.interest)
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Takes what epoll reports.
    pub(crate) fn note(&mut self, flags: EventFlags) {
        self.closed |= flags.intersects(CLOSED);
        self.readable |= flags.intersects(EventFlags::IN | CLOSED);
        self.writable |= flags.intersects(EventFlags::OUT | CLOSED);
    }

    /// Reads once. None: nothing is there yet. 0: the end.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, Errno> {
        let room = into.len();
        self.read_with(room, |fd| rustix::net::recv(fd, &mut *into, RecvFlags::empty()).map(|(len, _)| len))
    }

    /// Reads once into several parts.
    pub(crate) fn readv(&mut self, parts: &mut [IoSliceMut<'_>]) -> Result<Option<usize>, Errno> {
        let room = parts.iter().map(|part| part.len()).sum();
        self.read_with(room, |fd| rustix::io::readv(fd, parts))
    }

    fn read_with(
        &mut self,
        room: usize,
        mut call: impl FnMut(&OwnedFd) -> Result<usize, Errno>,
    ) -> Result<Option<usize>, Errno> {
        if !self.readable {
            return Ok(None);
        }
        match rustix::io::retry_on_intr(|| call(&self.fd)) {
            Ok(len) => {
                self.readable = len == room || self.closed;
                Ok(Some(len))
            }
            Err(Errno::WOULDBLOCK) => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes one datagram. None: none is there yet. Unlike a short read, one datagram does not show that no other follows.
    pub(crate) fn receive_datagram(&mut self, into: &mut [u8]) -> Result<Option<usize>, Errno> {
        if !self.readable {
            return Ok(None);
        }
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut *into, RecvFlags::empty())) {
            Ok((len, _)) => Ok(Some(len)),
            Err(Errno::WOULDBLOCK) => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends one datagram, if there is room.
    pub(crate) fn send_datagram(&self, datagram: &[u8]) -> Result<(), Errno> {
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, datagram, SendFlags::NOSIGNAL)).map(drop)
    }

    /// Writes until the socket is full; returns how many bytes went.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut sent = 0;
        while sent < bytes.len() && self.writable {
            let len = self.most.min(bytes.len() - sent);
            sent += self.write_once(&bytes[sent..sent + len])?;
        }
        Ok(sent)
    }

    fn write_once(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL)) {
            Ok(len) => {
                self.writable = len == bytes.len();
                Ok(len)
            }
            Err(Errno::WOULDBLOCK) => {
                self.writable = false;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}
