//! A client of a streaming server: forwards connections through one SPDY session.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::dial::Connection;
use crate::session::Order;
use crate::session::spdy::client;

/// Time for the server to take the connection and to answer the upgrade.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Longest refusal that is shown.
const MAX_REFUSAL: usize = 4 << 10;

/// Events that are kept for whoever takes them, so that a server can't make a program grow that takes none.
const MAX_EVENTS: usize = 256;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The caller's URL is not one of a streaming server.
    #[error("{url:?} is not a streaming URL: expected http://HOST:PORT/PATH")]
    BadUrl {
        /// The URL.
        url: String,
    },
    /// The server can't be reached.
    #[error("connecting to the streaming server at {address}: {source}")]
    Connect {
        /// Where it was tried.
        address: String,
        /// What came of it.
        source: io::Error,
    },
    /// The server does not speak HTTP as it should.
    #[error("asking the streaming server at {address} to upgrade: {cause}")]
    Upgrade {
        /// Where it was tried.
        address: String,
        /// What came of it.
        cause: String,
    },
    /// The server said no.
    #[error("the streaming server at {address} refused the session: {status}: {text}")]
    Refused {
        /// Who refused.
        address: String,
        /// Its status.
        status: StatusCode,
        /// Its reason.
        text: String,
    },
}

/// What happens in a session, besides bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The pod's port could not be reached; the session goes on.
    Refused {
        /// The port.
        port: u16,
    },
    /// The server sent a text about a connection.
    Failed {
        /// The port.
        port: u16,
        /// The text.
        text: String,
    },
    /// The session has ended, for this reason. Nothing comes after.
    Closed(String),
}

/// A session. Dropping it ends it, and all its connections.
pub struct Client<C = TcpStream> {
    connections: mpsc::UnboundedSender<(u16, C)>,
    events: mpsc::Receiver<ClientEvent>,
    _orders: oneshot::Sender<Order>,
}

impl Client {
    /// Opens a session at a URL that CRI's PortForward gave. It runs as a task of the current tokio runtime.
    ///
    /// # Errors
    ///
    /// A [`ClientError`] if there is no session within 20 s.
    pub async fn connect(url: &str) -> Result<Self, ClientError> {
        Self::carrying(url).await
    }
}

impl<C: Connection> Client<C> {
    /// The same as [`Client::connect`], for connections of another type, such as one that counts.
    ///
    /// # Errors
    ///
    /// A [`ClientError`] if there is no session within 20 s.
    pub async fn carrying(url: &str) -> Result<Self, ClientError> {
        let (socket, early) = upgrade(url).await?;
        let (connections, incoming) = mpsc::unbounded_channel();
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let (orders, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let ended = client::run(socket, early, incoming, sender.clone(), receiver).await;
            let _ = sender.send(ClientEvent::Closed(ended.to_string())).await;
        });
        Ok(Self { connections, events, _orders: orders })
    }

    /// Forwards a connection to a port of the pod. It is closed when the pod's side ends, fails, or was never
    /// there. A TCP socket should have `TCP_NODELAY`, as small writes of the pod's come one by one.
    pub fn forward(&self, port: u16, local: C) {
        let _ = self.connections.send((port, local)); // a session that has ended drops it
    }

    /// The next event; after [`ClientEvent::Closed`] there is none. While 256 wait to be taken, further ones are
    /// lost, except that one.
    pub async fn event(&mut self) -> Option<ClientEvent> {
        self.events.recv().await
    }
}

async fn upgrade(url: &str) -> Result<(TcpStream, Bytes), ClientError> {
    let bad_url = || ClientError::BadUrl { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad_url())?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(bad_url)?;
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let attempt = timeout(CONNECT_LIMIT, TcpStream::connect(&address)).await;
    let socket = attempt
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| ClientError::Connect { address: address.clone(), source })?;
    let _ = socket.set_nodelay(true);
    timeout(CONNECT_LIMIT, ask(&uri, &address, socket)).await.unwrap_or_else(|_| {
        Err(ClientError::Upgrade {
            address: address.clone(),
            cause: format!("no answer within {CONNECT_LIMIT:?}"),
        })
    })
}

async fn ask(uri: &Uri, address: &str, socket: TcpStream) -> Result<(TcpStream, Bytes), ClientError> {
    let failed = |cause: String| ClientError::Upgrade { address: address.to_owned(), cause };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|e| failed(e.to_string()))?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::post(path)
        .header(HOST, address)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header("X-Stream-Protocol-Version", "portforward.k8s.io")
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(e.to_string()))?;
    let mut answer = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_REFUSAL).collect().await;
        let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
        return Err(ClientError::Refused { address: address.to_owned(), status, text });
    }
    let upgraded = hyper::upgrade::on(&mut answer).await.map_err(|e| failed(e.to_string()))?;
    take_socket(upgraded).ok_or_else(|| failed("the connection is not a TCP socket".into()))
}

fn take_socket(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}
