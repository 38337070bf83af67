//! The CRI front, asked by a gRPC client over its socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::cri::CriClient;
use common::{Daemon, here, not_running};
use k8s_api::cri::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxState, PodSandboxStatusRequest,
    PodSandboxStatusResponse, StatusRequest, StatusResponse, VersionRequest, VersionResponse, method,
};
use tonic::Code;

fn pods() -> [common::PodSection; 3] {
    [here("abc111", "one"), here("abc222", "two"), not_running("def333", "three")]
}

#[tokio::test]
async fn version_and_status_are_what_clients_insist_on() {
    let daemon = Daemon::start(&pods(), "");
    let mut client = CriClient::of(&daemon.socket()).await;
    let version: VersionResponse = client.call(method::VERSION, VersionRequest::default()).await.unwrap();
    assert_eq!((version.version.as_str(), version.runtime_api_version.as_str()), ("0.1.0", "v1"));
    assert!(!version.runtime_name.is_empty() && !version.runtime_version.is_empty());
    let status: StatusResponse = client.call(method::STATUS, StatusRequest::default()).await.unwrap();
    let conditions = status.status.unwrap().conditions;
    let holding: Vec<_> = conditions.iter().filter(|c| c.status).map(|c| c.r#type.as_str()).collect();
    assert_eq!(holding, ["RuntimeReady", "NetworkReady"]);
}

#[tokio::test]
async fn sandboxes_are_listed_with_their_state() {
    let daemon = Daemon::start(&pods(), "");
    let mut client = CriClient::of(&daemon.socket()).await;
    let list: ListPodSandboxResponse =
        client.call(method::LIST_POD_SANDBOX, ListPodSandboxRequest::default()).await.unwrap();
    let states: Vec<_> = list.items.iter().map(|item| (item.id.as_str(), item.state())).collect();
    let (ready, not) = (PodSandboxState::SandboxReady, PodSandboxState::SandboxNotready);
    assert_eq!(states, [("abc111", ready), ("abc222", ready), ("def333", not)]);

    let request = PodSandboxStatusRequest { pod_sandbox_id: "def".into(), verbose: true };
    let status: PodSandboxStatusResponse = client.call(method::POD_SANDBOX_STATUS, request).await.unwrap();
    assert_eq!(status.info["endpoint"], "\"hvsock:///nowhere/v.sock:1024\"");
    let status = status.status.unwrap();
    assert_eq!((status.id.as_str(), status.state()), ("def333", not));
    assert!(status.created_at > 0);
    assert_eq!(status.metadata.unwrap().uid, "uid-def333");
}

#[tokio::test]
async fn a_session_url_is_absolute_and_each_time_another() {
    let daemon = Daemon::start(&pods(), "");
    let mut client = CriClient::of(&daemon.socket()).await;
    let base = format!("http://{}/portforward/", daemon.streaming);
    let mut tokens = Vec::new();
    for reference in ["abc111", "abc1", "one", "default/one"] {
        let url = client.forwards(reference, &[]).await.unwrap();
        tokens.push(url.strip_prefix(&base).expect(&url).to_owned());
    }
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 4);
    assert!(tokens.iter().all(|token| token.len() >= 22), "128 bits are at least 22 characters: {tokens:?}");
}

#[tokio::test]
async fn each_wrong_request_has_its_code_and_sentence() {
    let daemon = Daemon::start(&pods(), "");
    let mut client = CriClient::of(&daemon.socket()).await;
    let missing = (Code::InvalidArgument, "missing required pod_sandbox_id".to_owned());
    assert_eq!(client.refuses("", &[]).await, missing);

    let (code, message) = client.refuses("nobody", &[]).await;
    assert_eq!(code, Code::NotFound);
    assert!(message.contains("\"nobody\""), "{message}");

    let (code, message) = client.refuses("abc", &[]).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("abc111, abc222"), "{message}");

    let (code, message) = client.refuses("def", &[]).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("/nowhere/v.sock is not there"), "{message}");

    assert!(client.forwards("one", &[80; 64]).await.is_ok());
    assert_eq!(client.refuses("one", &[80; 65]).await.0, Code::InvalidArgument);
    assert_eq!(client.refuses("one", &[0]).await.0, Code::InvalidArgument);
    assert_eq!(client.refuses("one", &[65536]).await.0, Code::InvalidArgument);

    let request = PodSandboxStatusRequest { pod_sandbox_id: "nobody".into(), verbose: false };
    let status = client.call::<_, PodSandboxStatusResponse>(method::POD_SANDBOX_STATUS, request).await;
    assert_eq!(status.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_full_token_table_is_exhausted() {
    let daemon = Daemon::start(&pods(), "[limits]\npending_tokens = 2");
    let mut client = CriClient::of(&daemon.socket()).await;
    for _ in 0..2 {
        client.forwards("one", &[]).await.unwrap();
    }
    let exhausted = (Code::ResourceExhausted, "maximum number of in-flight requests exceeded".to_owned());
    assert_eq!(client.refuses("one", &[]).await, exhausted);
}

#[tokio::test]
async fn other_methods_are_unimplemented_with_a_sentence() {
    let daemon = Daemon::start(&pods(), "");
    let mut client = CriClient::of(&daemon.socket()).await;
    for path in [
        "/runtime.v1.RuntimeService/RunPodSandbox",
        "/runtime.v1.RuntimeService/Exec",
        "/runtime.v1.ImageService/ImageFsInfo",
        "/nobody.Knows/This",
    ] {
        let status = client.call::<_, StatusResponse>(path, StatusRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains(path) && status.message().contains("PortForward"), "{status}");
    }
}
