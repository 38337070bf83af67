//! The CRI front: CRI v1 by gRPC on a Unix socket, answered from the registry.
//!
//! One service has every path. Those of our own methods are decoded; any other request is still untouched when
//! it reaches the last arm of [`Front::answer`].

mod messages;

use std::convert::Infallible;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_api::cri::{
    ListPodSandboxRequest, PodSandboxStatusRequest, PortForwardRequest, PortForwardResponse, StatusRequest,
    VersionRequest, method,
};
use prost::Message;
use streaming::{Server, TokenError};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::dial::Dialer;
use crate::listen::UnixSocket;
use crate::pods::{LookupError, Pod, Registry};

/// Answers CRI calls.
#[derive(Clone)]
pub(crate) struct Front {
    pods: Arc<Registry>,
    streaming: Server<Dialer>,
    /// The beginning of the streaming server's URLs.
    base: Arc<str>,
}

impl Front {
    /// Answers from `pods`, with sessions of the streaming server that listens at `base` (`http://HOST:PORT`).
    pub(crate) fn new(pods: Arc<Registry>, streaming: Server<Dialer>, base: &str) -> Self {
        Self { pods, streaming, base: base.into() }
    }

    /// Serves until `stop`; then the socket's file goes at once, and this ends with the last call under way.
    pub(crate) async fn serve(self, socket: UnixSocket, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            tokio::select! {
                stream = socket.accept() => {
                    connections.spawn(self.clone().connection(stream, stop.clone()));
                }
                () = stop.cancelled() => break,
            }
        }
        drop(socket);
        connections.close();
        connections.wait().await;
    }

    async fn connection(self, stream: UnixStream, stop: CancellationToken) {
        let answer = service_fn(move |request| {
            let front = self.clone();
            async move { Ok::<_, Infallible>(front.answer(request).await) }
        });
        let http2 = http2::Builder::new(TokioExecutor::new());
        let mut connection = pin!(http2.serve_connection(TokioIo::new(stream), answer));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a CRI connection ended badly");
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        tracing::debug!(path = request.uri().path(), "CRI call");
        match request.uri().path() {
            method::VERSION => unary(request, |_: VersionRequest| Ok(messages::version())).await,
            method::STATUS => unary(request, |_: StatusRequest| Ok(messages::status())).await,
            method::LIST_POD_SANDBOX => {
                unary(request, move |asked: ListPodSandboxRequest| {
                    Ok(messages::list(&self.pods, asked.filter))
                })
                .await
            }
            method::POD_SANDBOX_STATUS => {
                unary(request, move |asked: PodSandboxStatusRequest| {
                    let pod = self.pod(&asked.pod_sandbox_id)?;
                    Ok(messages::sandbox_status(pod, asked.verbose))
                })
                .await
            }
            method::PORT_FORWARD => {
                unary(request, move |asked| self.port_forward(&asked).inspect_err(|why| refused(&asked, why)))
                    .await
            }
            path => not_served(path).into_http(),
        }
    }

    fn port_forward(&self, asked: &PortForwardRequest) -> Result<PortForwardResponse, Status> {
        let pod = self.pod(&asked.pod_sandbox_id)?;
        if let Some(missing) = pod.missing() {
            return Err(Status::failed_precondition(format!(
                "pod sandbox {} is not ready: {} is not there; start the pod and forward again",
                pod.id,
                missing.display()
            )));
        }
        let url = self.streaming.url(&self.base, &pod.id, &asked.port).map_err(no_token)?;
        Ok(PortForwardResponse { url })
    }

    fn pod(&self, id: &str) -> Result<&Pod, Status> {
        if id.is_empty() {
            return Err(Status::invalid_argument("missing required pod_sandbox_id"));
        }
        self.pods.resolve(id).map(AsRef::as_ref).map_err(|error| match error {
            LookupError::NotFound(_) => Status::not_found(error.to_string()),
            LookupError::Ambiguous(..) => Status::invalid_argument(error.to_string()),
        })
    }
}

/// Decodes the one message of a call, lets it be answered, and encodes the answer.
async fn unary<Q, A>(request: Request<Incoming>, answer: impl Fn(Q) -> Result<A, Status>) -> Response<Body>
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
{
    let service = tower::service_fn(|request: tonic::Request<Q>| {
        ready(answer(request.into_inner()).map(tonic::Response::new))
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

fn no_token(error: TokenError) -> Status {
    let code = match error {
        TokenError::Full => Code::ResourceExhausted,
        TokenError::BadPort(_) | TokenError::TooManyPorts(_) => Code::InvalidArgument,
        TokenError::NoRandomness(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

fn refused(asked: &PortForwardRequest, why: &Status) {
    let (sandbox, code) = (&asked.pod_sandbox_id, why.code());
    tracing::info!(sandbox, ?code, reason = why.message(), "a port-forward session was refused");
}

fn not_served(path: &str) -> Status {
    Status::unimplemented(format!(
        "gangplank does not serve {path}: it answers Version, Status, ListPodSandbox, PodSandboxStatus and \
         PortForward of runtime.v1.RuntimeService; ask the pod's own runtime for the rest"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_token_table_is_told_as_kubelets_expect() {
        let status = no_token(TokenError::Full);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "maximum number of in-flight requests exceeded");
    }
}
