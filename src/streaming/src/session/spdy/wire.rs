//! The client's socket, and the one piece of a frame that it has not taken yet.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

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
}

impl ClientSocket for TcpStream {}

/// TLS has an end of its own, without which the peer must take the stream for cut off.
impl ClientSocket for TlsStream<Metered<TcpStream>> {
    fn written(&self) -> u64 {
        self.get_ref().0.written()
    }

    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(self).poll_shutdown(cx).map(|_| ())
    }
}

/// Order of bytes on the wire: what is left over, then the SPDY connection's output, then new data.
///
/// Invariants: `head <= leftover.len()`, and `leftover` is empty whenever `head` is equal to it; new bytes
/// are sent only when nothing is left over.
pub(super) struct Wire<W> {
    socket: W,
    /// What came with the head of the upgrade request.
    early: Bytes,
    leftover: Vec<u8>,
    head: usize,
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
        Self { socket, early, leftover: Vec::new(), head: 0, unflushed: false, written: 0, moved }
    }

    /// The client has not taken what was sent to it.
    pub(super) fn is_blocked(&self) -> bool {
        !self.leftover.is_empty() || self.unflushed
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
