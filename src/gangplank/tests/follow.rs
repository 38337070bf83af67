//! Pods of the runtime behind become known by themselves, and their sessions end with them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::cri::CriClient;
use common::runtime::FakeRuntime;
use common::{Daemon, Process, TEST_TIMEOUT, connect, echo, echoes, here};
use k8s_api::cri::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxConfig, PodSandboxMetadata,
    RemovePodSandboxRequest, RunPodSandboxRequest, RunPodSandboxResponse, StopPodSandboxRequest, method,
};
use tonic::{Code, Status};

/// A runtime, the daemon in front of it, and a client.
struct Node {
    daemon: Daemon,
    runtime: FakeRuntime,
    client: CriClient,
}

/// A rule for guests that are this very machine: each sandbox has a link to our own network namespace.
const GUESTS: &str = "[[runtime]]\nhandler = \"vm\"\nendpoint = \"netns://{guests}/{sandbox}\"\n";

impl Node {
    async fn start(cri: &str, more: &str) -> Self {
        Self::start_with(cri, more, |_| ()).await
    }

    /// With sandboxes from before.
    async fn start_with(cri: &str, more: &str, before: impl Fn(&FakeRuntime)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let guests = folder.path().join("guests");
        std::fs::create_dir(&guests).unwrap();
        let runtime = FakeRuntime::start(folder.path().join("runtime.sock"));
        before(&runtime);
        let cri = format!("{}\n{cri}", runtime.upstream());
        let more = more.replace("{guests}", guests.to_str().unwrap());
        let daemon = Daemon::start_in(folder, &cri, &[here("static1", "static")], &more);
        let client = CriClient::of(&daemon.socket()).await;
        Self { daemon, runtime, client }
    }

    fn guests(&self) -> PathBuf {
        self.daemon.folder.path().join("guests")
    }

    /// The guest of a sandbox starts: a way into this very machine.
    fn boots(&self, id: &str) {
        std::os::unix::fs::symlink("/proc/self/ns/net", self.guests().join(id)).unwrap();
    }

    async fn runs(
        &mut self,
        name: &str,
        handler: &str,
        annotations: &[(&str, &str)],
    ) -> Result<String, Status> {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                namespace: "default".into(),
                uid: format!("uid-{name}"),
                attempt: 0,
            }),
            labels: BTreeMap::new(),
            annotations: annotations
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
        };
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
        let answer: RunPodSandboxResponse = self.client.call(method::RUN_POD_SANDBOX, request).await?;
        Ok(answer.pod_sandbox_id)
    }

    async fn stops(&mut self, id: &str) {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.client.call::<_, ()>(method::STOP_POD_SANDBOX, request).await.unwrap();
    }

    async fn removes(&mut self, id: &str) {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.client.call::<_, ()>(method::REMOVE_POD_SANDBOX, request).await.unwrap();
    }

    /// Whose URL the answer to PortForward is: ours, or the runtime's.
    async fn is_forwarded_by(&mut self, id: &str) -> &'static str {
        let url = self.client.forwards(id, &[]).await.unwrap();
        let ours = url.starts_with(&format!("http://{}/portforward/", self.daemon.streaming));
        if ours {
            "us"
        } else if url == format!("http://runtime/{id}") {
            "the runtime"
        } else {
            "nobody"
        }
    }

    /// A session of our own client, with one connection in it that works.
    fn session(&self, pod: &str) -> Session {
        let (client, address) = self.daemon.forward_by_cri(pod, echo());
        let mut connection = connect(address);
        echoes(&mut connection, "hello");
        Session { client, address, connection }
    }
}

struct Session {
    client: Process,
    address: SocketAddr,
    connection: TcpStream,
}

impl Session {
    fn goes_on(&mut self) {
        echoes(&mut self.connection, "still there");
        echoes(&mut connect(self.address), "and new ones too");
    }

    fn ends_with(self, text: &str) {
        self.client.line_with(text);
        let mut connection = self.connection;
        assert!(!connection.read(&mut [0]).is_ok_and(|read| read > 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_reached_from_the_moment_it_runs_and_its_sessions_end_with_it() {
    let mut node = Node::start("", GUESTS).await;
    let id = node.runs("web", "vm", &[]).await.unwrap();
    let (code, message) = node.client.refuses(&id, &[]).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains(&format!("guests/{id} is not there")), "{message}");

    node.boots(&id);
    assert_eq!(node.is_forwarded_by(&id).await, "us");
    assert_eq!(node.is_forwarded_by("web").await, "us", "the beginning of its id will do");
    let mut session = node.session(&id);
    let mut other = node.session("static1");
    session.goes_on();
    node.stops(&id).await;
    session.ends_with(&format!("pod sandbox {id} has stopped"));
    other.goes_on();

    let (code, message) = node.client.refuses(&id, &[]).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("has stopped"), "{message}");
    node.removes(&id).await;
    let (code, message) = node.client.refuses(&id, &[]).await;
    assert_eq!(code, Code::NotFound);
    assert!(message.contains(&format!("{id:?}")), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_running_sandbox_by_the_beginning_of_its_id_ends_its_sessions() {
    let mut node = Node::start("", GUESTS).await;
    let id = node.runs("web", "vm", &[]).await.unwrap();
    node.boots(&id);
    let session = node.session(&id);
    node.removes("we").await;
    session.ends_with(&id);
}

#[tokio::test]
async fn pods_without_a_rule_are_left_to_the_runtime() {
    let mut node = Node::start("", GUESTS).await;
    let id = node.runs("plain", "runc", &[]).await.unwrap();
    assert_eq!(node.is_forwarded_by(&id).await, "the runtime");
    assert_eq!(node.is_forwarded_by("static1").await, "us");
    node.stops(&id).await;
    assert_eq!(node.client.refuses(&id, &[]).await.0, Code::FailedPrecondition);
}

#[tokio::test]
async fn wrong_references_have_their_codes() {
    let mut node = Node::start("", GUESTS).await;
    node.runs("web", "vm", &[]).await.unwrap();
    node.runs("web", "runc", &[]).await.unwrap();
    assert_eq!(node.client.refuses("", &[]).await.0, Code::InvalidArgument);
    assert_eq!(node.client.refuses("nobody", &[]).await.0, Code::NotFound);
    let (code, message) = node.client.refuses("web-", &[]).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("web-1, web-2"), "{message}");
    let failed = node.runs("fails", "vm", &[]).await.unwrap_err();
    assert_eq!((failed.code(), failed.message()), (Code::Internal, "it does not run"));
    assert_eq!(node.client.refuses("fails", &[]).await.0, Code::NotFound);
}

#[tokio::test]
async fn the_runtimes_list_is_the_runtimes() {
    let mut node = Node::start_with("", GUESTS, |runtime| runtime.has("old", "vm")).await;
    let list: ListPodSandboxResponse =
        node.client.call(method::LIST_POD_SANDBOX, ListPodSandboxRequest::default()).await.unwrap();
    let ids: Vec<_> = list.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["old"], "a kubelet would remove pods that it does not know");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_either_side_loses_nothing() {
    let mut node = Node::start_with("", GUESTS, |runtime| runtime.has("old", "vm")).await;
    node.boots("old");
    assert_eq!(node.is_forwarded_by("old").await, "us", "it was there before the daemon");

    let mut session = node.session("old");
    node.runtime.stop();
    session.goes_on();
    assert_eq!(node.is_forwarded_by("old").await, "us", "its guest goes on without the runtime");
    let (code, message) = node.client.refuses("unknown", &[]).await;
    assert_eq!(code, Code::Unavailable, "{message}");

    node.runtime.has("new", "vm");
    node.boots("new");
    node.runtime.restart();
    assert_eq!(node.is_forwarded_by("new").await, "us");
    session.goes_on();

    node.runtime.stop();
    node.runtime.loses("old");
    node.runtime.restart();
    session.ends_with("pod sandbox old has stopped");
    assert_eq!(node.client.refuses("old", &[]).await.0, Code::NotFound);
}

#[tokio::test]
async fn what_changes_behind_our_back_is_noticed_when_it_matters() {
    let mut node = Node::start("", GUESTS).await;
    node.runtime.has("new", "vm");
    node.boots("new");
    assert_eq!(node.is_forwarded_by("new").await, "us");
    node.runtime.loses("new");
    assert_eq!(node.client.refuses("new", &[]).await.0, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_pods_are_dialled_in_the_namespace_that_the_runtime_tells() {
    let mut node = Node::start("netns = true", GUESTS).await;
    for info in [
        r#"{"pid":1,"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"PATH"}]}}}"#
            .replace("PATH", "/proc/self/ns/net"),
        format!(r#"{{"pid":{}}}"#, std::process::id()),
    ] {
        let id = node.runs("plain", "", &[]).await.unwrap();
        node.runtime.tells(&id, &info);
        assert_eq!(node.is_forwarded_by(&id).await, "us");
        let mut session = node.session(&id);
        session.goes_on();
        node.stops(&id).await;
        session.ends_with(&id);
    }
    let silent = node.runs("silent", "", &[]).await.unwrap();
    assert_eq!(node.is_forwarded_by(&silent).await, "the runtime", "its namespace is not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_on_the_nodes_network_are_dialled_in_ours() {
    let mut node = Node::start("netns = true", "").await;
    node.runtime.has_the_nodes_network();
    let id = node.runs("plain", "", &[]).await.unwrap();
    assert_eq!(node.is_forwarded_by(&id).await, "us");
    node.session(&id).goes_on();
}

const ALLOWED: &str = "[annotations]\nallow = true\ndirectory = \"{guests}\"\n";
const KEY: &str = "gangplank/endpoint";

/// The folder of a sandbox with a socket in it on which somebody listens.
fn guest(guests: &Path, id: &str) -> UnixListener {
    let folder = guests.join(id);
    std::fs::create_dir(&folder).unwrap();
    UnixListener::bind(folder.join("r.sock")).unwrap()
}

#[tokio::test]
async fn an_annotation_leads_to_its_own_guest_and_no_other() {
    let mut node = Node::start("", ALLOWED).await;
    let guests = node.guests();
    let victim = guest(&guests, "victim");
    victim.set_nonblocking(true).unwrap();
    let own = format!("unix://{}/{{sandbox}}/r.sock", guests.display());
    let id = node.runs("good", "", &[(KEY, &own)]).await.unwrap();
    let listener = guest(&guests, &id);
    assert_eq!(node.is_forwarded_by(&id).await, "us");
    drop(listener);

    for way in
        ["victim/r.sock", "{sandbox}/../victim/r.sock", "{sandbox}/link.sock", "{sandbox}/folder/r.sock"]
    {
        let endpoint = format!("unix://{}/{way}", guests.display());
        let id = node.runs("bad", "", &[(KEY, &endpoint)]).await.unwrap();
        std::fs::create_dir(guests.join(&id)).unwrap();
        std::os::unix::fs::symlink("../victim/r.sock", guests.join(&id).join("link.sock")).unwrap();
        std::os::unix::fs::symlink("../victim", guests.join(&id).join("folder")).unwrap();
        let (code, message) = node.client.refuses(&id, &[]).await;
        assert_eq!(code, Code::PermissionDenied, "{way}: {message}");
        assert!(message.contains("not in its own folder"), "{message}");
    }
    for endpoint in ["vsock://3:1024", "netns:///proc/self/ns/net", "nonsense"] {
        let id = node.runs("bad", "", &[(KEY, endpoint)]).await.unwrap();
        assert_eq!(node.client.refuses(&id, &[]).await.0, Code::PermissionDenied, "{endpoint}");
    }
    let nobody = victim.accept().expect_err("the victim was reached");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_changes_after_the_session_has_begun_leads_nowhere_either() {
    let mut node = Node::start("", ALLOWED).await;
    let guests = node.guests();
    let victim = guest(&guests, "victim");
    victim.set_nonblocking(true).unwrap();
    let own = format!("unix://{}/{{sandbox}}/r.sock", guests.display());
    let id = node.runs("good", "", &[(KEY, &own)]).await.unwrap();
    let listener = guest(&guests, &id);
    let (client, address) = node.daemon.forward_by_cri(&id, 80);
    drop(listener);
    let socket = guests.join(&id).join("r.sock");
    std::fs::remove_file(&socket).unwrap();
    std::os::unix::fs::symlink("../victim/r.sock", &socket).unwrap();
    let _connection = connect(address);
    let line = client.line_with("gangplank: ");
    assert!(line.contains("not in its own folder"), "{line}");
    assert_eq!(victim.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn an_annotation_counts_for_nothing_unless_that_is_allowed() {
    let mut node = Node::start("", GUESTS).await;
    let guests = node.guests();
    let endpoint = format!("unix://{}/{{sandbox}}/r.sock", guests.display());
    let plain = node.runs("plain", "", &[(KEY, &endpoint)]).await.unwrap();
    let _listener = guest(&guests, &plain);
    assert_eq!(node.is_forwarded_by(&plain).await, "the runtime");
    let ruled = node.runs("ruled", "vm", &[(KEY, &endpoint)]).await.unwrap();
    node.boots(&ruled);
    assert_eq!(node.is_forwarded_by(&ruled).await, "us");
}

#[tokio::test]
async fn a_runtime_that_hangs_does_not_keep_its_guests_from_being_reached() {
    let mut node = Node::start("", GUESTS).await;
    let id = node.runs("web", "vm", &[]).await.unwrap();
    node.boots(&id);
    node.runtime.hangs();
    // crictl gives up after 2 s.
    let url = tokio::time::timeout(TEST_TIMEOUT, node.client.forwards(&id, &[])).await.unwrap();
    assert!(url.unwrap().starts_with(&format!("http://{}/portforward/", node.daemon.streaming)));
}

#[tokio::test]
async fn the_whole_chain_of_codes_survives_a_runtime_that_comes_late() {
    let mut node = Node::start("", GUESTS).await;
    node.runtime.stop();
    let failed = node.runs("web", "vm", &[]).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    node.runtime.restart();
    let id = tokio::time::timeout(TEST_TIMEOUT, node.runs("web", "vm", &[])).await.unwrap().unwrap();
    node.boots(&id);
    assert_eq!(node.is_forwarded_by(&id).await, "us");
}
