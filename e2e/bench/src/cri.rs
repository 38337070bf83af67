//! A CRI client, and the call that returns a streaming URL.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tower::service_fn;

use crate::error::{Doing, Error, Result};

const PORT_FORWARD: &str = "/runtime.v1.RuntimeService/PortForward";

/// `runtime.v1.PortForwardRequest`, with the fields that SPDY clients set.
#[derive(Clone, PartialEq, prost::Message)]
struct PortForwardRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

/// `runtime.v1.PortForwardResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct PortForwardResponse {
    #[prost(string, tag = "1")]
    url: String,
}

/// Asks the daemon behind a CRI socket for a streaming URL of a sandbox.
pub(crate) fn streaming_url(socket: &Path, sandbox: &str) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.doing("starting a runtime")?.block_on(ask(socket, sandbox));
    answer.map_err(|source| Error::Cri { socket: socket.display().to_string(), source: Box::new(source) })
}

async fn ask(socket: &Path, sandbox: &str) -> std::result::Result<String, Status> {
    let channel = connect(socket).await.map_err(|e| Status::unavailable(format!("{e:?}")))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let request = Request::new(PortForwardRequest { pod_sandbox_id: sandbox.into() });
    let path = PathAndQuery::from_static(PORT_FORWARD);
    let codec = tonic_prost::ProstCodec::<PortForwardRequest, PortForwardResponse>::default();
    Ok(grpc.unary(request, path, codec).await?.into_inner().url)
}

/// Connects to the socket.
pub(crate) async fn connect(socket: &Path) -> std::result::Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is required but never used, because the connector dials the socket.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}
