//! The client's side: opens two streams for every connection that it is given.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use spdy_rs::{Headers, Status};
use tokio::sync::{mpsc, oneshot};

use super::wire::{ClientSocket, Wire};
use super::{Forwards, SpdyFraming, StreamHandler, StreamIds, Streams};
use crate::client::ClientEvent;
use crate::config::Limits;
use crate::dial::{Connection, DialError};
use crate::session::forward::Phase;
use crate::session::{Ended, Order, Session};

/// Longest text of an error stream that is kept.
const MAX_TEXT: usize = 4 << 10;

/// Connections that wait to be forwarded, each with the port it goes to.
pub(crate) type Incoming<C> = mpsc::UnboundedReceiver<(u16, C)>;

/// Runs a session over an upgraded connection until it ends.
pub(crate) async fn run<W: ClientSocket, C: Connection>(
    socket: W,
    early: Bytes,
    incoming: Incoming<C>,
    events: mpsc::Sender<ClientEvent>,
    orders: oneshot::Receiver<Order>,
) -> Ended {
    let spdy = spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default());
    let side = ClientSide { incoming, events, requests: 0 };
    let framing = SpdyFraming::new(Wire::new(socket, early), spdy, side);
    Session::new(framing, Arc::new(Limits::default()), Arc::default()).run(orders).await
}

struct ClientSide<C> {
    incoming: Incoming<C>,
    events: mpsc::Sender<ClientEvent>,
    requests: u64,
}

impl<C: Connection> ClientSide<C> {
    fn tell(&self, event: ClientEvent) {
        let _ = self.events.try_send(event); // that nobody listens is no reason to stop
    }

    fn open(&mut self, streams: &mut Streams, forwards: &mut Forwards<C>, port: u16, conn: C) -> Option<()> {
        let (port_text, request) = (port.to_string(), self.requests.to_string());
        self.requests += 1;
        let headers = |kind| [("streamtype", kind), ("port", &*port_text), ("requestid", &*request)];
        let error = streams.spdy.open(&headers("error"), false)?;
        streams.spdy.finish(error).ok()?;
        let data = streams.spdy.open(&headers("data"), false)?;
        streams.insert(forwards, port, StreamIds { error, data }, Phase::Offered(conn));
        Some(())
    }
}

impl<C: Connection> StreamHandler for ClientSide<C> {
    type Conn = C;
    const ENDS_ERROR_STREAM: bool = false;
    const LINGERS: bool = false;

    fn on_opened(&mut self, streams: &mut Streams, _: &mut Forwards<C>, id: u32, _: &Headers) {
        streams.spdy.reset(id, Status::RefusedStream);
    }

    fn on_refused(&mut self, port: u16) {
        self.tell(ClientEvent::Refused { port });
    }

    fn on_error_text(&mut self, port: u16, text: &[IoSlice<'_>]) {
        let text: Vec<u8> = text.iter().flat_map(|piece| piece.iter().copied()).take(MAX_TEXT).collect();
        self.tell(ClientEvent::Failed { port, text: String::from_utf8_lossy(&text).into_owned() });
    }

    fn on_conn_failed(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<C>,
        index: usize,
        _: io::Error,
    ) {
        streams.abort(forwards, index);
    }

    fn on_dial_failed(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<C>,
        index: usize,
        _: DialError,
    ) {
        streams.abort(forwards, index);
    }

    fn on_stuck(&mut self, streams: &mut Streams, forwards: &mut Forwards<C>, index: usize) {
        streams.abort(forwards, index);
    }

    fn poll(
        &mut self,
        streams: &mut Streams,
        forwards: &mut Forwards<C>,
        cx: &mut Context<'_>,
    ) -> Result<bool, Ended> {
        match self.incoming.poll_recv(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(None) => Err(Ended::Drained),
            Poll::Ready(Some((port, conn))) => match self.open(streams, forwards, port, conn) {
                Some(()) => Ok(true),
                None => Err(Ended::Told("stream ids have run out".into())),
            },
        }
    }
}
