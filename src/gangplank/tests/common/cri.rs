//! A CRI client.

use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use k8s_api::cri::{PortForwardRequest, PortForwardResponse, method};
use prost::Message;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

pub struct CriClient(Grpc<Channel>);

impl CriClient {
    pub async fn of(socket: &Path) -> Self {
        let socket = socket.to_path_buf();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        Self(Grpc::new(endpoint.connect_with_connector(connector).await.unwrap()))
    }

    pub async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.send(path, tonic::Request::new(request)).await
    }

    /// The same, given up after this long.
    pub async fn call_within<Q, A>(
        &mut self,
        limit: Duration,
        path: &'static str,
        request: Q,
    ) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut request = tonic::Request::new(request);
        request.set_timeout(limit);
        self.send(path, request).await
    }

    async fn send<Q, A>(&mut self, path: &'static str, request: tonic::Request<Q>) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.0.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    pub async fn forwards(&mut self, id: &str, ports: &[i32]) -> Result<String, Status> {
        let request = PortForwardRequest { pod_sandbox_id: id.into(), port: ports.into() };
        self.call(method::PORT_FORWARD, request).await.map(|answer: PortForwardResponse| answer.url)
    }

    pub async fn refuses(&mut self, id: &str, ports: &[i32]) -> (Code, String) {
        let status = self.forwards(id, ports).await.unwrap_err();
        (status.code(), status.message().into())
    }
}
