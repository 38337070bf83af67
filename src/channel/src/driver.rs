//! What a stream and datagrams on an open channel have in common: the host's driver of a [`Link`].
//!
//! ```text
//!   Channel (bytes) ────┐                ┌── link: what may be sent, what must be
//!                       ├──► Driver ─────┼── head: control frames and headers that are not out yet
//!   Datagrams ──────────┘                ├── silence: whether the guest still answers
//!                                        └── socket ──► the transport
//! ```
//!
//! Sending is the same for both. They store what they read in different ways, so each reads by itself and reports it to
//! [`Driver::heard`].

mod head;
mod readv;
mod silence;
mod socket;

use std::io::{self, ErrorKind, IoSlice};
use std::task::{Context, Poll, ready};

use crate::descriptor::Descriptor;
use crate::errno;
use crate::frame::{self, Kind};
use crate::link::{Link, Violation};
use crate::permit::Permit;
use head::Head;
use silence::{Silence, Verdict};

#[cfg(test)]
pub(crate) use silence::QUIET;
pub(crate) use socket::{Role, Socket};

/// Slices that one vectored write takes; the rest waits for the next write.
pub(crate) const MAX_SLICES: usize = 16;

#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) link: Link,
    pub(crate) socket: Socket,
    head: Head,
    failed: Option<Box<Failed>>,
    silence: Silence,
    _permit: Option<Permit>,
}

/// Why the channel has failed. Every later call reports it.
#[derive(Debug)]
struct Failed {
    kind: ErrorKind,
    text: String,
}

impl Failed {
    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

impl Driver {
    /// Drives a link on which OPENED has just been read, and nothing after it.
    pub(crate) fn new(link: Link, descriptor: Descriptor, permit: Option<Permit>) -> Self {
        Self {
            link,
            socket: Socket::new(descriptor),
            head: Head::default(),
            failed: None,
            silence: Silence::default(),
            _permit: permit,
        }
    }

    // Failures.

    /// Why the channel has failed, if it has.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.failed.as_ref().map(|failed| failed.error())
    }

    /// Fails, and wakes both users: neither has anything to wait for now.
    pub(crate) fn fail(&mut self, kind: ErrorKind, text: String) -> io::Error {
        self.socket.wake_all();
        self.failed.insert(Box::new(Failed { kind, text })).error()
    }

    /// Fails with what the peer did wrong, and tells it.
    pub(crate) fn fail_violation(&mut self, violation: Violation) -> io::Error {
        let text = format!("the relay broke the channel's protocol: it sent {violation}");
        if let Some(reset) = self.link.reset(errno::EPROTO, &text) {
            self.try_write_last(&reset);
        }
        self.fail(ErrorKind::InvalidData, text)
    }

    pub(crate) fn fail_eof(&mut self) -> io::Error {
        let text = "the connection to the guest ended before the pod's: the guest, its relay or the vsock device \
                    has gone away";
        self.fail(ErrorKind::UnexpectedEof, text.to_owned())
    }

    pub(crate) fn fail_read(&mut self, error: &io::Error) -> io::Error {
        let text =
            format!("reading from the guest failed ({error}): its relay or the vsock device has gone away");
        self.fail(ErrorKind::ConnectionAborted, text)
    }

    /// Resets the connection now; every later read and write fails. Does nothing after both ends.
    pub(crate) fn abort(&mut self, text: &str) {
        if let Some(reset) = self.link.reset(errno::ECONNRESET, text) {
            // Where this fails, closing the transport says nearly the same.
            self.try_write_last(&reset);
        }
        if self.failed.is_none() && !self.link.is_finished() {
            self.fail(ErrorKind::ConnectionAborted, "this side has reset the connection".to_owned());
        }
    }

    /// Sends what is not out yet as far as it goes, since the transport is about to be closed.
    pub(crate) fn try_send_head(&mut self) {
        if !self.head.is_empty() {
            self.try_write_last(&[]);
        }
    }

    fn try_write_last(&self, bytes: &[u8]) {
        self.socket.try_write(&[IoSlice::new(self.head.bytes()), IoSlice::new(bytes)]);
    }

    // Reading.

    /// Something was read. If it contained a RESET, the channel has failed.
    pub(crate) fn heard(&mut self) {
        self.silence.hear();
        if let Some(reset) = self.link.peer_reset() {
            let text = match reset.text.as_str() {
                "" => format!("the relay has reset the connection (errno {})", reset.errno),
                text => format!("{text} (errno {} in the guest)", reset.errno),
            };
            self.fail(errno::kind(reset.errno), text);
        }
    }

    // Sending.

    /// Sends the control frames that are due, unless a DATA frame is half-way out.
    pub(crate) fn poll_send_control(&mut self, cx: &mut Context<'_>, role: Role) -> Poll<io::Result<()>> {
        while self.link.frame_left() == 0 {
            if self.head.is_empty() {
                self.head = Head::new(&self.link.control(false));
            }
            if self.head.is_empty() {
                break;
            }
            let sent = ready!(self.socket.poll_write(cx, role, &[IoSlice::new(self.head.bytes())]))?;
            self.head.sent(sent);
            self.silence.owe();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends control frames on behalf of the reader: as far as it goes, the writer has the say.
    pub(crate) fn send_control(&mut self, cx: &mut Context<'_>) {
        if self.failed.is_none() && (self.link.is_control_due() || !self.head.is_empty()) {
            // Should the transport have failed, the next read says so, and better.
            let _ = self.poll_send_control(cx, Role::Reader);
        }
    }

    /// A writer waits for the guest, be it for credit, for room or for an acknowledgement: the guest owes a word.
    pub(crate) fn poll_silence_of_writer<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.silence.owe();
        self.poll_silence(cx, Role::Writer)
    }

    /// What waiting for the guest has come to: an error once it has been silent for too long.
    pub(crate) fn poll_silence<T>(&mut self, cx: &mut Context<'_>, role: Role) -> Poll<io::Result<T>> {
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
                    // If this does not go out, the guest is not reading either: the next check gives it up.
                    let _ = self.poll_send_control(cx, role);
                }
            }
        }
    }

    /// One system call: what is left of the head, due control frames, the header of a new DATA frame unless one
    /// is half-way out, and payload. Returns how much of the payload went, or `None` if the frame was not begun.
    pub(crate) fn poll_send_data(
        &mut self,
        cx: &mut Context<'_>,
        role: Role,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<Option<usize>>> {
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

        let sent = ready!(self.socket.poll_write(cx, role, &parts[first..2 + count]))?;
        self.head.sent(sent.min(in_head));
        self.silence.owe();
        let Some(sent) = sent.checked_sub(in_head).filter(|&sent| sent > 0) else {
            return Poll::Ready(Ok(None));
        };
        if is_new {
            // From its first byte on the frame must be finished: what is left of the header is kept here, and the
            // caller keeps the payload.
            self.link.begin(payload);
            self.head = Head::new(&header[sent.min(header.len())..]);
        }
        let sent = sent.saturating_sub(header.len());
        self.link.sent(sent);
        Poll::Ready(Ok(Some(sent)))
    }
}

/// A user of a driver, which knows where to keep payload that a writer has to read.
pub(crate) trait Pump {
    fn driver(&mut self) -> &mut Driver;

    /// Reads once on behalf of a writer, which waits for what comes behind the payload.
    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Fails since the transport refused bytes. If the peer said why before it went, that is the error.
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
        self.driver().fail(ErrorKind::ConnectionAborted, text)
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
