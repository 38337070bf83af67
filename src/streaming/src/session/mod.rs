//! A port-forward session over SPDY: one task that owns the client's socket and all its connections.
//!
//! ```text
//!   Running ──── something in `Ended` ────► Closing ──── client closed, or 1 s ────► over
//!      └── the client's socket broke or ended ──────────────────────────────────────►
//! ```
//!
//! `core::Core` moves bytes, the same at both ends; a [`Side`] decides what streams mean: `server::ServerSide`
//! pairs them and dials, `client::ClientSide` opens them for connections that it is given.

mod backlog;
mod batch;
pub(crate) mod client;
mod core;
mod forward;
mod pairing;
mod pipe;
mod ready;
mod scratch;
pub(crate) mod server;
mod wire;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use spdy::Headers;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use self::core::Core;
pub(crate) use self::core::Totals;
pub(crate) use self::wire::ClientSocket;
use self::wire::Wire;
use crate::config::Limits;
use crate::dial::{Connection, DialError};

/// How often limits are compared while one of them may pass, at most; shorter limits are compared more often.
const TICK: Duration = Duration::from_secs(1);

/// Time for the last frames to reach the client, and for its end to come back.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client closed its connection.
    ClientClosed,
    /// The client said GOAWAY.
    ClientWentAway,
    /// The client's connection failed.
    ClientBroke(io::Error),
    /// The client broke the protocol.
    Protocol(spdy::Error),
    /// No data for too long.
    Idle,
    /// A client that used to ping has fallen silent.
    Silent,
    /// The client took nothing of what waited for it for too long.
    WriteStalled,
    /// We were told to end it, with this reason for the client's user.
    Told(String),
    /// The server shuts down.
    Drained,
}

impl Ended {
    /// The client can still be told.
    fn is_polite(&self) -> bool {
        match self {
            Self::Idle | Self::Told(_) | Self::Drained | Self::ClientWentAway => true,
            Self::Protocol(e) => e.says_goaway(),
            Self::ClientClosed | Self::ClientBroke(_) | Self::Silent | Self::WriteStalled => false,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientClosed => f.write_str("the client closed the connection"),
            Self::ClientWentAway => f.write_str("the client ended the session"),
            Self::ClientBroke(e) => write!(f, "the client's connection failed: {e}"),
            Self::Protocol(e) => write!(f, "the client broke the protocol: {e}"),
            Self::Idle => f.write_str("no data within the idle limit"),
            Self::Silent => f.write_str("the client stopped answering"),
            Self::WriteStalled => {
                f.write_str("the client did not take its data within the write stall limit")
            }
            Self::Told(why) => f.write_str(why),
            Self::Drained => f.write_str("the server shut down"),
        }
    }
}

/// What the streams of a session mean.
trait Side<C: Connection>: Sized + Send + Unpin {
    /// Our error streams get a FIN when their connection ends.
    const ENDS_ERROR_STREAM: bool;
    /// A connection that ended first waits only a limited time for the peer's end.
    const LINGERS: bool;

    /// The peer opened a stream.
    fn on_opened<W: ClientSocket>(&mut self, core: &mut Core<W, C>, id: u32, headers: &Headers);
    /// The peer reset a stream that waited for its partner.
    fn on_gone(&mut self, _id: u32) {}
    /// The peer reset a stream that it had not answered.
    fn on_refused(&mut self, _port: u16) {}
    /// The peer wrote to a connection's error stream.
    fn on_error_text(&mut self, _port: u16, _text: &[u8]) {}
    /// A dial failed; the forward must be taken out.
    fn on_dial_failed<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize, error: DialError);
    /// A connection failed; the forward must be taken out.
    fn on_conn_failed<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize, error: io::Error);
    /// A connection held up its session; the forward must be taken out.
    fn on_stuck<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize);
    /// Does what does not come from the peer. Whether anything was done.
    fn poll<W: ClientSocket>(
        &mut self,
        _core: &mut Core<W, C>,
        _cx: &mut Context<'_>,
    ) -> Result<bool, Ended> {
        Ok(false)
    }
    /// Compares its own times with their limits.
    fn on_tick<W: ClientSocket>(&mut self, _core: &mut Core<W, C>) {}
    /// Something of its own may pass its limit soon.
    fn wants_ticks(&self) -> bool {
        false
    }
    /// The session ends now; last words to the peer.
    fn on_end<W: ClientSocket>(&mut self, _core: &mut Core<W, C>, _why: &Ended) {}
}

/// Ends a session from outside.
#[derive(Debug)]
pub(crate) enum Order {
    /// Tell the user this and end.
    Tell(String),
    /// The server shuts down.
    Drain,
}

/// A session, to be awaited. Dropping it ends everything in it.
struct Session<W, C, S> {
    core: Core<W, C>,
    side: S,
    orders: Option<oneshot::Receiver<Order>>,
    closing: Option<Ended>,
    timer: Pin<Box<Sleep>>,
    tick: Duration,
}

impl<W: ClientSocket, C: Connection, S: Side<C>> Session<W, C, S> {
    fn new(socket: W, early: Bytes, spdy: spdy::Connection, side: S, limits: Arc<Limits>) -> Self {
        let core = Core::new(Wire::new(socket, early), spdy, limits);
        let tick = tick_for(&core.limits);
        let timer = Box::pin(sleep_until(core.quiet_until()));
        Self { core, side, orders: None, closing: None, timer, tick }
    }

    /// Lets the session run to its end, and says why it ended and what it moved.
    async fn run(&mut self, orders: oneshot::Receiver<Order>) -> (Ended, Totals) {
        self.orders = Some(orders);
        let ended = (&mut *self).await;
        (ended, self.core.totals)
    }

    /// Goes on until nothing can move any more.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        self.core.register(cx);
        self.core.now = Instant::now();
        self.poll_orders(cx)?;
        loop {
            let mut moved = self.core.recv(&mut self.side, cx)?;
            moved |= self.side.poll(&mut self.core, cx)?;
            moved |= self.core.serve(&mut self.side, cx)?;
            moved |= self.core.flush(cx)?;
            if !moved && !self.poll_timer(cx)? {
                return Ok(());
            }
        }
    }

    fn poll_orders(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let Some(orders) = &mut self.orders else { return Ok(()) };
        match Pin::new(orders).poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(order) => {
                self.orders = None;
                match order {
                    Ok(Order::Tell(why)) => Err(Ended::Told(why)),
                    Ok(Order::Drain) => Err(Ended::Drained),
                    Err(_) => Ok(()), // nobody is left who could give orders
                }
            }
        }
    }

    /// Compares the limits if it is time to. Whether it was: then things may have changed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let ticks = self.core.wants_ticks() || self.side.wants_ticks();
        let next = if ticks { self.core.now + self.tick } else { self.core.quiet_until() };
        let next = self.core.patience_until().map_or(next, |until| until.min(next));
        if self.timer.deadline() > next {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        self.core.now = Instant::now();
        self.core.on_tick(&mut self.side)?;
        self.side.on_tick(&mut self.core);
        let next = self.core.quiet_until().max(self.core.now + self.tick);
        self.timer.as_mut().reset(next);
        Ok(true)
    }

    fn begin_close(&mut self, why: Ended) -> Option<Ended> {
        if why.is_polite() {
            self.side.on_end(&mut self.core, &why);
        }
        self.core.abort_all();
        if !why.is_polite() {
            return Some(why);
        }
        self.core.spdy.go_away();
        self.timer.as_mut().reset(Instant::now() + CLOSE_LIMIT);
        self.closing = Some(why);
        None
    }
}

impl<W: ClientSocket, C: Connection, S: Side<C>> Future for Session<W, C, S> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        if this.closing.is_none() {
            let Err(why) = this.poll_running(cx) else { return Poll::Pending };
            if let Some(why) = this.begin_close(why) {
                return Poll::Ready(why);
            }
        }
        if this.core.poll_close(cx).is_pending() && this.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(this.closing.take().unwrap_or(Ended::ClientClosed))
    }
}

/// A quarter of the shortest limit, so that none is passed by much.
fn tick_for(limits: &Limits) -> Duration {
    let shortest = [
        limits.pair_timeout,
        limits.write_stall_timeout,
        limits.stream_stall_timeout,
        limits.linger,
        limits.silence_timeout,
        limits.idle_timeout,
    ];
    let shortest = shortest.into_iter().min().unwrap_or(TICK);
    (shortest / 4).clamp(Duration::from_millis(5), TICK)
}
