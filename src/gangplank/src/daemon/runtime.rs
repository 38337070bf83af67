//! The container runtime behind us: one HTTP/2 connection to its socket, which carries requests unchanged.

mod calls;
mod namespace;

use std::io;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

pub(crate) use self::namespace::network_namespace;
use crate::unix_url::UnixUrl;

/// The longest list of headers or trailers, in bytes: grpc-go's default, because we must not be stricter than it.
pub(crate) const MAX_HEADERS: u32 = 16 << 20;

/// The runtime. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub(crate) struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    socket: UnixUrl,
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    requests: SendRequest<Body>,
    lost: CancellationToken,
}

/// Why a request has no answer. The runtime is at fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// Nothing answers on the socket.
    #[error("cannot reach the container runtime at {socket}: {source}; start it and try again")]
    Unreachable {
        /// The socket.
        socket: UnixUrl,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke, or the runtime aborted the call.
    #[error("the container runtime at {socket} aborted a call: {cause}; check that it runs and try again")]
    Broken {
        /// The socket.
        socket: UnixUrl,
        /// What the protocol says.
        cause: String,
    },
}

impl From<RuntimeError> for Status {
    fn from(error: RuntimeError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl Runtime {
    /// At this socket; it connects when needed.
    pub(crate) fn new(socket: UnixUrl) -> Self {
        Self { inner: Arc::new(Inner { socket, connection: Mutex::default() }) }
    }

    /// Connects if necessary. The token is cancelled when that connection is lost.
    ///
    /// # Errors
    /// If nothing answers on the socket.
    pub(crate) async fn connected(&self) -> Result<CancellationToken, RuntimeError> {
        Ok(self.connection().await?.lost)
    }

    /// Sends a request and returns the head of the answer. Dropping this, or the answer's body, cancels the call.
    ///
    /// # Errors
    /// If the runtime is not reached or does not answer.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, RuntimeError> {
        let mut requests = self.connection().await?.requests;
        let mut error = match requests.try_send_request(request).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // The connection may have ended unnoticed; then the runtime has not seen the request, and it is safe to send it again.
        let Some(unsent) = error.take_message().filter(|_| requests.is_closed()) else {
            return Err(self.broken(error.error()));
        };
        let mut requests = self.connection().await?.requests;
        requests.send_request(unsent).await.map_err(|error| self.broken(&error))
    }

    async fn connection(&self) -> Result<Connection, RuntimeError> {
        let mut current = self.inner.connection.lock().await;
        if let Some(living) = current.as_ref().filter(|connection| !connection.requests.is_closed()) {
            return Ok(living.clone());
        }
        Ok(current.insert(self.connect().await?).clone())
    }

    async fn connect(&self) -> Result<Connection, RuntimeError> {
        let socket = &self.inner.socket;
        let unreachable = |source| RuntimeError::Unreachable { socket: socket.clone(), source };
        let stream = UnixStream::connect(socket.path()).await.map_err(unreachable)?;
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.max_header_list_size(MAX_HEADERS);
        let (requests, driver) =
            http2.handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let lost = CancellationToken::new();
        let ending = lost.clone().drop_guard();
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "the connection to the container runtime failed");
            }
            drop(ending);
        });
        Ok(Connection { requests, lost })
    }

    fn broken(&self, error: &hyper::Error) -> RuntimeError {
        use std::error::Error;
        let cause = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        RuntimeError::Broken { socket: self.inner.socket.clone(), cause }
    }
}
