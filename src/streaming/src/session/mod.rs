//! A port-forward session: one task that owns the client's socket and all its connections.
//!
//! ```text
//!   Running ──── something in `Ended` ────► Closing ──── both sides closed, or the limit ────► over
//!      └── the client's socket broke or ended ────────────────────────────────────────────────►
//! ```
//!
//! [`Session`] runs an [`Engine`], which is the same for every client, over a [`Framing`], which is what the
//! client speaks: `spdy` has streams that are opened at any time, and serves both ends; `channels` has the
//! numbered channels of a WebSocket, one connection for each port of the request.

mod backlog;
pub(crate) mod channels;
mod engine;
mod forward;
mod framing;
mod read_buffer;
mod ready;
pub(crate) mod server;
pub(crate) mod spdy;
mod stall;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite;

use self::engine::Engine;
use self::forward::{Forward, Phase};
use self::framing::{EngineOf, Framing};
use self::read_buffer::ReadBuffer;
pub(crate) use self::spdy::wire::ClientSocket;
use crate::config::Limits;
use crate::stats::Counters;

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
    Protocol(spdy_rs::Error),
    /// The client broke the WebSocket protocol, or sent a message that is too long.
    WebSocket(Box<tungstenite::Error>),
    /// All ports of a channel WebSocket have ended: nothing can move any more.
    AllPorts,
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
            Self::Idle
            | Self::Told(_)
            | Self::Drained
            | Self::ClientWentAway
            | Self::AllPorts
            | Self::WebSocket(_) => true,
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
            Self::WebSocket(e) => write!(f, "the client broke the WebSocket protocol: {e}"),
            Self::AllPorts => f.write_str("all ports have ended"),
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

/// Ends a session from outside.
#[derive(Debug)]
pub(crate) enum Order {
    /// Tell the user this and end.
    Tell(String),
    /// The server shuts down.
    Drain,
}

/// Where a session's order comes from. There is at most one.
struct Orders(Option<oneshot::Receiver<Order>>);

impl Orders {
    /// An error if the session was ordered to end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let Some(orders) = &mut self.0 else { return Ok(()) };
        let Poll::Ready(order) = Pin::new(orders).poll(cx) else { return Ok(()) };
        self.0 = None;
        match order {
            Ok(Order::Tell(why)) => Err(Ended::Told(why)),
            Ok(Order::Drain) => Err(Ended::Drained),
            Err(_) => Ok(()), // nobody is left who could give orders
        }
    }
}

/// A session, to be awaited. Dropping it ends everything in it.
struct Session<F: Framing> {
    engine: EngineOf<F>,
    framing: F,
    orders: Orders,
    closing: Option<Ended>,
    timer: Pin<Box<Sleep>>,
    tick: Duration,
}

impl<F: Framing> Session<F> {
    fn new(framing: F, limits: Arc<Limits>, counters: Arc<Counters>) -> Self {
        let engine = Engine::new(limits, counters);
        let tick = tick_for(&engine.limits);
        let timer = Box::pin(sleep_until(engine.quiet_until()));
        Self { engine, framing, orders: Orders(None), closing: None, timer, tick }
    }

    /// Lets the session run to its end, and says why it ended.
    async fn run(&mut self, orders: oneshot::Receiver<Order>) -> Ended {
        self.orders = Orders(Some(orders));
        (&mut *self).await
    }

    /// Goes on until nothing can move any more.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        self.engine.register(cx);
        self.engine.now = Instant::now();
        self.orders.poll(cx)?;
        if self.is_due() {
            self.on_timer()?;
        }
        loop {
            let mut moved = self.recv(cx)?;
            moved |= self.framing.poll(&mut self.engine, cx)?;
            moved |= self.serve(cx)?;
            moved |= self.flush(cx)?;
            if !moved && !self.poll_timer(cx)? {
                self.engine.report_held();
                return Ok(());
            }
        }
    }
}

/// Bytes.
impl<F: Framing> Session<F> {
    /// Reads the client once, unless pods or the client itself must take something first. Whether anything came.
    fn recv(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if !self.engine.may_recv() || !self.framing.wants_input() {
            return Ok(false);
        }
        self.framing.recv(&mut self.engine, cx)
    }

    /// Looks at every forward that is ready, once, in the order in which they became so. Whether any was.
    fn serve(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut turn = self.engine.begin_turn();
        let any = !turn.is_empty();
        for index in turn.drain(..) {
            if self.connect(index) {
                self.engine.drive_up(index);
                self.pull_down(cx, index)?;
                self.framing.remove_if_done(&mut self.engine, index);
            }
        }
        self.engine.end_turn(turn);
        Ok(any)
    }

    /// Takes the result of a dial, if one was under way. False if the forward has gone.
    fn connect(&mut self, index: usize) -> bool {
        let Some(forward) = self.engine.forward_mut(index) else { return false };
        // Before anything is polled: a wake from now on queues the forward again.
        forward.slot.taken();
        match forward.poll_dial() {
            Poll::Pending => {}
            Poll::Ready(Ok(conn)) => {
                forward.phase = Phase::Open(conn);
                self.framing.on_dialled(&forward.id);
                self.engine.counters.dialled();
            }
            Poll::Ready(Err(e)) => {
                self.framing.on_dial_failed(&mut self.engine, index, e);
                return false;
            }
        }
        true
    }

    /// One chunk from a pod to the client.
    fn pull_down(&mut self, cx: &mut Context<'_>, index: usize) -> Result<(), Ended> {
        if !self.engine.may_read_pod(index, self.framing.is_blocked()) {
            return Ok(());
        }
        let mut buf = ReadBuffer::take();
        match self.engine.read_pod(index, &mut buf) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => {
                if let Some(forward) = self.engine.forward_mut(index) {
                    self.framing.on_pod_end(forward);
                }
                self.engine.end_down(index, self.framing.lingers());
            }
            Poll::Ready(Ok(n)) => {
                let Some(forward) = self.engine.forward(index) else { return Ok(()) };
                self.framing.send(cx, index, &forward.id, &buf[..n], self.engine.now)?;
                self.engine.adapt_chunk(self.framing.is_blocked());
            }
            Poll::Ready(Err(e)) => self.framing.on_conn_failed(&mut self.engine, index, e),
        }
        Ok(())
    }

    /// Sends what waits. Whether that made room.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let was_blocked = self.framing.is_blocked();
        self.framing.flush(cx, self.engine.now)?;
        if self.framing.is_blocked() {
            return Ok(false);
        }
        self.engine.unpark();
        Ok(was_blocked)
    }
}

/// Times.
impl<F: Framing> Session<F> {
    /// Compares the limits if it is time to. Whether it was: then things may have changed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let ticks = self.engine.wants_ticks()
            || self.framing.is_blocked()
            || !self.framing.wants_input()
            || self.framing.wants_ticks();
        let next = if ticks { self.engine.now + self.tick } else { self.engine.quiet_until() };
        let next = self.engine.read_pause().map_or(next, |until| until.min(next));
        if self.timer.deadline() > next {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        self.engine.now = Instant::now();
        self.on_timer()?;
        Ok(true)
    }

    fn on_timer(&mut self) -> Result<(), Ended> {
        self.compare_limits()?;
        let next = self.engine.quiet_until().max(self.engine.now + self.tick);
        self.timer.as_mut().reset(next);
        Ok(())
    }

    fn compare_limits(&mut self) -> Result<(), Ended> {
        let blocked_since = self.framing.blocked_since(self.engine.now);
        let limit = self.engine.limits.write_stall_timeout;
        if blocked_since.is_some_and(|since| self.engine.age(since) >= limit) {
            return Err(Ended::WriteStalled);
        }
        let is_paused = self.engine.is_spent() || !self.framing.wants_input();
        self.engine.check_quiet(is_paused)?;
        for index in self.engine.overdue() {
            self.framing.abort(&mut self.engine, index);
        }
        for index in self.engine.stuck() {
            self.framing.on_stuck(&mut self.engine, index);
        }
        self.framing.on_tick(&mut self.engine);
        Ok(())
    }

    /// By the clock: polled, the timer of a session that spends tokio's budget every time never fires.
    fn is_due(&self) -> bool {
        Instant::now() >= self.timer.deadline()
    }
}

/// The end.
impl<F: Framing> Session<F> {
    /// Says the last words. Gives the reason back if nothing is left to wait for.
    fn begin_close(&mut self, why: Ended) -> Option<Ended> {
        let (polite, delivers) = (why.is_polite(), self.framing.delivers_after(&why));
        if polite {
            self.framing.on_end(&mut self.engine, &why);
        }
        if delivers {
            self.finish_all();
        } else {
            self.abort_all();
        }
        if polite {
            self.framing.queue_end(&why);
        }
        if !polite && !delivers {
            return Some(why);
        }
        let limit = if delivers { self.engine.limits.linger } else { CLOSE_LIMIT };
        self.timer.as_mut().reset(Instant::now() + limit);
        self.closing = Some(why);
        None
    }

    /// The client has said everything: its pods get that, and then their end.
    fn finish_all(&mut self) {
        for index in self.engine.indices() {
            match self.engine.forward(index) {
                Some(forward) if forward.is_open() || !forward.is_clear() => self.engine.finish(index),
                _ => drop(self.framing.remove(&mut self.engine, index)),
            }
        }
    }

    /// Moves what pods still get. Ready when there is nothing left.
    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.engine.register(cx);
        let mut turn = self.engine.begin_turn();
        for index in turn.drain(..) {
            if self.connect(index) {
                self.engine.drive_up(index);
                if self.engine.forward(index).is_some_and(Forward::up_is_over) {
                    self.framing.remove(&mut self.engine, index);
                }
            }
        }
        self.engine.end_turn(turn);
        if self.engine.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.engine.now = Instant::now();
        // Both are polled every time, since either may be what the session waits for.
        let is_over = self.framing.poll_close(cx).is_ready() & self.poll_deliver(cx).is_ready();
        if !is_over && !self.is_due() && self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.abort_all();
        Poll::Ready(self.closing.take().unwrap_or(Ended::ClientClosed))
    }

    fn abort_all(&mut self) {
        for index in self.engine.indices() {
            self.framing.abort(&mut self.engine, index);
        }
    }
}

impl<F: Framing> Future for Session<F> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        if this.closing.is_none() {
            let Err(why) = this.poll_running(cx) else { return Poll::Pending };
            if let Some(why) = this.begin_close(why) {
                return Poll::Ready(why);
            }
        }
        this.poll_closing(cx)
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

#[cfg(test)]
mod tests;
