//! An open channel as an async byte stream: the host's driver of a [`Link`].
//!
//! ```text
//!   poll_read  ◄── stash ◄─┐
//!      ▲                   ├── link (frames off) ◄── readv ── socket
//!      └───────────────────┘
//!   poll_write ──► head (control, DATA header), caller's bytes ──► sendmsg ──► socket
//! ```
//!
//! Payload goes straight from the socket into the reader's buffer and from the writer's buffer into the socket.
//! The stash takes payload only while a writer has to read on, for credit or for the acknowledgement of its
//! end; it never holds more than the credit given, and an idle channel has none.

mod head;
mod readv;
mod silence;
mod socket;
mod stash;

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::descriptor::Descriptor;
use crate::errno;
use crate::frame::{self, Kind};
use crate::link::{Link, MAX_LEAD, Violation};
use crate::permit::Permit;
use head::Head;
use stash::Stash;

use silence::{Silence, Verdict};
use socket::{Role, Socket};

/// Slices of a vectored write that are looked at; the rest waits for the next write.
const MAX_SLICES: usize = 16;

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
    link: Link,
    head: Head,
    stash: Stash,
    failure: Option<Box<Failure>>,
    socket: Socket,
    silence: Silence,
    _permit: Option<Permit>,
}

/// Why the channel is of no use any more; told to every later call.
#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    text: String,
}

impl Failure {
    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

impl Channel {
    /// A channel on which OPENED has just been read, and nothing after it.
    pub(crate) fn new(descriptor: Descriptor, permit: Option<Permit>) -> Self {
        Self {
            link: Link::new(),
            head: Head::default(),
            stash: Stash::default(),
            failure: None,
            socket: Socket::new(descriptor),
            silence: Silence::default(),
            _permit: permit,
        }
    }

    /// Resets the connection now; every later read and write fails. Does nothing after both ends.
    pub fn abort(&mut self) {
        if let Some(reset) = self.link.reset(errno::ECONNRESET, "the host has given the connection up") {
            // Where this fails, closing the transport says nearly the same.
            self.socket.try_write(&[IoSlice::new(self.head.bytes()), IoSlice::new(&reset)]);
        }
        if self.failure.is_none() && !self.link.is_finished() {
            self.fail(ErrorKind::ConnectionAborted, "this side has reset the connection".to_owned());
        }
    }

    fn fail(&mut self, kind: ErrorKind, text: String) -> io::Error {
        self.socket.wake_all();
        self.failure.insert(Box::new(Failure { kind, text })).error()
    }

    /// Fails with what the peer did wrong, and tells it.
    fn fail_violation(&mut self, violation: Violation) -> io::Error {
        let text = format!("the relay broke the channel's protocol: it sent {violation}");
        if let Some(reset) = self.link.reset(errno::EPROTO, &text) {
            self.socket.try_write(&[IoSlice::new(self.head.bytes()), IoSlice::new(&reset)]);
        }
        self.fail(ErrorKind::InvalidData, text)
    }

    /// Fails with the RESET that the peer has sent, if it has.
    fn note_reset(&mut self) {
        if let Some(reset) = self.link.peer_reset() {
            let text = match reset.text.as_str() {
                "" => format!("the relay has reset the connection (errno {})", reset.errno),
                text => format!("{text} (errno {} in the guest)", reset.errno),
            };
            self.fail(errno::kind(reset.errno), text);
        }
    }

    /// Reads once into `into`, which gets the payload among what came; that may be none.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        role: Role,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut lead = [0; MAX_LEAD];
        let scatter = self.link.scatter(into.remaining());
        let read = self.socket.poll_read(cx, role, into, scatter.payload, &mut lead[..scatter.lead]);
        let len = match ready!(read) {
            Ok(0) => return Poll::Ready(Err(self.fail_eof())),
            Ok(len) => len,
            Err(error) => return Poll::Ready(Err(self.fail_read(&error))),
        };
        self.silence.hear();
        let in_lead = len.saturating_sub(scatter.payload).min(scatter.lead);
        let room = into.initialize_unfilled_to(len - in_lead);
        match self.link.receive(room, &lead, scatter, len) {
            Ok(payload) => into.advance(payload),
            Err(violation) => return Poll::Ready(Err(self.fail_violation(violation))),
        }
        self.note_reset();
        Poll::Ready(Ok(()))
    }

    fn fail_eof(&mut self) -> io::Error {
        let text = "the connection to the guest ended before the pod's: the guest, its relay or the vsock device \
                    has gone away";
        self.fail(ErrorKind::UnexpectedEof, text.to_owned())
    }

    fn fail_read(&mut self, error: &io::Error) -> io::Error {
        let text =
            format!("reading from the guest failed ({error}): its relay or the vsock device has gone away");
        self.fail(ErrorKind::ConnectionAborted, text)
    }

    /// Reads once on behalf of a writer, which waits for what comes behind the payload.
    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(failure) = &self.failure {
            return Poll::Ready(Err(failure.error()));
        }
        ready!(self.socket.poll_readable(cx, Role::Writer))?;
        let mut stash = std::mem::take(&mut self.stash);
        let filled = {
            let mut room = ReadBuf::new(stash.room(self.link.scatter(usize::MAX).payload));
            let read = self.poll_fill(cx, Role::Writer, &mut room);
            read.map_ok(|()| room.filled().len())
        };
        stash.keep(if let Poll::Ready(Ok(len)) = filled { len } else { 0 });
        self.stash = stash;
        if matches!(filled, Poll::Ready(Ok(len)) if len > 0) {
            self.socket.wake_reader();
        }
        filled.map_ok(|_| ())
    }

    /// Sends the control frames that are due, unless a DATA frame is half-way out.
    fn poll_send_control(&mut self, cx: &mut Context<'_>, role: Role) -> Poll<io::Result<()>> {
        while self.link.frame_left() == 0 {
            if self.head.is_empty() {
                self.head = Head::new(&self.link.control(false));
            }
            if self.head.is_empty() {
                break;
            }
            let sent = ready!(self.socket.poll_write(cx, role, &[IoSlice::new(self.head.bytes())]))?;
            self.head.sent(sent);
            self.owe();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends control frames on behalf of the reader: as far as it goes, the writer has the say.
    fn send_control(&mut self, cx: &mut Context<'_>) {
        if self.failure.is_none() && (self.link.is_control_due() || !self.head.is_empty()) {
            // Should the transport have failed, the next read says so, and better.
            let _ = self.poll_send_control(cx, Role::Reader);
        }
    }

    fn poll_payload(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.send_control(cx);
        loop {
            self.stash.give(buf);
            let given = buf.filled().len() - before;
            if given > 0 {
                self.link.handed_on(given);
                self.send_control(cx);
                return Poll::Ready(Ok(()));
            }
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.error()));
            }
            if self.link.has_peer_ended() {
                self.link.handed_on_end();
                self.send_control(cx);
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fill(cx, Role::Reader, buf))?;
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.error()));
            }
            if self.link.is_finishing() {
                return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
            }
            // Nobody reads any more once the pod has ended its side: a RESET would be found too late.
            if self.link.has_peer_ended()
                && let Poll::Ready(pumped) = self.poll_pump(cx)
            {
                pumped?;
                continue;
            }
            if self.link.frame_left() == 0 && self.link.sendable() == 0 {
                ready!(self.poll_pump(cx))?;
                continue;
            }
            match ready!(self.poll_send_once(cx, slices)) {
                Ok(0) => {}
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(error) => return Poll::Ready(Err(self.fail_write(cx, &error))),
            }
        }
    }

    /// One system call: what is left of the head, due control frames, the header of a new DATA frame unless one
    /// is half-way out, and payload. Gives how much of the payload went.
    fn poll_send_once(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let is_new = self.link.frame_left() == 0;
        if is_new && self.head.is_empty() {
            self.head = Head::new(&self.link.control(true));
        }
        let most = if is_new { self.link.sendable() } else { self.link.frame_left() };
        let mut parts = [IoSlice::new(&[]); MAX_SLICES + 2];
        let (payload, count) = gather(slices, most, &mut parts[2..]);
        let header = frame::header(Kind::Data, payload);
        let header = if is_new { &header[..] } else { &[] };
        let in_head = self.head.bytes().len();
        parts[0] = IoSlice::new(self.head.bytes());
        parts[1] = IoSlice::new(header);
        let first = match (in_head, is_new) {
            (0, true) => 1,
            (0, false) => 2,
            _ => 0,
        };

        let sent = ready!(self.socket.poll_write(cx, Role::Writer, &parts[first..2 + count]))?;
        self.head.sent(sent.min(in_head));
        self.owe();
        let Some(sent) = sent.checked_sub(in_head).filter(|&sent| sent > 0) else {
            return Poll::Ready(Ok(0));
        };
        if is_new {
            self.link.begin(payload);
            self.head = Head::new(&header[sent.min(header.len())..]);
        }
        let sent = sent.saturating_sub(header.len());
        self.link.sent(sent);
        Poll::Ready(Ok(sent))
    }

    /// The transport refused bytes: if the peer said why before it went, that is the error.
    fn fail_write(&mut self, cx: &mut Context<'_>, error: &io::Error) -> io::Error {
        loop {
            match self.poll_pump(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(cause)) => return cause,
                Poll::Pending => break,
            }
        }
        let text =
            format!("writing to the guest failed ({error}): its relay or the vsock device has gone away");
        self.fail(ErrorKind::ConnectionAborted, text)
    }

    fn owe(&mut self) {
        self.silence.owe();
    }

    /// What waiting for the guest has come to: an error once it has been silent for too long.
    fn poll_silence<T>(&mut self, cx: &mut Context<'_>, role: Role) -> Poll<io::Result<T>> {
        loop {
            match ready!(self.silence.poll(cx, role)) {
                Verdict::GiveUp => {
                    let text = "the guest has not answered for over 20 seconds: it is paused or hangs, or the vsock \
                                device does";
                    return Poll::Ready(Err(self.fail(ErrorKind::TimedOut, text.to_owned())));
                }
                // A frame that its writer does not finish keeps the question back, and is not the guest's fault.
                Verdict::Ask if self.link.frame_left() > 0 && !self.socket.is_full() => {}
                Verdict::Ask => {
                    self.silence.ask();
                    self.link.ping();
                    // Should it not go, the guest does not read, which is no better.
                    let _ = self.poll_send_control(cx, role);
                }
            }
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.is_end_acknowledged() {
            return Poll::Ready(Ok(()));
        }
        if self.link.frame_left() > 0 && self.failure.is_none() {
            let text = "the direction was ended in the middle of a write: a write that takes a part must be \
                        followed by one with the rest";
            return Poll::Ready(Err(self.fail(ErrorKind::InvalidInput, text.to_owned())));
        }
        self.link.finish();
        if self.failure.is_none()
            && let Err(error) = ready!(self.poll_send_control(cx, Role::Writer))
        {
            return Poll::Ready(Err(self.fail_write(cx, &error)));
        }
        while !self.link.is_end_acknowledged() {
            ready!(self.poll_pump(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Puts slices of at most `most` bytes together into `parts`; gives how many bytes and parts they make.
fn gather<'a>(slices: &'a [IoSlice<'_>], most: usize, parts: &mut [IoSlice<'a>]) -> (usize, usize) {
    let (mut len, mut count) = (0, 0);
    for slice in slices.iter().filter(|slice| !slice.is_empty()) {
        if len == most || count == parts.len() {
            break;
        }
        let slice = &slice[..slice.len().min(most - len)];
        parts[count] = IoSlice::new(slice);
        len += slice.len();
        count += 1;
    }
    (len, count)
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let this = self.get_mut();
        match this.poll_payload(cx, buf) {
            Poll::Pending => this.poll_silence(cx, Role::Reader),
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
            Poll::Pending => {
                this.owe();
                this.poll_silence(cx, Role::Writer)
            }
            ready => ready,
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Payload is never held back, so there is nothing to do for it: this sends due control frames.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match ready!(this.poll_send_control(cx, Role::Writer)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(this.fail_write(cx, &error))),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.poll_end(cx) {
            Poll::Pending => {
                this.owe();
                this.poll_silence(cx, Role::Writer)
            }
            ready => ready,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.link.is_finished() && !self.head.is_empty() {
            self.socket.try_write(&[IoSlice::new(self.head.bytes())]);
        }
        self.abort();
    }
}

#[cfg(test)]
mod tests;
