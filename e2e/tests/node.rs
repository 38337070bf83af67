//! The whole chain: kubectl, API server, kubelet, gangplank, and a runtime of each kind. Run by `make e2e-node`,
//! one after another, because tests restart parts that all of them use.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing helper is a failing test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Instant;

use gangplank_e2e::client::Forward;
use gangplank_e2e::library::Library;
use gangplank_e2e::node::recorder::{Recorder, method};
use gangplank_e2e::node::{self, Cluster, Gangplank, Kind, Kubelet, Runtime, Source, Transport, port};
use gangplank_e2e::parts::{self, Scratch};
use gangplank_e2e::pattern::{Pattern, summary};
use gangplank_e2e::process::Process;
use gangplank_e2e::services::{LATE, PAGE, Service};
use gangplank_e2e::talk;

const MIB: u64 = 1 << 20;

/// Four kubectls at once, one for each kind of pod and each transport; all must still run at the end.
#[test]
fn each_transport_reaches_each_pod_at_once() {
    let cluster = cluster();
    let forward = |kind: Kind, transport| {
        let ports = [Service::Http, Service::Refused, Service::Sink, Service::LateSink].map(port);
        let mut forward = cluster.kubectl().forward(transport, kind.name(), &ports);
        serves_a_page(&forward);
        survives_a_refused_port(&mut forward);
        carries_a_mebibyte_both_ways(&forward);
        answers_after_a_half_close(&forward);
        forward.must_be_alive();
    };
    thread::scope(|scope| {
        for kind in Kind::ALL {
            for transport in [Transport::WebSocket, Transport::Spdy] {
                scope.spawn(move || forward(kind, transport));
            }
        }
    });
}

#[test]
fn library_clients_reach_each_pod_through_the_api_server() {
    let cluster = cluster();
    let ports = [Service::Echo, Service::Http, Service::Refused].map(port);
    for library in Library::ALL {
        thread::scope(|scope| {
            for kind in Kind::ALL {
                let (home, config) = (cluster.dir().join(kind.name()), cluster.kubectl().config());
                scope.spawn(move || library.must_forward(&home, config, kind.name(), ports));
            }
        });
    }
}

fn serves_a_page(forward: &Forward) {
    let page = talk::fetch(forward.connect(port(Service::Http)), "/").unwrap();
    assert_eq!(String::from_utf8_lossy(&page), PAGE);
}

/// The refused connection ends, and the same kubectl goes on to serve the good port.
fn survives_a_refused_port(forward: &mut Forward) {
    talk::assert_ended(forward.connect(port(Service::Refused)).read(&mut [0]));
    serves_a_page(forward);
    forward.must_be_alive();
}

fn carries_a_mebibyte_both_ways(forward: &Forward) {
    let sent = summary(Pattern::new(MIB)).unwrap();
    assert_eq!(talk::upload(forward.connect(port(Service::Sink)), MIB).unwrap(), sent);
    assert_eq!(talk::download(forward.connect(port(Service::Http)), MIB).unwrap(), sent);
}

/// The answer arrives [`LATE`] after the client's end, and it is complete.
fn answers_after_a_half_close(forward: &Forward) {
    let begin = Instant::now();
    let answer = talk::upload(forward.connect(port(Service::LateSink)), 100_000).unwrap();
    assert_eq!(answer, summary(Pattern::new(100_000)).unwrap());
    assert!(begin.elapsed() >= LATE);
}

/// When its pod is deleted, kubectl ends by itself and says why, even with an open connection.
#[test]
fn a_pods_deletion_ends_its_kubectl() {
    let cluster = cluster();
    let doomed = [(Kind::Containers, "doomed-container"), (Kind::Guests, "doomed-guest")];
    cluster.run_pods(&doomed);
    let forwards = doomed.map(|(_, pod)| {
        let forward = cluster.kubectl().forward(Transport::WebSocket, pod, &[port(Service::Echo)]);
        let mut stream = forward.connect(port(Service::Echo));
        talk::echo(&mut stream, b"alive").unwrap();
        (forward, stream)
    });
    cluster.kubectl().run(&["delete", "pod", "--wait=true", "doomed-container", "doomed-guest"]);
    for (forward, mut stream) in forwards {
        talk::assert_ended(stream.read(&mut [0]));
        let told = forward.end();
        assert!(told.contains("lost connection to pod"), "kubectl wrote:\n{told}");
    }
}

/// The kubelet carries the session, so the session and kubectl end with it.
#[test]
fn a_kubelets_restart_ends_its_sessions_and_new_ones_work() {
    let mut cluster = cluster();
    for kind in Kind::ALL {
        let living = Living::of(&cluster, kind);
        cluster.node(kind).kubelet.restart();
        living.has_ended();
        cluster.await_kubelet(kind);
        works_again(&cluster, kind);
    }
}

#[test]
fn a_restart_of_gangplank_ends_its_sessions_and_new_ones_work() {
    let mut cluster = cluster();
    for kind in Kind::ALL {
        let living = Living::of(&cluster, kind);
        cluster.node(kind).gangplank.restart();
        living.has_ended();
        works_again(&cluster, kind);
    }
}

/// No session passes through the runtime.
#[test]
fn a_runtimes_restart_ends_no_session_and_new_ones_work() {
    let mut cluster = cluster();
    for kind in Kind::ALL {
        let mut living = Living::of(&cluster, kind);
        cluster.node(kind).runtime.restart();
        living.goes_on();
        works_again(&cluster, kind);
        living.goes_on();
    }
}

#[test]
fn every_byte_between_a_kubelet_and_containerd_is_the_same_on_both_sides() {
    passes_unchanged(Kind::Containers);
}

#[test]
fn every_byte_between_a_kubelet_and_guest_runtime_is_the_same_on_both_sides() {
    passes_unchanged(Kind::Guests);
}

/// A kubelet runs a pod and ends it, with a recorder on each side of gangplank. Both must record the same, so the
/// runtime and the kubelet see what they would see without gangplank.
fn passes_unchanged(kind: Kind) {
    let scratch = Scratch::new();
    let dir = scratch.path();
    let manifests = dir.join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let runtime = Runtime::start(kind, dir);
    let behind = Recorder::start("behind", dir, runtime.socket());
    let gangplank = Gangplank::start(kind, dir, behind.socket());
    let mut before = Recorder::start("before", dir, gangplank.socket());
    let _kubelet = Kubelet::start(kind, dir, before.socket(), &Source::Folder(&manifests));

    let manifest = manifests.join("pod.json");
    std::fs::write(&manifest, node::static_manifest()).unwrap();
    before.await_calls("a started container", |calls| called("StartContainer", calls));
    std::fs::remove_file(&manifest).unwrap();
    let seen_before = before.await_calls("a stopped sandbox", |calls| called("StopPodSandbox", calls));

    let seen_behind = behind.calls();
    assert_eq!(
        without(&seen_before, &seen_behind),
        [""; 0],
        "calls that did not reach the runtime as they came"
    );
    // The runtime's answers may still be on their way.
    before.await_calls("all that was seen behind", |calls| {
        without(&seen_behind, calls).iter().all(|call| is_gangplanks_own(call))
    });
    let methods: BTreeSet<&str> = seen_before.iter().map(|call| method(call)).collect();
    for needed in ["RunPodSandbox", "CreateContainer", "ContainerStatus", "ListContainers", "StopContainer"] {
        assert!(methods.contains(needed), "the kubelet did not call {needed}");
    }
}

fn called(wanted: &str, calls: &[String]) -> bool {
    calls.iter().any(|call| method(call) == wanted)
}

/// The calls that are missing from the others, each as often as it is missing.
fn without<'a>(calls: &'a [String], others: &[String]) -> Vec<&'a str> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for other in others {
        *left.entry(other).or_default() += 1;
    }
    let missing = calls.iter().filter(|call| match left.get_mut(call.as_str()) {
        Some(count @ 1..) => {
            *count -= 1;
            false
        }
        _ => true,
    });
    missing.map(String::as_str).collect()
}

/// gangplank itself asks the runtime for its sandboxes; the kubelet, which is written in Go, shows in its calls.
fn is_gangplanks_own(call: &str) -> bool {
    ["ListPodSandbox", "PodSandboxStatus"].contains(&method(call)) && !call.contains("[user-agent:grpc-go")
}

/// critest's port-forward cases with each transport, with gangplank in front of containerd.
#[test]
fn critest_passes_with_either_transport() {
    let scratch = Scratch::new();
    let dir = scratch.path();
    let runtime = Runtime::start(Kind::Containers, dir);
    let gangplank = Gangplank::start(Kind::Containers, dir, runtime.socket());
    for websocket in [false, true] {
        let mut critest = Process::start("critest", &parts::cached("bin/critest"), dir, |command| {
            let socket = gangplank.socket().display();
            command.arg(format!("-runtime-endpoint=unix://{socket}"));
            command.arg(format!("-image-endpoint=unix://{socket}"));
            command.arg(format!("-websocket-portforward={websocket}"));
            command.args(["-ginkgo.focus=portforward", "-ginkgo.no-color"]);
        });
        let status = critest.wait();
        let output = critest.output();
        assert!(status.success() && output.contains("2 Passed | 0 Failed"), "critest wrote:\n{output}");
    }
}

/// A kubectl with an open connection.
struct Living {
    forward: Forward,
    stream: TcpStream,
}

impl Living {
    fn of(cluster: &Cluster, kind: Kind) -> Self {
        let forward = cluster.kubectl().forward(Transport::WebSocket, kind.name(), &[port(Service::Echo)]);
        let stream = forward.connect(port(Service::Echo));
        let mut living = Self { forward, stream };
        living.goes_on();
        living
    }

    fn goes_on(&mut self) {
        assert_eq!(talk::echo(&mut self.stream, b"still here").unwrap(), b"still here");
        self.forward.must_be_alive();
    }

    fn has_ended(mut self) {
        talk::assert_ended(self.stream.read(&mut [0]));
        self.forward.end();
    }
}

fn works_again(cluster: &Cluster, kind: Kind) {
    let forward = cluster.kubectl().forward(Transport::WebSocket, kind.name(), &[port(Service::Http)]);
    serves_a_page(&forward);
}

/// The one cluster, for one test at a time.
struct Turn(MutexGuard<'static, Cluster>);

fn cluster() -> Turn {
    static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Mutex::new(Cluster::start()));
    Turn(cluster.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

impl std::ops::Deref for Turn {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl std::ops::DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0.logs());
        }
    }
}
