//! Calls that pass through to the runtime behind: what arrives there, and what comes back, is what was sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::cri::CriClient;
use common::runtime::{
    ECHO, FAIL, FAIL_AFTER_DATA, FakeRuntime, HANG, HANG_AFTER_DATA, RecordedCall, framed,
};
use common::{Daemon, TEST_TIMEOUT};
use http::{HeaderMap, Request, Response};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_api::cri::{StatusRequest, StatusResponse, VersionRequest, method};
use tokio::net::UnixStream;
use tonic::Code;

/// A method that the runtime answers with an error.
const UNKNOWN: &str = "/test.v1.Anything/Unknown";

/// A runtime, and the daemon in front of it.
struct Node {
    daemon: Daemon,
    runtime: FakeRuntime,
}

impl Node {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::start(folder.path().join("runtime.sock"));
        let daemon = Daemon::start_in(folder, &runtime.upstream(), &[], "");
        Self { daemon, runtime }
    }
}

/// All of an answer.
#[derive(Debug, PartialEq)]
struct WholeAnswer {
    status: http::StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

async fn send<B>(socket: &Path, request: Request<B>) -> Response<Incoming>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    let (mut requests, connection) = http2.max_header_list_size(1 << 20).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // The sender is kept, so that only what a test drops ends the call.
    let answer = requests.send_request(request).await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(TEST_TIMEOUT).await;
        drop(requests);
    });
    answer
}

async fn whole(answer: Response<Incoming>) -> WholeAnswer {
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    WholeAnswer { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers }
}

fn request<B>(path: &str, body: B) -> Request<B> {
    Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc+strange")
        .header("te", "trailers")
        .header("user-agent", "grpc-go/1.75.0")
        .header("grpc-timeout", "119999m")
        .header("grpc-encoding", "gzip")
        .header("x-twice", "one")
        .header("x-twice", "two")
        .header("x-bytes-bin", "AAECAw")
        .header("x-long", "l".repeat(40_000))
        .body(body)
        .unwrap()
}

/// Sends it with and without the daemon in between: both must be the same at both ends.
async fn is_the_same<B>(node: &Node, path: &str, body: impl Fn() -> B) -> (RecordedCall, WholeAnswer)
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let direct = whole(send(node.runtime.socket(), request(path, body())).await).await;
    let through = whole(send(&node.daemon.socket(), request(path, body())).await).await;
    assert_eq!(direct, through);
    let calls = node.runtime.calls(path);
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0], calls[1]);
    (calls[1].clone(), through)
}

#[tokio::test]
async fn bytes_metadata_and_trailers_of_an_unknown_method_are_the_same() {
    let node = Node::start();
    // A compressed message: nobody in between may look into it.
    let body = Bytes::from_static(b"\x01\0\0\0\x03\xff\xfe\xfd");
    let (call, answer) = is_the_same(&node, ECHO, || Full::new(body.clone())).await;
    assert_eq!((&call.body, &answer.body), (&body, &body));
    assert_eq!(call.headers["grpc-timeout"], "119999m");
    assert_eq!(call.headers["te"], "trailers");
    assert_eq!(call.headers["x-long"].len(), 40_000);
    assert_eq!(call.headers.get_all("x-twice").iter().count(), 2);
    assert_eq!(answer.headers["x-from-runtime"], "head");
    let trailers = answer.trailers.unwrap();
    assert_eq!(trailers["grpc-status-details-bin"], "CAUSA2Zvbw");
    assert_eq!(trailers.get_all("x-twice").iter().count(), 2);
}

#[tokio::test]
async fn methods_that_we_know_pass_too_with_fields_that_we_do_not() {
    let node = Node::start();
    let mut message = prost::Message::encode_to_vec(&VersionRequest { version: "x".into() });
    message.extend_from_slice(b"\xba\x06\x03new");
    for path in [
        method::VERSION,
        method::STATUS,
        method::LIST_POD_SANDBOX,
        "/runtime.v1.ImageService/ImageFsInfo",
        "/runtime.v1alpha2.RuntimeService/Version",
    ] {
        let direct =
            whole(send(node.runtime.socket(), request(path, Full::new(framed(&message)))).await).await;
        let through =
            whole(send(&node.daemon.socket(), request(path, Full::new(framed(&message)))).await).await;
        assert_eq!(direct, through);
        // The daemon asks for sandboxes itself, so those of the test are the last ones.
        let calls = node.runtime.calls(path);
        assert_eq!(calls[calls.len() - 1].body, framed(&message), "{path}");
    }
}

#[tokio::test]
async fn streams_flow_both_ways_while_they_are_open() {
    let node = Node::start();
    let (mut sender, body): (Sender<Bytes>, Channel<Bytes>) = Channel::new(1);
    let mut answer = send(&node.daemon.socket(), request(ECHO, body)).await.into_body();
    for n in 0..100u8 {
        let piece = framed(&[n; 100]);
        sender.send_data(piece.clone()).await.unwrap();
        let mut back = Vec::new();
        while back.len() < piece.len() {
            back.extend_from_slice(&answer.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(back, piece, "each message comes back before the next is sent");
    }
    drop(sender);
    let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn twenty_mebibytes_pass_both_ways() {
    let node = Node::start();
    let message: Vec<u8> = (0..20 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let body = framed(&message);
    let (call, answer) = is_the_same(&node, ECHO, || Full::new(body.clone())).await;
    assert!(call.body == body && answer.body == body);
}

#[tokio::test]
async fn an_error_keeps_its_details_alone_and_after_data() {
    let node = Node::start();
    let (_, answer) = is_the_same(&node, FAIL, || Full::new(framed(b""))).await;
    assert_eq!(answer.headers["grpc-status"], "5");
    assert!(answer.headers["grpc-status-details-bin"].len() > 40_000);
    assert_eq!(answer.headers["x-why"], "because");
    let (_, answer) = is_the_same(&node, FAIL_AFTER_DATA, || Full::new(framed(b""))).await;
    assert_eq!(answer.body.len(), 6);
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "13");
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, waiting)
        .await
        .unwrap_or_else(|_| panic!("timed out waiting until {what}"));
}

#[tokio::test]
async fn a_client_that_goes_away_is_gone_for_the_runtime() {
    let node = Node::start();
    let socket = node.daemon.socket();
    let waiting = tokio::spawn(async move { send(&socket, request(HANG, Full::new(framed(b"")))).await });
    until("the call has arrived", || node.runtime.count(HANG) == 1).await;
    assert_eq!(node.runtime.cancelled(), 0);
    waiting.abort();
    until("the call is cancelled", || node.runtime.cancelled() == 1).await;

    let mut answer = send(&node.daemon.socket(), request(HANG_AFTER_DATA, Full::new(framed(b"")))).await;
    answer.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(node.runtime.cancelled(), 1);
    drop(answer);
    until("the answer is cancelled", || node.runtime.cancelled() == 2).await;
}

#[tokio::test]
async fn a_deadline_reaches_the_runtime_and_ends_the_call() {
    let node = Node::start();
    let mut client = CriClient::of(&node.daemon.socket()).await;
    let limit = Duration::from_millis(300);
    let status = client.call_within::<_, StatusResponse>(limit, HANG, StatusRequest::default()).await;
    // tonic's client says Cancelled when its own clock has run out.
    assert!(matches!(status.unwrap_err().code(), Code::Cancelled | Code::DeadlineExceeded));
    assert_eq!(node.runtime.calls(HANG)[0].headers["grpc-timeout"], "300000u");
    until("the runtime hears of it", || node.runtime.cancelled() == 1).await;
}

#[tokio::test]
async fn a_runtime_that_is_down_is_unavailable_until_it_is_back() {
    let mut node = Node::start();
    let mut client = CriClient::of(&node.daemon.socket()).await;
    let mut fails = async || {
        let status = client.call::<_, StatusResponse>(UNKNOWN, StatusRequest::default()).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    assert_eq!(fails().await.0, Code::Unimplemented, "this is the runtime's own answer");
    for _ in 0..2 {
        node.runtime.stop();
        let (code, message) = fails().await;
        assert_eq!(code, Code::Unavailable);
        // The first call may find the connection before its end is noticed.
        assert!(message.contains("runtime.sock") && message.contains("try again"), "{message}");
        node.runtime.restart();
        assert_eq!(fails().await.0, Code::Unimplemented, "the very first call is answered again");
    }
}

#[tokio::test]
async fn a_call_under_way_when_the_runtime_dies_is_unavailable() {
    let mut node = Node::start();
    let socket = node.daemon.socket();
    let waiting = tokio::spawn(async move {
        let mut client = CriClient::of(&socket).await;
        client.call::<_, StatusResponse>(HANG, StatusRequest::default()).await
    });
    until("the call has arrived", || node.runtime.count(HANG) == 1).await;
    node.runtime.stop();
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("aborted a call"), "{}", status.message());
}

#[tokio::test]
async fn many_calls_wait_at_once() {
    let node = Node::start();
    let stream = TokioIo::new(UnixStream::connect(node.daemon.socket()).await.unwrap());
    let (requests, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let mut requests = requests.clone();
        let request = Request::post(format!("http://localhost{HANG}")).body(Full::new(framed(b""))).unwrap();
        calls.spawn(async move { requests.send_request(request).await });
    }
    until("all of them have arrived", || node.runtime.count(HANG) == 300).await;
    let mut client = CriClient::of(&node.daemon.socket()).await;
    let status = client.call::<_, StatusResponse>(UNKNOWN, StatusRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "and another is answered meanwhile");
}
