//! The client's socket, and the one piece of a frame that it has not taken yet.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::pipe::Pipe;
use crate::metered::Metered;

/// What a session needs of its client's socket.
pub(crate) trait ClientSocket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Says goodbye in the transport's own way, where it has one besides closing. TCP has none: proxies take
    /// a half-close for the end of everything.
    fn poll_goodbye(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Bytes that it has passed on so far, if it has a buffer of its own.
    fn written(&self) -> u64 {
        0
    }

    /// The TCP socket, if it carries SPDY's bytes as they are.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl ClientSocket for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

/// TLS has an end of its own, without which the peer must take the stream for cut off.
impl ClientSocket for TlsStream<Metered<TcpStream>> {
    fn written(&self) -> u64 {
        self.get_ref().0.written()
    }

    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(self).poll_shutdown(cx).map(|_| ())
    }
}

/// Order of bytes on the wire: what is left over, then what is in the pipe, then the SPDY connection's output,
/// then new data.
///
/// Invariants: `head <= leftover.len()`, and `leftover` is empty whenever `head` is equal to it; a pipe that is
/// kept is not empty; new bytes are sent only when nothing is left over and no pipe is kept.
pub(super) struct Wire<W> {
    socket: W,
    /// What came with the head of the upgrade request.
    early: Bytes,
    leftover: Vec<u8>,
    head: usize,
    /// The rest of a frame's payload.
    pipe: Option<Pipe>,
    /// The socket has taken bytes that it has not passed on (TLS and WebSocket have buffers of their own).
    unflushed: bool,
    /// How much it had passed on at the last look.
    written: u64,
    /// When the socket last took a byte, or was last found empty-handed.
    moved: Instant,
}

impl<W: ClientSocket> Wire<W> {
    pub(super) fn new(socket: W, early: Bytes) -> Self {
        let moved = Instant::now();
        Self { socket, early, leftover: Vec::new(), head: 0, pipe: None, unflushed: false, written: 0, moved }
    }

    /// The client has not taken what was sent to it.
    pub(super) fn is_blocked(&self) -> bool {
        !self.leftover.is_empty() || self.pipe.is_some() || self.unflushed
    }

    /// When the blocked client last took something.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.is_blocked().then_some(self.moved)
    }

    /// Reads into `buf`. `Ok(0)` is the client's end.
    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            let n = self.early.len().min(buf.len());
            self.early.copy_to_slice(&mut buf[..n]);
            return Poll::Ready(Ok(n));
        }
        let mut buf = ReadBuf::new(buf);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Sends all of `slices`, in one system call where the socket takes it, and keeps what it does not take.
    /// Must not be called while the wire is blocked.
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        mut slices: &mut [IoSlice<'_>],
        now: Instant,
    ) -> io::Result<()> {
        debug_assert!(!self.is_blocked());
        self.moved = now;
        while !slices.is_empty() {
            match Pin::new(&mut self.socket).poll_write_vectored(cx, slices)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => IoSlice::advance_slices(&mut slices, n),
                Poll::Pending => {
                    for slice in slices.iter() {
                        self.leftover.extend_from_slice(slice);
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether payload can be moved between this socket and another without reading it.
    pub(super) fn can_splice(&self) -> bool {
        self.early.is_empty() && self.socket.tcp().is_some()
    }

    /// Takes payload off the socket into an empty pipe. `Ok(0)` is the client's end.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(tcp) = self.socket.tcp() else { return Poll::Pending };
        pipe.poll_fill(cx, tcp, most)
    }

    /// Sends `head`, and then what is in the pipe, with the head in the same segment. Keeps what the socket
    /// does not take. Must not be called while the wire is blocked, nor without [`Wire::can_splice`].
    pub(super) fn send_pipe(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        pipe: Pipe,
        now: Instant,
    ) -> io::Result<()> {
        debug_assert!(!self.is_blocked());
        self.moved = now;
        let Some(tcp) = self.socket.tcp() else { return Ok(()) };
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = match tcp.try_io(Interest::WRITABLE, || Ok(rustix::net::send(tcp, head, flags)?)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        self.leftover.extend_from_slice(&head[sent..]);
        self.pipe = Some(pipe);
        let _ = self.poll_flush(cx, now)?;
        Ok(())
    }

    /// Sends what is left over. Ready when the client has taken it all.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        while !self.leftover.is_empty() {
            let n = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.leftover[self.head..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.moved = now;
            self.head += n;
            if self.head == self.leftover.len() {
                self.leftover = Vec::new();
                self.head = 0;
            }
        }
        if let (Some(pipe), Some(tcp)) = (&mut self.pipe, self.socket.tcp()) {
            let before = pipe.len();
            let drained = pipe.poll_drain(cx, tcp);
            if pipe.len() < before {
                self.moved = now;
            }
            ready!(drained)?;
            self.pipe = None;
        }
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.unflushed = flushed.is_pending();
        let written = self.socket.written();
        if written != std::mem::replace(&mut self.written, written) {
            self.moved = now;
        }
        flushed
    }

    /// Says goodbye once everything is flushed.
    pub(super) fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_goodbye(cx)
    }
}
