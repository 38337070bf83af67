//! The CRI front: CRI v1 by gRPC on a Unix socket.
//!
//! One service handles every path. Without a runtime, it answers a few methods from the registry. In front of a runtime,
//! it answers PortForward for the pods that have a route; every other request goes to the runtime frame by frame,
//! whatever it is, and the answer comes back the same way. Copies of the three calls that run, stop and remove
//! sandboxes are read as they pass.
//!
//! ```text
//! kubelet ── CriFront ──┬── PortForward, a pod with a route ── streaming server's URL
//!                       ├── Run-, Stop-, RemovePodSandbox ──── pass::watched ── Follower ── Registry
//!                       └── everything else ────────────────── pass::pass ───── runtime
//! ```

mod copy;
mod follow;
mod forwardable;
mod grpc;
mod lookup;
mod messages;
mod pass;
mod port_forward;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use gangplank_streaming::{Server, TokenError};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_api::cri::{
    ListPodSandboxRequest, PodSandboxStatusRequest, PortForwardRequest, PortForwardResponse, StatusRequest,
    VersionRequest, method,
};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};

pub(crate) use self::follow::Follower;
use self::grpc::unary;
use self::lookup::{not_ready, resolve};
use self::pass::Watched;
use crate::daemon::dial::Dialer;
use crate::daemon::pods::{Pod, Registry};
use crate::daemon::runtime::MAX_HEADERS;
use crate::listen::UnixSocket;

/// Concurrent calls on one connection. grpc-go has no limit, and a kubelet keeps some calls open for hours.
const MAX_CALLS: u32 = 10_000;

/// Answers CRI calls.
#[derive(Clone)]
pub(crate) struct CriFront {
    pods: Arc<Registry>,
    streaming: Server<Dialer>,
    /// The prefix of the streaming server's URLs.
    base: Arc<str>,
    /// The runtime behind us.
    behind: Option<Follower>,
}

impl CriFront {
    /// Answers from `pods`, with sessions of the streaming server that listens at `base` (`http://HOST:PORT`).
    pub(crate) fn new(pods: Arc<Registry>, streaming: Server<Dialer>, base: &str) -> Self {
        Self { pods, streaming, base: base.into(), behind: None }
    }

    /// In front of a runtime.
    pub(crate) fn before(self, runtime: Follower) -> Self {
        Self { behind: Some(runtime), ..self }
    }

    /// Serves until `stop`; then the socket's file is removed at once, and this ends with the last pending call.
    pub(crate) async fn serve(self, socket: UnixSocket, stop: CancellationToken) {
        socket.serve(&stop, |stream| self.clone().connection(stream, stop.clone())).await;
    }

    async fn connection(self, stream: UnixStream, stop: CancellationToken) {
        let answer = service_fn(move |request| {
            let front = self.clone();
            async move { Ok::<_, Infallible>(front.answer(request).await) }
        });
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        // Calls that pass through must not be narrowed or added to.
        http2.max_header_list_size(MAX_HEADERS).max_concurrent_streams(MAX_CALLS).auto_date_header(false);
        let mut connection = pin!(http2.serve_connection(TokioIo::new(stream), answer));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a CRI connection failed");
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        tracing::debug!(path = request.uri().path(), "CRI call");
        let Some(behind) = &self.behind else { return self.answer_alone(request).await };
        match request.uri().path() {
            method::PORT_FORWARD => self.port_forward_before(behind, request).await,
            method::RUN_POD_SANDBOX => behind.watched(Watched::Run, request).await,
            method::STOP_POD_SANDBOX => behind.watched(Watched::Stop, request).await,
            method::REMOVE_POD_SANDBOX => behind.watched(Watched::Remove, request).await,
            _ => behind.pass(request.map(Body::new)).await,
        }
    }

    async fn answer_alone(self, request: Request<Incoming>) -> Response<Body> {
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
                    let pod = resolve(&self.pods, &asked.pod_sandbox_id)?;
                    Ok(messages::sandbox_status(&pod, asked.verbose))
                })
                .await
            }
            method::PORT_FORWARD => {
                unary(request, move |asked: PortForwardRequest| {
                    let pod =
                        resolve(&self.pods, &asked.pod_sandbox_id).inspect_err(|why| refused(&asked, why))?;
                    self.session(&pod, &asked)
                })
                .await
            }
            path => not_served(path).into_http(),
        }
    }

    /// The URL of a session.
    fn session(&self, pod: &Pod, asked: &PortForwardRequest) -> Result<PortForwardResponse, Status> {
        let url = match pod.obstacle() {
            Some(obstacle) => Err(not_ready(pod, &obstacle)),
            None => self.streaming.url(&self.base, &pod.id, &asked.port).map_err(no_token),
        };
        Ok(PortForwardResponse { url: url.inspect_err(|why| refused(asked, why))? })
    }
}

fn no_token(error: TokenError) -> Status {
    let code = match error {
        TokenError::Full => Code::ResourceExhausted,
        TokenError::BadPort(_) | TokenError::TooManyPorts(_) => Code::InvalidArgument,
        TokenError::ShuttingDown => Code::Unavailable,
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
    fn a_full_token_table_is_reported_as_kubelets_expect() {
        let status = no_token(TokenError::Full);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "maximum number of in-flight requests exceeded");
    }
}
