//! The Kubernetes front: the part of the Kubernetes API, over plain HTTP/1.1, that an unmodified kubectl needs to get pods
//! and to forward their ports.
//!
//! Everything except port-forward sessions is read-only. A request that is not served gets a `Status` whose message
//! kubectl prints.

mod accept;
mod answer;
mod discovery;
mod objects;
mod origin;
mod ports;
mod route;
mod selector;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gangplank_streaming::Server;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::answer::Refusal;
use self::route::ApiRoute;
use crate::daemon::dial::Dialer;
use crate::daemon::pods::{Pod, Registry};
use crate::listen::accept;

/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

type ApiResponse = Response<Full<Bytes>>;

/// Answers requests to the Kubernetes API.
#[derive(Clone)]
pub(crate) struct KubeApiFront {
    pods: Arc<Registry>,
    streaming: Server<Dialer>,
}

impl KubeApiFront {
    /// A front that answers from `pods`, with sessions of this streaming server.
    pub(crate) fn new(pods: Arc<Registry>, streaming: Server<Dialer>) -> Self {
        Self { pods, streaming }
    }

    /// Serves until `stop`, and returns when the last pending request has been answered. Sessions have been upgraded and do
    /// not count.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            tokio::select! {
                stream = accept(&listener) => {
                    connections.spawn(self.clone().connection(stream, stop.clone()));
                }
                () = stop.cancelled() => break,
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn connection(self, stream: TcpStream, stop: CancellationToken) {
        // Sessions use this socket, and Nagle's algorithm would delay their small frames.
        let _ = stream.set_nodelay(true);
        let client = stream.peer_addr().ok();
        let answer = service_fn(move |mut request: Request<Incoming>| {
            // The streaming server logs it when a session opens and closes.
            if let Some(client) = client {
                request.extensions_mut().insert(client);
            }
            let front = self.clone();
            async move { Ok::<_, Infallible>(front.answer(request)) }
        });
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let mut connection = pin!(http1.serve_connection(TokioIo::new(stream), answer).with_upgrades());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the Kubernetes API failed");
        }
    }

    fn answer(&self, request: Request<Incoming>) -> ApiResponse {
        tracing::debug!(method = %request.method(), path = request.uri().path(), "Kubernetes API request");
        self.try_answer(request).unwrap_or_else(Refusal::into_response)
    }

    fn try_answer(&self, request: Request<Incoming>) -> Result<ApiResponse, Refusal> {
        // First: a web page must not even learn which pods there are.
        if !origin::is_own(request.headers()) {
            return Err(Refusal::browser());
        }
        match ApiRoute::of(request.method(), request.uri().path())? {
            ApiRoute::PortForward { namespace, name } => {
                let sandbox = Arc::clone(&self.pod(namespace, name)?.id);
                let ports = ports::of_query(request.uri().query().unwrap_or_default())?;
                Ok(self.streaming.port_forward(request, sandbox, ports))
            }
            ApiRoute::Document(document) => Ok(discovery::answer(document)),
            ApiRoute::Objects(wanted) => objects::answer(&self.pods, wanted, &request),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        self.pods.named(namespace, name).ok_or_else(|| Refusal::not_found("pods", name))
    }
}
