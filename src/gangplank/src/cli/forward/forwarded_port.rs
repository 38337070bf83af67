//! One forward: a local port, a port of a pod, and its statistics.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use gangplank_dial::Network;
use gangplank_streaming::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Events, in the order in which they happen.
#[derive(Debug)]
pub(super) enum ForwardEvent {
    /// A connection has ended, after this many bytes to the pod and from it.
    Closed(Arc<ForwardedPort>, u64, u64),
    /// A connection could not be made, or the pod's side reported a failure.
    Failed(Arc<ForwardedPort>, String),
    /// A pod can no longer be reached, for this reason.
    Lost(Arc<str>, String),
    /// A lost pod can be reached again.
    Back(Arc<str>),
}

/// The queue of events to report.
pub(super) type Events = mpsc::UnboundedSender<ForwardEvent>;

/// A local port and where it leads.
#[derive(Debug)]
pub(super) struct ForwardedPort {
    /// The local address; the first, if there are two.
    pub(super) here: SocketAddr,
    /// The pod, as the user named it.
    pub(super) pod: Arc<str>,
    /// The pod's port.
    pub(super) remote: u16,
    /// Streams or datagrams.
    pub(super) network: Network,
    open: AtomicU64,
    total: AtomicU64,
    to_pod: AtomicU64,
    from_pod: AtomicU64,
    error: Mutex<String>,
}

/// A snapshot of a forward's statistics.
pub(super) struct PortStats {
    pub(super) open: u64,
    pub(super) total: u64,
    pub(super) to_pod: u64,
    pub(super) from_pod: u64,
    /// The last error; empty if there was none.
    pub(super) error: String,
}

impl ForwardedPort {
    pub(super) fn new(here: SocketAddr, pod: Arc<str>, remote: u16, network: Network) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            here,
            pod,
            remote,
            network,
            open: zero(),
            total: zero(),
            to_pod: zero(),
            from_pod: zero(),
            error: Mutex::default(),
        }
    }

    pub(super) fn stats(&self) -> PortStats {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let [open, total, to_pod, from_pod] =
            [&self.open, &self.total, &self.to_pod, &self.from_pod].map(|count| count.load(Relaxed));
        PortStats { open, total, to_pod, from_pod, error }
    }

    /// Records the last error.
    pub(super) fn failed(&self, why: &str) {
        why.clone_into(&mut self.error.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Counts the bytes of one connection. Dropped when the connection ends, which reports it.
#[derive(Debug)]
pub(super) struct ConnectionTally {
    forwarded: Arc<ForwardedPort>,
    events: Events,
    /// Bytes to the pod and from it.
    moved: (u64, u64),
}

impl ConnectionTally {
    pub(super) fn new(forwarded: Arc<ForwardedPort>, events: Events) -> Self {
        forwarded.open.fetch_add(1, Relaxed);
        forwarded.total.fetch_add(1, Relaxed);
        Self { forwarded, events, moved: (0, 0) }
    }

    pub(super) fn count(&mut self, to_pod: u64, from_pod: u64) {
        self.moved = (self.moved.0 + to_pod, self.moved.1 + from_pod);
        self.forwarded.to_pod.fetch_add(to_pod, Relaxed);
        self.forwarded.from_pod.fetch_add(from_pod, Relaxed);
    }
}

impl Drop for ConnectionTally {
    fn drop(&mut self) {
        self.forwarded.open.fetch_sub(1, Relaxed);
        // Fails only during shutdown.
        let _ =
            self.events.send(ForwardEvent::Closed(Arc::clone(&self.forwarded), self.moved.0, self.moved.1));
    }
}

/// A local connection whose bytes are counted.
#[derive(Debug)]
pub(super) struct CountedSocket {
    socket: TcpStream,
    tally: ConnectionTally,
}

impl CountedSocket {
    pub(super) fn new(socket: TcpStream, forwarded: Arc<ForwardedPort>, events: Events) -> Self {
        let _ = socket.set_nodelay(true); // fails only if the connection has already ended
        Self { socket, tally: ConnectionTally::new(forwarded, events) }
    }
}

impl Connection for CountedSocket {
    fn abort(&mut self) {
        self.socket.abort();
    }
}

impl AsyncRead for CountedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
        this.tally.count((buf.filled().len() - before) as u64, 0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.socket).poll_write(cx, buf))?;
        this.tally.count(0, written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.socket).poll_write_vectored(cx, bufs))?;
        this.tally.count(0, written as u64);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
