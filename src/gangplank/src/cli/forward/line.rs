//! One forward: a port here, a port of a pod, and what has come of it so far.

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

/// What happens, in the order in which it does.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection has ended, after this many bytes to the pod and from it.
    Closed(Arc<Line>, u64, u64),
    /// A connection could not be made, or the pod's side says that it failed.
    Failed(Arc<Line>, String),
    /// A pod is not reached any more.
    Lost(Arc<str>, String),
    /// It is again.
    Back(Arc<str>),
}

/// Where events go.
pub(super) type Events = mpsc::UnboundedSender<Event>;

/// A port here and where it leads.
#[derive(Debug)]
pub(super) struct Line {
    /// Where we listen; where there are two addresses, the first.
    pub(super) here: SocketAddr,
    /// The pod, as it was named.
    pub(super) pod: Arc<str>,
    /// Its port.
    pub(super) remote: u16,
    /// Streams or datagrams.
    pub(super) network: Network,
    open: AtomicU64,
    total: AtomicU64,
    to_pod: AtomicU64,
    from_pod: AtomicU64,
    error: Mutex<String>,
}

/// A line at one moment.
pub(super) struct Shown {
    pub(super) open: u64,
    pub(super) total: u64,
    pub(super) to_pod: u64,
    pub(super) from_pod: u64,
    /// Empty if there was none.
    pub(super) error: String,
}

impl Line {
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

    pub(super) fn shown(&self) -> Shown {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let [open, total, to_pod, from_pod] =
            [&self.open, &self.total, &self.to_pod, &self.from_pod].map(|count| count.load(Relaxed));
        Shown { open, total, to_pod, from_pod, error }
    }

    /// Keeps the last error.
    pub(super) fn failed(&self, why: &str) {
        why.clone_into(&mut self.error.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What one connection has moved. Dropped when that ends.
#[derive(Debug)]
pub(super) struct Tally {
    line: Arc<Line>,
    events: Events,
    /// Bytes to the pod and from it.
    moved: (u64, u64),
}

impl Tally {
    pub(super) fn new(line: Arc<Line>, events: Events) -> Self {
        line.open.fetch_add(1, Relaxed);
        line.total.fetch_add(1, Relaxed);
        Self { line, events, moved: (0, 0) }
    }

    pub(super) fn count(&mut self, to_pod: u64, from_pod: u64) {
        self.moved = (self.moved.0 + to_pod, self.moved.1 + from_pod);
        self.line.to_pod.fetch_add(to_pod, Relaxed);
        self.line.from_pod.fetch_add(from_pod, Relaxed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.line.open.fetch_sub(1, Relaxed);
        // Nobody listens any more at the end.
        let _ = self.events.send(Event::Closed(Arc::clone(&self.line), self.moved.0, self.moved.1));
    }
}

/// A local connection whose bytes are counted.
#[derive(Debug)]
pub(super) struct Counted {
    socket: TcpStream,
    tally: Tally,
}

impl Counted {
    pub(super) fn new(socket: TcpStream, line: Arc<Line>, events: Events) -> Self {
        let _ = socket.set_nodelay(true); // it may already have ended
        Self { socket, tally: Tally::new(line, events) }
    }
}

impl Connection for Counted {
    fn abort(&mut self) {
        self.socket.abort();
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
        this.tally.count((buf.filled().len() - before) as u64, 0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
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
