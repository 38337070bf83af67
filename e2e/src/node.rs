//! A Kubernetes cluster of two nodes in the namespaces that `e2e/node/alone` makes, with gangplank between each
//! node's kubelet and its runtime.
//!
//! ```text
//! kubectl ── kube-apiserver ─┬─ kubelet ── gangplank ── containerd      pods are containers
//!                 │          └─ kubelet ── gangplank ── guest-runtime   pods are QEMU guests
//!               etcd
//! ```
//!
//! Everything is stock except guest-runtime. There is no scheduler: pods name their node.

mod control;
mod gangplank;
mod kubectl;
mod kubelet;
pub mod recorder;
mod runtime;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

pub use self::control::ControlPlane;
pub use self::gangplank::Gangplank;
pub use self::kubectl::{Kubectl, Transport};
pub use self::kubelet::{Kubelet, Source};
pub use self::runtime::{Kind, Runtime};
use crate::parts::Scratch;
use crate::process::LIMIT;
use crate::services::Service;

/// The address of both nodes and of the API server, set up by `alone`.
const ADDRESS: &str = "10.88.0.1";

/// The one image, built by `e2e/node/build-image`.
const IMAGE: &str = "gangplank.test/pod:1";

/// The RuntimeClass of pods that are guests, and its handler.
const GUEST_CLASS: &str = "guest";

/// The port of a service inside a pod of either kind.
pub fn port(service: Service) -> u16 {
    80 + service as u16
}

/// The running cluster. Dropping it ends it.
pub struct Cluster {
    kubectl: Kubectl,
    nodes: [Node; 2],
    _control: ControlPlane,
    scratch: Scratch,
}

/// A node of the cluster.
pub struct Node {
    /// Asks for pods to run.
    pub kubelet: Kubelet,
    /// Between the two.
    pub gangplank: Gangplank,
    /// Runs it.
    pub runtime: Runtime,
}

impl Cluster {
    /// Starts it, with one pod on each node, named by [`Kind::name`].
    ///
    /// # Panics
    /// If it does not run under `e2e/node/alone`, or a part is missing or does not come up.
    pub fn start() -> Self {
        let scratch = Scratch::new();
        let dir = scratch.path();
        let control = ControlPlane::start(&folder(dir, "control"));
        let kubectl = Kubectl::new(control.config(), &folder(dir, "home"));
        kubectl.create(&format!(
            r#"{{"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {{"name": "{GUEST_CLASS}"}},
                "handler": "{GUEST_CLASS}"}}"#
        ));
        let nodes = Kind::ALL.map(|kind| Node::start(dir, kind, control.config()));
        let cluster = Self { kubectl, nodes, _control: control, scratch };
        cluster.run_pods(&Kind::ALL.map(|kind| (kind, kind.name())));
        cluster
    }

    /// A node.
    pub fn node(&mut self, kind: Kind) -> &mut Node {
        &mut self.nodes[kind as usize]
    }

    /// The client.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Creates pods, all at once, and returns once they run.
    ///
    /// # Panics
    /// If one does not.
    pub fn run_pods(&self, pods: &[(Kind, &str)]) {
        thread::scope(|scope| {
            for &(kind, name) in pods {
                scope.spawn(move || {
                    self.kubectl.create(&manifest(kind, name));
                    self.kubectl.run(&["wait", "--for=condition=Ready", "--timeout=60s", "pod", name]);
                });
            }
        });
    }

    /// Waits until a node's kubelet, which has just been started, knows the node's own pod again.
    ///
    /// # Panics
    /// If it does not within the limit.
    pub fn await_kubelet(&self, kind: Kind) {
        let started = Instant::now();
        let (path, pod) =
            (format!("/api/v1/nodes/{0}/proxy/pods", kind.name()), format!("\"name\":\"{}\"", kind.name()));
        loop {
            let answer = self.kubectl.try_run(&["get", "--raw", &path]);
            if answer.as_ref().is_ok_and(|pods| pods.contains(&pod)) {
                return;
            }
            assert!(started.elapsed() < LIMIT, "the kubelet does not know its pod: {answer:?}");
        }
    }

    /// The logs of all parts, each with its name.
    pub fn logs(&self) -> String {
        let logs = self.nodes.iter().flat_map(|node| {
            [
                ("gangplank", node.gangplank.log()),
                ("kubelet", node.kubelet.log()),
                ("runtime", node.runtime.log()),
            ]
        });
        logs.map(|(name, log)| format!("---- {name} wrote last:\n{}\n", tail(&log))).collect()
    }

    /// A folder for the cluster's files.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }
}

impl Node {
    fn start(dir: &Path, kind: Kind, config: &Path) -> Self {
        let dir = folder(dir, kind.name());
        let runtime = Runtime::start(kind, &dir);
        let gangplank = Gangplank::start(kind, &dir, runtime.socket());
        let kubelet = Kubelet::start(kind, &dir, gangplank.socket(), &Source::ApiServer(config));
        Self { kubelet, gangplank, runtime }
    }
}

/// A pod's manifest, in JSON.
fn manifest(kind: Kind, name: &str) -> String {
    let node = kind.name();
    match kind {
        Kind::Containers => pod(name, &format!(r#""nodeName": "{node}""#)),
        Kind::Guests => pod(name, &format!(r#""nodeName": "{node}", "runtimeClassName": "{GUEST_CLASS}""#)),
    }
}

/// The same for a pod that a kubelet runs without an API server, and so without a RuntimeClass.
pub fn static_manifest() -> String {
    pod("pod", r#""hostname": "pod""#)
}

fn pod(name: &str, place: &str) -> String {
    let base = port(Service::Http);
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{{place},
            "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 1,
            "containers": [{{"name": "pod", "image": "{IMAGE}", "imagePullPolicy": "Never",
                "command": ["/podserver", "--base", "{base}"]}}]}}}}"#
    )
}

/// Creates a new folder in this one.
fn folder(dir: &Path, name: &str) -> PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    folder
}

/// The end of a long log.
fn tail(log: &str) -> &str {
    const LINES: usize = 60;
    let start = log.rmatch_indices('\n').nth(LINES).map_or(0, |(at, _)| at + 1);
    &log[start..]
}
