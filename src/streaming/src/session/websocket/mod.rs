//! A port-forward session over a channel WebSocket: one connection for each port of the CRI request.
//!
//! ```text
//!   announce, dial all ports ──► Running ── all ports have ended, all is sent ──► Closing ── client closed, or 1 s ──► over
//!                                   ├────── something else in `Ended` ──────────────►
//!                                   └────── the client's socket broke or ended ─────────────────────────────────────►
//! ```
//!
//! There are no streams to open, reset or half-close. A port ends with its pod's end, when what the client sent
//! before has been delivered too; the client sees no end but the whole session's. A port that fails ends with a
//! text on its error channel, which costs the other ports nothing. A client that closes ends all its pods'
//! connections in order, since it has no other way to; one that vanishes aborts them.
//!
//! Back-pressure is that of the other sessions: a connection is read only when the client has taken everything;
//! while the session's budget is spent, the client is not read, and a port that holds its share of it without
//! moving is reset.

mod messages;
mod socket;

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) use self::messages::Encoding;
use self::socket::{Socket, close_code};
use super::forward::{Forward, Phase};
use super::ready::Ready;
use super::scratch::Scratch;
use super::server::{ServerSession, log_port};
use super::stall::stuck;
use super::{CLOSE_LIMIT, Ended, Order, Orders, tick_for};
use crate::dial::Dial;

impl<D: Dial> ServerSession<D> {
    /// Serves an upgraded connection to its end. `early` are bytes that came with the upgrade request; there are
    /// at most [`Encoding::max_ports`] ports.
    pub(crate) async fn run_websocket<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        stream: S,
        early: Bytes,
        encoding: Encoding,
        ports: &[u16],
        orders: oneshot::Receiver<Order>,
    ) -> (Ended, Vec<u16>) {
        let socket = Socket::new(stream, early, encoding.max_message()).await;
        let mut session = WebSocketSession::new(self, socket, encoding, Orders(Some(orders)));
        session.start(ports);
        let ended = poll_fn(|cx| session.poll(cx)).await;
        let mut logged = Vec::new();
        ports.iter().for_each(|port| log_port(&mut logged, *port));
        (ended, logged)
    }
}

/// Invariants: a forward's index is its port's number in the request; `held` is the sum of the forwards' charges.
struct WebSocketSession<S, D: Dial> {
    setup: ServerSession<D>,
    encoding: Encoding,
    socket: Socket<S>,
    forwards: Slab<Forward<D::Conn>>,
    ready: Arc<Ready>,
    turn: VecDeque<usize>,
    parked: Vec<usize>,
    held: usize,
    /// The budget was spent at some time since the last tick.
    was_spent: bool,
    now: Instant,
    last_data: Instant,
    orders: Orders,
    timer: Pin<Box<Sleep>>,
    tick: Duration,
    /// All ports have ended, and the close frame waits to be sent.
    is_over: bool,
    closing: Option<Ended>,
}

/// The course of a session.
impl<S: AsyncRead + AsyncWrite + Unpin, D: Dial> WebSocketSession<S, D> {
    fn new(setup: ServerSession<D>, socket: Socket<S>, encoding: Encoding, orders: Orders) -> Self {
        let now = Instant::now();
        Self {
            timer: Box::pin(sleep_until(now + setup.limits.idle_timeout)),
            tick: tick_for(&setup.limits),
            setup,
            encoding,
            socket,
            forwards: Slab::new(),
            ready: Arc::default(),
            turn: VecDeque::new(),
            parked: Vec::new(),
            held: 0,
            was_spent: false,
            now,
            last_data: now,
            orders,
            is_over: false,
            closing: None,
        }
    }

    /// Says which channels there are, and dials all ports.
    fn start(&mut self, ports: &[u16]) {
        for (index, port) in ports.iter().copied().enumerate() {
            self.encoding.announce(index, port).into_iter().for_each(|message| self.socket.queue(message));
            let phase = Phase::Dialing(self.setup.dial(port));
            // Streams are the other sessions' affair: numbers here are those of the channels.
            let (data, error) = (2 * index as u32, 2 * index as u32 + 1);
            self.setup.counters.opened();
            let forward = Forward::new(port, error, data, phase, index, &self.ready, &self.setup.counters);
            forward.slot.queue();
            self.forwards.insert(forward);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.closing.is_none() {
            let Err(why) = self.poll_running(cx) else { return Poll::Pending };
            if let Some(why) = self.begin_close(why) {
                return Poll::Ready(why);
            }
        }
        let is_over = self.socket.poll_close(cx).is_ready() & self.poll_deliver(cx).is_ready();
        if !is_over && !self.is_due() && self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.abort_all();
        Poll::Ready(self.closing.take().unwrap_or(Ended::ClientClosed))
    }

    /// Goes on until nothing can move any more.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        self.ready.register(cx.waker());
        self.now = Instant::now();
        self.orders.poll(cx)?;
        if self.is_due() {
            self.on_timer()?;
        }
        loop {
            let mut moved = self.recv(cx)?;
            moved |= self.serve(cx)?;
            moved |= self.flush(cx)?;
            moved |= self.poll_over()?;
            if !moved && !self.poll_timer(cx)? {
                self.setup.counters.held(self.held);
                return Ok(());
            }
        }
    }

    /// The end, once all ports have ended and the close frame has been sent.
    fn poll_over(&mut self) -> Result<bool, Ended> {
        if !self.forwards.is_empty() {
            return Ok(false);
        }
        if self.is_over && !self.socket.is_busy() {
            return Err(Ended::AllPorts);
        }
        if self.is_over {
            return Ok(false);
        }
        self.is_over = true;
        self.queue_close(&Ended::AllPorts);
        Ok(true)
    }

    fn queue_close(&mut self, why: &Ended) {
        if let Some(code) = close_code(why) {
            self.socket.queue_close(code);
        }
    }

    fn begin_close(&mut self, why: Ended) -> Option<Ended> {
        if let Ended::Told(_) | Ended::Drained | Ended::Idle = why {
            for (index, forward) in &self.forwards {
                let text = self.setup.text(forward.port, &why.to_string());
                self.socket.queue(self.encoding.error(index, &text));
            }
        }
        let limit = if let Ended::ClientWentAway = why {
            self.finish_all();
            self.setup.limits.linger
        } else {
            self.abort_all();
            CLOSE_LIMIT
        };
        if !why.is_polite() {
            return Some(why);
        }
        if !self.is_over {
            self.queue_close(&why);
        }
        self.timer.as_mut().reset(Instant::now() + limit);
        self.closing = Some(why);
        None
    }

    /// A client that closes has said all: its pods get that, and then their end.
    fn finish_all(&mut self) {
        self.forwards.retain(|_, forward| forward.is_open() || !forward.is_clear());
        for (_, forward) in &mut self.forwards {
            forward.finish();
            forward.slot.queue();
        }
    }

    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.register(cx.waker());
        let mut turn = VecDeque::new();
        self.ready.take(&mut turn);
        for index in turn {
            self.connect(index);
            self.drive_up(index);
            if self.forwards.get(index).is_some_and(Forward::up_is_over) {
                self.remove(index);
            }
        }
        if self.forwards.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn abort_all(&mut self) {
        let indices: Vec<_> = self.forwards.iter().map(|(index, _)| index).collect();
        indices.into_iter().for_each(|index| self.abort(index));
    }
}

/// From the client.
impl<S: AsyncRead + AsyncWrite + Unpin, D: Dial> WebSocketSession<S, D> {
    fn is_spent(&self) -> bool {
        self.held >= self.setup.limits.session_budget
    }

    /// Takes one message. Whether there was any.
    fn recv(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if self.is_over {
            return Ok(false);
        }
        if self.is_spent() {
            self.was_spent = true;
            return Ok(false);
        }
        let Poll::Ready(message) = self.socket.poll_recv(cx) else { return Ok(false) };
        if let Some((index, payload)) = self.encoding.parse(message?) {
            self.deliver(index, &payload);
        }
        Ok(true)
    }

    fn deliver(&mut self, index: usize, payload: &[u8]) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        self.last_data = self.now;
        let before = forward.charge();
        forward.push(&mut [IoSlice::new(payload)]);
        self.held = self.held + forward.charge() - before;
        self.settle(index);
    }

    /// Sends what waits. Whether that made room.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let was_busy = self.socket.is_busy();
        self.socket.flush(cx, self.now)?;
        if self.socket.is_busy() {
            return Ok(false);
        }
        for index in self.parked.drain(..) {
            if let Some(forward) = self.forwards.get_mut(index) {
                forward.parked = false;
                forward.slot.queue();
            }
        }
        Ok(was_busy)
    }
}

/// From the pods.
impl<S: AsyncRead + AsyncWrite + Unpin, D: Dial> WebSocketSession<S, D> {
    /// Looks at every forward that is ready, once. Whether any was.
    fn serve(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut turn = std::mem::take(&mut self.turn);
        self.ready.take(&mut turn);
        let any = !turn.is_empty();
        for index in turn.drain(..) {
            self.drive(cx, index)?;
        }
        self.turn = turn;
        Ok(any)
    }

    fn drive(&mut self, cx: &mut Context<'_>, index: usize) -> Result<(), Ended> {
        self.connect(index);
        self.drive_up(index);
        self.pull_down(cx, index)?;
        self.settle(index);
        Ok(())
    }

    /// Takes what came of a dial, if one was under way.
    fn connect(&mut self, index: usize) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        forward.slot.taken();
        match forward.poll_dial() {
            Poll::Pending => {}
            Poll::Ready(Ok(conn)) => {
                forward.phase = Phase::Open(conn);
                self.setup.counters.dialled();
            }
            Poll::Ready(Err(e)) => {
                self.setup.dial_failed(forward.port, &e);
                self.fail(index, &e.cause);
            }
        }
    }

    /// Moves what waits for a pod.
    fn drive_up(&mut self, index: usize) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        let (charge, sent) = (forward.charge(), forward.sent);
        forward.drive_up();
        self.held = self.held + forward.charge() - charge;
        if forward.sent > sent && forward.lingers.is_some() {
            forward.lingers = Some(self.now);
        }
    }

    fn pull_down(&mut self, cx: &mut Context<'_>, index: usize) -> Result<(), Ended> {
        let Some(forward) = self.forwards.get_mut(index) else { return Ok(()) };
        if forward.down_over || !forward.is_open() {
            return Ok(());
        }
        if self.socket.is_busy() {
            if !std::mem::replace(&mut forward.parked, true) {
                self.parked.push(index);
            }
            return Ok(());
        }
        let mut buf = Scratch::take();
        match forward.poll_read(&mut buf[..self.encoding.max_payload()]) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => {
                forward.down_over = true;
                forward.lingers = Some(self.now);
                forward.finish();
                forward.slot.queue();
            }
            Poll::Ready(Ok(n)) => {
                forward.slot.queue(); // others first, then there may be more
                self.last_data = self.now;
                self.socket.queue(self.encoding.data(index, &buf[..n]));
                self.socket.flush(cx, self.now)?;
            }
            Poll::Ready(Err(e)) => {
                self.setup.conn_failed(forward.port, &e);
                self.fail(index, &e.to_string());
            }
        }
        Ok(())
    }

    /// Ends a forward with a text on its error channel.
    fn fail(&mut self, index: usize, cause: &str) {
        let Some(forward) = self.forwards.get(index) else { return };
        let text = self.setup.text(forward.port, cause);
        self.socket.queue(self.encoding.error(index, &text));
        self.abort(index);
    }

    fn settle(&mut self, index: usize) {
        if self.forwards.get(index).is_some_and(Forward::is_done) {
            self.remove(index);
        }
    }

    /// Ends a forward so that its pod sees a failure.
    fn abort(&mut self, index: usize) {
        if let Some(forward) = self.remove(index) {
            forward.abort();
        }
    }

    fn remove(&mut self, index: usize) -> Option<Forward<D::Conn>> {
        let forward = self.forwards.try_remove(index)?;
        self.held -= forward.charge();
        self.setup.counters.closed();
        Some(forward)
    }
}

/// Times, compared with their limits.
impl<S: AsyncRead + AsyncWrite + Unpin, D: Dial> WebSocketSession<S, D> {
    fn wants_ticks(&self) -> bool {
        self.socket.is_busy()
            || self.was_spent
            || self.is_spent()
            || self.forwards.iter().any(|(_, forward)| forward.lingers.is_some())
    }

    /// Compares the limits if it is time to. Whether it was: then things may have changed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let idle = self.last_data + self.setup.limits.idle_timeout;
        let next = if self.wants_ticks() { self.now + self.tick } else { idle };
        if self.timer.deadline() > next {
            self.timer.as_mut().reset(next);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        self.now = Instant::now();
        self.on_timer()?;
        Ok(true)
    }

    /// By the clock: polled, the timer of a session that spends tokio's budget every time never fires.
    fn is_due(&self) -> bool {
        Instant::now() >= self.timer.deadline()
    }

    fn on_timer(&mut self) -> Result<(), Ended> {
        self.on_tick()?;
        let idle = self.last_data + self.setup.limits.idle_timeout;
        self.timer.as_mut().reset(idle.max(self.now + self.tick));
        Ok(())
    }

    fn on_tick(&mut self) -> Result<(), Ended> {
        let (now, limits) = (self.now, self.setup.limits.clone());
        let age = |since: Instant| now.saturating_duration_since(since);
        if self.socket.blocked_since(now).is_some_and(|since| age(since) >= limits.write_stall_timeout) {
            return Err(Ended::WriteStalled);
        }
        if age(self.last_data) >= limits.idle_timeout {
            return Err(Ended::Idle);
        }
        let overdue = |f: &Forward<D::Conn>| f.lingers.is_some_and(|since| age(since) >= limits.linger);
        let overdue: Vec<_> = self.forwards.iter().filter(|(_, f)| overdue(f)).map(|(i, _)| i).collect();
        overdue.into_iter().for_each(|index| self.abort(index));
        let spent = std::mem::take(&mut self.was_spent) || self.is_spent();
        for index in stuck(&mut self.forwards, self.held, spent, now, &limits) {
            if let Some(forward) = self.forwards.get(index) {
                self.setup.stuck(forward);
            }
            let limit = limits.stream_stall_timeout;
            self.fail(index, &format!("the port took no data for {limit:?} and held up the other ports"));
        }
        Ok(())
    }
}
