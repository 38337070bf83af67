//! An open channel as an async byte stream.
//!
//! ```text
//!   poll_read  ◄── buffer ◄─┐
//!      ▲                    ├── link (frames off) ◄── readv ── socket
//!      └────────────────────┘
//!   poll_write ──► head (control, DATA header), caller's bytes ──► sendmsg ──► socket
//! ```
//!
//! Payload goes straight from the socket into the reader's buffer and from the writer's buffer into the socket.
//! The buffer takes payload only while a writer has to read on, for credit or for the acknowledgement of its
//! end; it never holds more than the credit given, and an idle channel has none.

mod buffer;

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::descriptor::Descriptor;
use crate::driver::{Driver, Pump, Role};
use crate::link::{Link, MAX_LEAD};
use crate::permit::Permit;
use buffer::Buffer;

/// One forwarded connection, as the host sees it: a byte stream each way.
///
/// - Reading gives `Ok(0)` only when the pod has ended its side. A transport that ends without that is an
///   error, and so is a pod that resets the connection (the error's kind is that of the pod's errno).
/// - `poll_shutdown` ends the direction towards the pod; it is ready once the pod's side has taken every byte
///   and the end. Reading goes on after it.
/// - A write may take a part of what it is given; the rest must follow in the next write (as `write_all`
///   does). Ending the direction instead is an error.
/// - A guest that is silent although it owes a word (an acknowledgement, or anything after something was sent) is
///   asked after 10 s and given up after 20 to 30 s with [`ErrorKind::TimedOut`]. An idle channel is never asked.
/// - Dropping the channel after both ends is orderly. Dropping it earlier resets the pod's connection.
#[derive(Debug)]
pub struct Channel {
    driver: Driver,
    /// Payload that a writer had to read before the reader wanted it.
    buffer: Buffer,
}

impl Channel {
    /// A channel on which OPENED has just been read, and nothing after it.
    pub(crate) fn new(descriptor: Descriptor, permit: Option<Permit>) -> Self {
        Self { driver: Driver::new(Link::new(), descriptor, permit), buffer: Buffer::default() }
    }

    /// Resets the connection now; every later read and write fails. Does nothing after both ends.
    pub fn abort(&mut self) {
        self.driver.abort("the host has given the connection up");
    }

    /// Reads once into `into`, which gets the payload among what came; that may be none.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        role: Role,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let driver = &mut self.driver;
        let mut lead = [0; MAX_LEAD];
        let scatter = driver.link.scatter(into.remaining());
        let read = driver.socket.poll_read(cx, role, into, scatter.payload, &mut lead[..scatter.lead]);
        let len = match ready!(read) {
            Ok(0) => return Poll::Ready(Err(driver.fail_eof())),
            Ok(len) => len,
            Err(error) => return Poll::Ready(Err(driver.fail_read(&error))),
        };
        let in_lead = len.saturating_sub(scatter.payload).min(scatter.lead);
        let room = into.initialize_unfilled_to(len - in_lead);
        match driver.link.receive(room, &lead, scatter, len) {
            Ok(payload) => into.advance(payload),
            Err(violation) => return Poll::Ready(Err(driver.fail_violation(violation))),
        }
        driver.heard();
        Poll::Ready(Ok(()))
    }

    fn poll_payload(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.driver.send_control(cx);
        loop {
            self.buffer.give(buf);
            let given = buf.filled().len() - before;
            if given > 0 {
                self.driver.link.handed_on(given);
                self.driver.send_control(cx);
                return Poll::Ready(Ok(()));
            }
            if let Some(failure) = self.driver.failure() {
                return Poll::Ready(Err(failure));
            }
            if self.driver.link.has_peer_ended() {
                self.driver.link.handed_on_end();
                self.driver.send_control(cx);
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fill(cx, Role::Reader, buf))?;
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(failure) = self.driver.failure() {
                return Poll::Ready(Err(failure));
            }
            if self.driver.link.is_finishing() {
                return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
            }
            // Nobody reads any more once the pod has ended its side: a RESET would be found too late.
            if self.driver.link.has_peer_ended()
                && let Poll::Ready(pumped) = self.poll_pump(cx)
            {
                pumped?;
                continue;
            }
            if self.driver.link.frame_left() == 0 && self.driver.link.sendable() == 0 {
                ready!(self.poll_pump(cx))?;
                continue;
            }
            match ready!(self.driver.poll_send_data(cx, Role::Writer, slices)) {
                // Only what comes before the payload went.
                Ok(None | Some(0)) => {}
                Ok(Some(len)) => return Poll::Ready(Ok(len)),
                Err(error) => return Poll::Ready(Err(self.fail_write(cx, &error))),
            }
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.driver.link.is_end_acknowledged() {
            return Poll::Ready(Ok(()));
        }
        if self.driver.link.frame_left() > 0 && self.driver.failure().is_none() {
            let text = "the direction was ended in the middle of a write: a write that takes a part must be \
                        followed by one with the rest";
            return Poll::Ready(Err(self.driver.fail(ErrorKind::InvalidInput, text.to_owned())));
        }
        self.driver.link.finish();
        if self.driver.failure().is_none()
            && let Err(error) = ready!(self.driver.poll_send_control(cx, Role::Writer))
        {
            return Poll::Ready(Err(self.fail_write(cx, &error)));
        }
        while !self.driver.link.is_end_acknowledged() {
            ready!(self.poll_pump(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Pump for Channel {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(failure) = self.driver.failure() {
            return Poll::Ready(Err(failure));
        }
        // Before room is made: most polls find nothing to read.
        ready!(self.driver.socket.poll_readable(cx, Role::Writer))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let filled = {
            let mut room = ReadBuf::new(buffer.room(self.driver.link.scatter(usize::MAX).payload));
            let read = self.poll_fill(cx, Role::Writer, &mut room);
            read.map_ok(|()| room.filled().len())
        };
        buffer.keep(if let Poll::Ready(Ok(len)) = filled { len } else { 0 });
        self.buffer = buffer;
        if matches!(filled, Poll::Ready(Ok(len)) if len > 0) {
            self.driver.socket.wake_reader();
        }
        filled.map_ok(|_| ())
    }
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let this = self.get_mut();
        match this.poll_payload(cx, buf) {
            Poll::Pending => this.driver.poll_silence(cx, Role::Reader),
            ready => ready,
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        match this.poll_send(cx, slices) {
            Poll::Pending => this.driver.poll_silence_of_writer(cx),
            ready => ready,
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Payload is never held back, so there is nothing to do for it: this sends due control frames.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match ready!(this.driver.poll_send_control(cx, Role::Writer)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(this.fail_write(cx, &error))),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.poll_end(cx) {
            Poll::Pending => this.driver.poll_silence_of_writer(cx),
            ready => ready,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.driver.link.is_finished() {
            // The acknowledgement of the pod's end may be in there.
            self.driver.try_send_head();
        }
        self.abort();
    }
}

#[cfg(test)]
mod tests;
