//! Requests the URL of a port-forward session from a CRI socket.

use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use k8s_api::cri::{PortForwardRequest, PortForwardResponse, method};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::ForwardError;
use crate::unix_url::UnixUrl;

/// How long the call may take. It only looks up a pod.
const LIMIT: Duration = Duration::from_secs(10);

/// The URL of a session with the pod.
///
/// # Errors
/// If nothing listens on the socket, or the server refuses.
pub(super) async fn port_forward(cri: &UnixUrl, pod: &str) -> Result<String, ForwardError> {
    let stream = connect(cri.path()).await?;
    let failed = |error: tonic::transport::Error| ForwardError::Cri {
        socket: cri.path().into(),
        pod: pod.into(),
        cause: error.to_string(),
    };
    // The channel connects once: to the stream that is already open.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    let endpoint = Endpoint::from_static("http://localhost").timeout(LIMIT);
    let channel = endpoint.connect_with_connector(connector).await.map_err(failed)?;
    let refused = |status: tonic::Status| ForwardError::Cri {
        socket: cri.path().into(),
        pod: pod.into(),
        cause: status.message().into(),
    };
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(failed)?;
    let request = tonic::Request::new(PortForwardRequest { pod_sandbox_id: pod.into(), port: vec![] });
    let path = PathAndQuery::from_static(method::PORT_FORWARD);
    let codec = ProstCodec::<PortForwardRequest, PortForwardResponse>::default();
    Ok(grpc.unary(request, path, codec).await.map_err(refused)?.into_inner().url)
}

async fn connect(socket: &Path) -> Result<UnixStream, ForwardError> {
    let failed = |source| ForwardError::Connect { socket: socket.into(), source };
    UnixStream::connect(socket).await.map_err(failed)
}
