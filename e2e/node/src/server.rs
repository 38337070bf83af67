//! CRI v1 on a Unix socket: only the methods that a kubelet needs.

use std::convert::Infallible;
use std::io;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_api::cri::{
    API_VERSION, KUBE_API_VERSION, NETWORK_READY, RUNTIME_READY, RuntimeCondition, RuntimeStatus,
    StatusRequest, StatusResponse, VersionRequest, VersionResponse,
};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use crate::messages::{ContainerState, Image, ImageStatusRequest, ImageStatusResponse};
use crate::sandboxes::Sandboxes;

/// Serves until the listener fails.
///
/// # Errors
/// If it does.
pub async fn serve(listener: UnixListener, sandboxes: Sandboxes) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream, sandboxes.clone()));
    }
}

async fn connection(stream: UnixStream, sandboxes: Sandboxes) {
    let answer = service_fn(move |request| {
        let sandboxes = sandboxes.clone();
        async move { Ok::<_, Infallible>(answer(request, sandboxes).await) }
    });
    let http2 = http2::Builder::new(TokioExecutor::new());
    if let Err(error) = http2.serve_connection(TokioIo::new(stream), answer).await {
        eprintln!("guest-runtime: a connection ended badly: {error}");
    }
}

async fn answer(request: Request<Incoming>, all: Sandboxes) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let (service, method) =
        path.strip_prefix("/runtime.v1.").and_then(|path| path.split_once('/')).unwrap_or_default();
    match (service, method) {
        ("RuntimeService", "Version") => unary(request, |_: VersionRequest| Ok(version())).await,
        ("RuntimeService", "Status") => unary(request, |_: StatusRequest| Ok(status())).await,
        ("RuntimeService", "RunPodSandbox") => unary(request, move |asked| all.run(asked)).await,
        ("RuntimeService", "StopPodSandbox") => unary(request, move |asked| all.stop(&asked)).await,
        ("RuntimeService", "RemovePodSandbox") => unary(request, move |asked| all.remove(&asked)).await,
        ("RuntimeService", "ListPodSandbox") => unary(request, move |asked| all.list(asked)).await,
        ("RuntimeService", "PodSandboxStatus") => unary(request, move |asked| all.status(&asked)).await,
        ("RuntimeService", "CreateContainer") => {
            unary(request, move |asked| all.create_container(asked)).await
        }
        ("RuntimeService", "StartContainer") => {
            unary(request, move |asked| all.set_container(&asked, ContainerState::Running)).await
        }
        ("RuntimeService", "StopContainer") => {
            unary(request, move |asked| all.set_container(&asked, ContainerState::Exited)).await
        }
        ("RuntimeService", "RemoveContainer") => {
            unary(request, move |asked| all.remove_container(&asked)).await
        }
        ("RuntimeService", "ListContainers") => unary(request, move |asked| all.containers(asked)).await,
        ("RuntimeService", "ContainerStatus") => {
            unary(request, move |asked| all.container_status(&asked)).await
        }
        ("ImageService", "ImageStatus") => unary(request, |asked| Ok(image(asked))).await,
        ("ImageService", "ImageFsInfo" | "ListImages") => unary(request, |()| Ok(())).await,
        _ => Status::unimplemented(format!("this runtime has no {path}")).into_http(),
    }
}

/// Decodes the one message of a call, waits for the answer, which may take long, and encodes it.
async fn unary<Q, A>(
    request: Request<Incoming>,
    answer: impl FnOnce(Q) -> Result<A, Status> + Clone + Send + 'static,
) -> Response<Body>
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
{
    let service = tower::service_fn(|request: tonic::Request<Q>| {
        let answer = answer.clone();
        async move {
            let answered = tokio::task::spawn_blocking(move || answer(request.into_inner())).await;
            let answered = answered.map_err(|error| Status::internal(error.to_string()))?;
            answered.map(tonic::Response::new)
        }
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

fn version() -> VersionResponse {
    VersionResponse {
        version: KUBE_API_VERSION.into(),
        runtime_name: "guest-runtime".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: API_VERSION.into(),
    }
}

fn status() -> StatusResponse {
    let conditions = [RUNTIME_READY, NETWORK_READY].map(|name| RuntimeCondition {
        r#type: name.into(),
        status: true,
        ..RuntimeCondition::default()
    });
    let status = RuntimeStatus { conditions: conditions.into() };
    StatusResponse { status: Some(status), ..StatusResponse::default() }
}

/// Every image exists: the guest brings its programs.
fn image(asked: ImageStatusRequest) -> ImageStatusResponse {
    let name = asked.image.unwrap_or_default().image;
    ImageStatusResponse { image: Some(Image { id: name.clone(), repo_tags: vec![name], size: 1 }) }
}
