//! The server's side: pairs the client's streams and dials.

use std::io;

use bytes::Bytes;
use spdy_rs::{Headers, Status};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::pairing::{Kind, Match, Pairing};
use super::wire::{ClientSocket, Wire};
use super::{Forwards, SpdyFraming, StreamHandler, StreamIds, Streams};
use crate::config::ErrorStyle;
use crate::dial::{Dial, DialError};
use crate::session::forward::Phase;
use crate::session::server::{ServerSession, log_port};
use crate::session::{Ended, Order, Session};

impl<D: Dial> ServerSession<D> {
    /// Serves an upgraded connection to its end. `early` are bytes that came with the upgrade request.
    pub(crate) async fn run<W: ClientSocket>(
        self,
        socket: W,
        early: Bytes,
        orders: oneshot::Receiver<Order>,
    ) -> (Ended, Vec<u16>) {
        let config = spdy_rs::Config { max_streams: self.limits.streams, ..Default::default() };
        let spdy = spdy_rs::Connection::new(spdy_rs::Role::Server, config);
        let (limits, counters) = (self.limits.clone(), self.counters.clone());
        let side = ServerSide { setup: self, pairing: Pairing::new(), ports: Vec::new() };
        let framing = SpdyFraming::new(Wire::new(socket, early), spdy, side);
        let mut session = Session::new(framing, limits, counters);
        let ended = session.run(orders).await;
        (ended, std::mem::take(&mut session.framing.handler.ports))
    }
}

struct ServerSide<D> {
    setup: ServerSession<D>,
    pairing: Pairing<Instant>,
    /// Ports that were asked for, each once, for the log.
    ports: Vec<u16>,
}

impl<D: Dial> ServerSide<D> {
    fn start_dial(&mut self, port: u16) -> Phase<D::Conn> {
        log_port(&mut self.ports, port);
        Phase::Dialing(self.setup.dial(port))
    }

    /// Ends a forward with a text on its error stream, which ends a Go client's whole session. The data stream
    /// is answered first: a client that finds it reset never looks at the error stream.
    fn end_with_text(
        &self,
        streams: &mut Streams,
        forwards: &mut Forwards<D::Conn>,
        index: usize,
        text: &str,
    ) {
        let Some(forward) = forwards.forward(index) else { return };
        let (data, error) = (forward.id.data, forward.id.error);
        let _ = streams.spdy.reply(data);
        let _ = streams.spdy.finish(data);
        let _ = streams.spdy.send(error, text.as_bytes(), false);
        streams.abort(forwards, index);
    }
}

impl<D: Dial> StreamHandler for ServerSide<D> {
    type Conn = D::Conn;
    const ENDS_ERROR_STREAM: bool = true;
    const LINGERS: bool = true;

    fn on_opened(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<D::Conn>,
        id: u32,
        headers: &Headers,
    ) {
        match self.pairing.add(id, headers, forwards.now) {
            Match::First(port, Kind::Data) => {
                streams.insert(forwards, port, StreamIds { error: 0, data: id }, Phase::Waiting)
            }
            Match::First(_, Kind::Error) => {
                let _ = streams.spdy.reply(id);
            }
            Match::Complete(pair, Kind::Data) => {
                let phase = self.start_dial(pair.port);
                streams.insert(forwards, pair.port, StreamIds { error: pair.error, data: pair.data }, phase);
            }
            Match::Complete(pair, Kind::Error) => {
                let _ = streams.spdy.reply(id);
                let phase = self.start_dial(pair.port);
                streams.complete(forwards, StreamIds { error: pair.error, data: pair.data }, phase);
            }
            Match::Duplicate => {
                debug!(sandbox = %self.setup.sandbox, stream = id, "refused a second stream of the same kind");
                streams.spdy.reset(id, Status::ProtocolError);
            }
            Match::Invalid(why) => {
                debug!(sandbox = %self.setup.sandbox, stream = id, why, "refused a stream");
                streams.spdy.reset(id, Status::Cancel);
            }
        }
    }

    fn on_gone(&mut self, id: u32) {
        self.pairing.forget(id);
    }

    fn on_dial_failed(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<D::Conn>,
        index: usize,
        error: DialError,
    ) {
        let Some(forward) = forwards.forward(index) else { return };
        let (port, data) = (forward.port, forward.id.data);
        self.setup.dial_failed(port, &error);
        if error.kind.ends_session() || self.setup.errors == ErrorStyle::Text {
            let text = self.setup.text(port, &error.cause);
            self.end_with_text(streams, forwards, index, &text);
        } else {
            streams.spdy.reset(data, Status::RefusedStream);
            streams.abort(forwards, index);
        }
    }

    fn on_conn_failed(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<D::Conn>,
        index: usize,
        error: io::Error,
    ) {
        let Some(forward) = forwards.forward(index) else { return };
        let port = forward.port;
        self.setup.conn_failed(port, &error);
        if self.setup.errors == ErrorStyle::Text {
            let text = self.setup.text(port, &error.to_string());
            self.end_with_text(streams, forwards, index, &text);
        } else {
            streams.abort(forwards, index);
        }
    }

    fn on_stuck(&mut self, streams: &mut Streams, forwards: &mut Forwards<D::Conn>, index: usize) {
        let Some(forward) = forwards.forward(index) else { return };
        self.setup.stuck(forward);
        self.pairing.forget(forward.id.data); // it may have waited for its error stream still
        streams.abort(forwards, index);
    }

    fn on_tick(&mut self, streams: &mut Streams, forwards: &mut Forwards<D::Conn>) {
        let (now, limit) = (forwards.now, forwards.limits.pair_timeout);
        for lone in self.pairing.overdue(|since| now.saturating_duration_since(since) >= limit) {
            debug!(sandbox = %self.setup.sandbox, stream = lone.id, "the second stream of a connection did not come");
            match streams.by_data(forwards, lone.id) {
                Some(index) => streams.abort(forwards, index),
                None => streams.spdy.end(lone.id),
            }
        }
    }

    fn wants_ticks(&self) -> bool {
        !self.pairing.is_empty()
    }

    fn on_end(&mut self, streams: &mut Streams, forwards: &mut Forwards<D::Conn>, why: &Ended) {
        let Ended::Told(why) = why else { return };
        let told: Vec<_> = forwards.forwards().map(|f| (f.port, f.id.error)).collect();
        for (port, error) in told {
            let _ = streams.spdy.send(error, self.setup.text(port, why).as_bytes(), false);
        }
    }
}
