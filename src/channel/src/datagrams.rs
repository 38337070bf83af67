//! An open channel that carries datagrams: each DATA frame is one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use crate::descriptor::Descriptor;
use crate::driver::{Driver, Pump, Role};
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
/// - A guest that says nothing at all, although something was sent to it, is asked after 10 s and given up after 20 to
///   30 s with [`ErrorKind::TimedOut`], as long as a caller waits in one of the two.
/// - Dropping it ends it.
#[derive(Debug)]
pub struct Datagrams {
    driver: Driver,
    /// What is not out yet of the datagram that was sent last: always as much as the link misses of its frame.
    unsent: Vec<u8>,
    /// What has come of the next datagram.
    begun: Vec<u8>,
    /// Bounded by the link's credit.
    received: VecDeque<Vec<u8>>,
    buffer: Box<[u8]>,
}

impl Datagrams {
    /// An association on which OPENED has just been read, and nothing after it.
    pub(crate) fn new(descriptor: Descriptor, permit: Option<Permit>) -> Self {
        Self {
            driver: Driver::new(Link::of_datagrams(), descriptor, permit),
            unsent: Vec::new(),
            begun: Vec::new(),
            received: VecDeque::new(),
            buffer: vec![0; READ].into(),
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
        let mut is_begun = false;
        poll_fn(|cx| match self.poll_send(cx, datagram, &mut is_begun) {
            Poll::Pending => self.driver.poll_silence_of_writer(cx),
            ready => ready,
        })
        .await
    }

    /// The next datagram; none once the relay has ended the association in order.
    ///
    /// # Errors
    /// The guest's end, the relay's RESET with its cause, or a relay that breaks the protocol.
    pub async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        poll_fn(|cx| match self.poll_receive(cx) {
            Poll::Pending => self.driver.poll_silence(cx, Role::Reader),
            ready => ready,
        })
        .await
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        datagram: &[u8],
        is_begun: &mut bool,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(failure) = self.driver.failure() {
                return Poll::Ready(Err(failure));
            }
            ready!(self.poll_flush(cx, Role::Writer))?;
            if *is_begun {
                return Poll::Ready(Ok(()));
            }
            if !self.driver.link.takes_datagram() {
                ready!(self.poll_fill(cx, Role::Writer))?;
                continue;
            }
            let sent = ready!(self.driver.poll_send_data(cx, Role::Writer, &[IoSlice::new(datagram)]));
            match sent {
                Ok(None) => {}
                // From here on it counts as sent, even if the caller leaves: the rest goes with the next flush.
                Ok(Some(sent)) => {
                    self.unsent.extend_from_slice(&datagram[sent..]);
                    *is_begun = true;
                }
                Err(error) => return Poll::Ready(Err(self.fail_write(cx, &error))),
            }
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        loop {
            if let Some(datagram) = self.received.pop_front() {
                self.driver.link.handed_on(datagram.len());
                // Credit that finds no room now is sent by whoever comes next.
                let _ = self.poll_flush(cx, Role::Reader);
                return Poll::Ready(Ok(Some(datagram)));
            }
            if let Some(failure) = self.driver.failure() {
                return Poll::Ready(Err(failure));
            }
            if self.driver.link.has_peer_ended() {
                return Poll::Ready(Ok(None));
            }
            // It need not be ready: a guest that takes nothing may have something to say.
            let _ = self.poll_flush(cx, Role::Reader);
            ready!(self.poll_fill(cx, Role::Reader))?;
        }
    }

    /// Sends the rest of a datagram and the control frames that are due.
    fn poll_flush(&mut self, cx: &mut Context<'_>, role: Role) -> Poll<io::Result<()>> {
        while self.driver.link.frame_left() > 0 {
            match ready!(self.driver.poll_send_data(cx, role, &[IoSlice::new(&self.unsent)])) {
                Ok(sent) => drop(self.unsent.drain(..sent.unwrap_or(0))),
                Err(error) => return Poll::Ready(Err(self.fail_write(cx, &error))),
            }
        }
        match ready!(self.driver.poll_send_control(cx, role)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.fail_write(cx, &error))),
        }
    }

    /// Reads once.
    fn poll_fill(&mut self, cx: &mut Context<'_>, role: Role) -> Poll<io::Result<()>> {
        if let Some(failure) = self.driver.failure() {
            return Poll::Ready(Err(failure));
        }
        let mut into = ReadBuf::new(&mut self.buffer);
        let len = match ready!(self.driver.socket.poll_read(cx, role, &mut into, READ, &mut [])) {
            Ok(0) => return Poll::Ready(Err(self.driver.fail_eof())),
            Ok(len) => len,
            Err(error) => return Poll::Ready(Err(self.driver.fail_read(&error))),
        };
        if let Err(violation) = self.take(len) {
            return Poll::Ready(Err(self.driver.fail_violation(violation)));
        }
        self.driver.heard();
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, len: usize) -> Result<(), Violation> {
        let mut bytes = &self.buffer[..len];
        while !bytes.is_empty() {
            let piece = self.driver.link.receive_datagram(bytes)?;
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

impl Pump for Datagrams {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_fill(cx, Role::Writer)
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.driver.abort("the host has ended the association");
    }
}

#[cfg(test)]
mod tests;
