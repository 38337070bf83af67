//! The client's side: opens two streams for every connection that it is given.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use spdy::{Headers, Status};
use tokio::sync::{mpsc, oneshot};

use super::core::Core;
use super::forward::Phase;
use super::wire::Wire;
use super::{ClientSocket, Ended, Order, Session, Side};
use crate::client::ClientEvent;
use crate::config::Limits;
use crate::dial::{Connection, DialError};

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
    let spdy = spdy::Connection::new(spdy::Role::Client, spdy::Config::default());
    let side = ClientSide { incoming, events, requests: 0 };
    let wire = Wire::new(socket, early);
    Session::new(wire, spdy, side, Arc::new(Limits::default()), Arc::default()).run(orders).await
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

    fn open<W: ClientSocket>(&mut self, core: &mut Core<W, C>, port: u16, conn: C) -> Option<()> {
        let (port_text, request) = (port.to_string(), self.requests.to_string());
        self.requests += 1;
        let headers = |kind| [("streamtype", kind), ("port", &*port_text), ("requestid", &*request)];
        let error = core.spdy.open(&headers("error"), false)?;
        core.spdy.finish(error).ok()?;
        let data = core.spdy.open(&headers("data"), false)?;
        core.insert(port, error, data, Phase::Offered(conn));
        Some(())
    }
}

impl<C: Connection> Side<C> for ClientSide<C> {
    const ENDS_ERROR_STREAM: bool = false;
    const LINGERS: bool = false;

    fn on_opened<W: ClientSocket>(&mut self, core: &mut Core<W, C>, id: u32, _: &Headers) {
        core.spdy.reset(id, Status::RefusedStream);
    }

    fn on_refused(&mut self, port: u16) {
        self.tell(ClientEvent::Refused { port });
    }

    fn on_error_text(&mut self, port: u16, text: &[IoSlice<'_>]) {
        let text: Vec<u8> = text.iter().flat_map(|piece| piece.iter().copied()).take(MAX_TEXT).collect();
        self.tell(ClientEvent::Failed { port, text: String::from_utf8_lossy(&text).into_owned() });
    }

    fn on_conn_failed<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize, _: io::Error) {
        core.abort(index);
    }

    fn on_dial_failed<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize, _: DialError) {
        core.abort(index);
    }

    fn on_stuck<W: ClientSocket>(&mut self, core: &mut Core<W, C>, index: usize) {
        core.abort(index);
    }

    fn poll<W: ClientSocket>(&mut self, core: &mut Core<W, C>, cx: &mut Context<'_>) -> Result<bool, Ended> {
        match self.incoming.poll_recv(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(None) => Err(Ended::Drained),
            Poll::Ready(Some((port, conn))) => match self.open(core, port, conn) {
                Some(()) => Ok(true),
                None => Err(Ended::Told("stream ids have run out".into())),
            },
        }
    }
}
