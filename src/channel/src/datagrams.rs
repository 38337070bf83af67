//! An open channel that carries datagrams: the host's driver of a [`Link`] of them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::Interest;

use crate::descriptor::{Descriptor, watch_writing};
use crate::errno;
use crate::frame::{self, Kind};
use crate::link::{Link, Violation};
use crate::permit::Permit;

/// The largest datagram of UDP over IPv4, in bytes.
const MAX_DATAGRAM: usize = 65_507;

/// Bytes taken from the transport at once.
const READ: usize = 64 << 10;

/// An association with a UDP port in the guest, as the host sees it: what was sent as one datagram arrives as one.
///
/// - [`send`](Self::send) and [`receive`](Self::receive) may be given up while they wait: nothing is lost or cut,
///   so that one task can wait for either.
/// - The relay ends the association after a time without a datagram (60 s by default) and when the port refuses.
/// - Dropping it ends it.
#[derive(Debug)]
pub struct Datagrams {
    link: Link,
    descriptor: Descriptor,
    /// Frames, or the rest of one, that count as sent and are not.
    unsent: Vec<u8>,
    /// Of the datagram that comes next, what has come.
    begun: Vec<u8>,
    /// Bounded by the link's credit.
    received: VecDeque<Vec<u8>>,
    buffer: Box<[u8]>,
    _permit: Option<Permit>,
}

impl Datagrams {
    /// An association on which OPENED has just been read, and nothing after it.
    pub(crate) fn new(descriptor: Descriptor, permit: Option<Permit>) -> Self {
        Self {
            link: Link::of_datagrams(),
            descriptor,
            unsent: Vec::new(),
            begun: Vec::new(),
            received: VecDeque::new(),
            buffer: vec![0; READ].into(),
            _permit: permit,
        }
    }

    /// Sends one datagram of at most 65,507 bytes; it may be empty. Given up before it is ready, it was either
    /// sent as a whole or not at all.
    ///
    /// # Errors
    /// A datagram too long, and every end of the association.
    pub async fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        if datagram.len() > MAX_DATAGRAM {
            let text = format!("a datagram of {} bytes, at most {MAX_DATAGRAM} fit", datagram.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        self.flush().await?;
        while !self.link.takes_datagram() {
            self.fill().await?;
            self.flush().await?;
        }
        let header = frame::header(Kind::Data, datagram.len());
        self.link.begin(datagram.len());
        self.link.sent(datagram.len());
        // Nothing is awaited until what did not go is kept.
        let sent = match send(self.descriptor.get_ref(), &[IoSlice::new(&header), IoSlice::new(datagram)]) {
            Err(Errno::WOULDBLOCK) => 0,
            sent => sent?,
        };
        self.unsent.extend_from_slice(&header[sent.min(header.len())..]);
        self.unsent.extend_from_slice(&datagram[sent.saturating_sub(header.len())..]);
        self.flush().await
    }

    /// The next datagram; none once the relay has ended the association in order.
    ///
    /// # Errors
    /// The guest's end, the relay's RESET with its cause, or a relay that breaks the protocol.
    pub async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            self.flush().await?;
            if let Some(datagram) = self.received.pop_front() {
                self.link.handed_on(datagram.len());
                return Ok(Some(datagram));
            }
            if self.link.has_peer_ended() {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    /// Sends what waits and the control frames that are due.
    async fn flush(&mut self) -> io::Result<()> {
        let control = self.link.control(false);
        self.unsent.extend_from_slice(&control);
        while !self.unsent.is_empty() {
            match send(self.descriptor.get_ref(), &[IoSlice::new(&self.unsent)]) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(Errno::WOULDBLOCK) => drop(watch_writing(self.descriptor.get_ref())?.writable().await?),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads once.
    async fn fill(&mut self) -> io::Result<()> {
        if let Some(reset) = self.link.peer_reset() {
            let text = format!("{} (errno {} in the guest)", reset.text, reset.errno);
            return Err(io::Error::new(errno::kind(reset.errno), text));
        }
        let buffer = &mut self.buffer;
        let read = self.descriptor.async_io(Interest::READABLE, |fd| {
            let read = rustix::io::retry_on_intr(|| rustix::net::recv(fd, &mut **buffer, RecvFlags::empty()));
            read.map(|(len, _)| len).map_err(io::Error::from)
        });
        let len = read.await?;
        if len == 0 {
            let text =
                "the connection to the guest ended: the guest, its relay or the vsock device has gone away";
            return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
        }
        self.take(len).map_err(|violation| {
            let text = format!("the relay broke the channel's protocol: it sent {violation}");
            if let Some(reset) = self.link.reset(errno::EPROTO, &text) {
                let _ = send(self.descriptor.get_ref(), &[IoSlice::new(&reset)]);
            }
            io::Error::new(ErrorKind::InvalidData, text)
        })
    }

    fn take(&mut self, len: usize) -> Result<(), Violation> {
        let mut bytes = &self.buffer[..len];
        while !bytes.is_empty() {
            let piece = self.link.receive_datagram(bytes)?;
            let (payload, rest) = bytes[piece.skip..].split_at(piece.payload);
            bytes = rest;
            self.begun.extend_from_slice(payload);
            if piece.ends {
                self.received.push_back(std::mem::take(&mut self.begun));
            }
        }
        Ok(())
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if self.unsent.is_empty()
            && let Some(reset) = self.link.reset(errno::ECONNRESET, "the host has ended the association")
        {
            let _ = send(self.descriptor.get_ref(), &[IoSlice::new(&reset)]);
        }
    }
}

fn send(fd: &OwnedFd, parts: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
    })
}
