//! The server's side: pairs the client's streams and dials.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use spdy::{Headers, Status};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::core::Core;
use super::forward::{Dialing, Forward, Phase};
use super::pairing::{Kind, Match, Pairing};
use super::wire::Wire;
use super::{ClientSocket, Ended, Order, Session, Side};
use crate::config::{ErrorStyle, Limits};
use crate::dial::{Dial, DialError, DialErrorKind, Target};
use crate::stats::{Counters, Stats};

/// What a session of the server is made of.
pub(crate) struct ServerSession<D> {
    pub(crate) dial: Arc<D>,
    pub(crate) sandbox: Arc<str>,
    pub(crate) client: Option<SocketAddr>,
    pub(crate) errors: ErrorStyle,
    pub(crate) limits: Arc<Limits>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) counters: Arc<Counters>,
}

impl<D: Dial> ServerSession<D> {
    /// Serves an upgraded connection to its end. `early` are bytes that came with the upgrade request.
    pub(crate) async fn run<W: ClientSocket>(
        self,
        socket: W,
        early: Bytes,
        orders: oneshot::Receiver<Order>,
    ) -> (Ended, Vec<u16>) {
        let config = spdy::Config { max_streams: self.limits.streams, ..Default::default() };
        let spdy = spdy::Connection::new(spdy::Role::Server, config);
        let (limits, counters) = (self.limits.clone(), self.counters.clone());
        let side = ServerSide { setup: self, pairing: Pairing::new(), ports: Vec::new() };
        let mut session = Session::new(Wire::new(socket, early), spdy, side, limits, counters);
        let ended = session.run(orders).await;
        (ended, std::mem::take(&mut session.side.ports))
    }

    /// Dials a port, for no longer than the limit.
    pub(super) fn dial(&self, port: u16) -> Dialing<D::Conn> {
        let target = Target { sandbox: self.sandbox.clone(), port, client: self.client };
        let limit = self.limits.dial_timeout;
        let dial = self.dial.clone();
        Box::pin(async move {
            timeout(limit, dial.dial(target)).await.unwrap_or_else(|_| {
                let cause = format!("dialling port {port}: no answer within {limit:?}");
                Err(DialError::new(DialErrorKind::TimedOut, cause))
            })
        })
    }

    /// The text that Kubernetes' own servers write, so that clients show what they always showed.
    pub(super) fn text(&self, port: u16, cause: &str) -> String {
        format!("error forwarding port {port} to pod {}, uid : {cause}", self.sandbox)
    }

    /// Counts and logs a dial that failed.
    pub(super) fn dial_failed(&self, port: u16, error: &DialError) {
        self.stats.dial_failed(error.kind);
        info!(sandbox = %self.sandbox, port, kind = error.kind.name(), cause = %error, "a dial failed");
    }

    /// Counts and logs a connection that failed.
    pub(super) fn conn_failed(&self, port: u16, error: &io::Error) {
        self.stats.connection_failed();
        info!(sandbox = %self.sandbox, port, cause = %error, "a connection failed");
    }

    /// Counts and logs a connection that held up its session.
    pub(super) fn stuck(&self, forward: &Forward<D::Conn>) {
        self.stats.stream_stuck();
        warn!(
            sandbox = %self.sandbox, port = forward.port, held = forward.charge(),
            limit = ?self.limits.stream_stall_timeout,
            "reset a connection whose pod does not read: it held up its session"
        );
    }
}

struct ServerSide<D> {
    setup: ServerSession<D>,
    pairing: Pairing<Instant>,
    /// Ports that were asked for, each once, for the log.
    ports: Vec<u16>,
}

/// Ports that the log names; more are only forwarded.
const LOGGED_PORTS: usize = 16;

/// Adds a port to those that the log names, each once.
pub(super) fn log_port(ports: &mut Vec<u16>, port: u16) {
    if !ports.contains(&port) && ports.len() < LOGGED_PORTS {
        ports.push(port);
    }
}

impl<D: Dial> ServerSide<D> {
    fn start_dial(&mut self, port: u16) -> Phase<D::Conn> {
        log_port(&mut self.ports, port);
        Phase::Dialing(self.setup.dial(port))
    }

    /// Ends a forward with a text on its error stream, which ends a Go client's whole session. The data stream
    /// is answered first: a client that finds it reset never looks at the error stream.
    fn end_with_text<W: ClientSocket>(&self, core: &mut Core<W, D::Conn>, index: usize, text: &str) {
        let Some(forward) = core.forward(index) else { return };
        let (data, error) = (forward.data, forward.error);
        let _ = core.spdy.reply(data);
        let _ = core.spdy.finish(data);
        let _ = core.spdy.send(error, text.as_bytes(), false);
        core.abort(index);
    }
}

impl<D: Dial> Side<D::Conn> for ServerSide<D> {
    const ENDS_ERROR_STREAM: bool = true;
    const LINGERS: bool = true;

    fn on_opened<W: ClientSocket>(&mut self, core: &mut Core<W, D::Conn>, id: u32, headers: &Headers) {
        match self.pairing.add(id, headers, core.now) {
            Match::First(port, Kind::Data) => core.insert(port, 0, id, Phase::Waiting),
            Match::First(_, Kind::Error) => {
                let _ = core.spdy.reply(id);
            }
            Match::Complete(pair, Kind::Data) => {
                let phase = self.start_dial(pair.port);
                core.insert(pair.port, pair.error, pair.data, phase);
            }
            Match::Complete(pair, Kind::Error) => {
                let _ = core.spdy.reply(id);
                let phase = self.start_dial(pair.port);
                core.complete(pair.error, pair.data, phase);
            }
            Match::Duplicate => {
                debug!(sandbox = %self.setup.sandbox, stream = id, "refused a second stream of the same kind");
                core.spdy.reset(id, Status::ProtocolError);
            }
            Match::Invalid(why) => {
                debug!(sandbox = %self.setup.sandbox, stream = id, why, "refused a stream");
                core.spdy.reset(id, Status::Cancel);
            }
        }
    }

    fn on_gone(&mut self, id: u32) {
        self.pairing.forget(id);
    }

    fn on_dial_failed<W: ClientSocket>(
        &mut self,
        core: &mut Core<W, D::Conn>,
        index: usize,
        error: DialError,
    ) {
        let Some(forward) = core.forward(index) else { return };
        let (port, data) = (forward.port, forward.data);
        self.setup.dial_failed(port, &error);
        if error.kind.ends_session() || self.setup.errors == ErrorStyle::Text {
            let text = self.setup.text(port, &error.cause);
            self.end_with_text(core, index, &text);
        } else {
            core.spdy.reset(data, Status::RefusedStream);
            core.abort(index);
        }
    }

    fn on_conn_failed<W: ClientSocket>(
        &mut self,
        core: &mut Core<W, D::Conn>,
        index: usize,
        error: io::Error,
    ) {
        let Some(forward) = core.forward(index) else { return };
        let port = forward.port;
        self.setup.conn_failed(port, &error);
        if self.setup.errors == ErrorStyle::Text {
            let text = self.setup.text(port, &error.to_string());
            self.end_with_text(core, index, &text);
        } else {
            core.abort(index);
        }
    }

    fn on_stuck<W: ClientSocket>(&mut self, core: &mut Core<W, D::Conn>, index: usize) {
        let Some(forward) = core.forward(index) else { return };
        self.setup.stuck(forward);
        self.pairing.forget(forward.data); // it may have waited for its error stream still
        core.abort(index);
    }

    fn on_tick<W: ClientSocket>(&mut self, core: &mut Core<W, D::Conn>) {
        let (now, limit) = (core.now, core.limits.pair_timeout);
        for lone in self.pairing.overdue(|since| now.saturating_duration_since(since) >= limit) {
            debug!(sandbox = %self.setup.sandbox, stream = lone.id, "the second stream of a connection did not come");
            match core.by_data(lone.id) {
                Some(index) => core.abort(index),
                None => core.spdy.end(lone.id),
            }
        }
    }

    fn wants_ticks(&self) -> bool {
        !self.pairing.is_empty()
    }

    fn on_end<W: ClientSocket>(&mut self, core: &mut Core<W, D::Conn>, why: &Ended) {
        let Ended::Told(why) = why else { return };
        let told: Vec<_> = core.forwards().map(|f| (f.port, f.error)).collect();
        for (port, error) in told {
            let _ = core.spdy.send(error, self.setup.text(port, why).as_bytes(), false);
        }
    }
}
