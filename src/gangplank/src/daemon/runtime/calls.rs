//! Our own calls to the runtime.

use std::time::Duration;

use http::uri::PathAndQuery;
use k8s_api::cri::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxStatusRequest,
    PodSandboxStatusResponse, method,
};
use prost::Message;
use tonic::Status;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use super::Runtime;

/// How long an answer may take. Clients wait meanwhile, crictl for 2 s and kubelets for 2 min.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer, in bytes: a kubelet's limit.
const MAX_ANSWER: usize = 16 << 20;

impl Runtime {
    /// All sandboxes.
    ///
    /// # Errors
    /// The runtime's own error, or Unavailable if it does not answer.
    pub(crate) async fn sandboxes(&self) -> Result<Vec<PodSandbox>, Status> {
        let request = ListPodSandboxRequest::default();
        let answer: ListPodSandboxResponse = self.call(method::LIST_POD_SANDBOX, request).await?;
        Ok(answer.items)
    }

    /// One sandbox, by its full id.
    ///
    /// # Errors
    /// The runtime's own error, or Unavailable if it does not answer.
    pub(crate) async fn sandbox(&self, id: &str, verbose: bool) -> Result<PodSandboxStatusResponse, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose };
        self.call(method::POD_SANDBOX_STATUS, request).await
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let runtime = self.clone();
        let service = tower::service_fn(move |mut request: http::Request<tonic::body::Body>| {
            let runtime = runtime.clone();
            async move {
                absolute(&mut request);
                runtime.send(request).await.map_err(Status::from)
            }
        });
        let mut grpc = Grpc::new(service).max_decoding_message_size(MAX_ANSWER);
        let call = grpc.unary(
            tonic::Request::new(request),
            PathAndQuery::from_static(path),
            ProstCodec::<Q, A>::default(),
        );
        let answer = tokio::time::timeout(LIMIT, call).await.map_err(|_| self.silent())?;
        Ok(answer?.into_inner())
    }

    fn silent(&self) -> Status {
        Status::unavailable(format!(
            "the container runtime at {} has not answered for {} s; check what keeps it busy",
            self.inner.socket,
            LIMIT.as_secs()
        ))
    }
}

/// HTTP/2 needs a scheme and a host; gRPC clients on Unix sockets use localhost.
pub(super) fn absolute<B>(request: &mut http::Request<B>) {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme.get_or_insert(http::uri::Scheme::HTTP);
    parts.authority.get_or_insert_with(|| http::uri::Authority::from_static("localhost"));
    // There is always a path: without one, there would be no method to call.
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
