//! A channel WebSocket: one connection for each port of the CRI request.
//!
//! ```text
//!   announce, dial all ports ──► Running ── all ports have ended, all is sent ──► Closing
//! ```
//!
//! There are no streams to open, reset or half-close. A port ends with its pod's end, when what the client sent
//! before has been delivered too; the client sees no end but the whole session's. A port that fails ends with a
//! text on its error channel, which costs the other ports nothing. A client that closes ends all its pods'
//! connections in order, since it has no other way to; one that vanishes aborts them.

mod messages;
mod socket;

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(crate) use self::messages::Encoding;
use self::socket::{Socket, close_code};
use super::engine::Engine;
use super::forward::Phase;
use super::framing::{EngineOf, ForwardOf, Framing};
use super::server::{ServerSession, log_port};
use super::{Ended, Order, Session};
use crate::dial::{Dial, DialError};

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
        let (limits, counters) = (self.limits.clone(), self.counters.clone());
        let framing = ChannelFraming { setup: self, encoding, socket, is_over: false, is_closing: false };
        let mut session = Session::new(framing, limits, counters);
        session.framing.start(&mut session.engine, ports);
        let ended = session.run(orders).await;
        let mut logged = Vec::new();
        ports.iter().for_each(|port| log_port(&mut logged, *port));
        (ended, logged)
    }
}

/// Numbered channels in WebSocket messages.
///
/// Invariant: a forward's index is its port's number in the request, since all are inserted first and none later.
struct ChannelFraming<S, D> {
    setup: ServerSession<D>,
    encoding: Encoding,
    socket: Socket<S>,
    /// All ports have ended, and the close frame waits to be sent.
    is_over: bool,
    /// The close frame is queued, so nothing else may be.
    is_closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin, D: Dial> ChannelFraming<S, D> {
    /// Says which channels there are, and dials all ports.
    fn start(&mut self, engine: &mut Engine<D::Conn, ()>, ports: &[u16]) {
        for (index, port) in ports.iter().copied().enumerate() {
            self.encoding.announce(index, port).into_iter().for_each(|message| self.socket.queue(message));
            engine.insert(port, (), Phase::Dialing(self.setup.dial(port)));
        }
    }

    /// Ends a forward with a text on its error channel.
    fn fail(&mut self, engine: &mut EngineOf<Self>, index: usize, cause: &str) {
        self.queue_text(engine, index, cause);
        self.abort(engine, index);
    }

    fn queue_text(&mut self, engine: &EngineOf<Self>, index: usize, cause: &str) {
        if let Some(forward) = engine.forward(index)
            && !self.is_closing
        {
            self.socket.queue(self.encoding.error(index, &self.setup.text(forward.port, cause)));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, D: Dial> Framing for ChannelFraming<S, D> {
    type Conn = D::Conn;
    /// Channels are numbered like the forwards.
    type Id = ();

    fn is_blocked(&self) -> bool {
        self.socket.is_busy()
    }

    fn blocked_since(&mut self, now: Instant) -> Option<Instant> {
        self.socket.blocked_since(now)
    }

    fn wants_input(&self) -> bool {
        !self.is_over
    }

    fn delivers_after(&self, why: &Ended) -> bool {
        matches!(why, Ended::ClientWentAway)
    }

    /// Takes one message.
    fn recv(&mut self, engine: &mut EngineOf<Self>, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let Poll::Ready(message) = self.socket.poll_recv(cx) else { return Ok(false) };
        if let Some((index, payload)) = self.encoding.parse(message?) {
            engine.deliver(index, &mut [IoSlice::new(&payload)]);
            self.remove_if_done(engine, index);
        }
        Ok(true)
    }

    /// The end, once all ports have ended and the close frame has been sent.
    fn poll(&mut self, engine: &mut EngineOf<Self>, _cx: &mut Context<'_>) -> Result<bool, Ended> {
        if !engine.is_empty() {
            return Ok(false);
        }
        if self.is_over && !self.socket.is_busy() {
            return Err(Ended::AllPorts);
        }
        let is_new = !self.is_over;
        self.is_over = true;
        self.queue_end(&Ended::AllPorts);
        Ok(is_new)
    }

    fn on_dial_failed(&mut self, engine: &mut EngineOf<Self>, index: usize, error: DialError) {
        if let Some(forward) = engine.forward(index) {
            self.setup.dial_failed(forward.port, &error);
        }
        self.fail(engine, index, &error.cause);
    }

    fn on_conn_failed(&mut self, engine: &mut EngineOf<Self>, index: usize, error: io::Error) {
        if let Some(forward) = engine.forward(index) {
            self.setup.conn_failed(forward.port, &error);
        }
        self.fail(engine, index, &error.to_string());
    }

    fn on_stuck(&mut self, engine: &mut EngineOf<Self>, index: usize) {
        if let Some(forward) = engine.forward(index) {
            self.setup.stuck(forward);
        }
        let limit = engine.limits.stream_stall_timeout;
        self.fail(engine, index, &format!("the port took no data for {limit:?} and held up the other ports"));
    }

    /// The client can't end its direction, so the pod's end is the end of both.
    fn on_pod_end(&mut self, forward: &mut ForwardOf<Self>) {
        forward.finish();
        forward.slot.queue();
    }

    /// A channel has no end of its own.
    fn on_removed(&mut self, _forward: &ForwardOf<Self>) {}

    fn send(
        &mut self,
        cx: &mut Context<'_>,
        index: usize,
        _id: &(),
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Ended> {
        for payload in payload.chunks(self.encoding.max_payload()) {
            self.socket.queue(self.encoding.data(index, payload));
        }
        self.socket.flush(cx, now)
    }

    fn flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Ended> {
        self.socket.flush(cx, now)
    }

    fn on_end(&mut self, engine: &mut EngineOf<Self>, why: &Ended) {
        if let Ended::Told(_) | Ended::Drained | Ended::Idle = why {
            for index in engine.indices() {
                self.queue_text(engine, index, &why.to_string());
            }
        }
    }

    fn queue_end(&mut self, why: &Ended) {
        if !std::mem::replace(&mut self.is_closing, true)
            && let Some(code) = close_code(why)
        {
            self.socket.queue_close(code);
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_close(cx)
    }
}
