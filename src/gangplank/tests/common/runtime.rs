//! A container runtime to stand behind the daemon: it has sandboxes, and it records what it is asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_api::cri::{
    LinuxPodSandboxStatus, ListPodSandboxResponse, Namespace, NamespaceMode, NamespaceOption, PodSandbox,
    PodSandboxMetadata, PodSandboxState, PodSandboxStatus, PodSandboxStatusRequest, PodSandboxStatusResponse,
    PortForwardRequest, PortForwardResponse, RemovePodSandboxRequest, RunPodSandboxRequest,
    RunPodSandboxResponse, StopPodSandboxRequest, method,
};
use prost::Message;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::body::Body;

/// Paths of unknown methods, named by what they do.
pub const ECHO: &str = "/test.v1.Anything/Echo";
pub const FAIL: &str = "/test.v1.Anything/Fail";
pub const FAIL_AFTER_DATA: &str = "/test.v1.Anything/FailAfterData";
pub const HANG: &str = "/test.v1.Anything/Hang";
pub const HANG_AFTER_DATA: &str = "/test.v1.Anything/HangAfterData";

/// What it was asked, as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedCall {
    pub uri: http::Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

#[derive(Default)]
struct RuntimeState {
    calls: Vec<RecordedCall>,
    sandboxes: Vec<PodSandbox>,
    /// What it tells of each sandbox when it is to be verbose.
    info: BTreeMap<String, String>,
    host_network: bool,
    hangs: bool,
    cancelled: usize,
    runs: usize,
}

type Shared = Arc<Mutex<RuntimeState>>;

/// The runtime. Dropping it ends it with its connections, as a crash would.
pub struct FakeRuntime {
    socket: PathBuf,
    state: Shared,
    tasks: Option<JoinSet<()>>,
}

/// What tests do with it.
impl FakeRuntime {
    pub fn start(socket: PathBuf) -> Self {
        let mut runtime = Self { socket, state: Shared::default(), tasks: None };
        runtime.restart();
        runtime
    }

    pub fn stop(&mut self) {
        self.tasks = None;
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Starts again with all its sandboxes.
    pub fn restart(&mut self) {
        self.stop();
        let listener = UnixListener::bind(&self.socket).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&self.state)));
        self.tasks = Some(tasks);
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The line of `[cri]` that puts the daemon in front of it.
    pub fn upstream(&self) -> String {
        format!("upstream = \"unix://{}\"", self.socket.display())
    }

    /// Makes a sandbox that runs, without telling the daemon.
    pub fn has(&self, id: &str, handler: &str) {
        self.state().sandboxes.push(sandbox(id, handler, BTreeMap::new()));
    }

    /// Loses a sandbox, without telling the daemon.
    pub fn loses(&self, id: &str) {
        self.state().sandboxes.retain(|sandbox| sandbox.id != id);
    }

    /// Tells this of a sandbox.
    pub fn tells(&self, id: &str, info: &str) {
        self.state().info.insert(id.into(), info.into());
    }

    pub fn has_the_nodes_network(&self) {
        self.state().host_network = true;
    }

    /// From now on it answers nothing.
    pub fn hangs(&self) {
        self.state().hangs = true;
    }

    /// What it was asked at this path.
    pub fn calls(&self, path: &str) -> Vec<RecordedCall> {
        self.state().calls.iter().filter(|call| call.uri.path() == path).cloned().collect()
    }

    /// How often it was asked at this path.
    pub fn count(&self, path: &str) -> usize {
        self.state().calls.iter().filter(|call| call.uri.path() == path).count()
    }

    /// How many calls have been broken off before it had answered.
    pub fn cancelled(&self) -> usize {
        self.state().cancelled
    }

    fn state(&self) -> MutexGuard<'_, RuntimeState> {
        self.state.lock().unwrap()
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        self.stop();
    }
}

fn sandbox(id: &str, handler: &str, annotations: BTreeMap<String, String>) -> PodSandbox {
    PodSandbox {
        id: id.into(),
        metadata: Some(PodSandboxMetadata {
            name: format!("pod-{id}"),
            uid: format!("uid-{id}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        state: PodSandboxState::SandboxReady.into(),
        created_at: 1_700_000_000_000_000_000,
        labels: BTreeMap::new(),
        annotations,
        runtime_handler: handler.into(),
    }
}

async fn accept(listener: UnixListener, state: Shared) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(answer(request, &state).await) }
        });
        connections.spawn(async move {
            let mut http2 = http2::Builder::new(TokioExecutor::new());
            // As grpc-go serves.
            http2.max_header_list_size(16 << 20).max_concurrent_streams(None).auto_date_header(false);
            let _ = http2.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Counts a call that is dropped before it is defused.
struct Bomb(Option<Shared>);

impl Drop for Bomb {
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            state.lock().unwrap().cancelled += 1;
        }
    }
}

async fn answer(request: Request<Incoming>, state: &Shared) -> Response<Body> {
    let mut bomb = Bomb(Some(Arc::clone(state)));
    if request.uri().path() == ECHO {
        bomb.0 = None;
        return echo(request, Arc::clone(state));
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Status::cancelled("").into_http() };
    let trailers = body.trailers().cloned();
    let call =
        RecordedCall { uri: parts.uri.clone(), headers: parts.headers, body: body.to_bytes(), trailers };
    state.lock().unwrap().calls.push(call.clone());
    let hangs = state.lock().unwrap().hangs;
    match parts.uri.path() {
        _ if hangs => std::future::pending().await,
        HANG => std::future::pending().await,
        HANG_AFTER_DATA => {
            let (mut sender, body): (Sender<Bytes>, Channel<Bytes>) = Channel::new(1);
            tokio::spawn(async move {
                let _ = sender.send_data(Bytes::from_static(b"\0\0\0\0\x01x")).await;
                // The next piece finds no room, and then no reader.
                while sender.send_data(Bytes::from(vec![0; 1 << 20])).await.is_ok() {}
                drop(bomb);
            });
            return head(body);
        }
        _ => bomb.0 = None,
    }
    match parts.uri.path() {
        FAIL => failure().into_http(),
        FAIL_AFTER_DATA => fails_after_data(),
        path => cri(path, &call.body, &mut state.lock().unwrap()).unwrap_or_else(Status::into_http),
    }
}

fn head<B>(body: B) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answer = Response::builder().header("content-type", "application/grpc+strange");
    answer.header("x-from-runtime", "head").header("x-bytes-bin", "AAEC").body(Body::new(body)).unwrap()
}

fn trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static("a%20sentence%25"));
    trailers.insert("grpc-status-details-bin", HeaderValue::from_static("CAUSA2Zvbw"));
    trailers.append("x-twice", HeaderValue::from_static("one"));
    trailers.append("x-twice", HeaderValue::from_static("two"));
    trailers
}

/// Gives back every piece as it comes, and then trailers.
fn echo(request: Request<Incoming>, state: Shared) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let (sender, back) = Channel::new(1);
    tokio::spawn(async move {
        let mut call =
            RecordedCall { uri: parts.uri, headers: parts.headers, body: Bytes::new(), trailers: None };
        let received = echo_pieces(body, sender, &mut call).await;
        call.body = received.into();
        state.lock().unwrap().calls.push(call);
    });
    head(back)
}

async fn echo_pieces(mut body: Incoming, mut sender: Sender<Bytes>, call: &mut RecordedCall) -> Vec<u8> {
    let mut received = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => {
                received.extend_from_slice(&data);
                let _ = sender.send_data(data).await;
            }
            Err(frame) => call.trailers = frame.into_trailers().ok(),
        }
    }
    let _ = sender.send_trailers(trailers("0")).await;
    received
}

fn failure() -> Status {
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert("x-why", "because".parse().unwrap());
    let details = Bytes::from(vec![7; 40_000]);
    Status::with_details_and_metadata(tonic::Code::NotFound, "no such thing", details, metadata)
}

fn fails_after_data() -> Response<Body> {
    let (mut sender, body): (Sender<Bytes>, Channel<Bytes>) = Channel::new(1);
    tokio::spawn(async move {
        sender.send_data(Bytes::from_static(b"\0\0\0\0\x01x")).await.unwrap();
        sender.send_trailers(trailers("13")).await.unwrap();
    });
    head(body)
}

fn cri(path: &str, body: &[u8], state: &mut RuntimeState) -> Result<Response<Body>, Status> {
    match path {
        method::LIST_POD_SANDBOX => one(&ListPodSandboxResponse { items: state.sandboxes.clone() }),
        method::POD_SANDBOX_STATUS => one(&status(&read(body), state)?),
        method::RUN_POD_SANDBOX => one(&run(read(body), state)?),
        method::STOP_POD_SANDBOX => {
            let asked: StopPodSandboxRequest = read(body);
            state.find(&asked.pod_sandbox_id)?.state = PodSandboxState::SandboxNotready.into();
            nothing()
        }
        method::REMOVE_POD_SANDBOX => {
            let asked: RemovePodSandboxRequest = read(body);
            let id = state.find(&asked.pod_sandbox_id)?.id.clone();
            state.sandboxes.retain(|sandbox| sandbox.id != id);
            nothing()
        }
        method::PORT_FORWARD => {
            let asked: PortForwardRequest = read(body);
            one(&PortForwardResponse { url: format!("http://runtime/{}", asked.pod_sandbox_id) })
        }
        _ => Err(Status::unimplemented(format!("what is {path}?"))),
    }
}

impl RuntimeState {
    fn find(&mut self, id: &str) -> Result<&mut PodSandbox, Status> {
        let found = self.sandboxes.iter_mut().find(|sandbox| sandbox.id.starts_with(id));
        found.ok_or_else(|| Status::not_found("the runtime has no such sandbox"))
    }
}

fn run(asked: RunPodSandboxRequest, state: &mut RuntimeState) -> Result<RunPodSandboxResponse, Status> {
    let config = asked.config.unwrap();
    let metadata = config.metadata.clone().unwrap();
    if metadata.name == "fails" {
        return Err(Status::internal("it does not run"));
    }
    state.runs += 1;
    let id = format!("{}-{}", metadata.name, state.runs);
    let sandbox = PodSandbox {
        metadata: Some(metadata),
        labels: config.labels,
        ..sandbox(&id, &asked.runtime_handler, config.annotations)
    };
    state.sandboxes.push(sandbox);
    Ok(RunPodSandboxResponse { pod_sandbox_id: id })
}

fn status(
    asked: &PodSandboxStatusRequest,
    state: &mut RuntimeState,
) -> Result<PodSandboxStatusResponse, Status> {
    let network = if state.host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
    let sandbox = state.find(&asked.pod_sandbox_id)?.clone();
    let options = NamespaceOption { network: network.into(), ..NamespaceOption::default() };
    let info = state.info.get(&sandbox.id).filter(|_| asked.verbose).cloned();
    Ok(PodSandboxStatusResponse {
        status: Some(PodSandboxStatus {
            id: sandbox.id,
            metadata: sandbox.metadata,
            state: sandbox.state,
            created_at: sandbox.created_at,
            network: None,
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(options) }) }),
            labels: sandbox.labels,
            annotations: sandbox.annotations,
            runtime_handler: sandbox.runtime_handler,
        }),
        info: info.map(|info| ("info".into(), info)).into_iter().collect(),
    })
}

/// The message of a call.
pub fn read<M: Message + Default>(body: &[u8]) -> M {
    M::decode(&body[5..]).unwrap()
}

/// A message as gRPC sends it.
pub fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

fn one(message: &impl Message) -> Result<Response<Body>, Status> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(framed(&message.encode_to_vec())).with_trailers(async { Some(Ok(trailers)) });
    Ok(Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap())
}

fn nothing() -> Result<Response<Body>, Status> {
    one(&())
}
