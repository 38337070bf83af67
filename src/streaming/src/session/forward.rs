//! One forwarded connection: a data stream on one side, a connection to a pod's port on the other.
//!
//! Each direction ends on its own:
//!
//! ```text
//!   up   (client → pod)   Open ──client's FIN──► Finishing ──backlog out, shut down──► Over
//!                           └────────────── the connection takes no more ────────────► Broken
//!   down (pod → client)   open ──the pod's end, our FIN──► over
//! ```
//!
//! The connection is done when `down` is over and `up` is Over or Broken. A pod that ended but whose client has
//! not is kept for a while (`lingers`): clients answer our FIN by their FIN or RST.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::backlog::Backlog;
use super::ready::{Ready, Slot};
use crate::dial::{Connection, DialError};
use crate::stats::Counters;

/// Slices of a backlog that one write takes.
const WRITE_SLICES: usize = 16;

/// A dial under way.
pub(super) type Dialing<C> = Pin<Box<dyn Future<Output = Result<C, DialError>> + Send>>;

/// How far the connection is.
pub(super) enum Phase<C> {
    /// Its error stream has not been opened yet.
    Waiting,
    /// Being dialled; the stream is not answered yet.
    Dialing(Dialing<C>),
    /// There, but the peer has not answered the stream that we opened for it.
    Offered(C),
    /// Both sides are there.
    Open(C),
}

/// The direction from the stream to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Up {
    Open,
    Finishing,
    Over,
    Broken,
}

/// When a stream that holds up its session last moved, and how much it had moved by then.
#[derive(Debug, Clone, Copy)]
pub(super) struct StallMark {
    pub(super) since: Instant,
    pub(super) sent: u64,
}

/// `I` is what the framing calls it.
pub(super) struct Forward<C, I> {
    pub(super) port: u16,
    pub(super) id: I,
    pub(super) phase: Phase<C>,
    /// Bytes from the stream that the connection has not taken.
    backlog: Backlog,
    up: Up,
    /// The connection has ended and the stream has our FIN.
    pub(super) down_over: bool,
    /// Set while the pod has ended and the client has not: when it last sent something.
    pub(super) lingers: Option<Instant>,
    pub(super) stall: Option<StallMark>,
    /// Readable, but the client must take what waits for it first.
    pub(super) parked: bool,
    /// Bytes that the connection took.
    pub(super) sent: u64,
    counters: Arc<Counters>,
    pub(super) slot: Arc<Slot>,
    waker: Waker,
}

impl<C: Connection, I> Forward<C, I> {
    pub(super) fn new(
        port: u16,
        id: I,
        phase: Phase<C>,
        index: usize,
        ready: &Arc<Ready>,
        counters: &Arc<Counters>,
    ) -> Self {
        let slot = Slot::new(index, ready);
        Self {
            port,
            id,
            phase,
            backlog: Backlog::default(),
            up: Up::Open,
            down_over: false,
            lingers: None,
            stall: None,
            parked: false,
            sent: 0,
            counters: counters.clone(),
            waker: slot.clone().into(),
            slot,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }

    /// Bytes of memory that wait for the connection.
    pub(super) fn charge(&self) -> usize {
        self.backlog.charge()
    }

    /// Nothing waits for the connection.
    pub(super) fn is_clear(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Nothing more can happen.
    pub(super) fn is_done(&self) -> bool {
        self.down_over && self.up_is_over()
    }

    /// Nothing more goes to the connection.
    pub(super) fn up_is_over(&self) -> bool {
        matches!(self.up, Up::Over | Up::Broken)
    }

    /// Hands bytes from the client to the connection and keeps what it does not take. False if this direction has
    /// ended, so that nothing will take them: then they are dropped.
    pub(super) fn push(&mut self, mut slices: &mut [IoSlice<'_>]) -> bool {
        if self.up != Up::Open {
            return false;
        }
        if self.is_clear()
            && let Phase::Open(conn) = &mut self.phase
        {
            let mut cx = Context::from_waker(&self.waker);
            while !slices.is_empty() {
                match Pin::new(&mut *conn).poll_write_vectored(&mut cx, slices) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.sent += n as u64;
                        self.counters.sent(n as u64);
                        IoSlice::advance_slices(&mut slices, n);
                    }
                    Poll::Ready(_) => {
                        self.break_up();
                        return false;
                    }
                    Poll::Pending => break,
                }
            }
        }
        for slice in slices.iter() {
            self.backlog.push(slice);
        }
        true
    }

    /// The stream's FIN has come.
    pub(super) fn finish(&mut self) {
        if self.up == Up::Open {
            self.up = Up::Finishing;
        }
    }

    /// Moves what waits for the connection, and then the end, if there is one.
    pub(super) fn drive_up(&mut self) {
        let Phase::Open(conn) = &mut self.phase else { return };
        let mut cx = Context::from_waker(&self.waker);
        while !self.backlog.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
            let filled = self.backlog.slices(&mut slices);
            match Pin::new(&mut *conn).poll_write_vectored(&mut cx, &slices[..filled]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.sent += n as u64;
                    self.counters.sent(n as u64);
                    self.backlog.consume(n);
                }
                Poll::Ready(_) => return self.break_up(),
                Poll::Pending => return,
            }
        }
        match self.up {
            Up::Finishing => match Pin::new(&mut *conn).poll_shutdown(&mut cx) {
                Poll::Ready(Ok(())) => self.up = Up::Over,
                Poll::Ready(Err(_)) => self.break_up(),
                Poll::Pending => {}
            },
            Up::Open => {
                // A connection may hold bytes back until it is flushed (TLS, say); sockets do nothing here.
                if let Poll::Ready(Err(_)) = Pin::new(&mut *conn).poll_flush(&mut cx) {
                    self.break_up();
                }
            }
            Up::Over | Up::Broken => {}
        }
    }

    /// The connection takes no more. What it sent before may still be read, so only this direction ends.
    fn break_up(&mut self) {
        self.up = Up::Broken;
        self.backlog.clear();
    }

    /// Reads from the connection. `Ok(0)` is the pod's end.
    pub(super) fn poll_read(&mut self, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Phase::Open(conn) = &mut self.phase else { return Poll::Pending };
        let mut buf = ReadBuf::new(buf);
        ready!(Pin::new(conn).poll_read(&mut Context::from_waker(&self.waker), &mut buf))?;
        let n = buf.filled().len();
        self.counters.received(n as u64);
        Poll::Ready(Ok(n))
    }

    /// Polls the dial, if there is one.
    pub(super) fn poll_dial(&mut self) -> Poll<Result<C, DialError>> {
        let Phase::Dialing(dialing) = &mut self.phase else { return Poll::Pending };
        dialing.as_mut().poll(&mut Context::from_waker(&self.waker))
    }

    /// Ends the connection so that the pod sees a failure.
    pub(super) fn abort(mut self) {
        if let Phase::Open(conn) | Phase::Offered(conn) = &mut self.phase {
            conn.abort();
        }
    }
}
