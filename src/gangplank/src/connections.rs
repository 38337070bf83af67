//! The forwarded connections that are open: who has them, what they have moved, and a line for the audit when
//! they have ended. Every front's connections come by here, since all are dialled in one place.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use streaming::{DialError, DialErrorKind};

use crate::dial::{Lost, Request};
use crate::metrics::Metrics;
use crate::pods::Pod;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A client of the streaming server, which is where the connection came from.
    Client(Option<SocketAddr>),
    /// A process on this machine that called by JSON-RPC.
    Process {
        /// Its user.
        uid: u32,
        /// Its id, unless it was in another PID namespace.
        pid: Option<i32>,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(Some(address)) => write!(f, "client {address}"),
            Self::Client(None) => f.write_str("a client"),
            Self::Process { uid, pid: Some(pid) } => write!(f, "uid {uid} pid {pid}"),
            Self::Process { uid, pid: None } => write!(f, "uid {uid}"),
        }
    }
}

/// One connection: who, where to, and how much so far.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: u64,
    pub(crate) caller: Caller,
    pub(crate) pod: Arc<Pod>,
    /// The container that it leads into; empty for the pod itself.
    pub(crate) container: String,
    /// As it was asked for, with the network where that is not tcp.
    pub(crate) address: String,
    pub(crate) begun: Instant,
    to_pod: AtomicU64,
    from_pod: AtomicU64,
}

impl Flow {
    /// Bytes to the pod and from it.
    pub(crate) fn moved(&self) -> (u64, u64) {
        (self.to_pod.load(Relaxed), self.from_pod.load(Relaxed))
    }
}

/// All that are open.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<BTreeMap<u64, Arc<Flow>>>,
    next: AtomicU64,
    metrics: Metrics,
    lost: Lost,
}

impl Connections {
    /// What they count.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The pods whose guests seem to be gone.
    pub(crate) fn lost(&self) -> &Lost {
        &self.lost
    }

    /// Unless another connection lives: then the guest does, too.
    fn may_be_lost(&self, pod: &Arc<Pod>) {
        if self.open_to(&pod.id) == 0 {
            self.lost.add(pod);
        }
    }

    /// Those that are open, in the order in which they were dialled.
    pub(crate) fn open(&self) -> Vec<Arc<Flow>> {
        self.lock().values().cloned().collect()
    }

    /// How many lead into this pod.
    pub(crate) fn open_to(&self, pod: &str) -> usize {
        self.lock().values().filter(|flow| &*flow.pod.id == pod).count()
    }

    /// A dial has begun. Say what came of it by [`Dialing::connected`] or [`Dialing::failed`].
    pub(crate) fn dialing(self: &Arc<Self>, caller: Caller, pod: Arc<Pod>, request: &Request) -> Dialing {
        let flow = Flow {
            id: self.next.fetch_add(1, Relaxed),
            caller,
            pod,
            container: request.container.clone(),
            address: request.to_string(),
            begun: Instant::now(),
            to_pod: AtomicU64::new(0),
            from_pod: AtomicU64::new(0),
        };
        Dialing { flow: Some(Arc::new(flow)), connections: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Flow>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A dial under way. Dropped without a result, its caller has left.
#[derive(Debug)]
pub(crate) struct Dialing {
    flow: Option<Arc<Flow>>,
    connections: Arc<Connections>,
}

impl Dialing {
    /// It is connected; what it gives counts.
    pub(crate) fn connected(mut self) -> Option<Meter> {
        // There until one of the two ways in which this is consumed.
        let flow = self.flow.take()?;
        let (metrics, kind) = (self.connections.metrics(), flow.pod.route.kind());
        metrics.dialled(kind, "ok", flow.begun.elapsed());
        metrics.opened(kind);
        self.connections.lost.remove(&flow.pod.id);
        let [to_pod, from_pod] = metrics.bytes(kind);
        self.connections.lock().insert(flow.id, Arc::clone(&flow));
        Some(Meter {
            flow,
            connections: Arc::clone(&self.connections),
            connected: Some(Instant::now()),
            to_pod,
            from_pod,
            result: "ok",
            cause: String::new(),
            is_cut_off: false,
        })
    }

    /// It has failed.
    pub(crate) fn failed(mut self, error: &DialError) {
        if let Some(flow) = self.flow.take() {
            if error.kind == DialErrorKind::Relay {
                self.connections.may_be_lost(&flow.pod);
            }
            self.end(&flow, error.kind.name(), &error.cause);
        }
    }

    fn end(&self, flow: &Flow, result: &'static str, cause: &str) {
        self.connections.metrics().dialled(flow.pod.route.kind(), result, flow.begun.elapsed());
        audit(flow, result, cause);
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        if let Some(flow) = self.flow.take() {
            self.end(&flow, "abandoned", "the caller left before the port answered");
        }
    }
}

/// Counts what an open connection moves. Dropped when that ends.
#[derive(Debug)]
pub(crate) struct Meter {
    flow: Arc<Flow>,
    connections: Arc<Connections>,
    /// Since when the pod's first byte is awaited.
    connected: Option<Instant>,
    to_pod: Counter,
    from_pod: Counter,
    result: &'static str,
    cause: String,
    /// The way to the pod has ended rather than the pod's side.
    is_cut_off: bool,
}

impl Meter {
    /// So much went to the pod and came from it.
    pub(crate) fn moved(&mut self, to_pod: u64, from_pod: u64) {
        if to_pod > 0 {
            self.flow.to_pod.fetch_add(to_pod, Relaxed);
            self.to_pod.inc_by(to_pod);
        }
        if from_pod > 0 {
            self.flow.from_pod.fetch_add(from_pod, Relaxed);
            self.from_pod.inc_by(from_pod);
            if let Some(connected) = self.connected.take() {
                let kind = self.flow.pod.route.kind();
                self.connections.metrics().first_byte(kind, connected.elapsed());
            }
        }
    }

    /// The pod's side failed. Only the first reason counts.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        if self.result == "ok" {
            // A channel whose transport has ended before it: so do guests end, relays and devices.
            self.is_cut_off = error.kind() == io::ErrorKind::UnexpectedEof;
            (self.result, self.cause) = ("failed", error.to_string());
        }
    }

    /// Our side gave it up.
    pub(crate) fn aborted(&mut self) {
        if self.result == "ok" {
            self.result = "aborted";
        }
    }

    /// It is the caller's now, with all that it will move.
    pub(crate) fn handed_over(&mut self) {
        self.result = "handed_over";
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.flow.id);
        self.connections.metrics().closed(self.flow.pod.route.kind(), self.result);
        if self.is_cut_off {
            self.connections.may_be_lost(&self.flow.pod);
        }
        audit(&self.flow, self.result, &self.cause);
    }
}

/// One line for each connection that was asked for, on a target of its own.
fn audit(flow: &Flow, result: &str, cause: &str) {
    let (to_pod, from_pod) = flow.moved();
    tracing::info!(
        target: "audit",
        who = %flow.caller, pod = format!("{}/{}", flow.pod.namespace, flow.pod.name), sandbox = &*flow.pod.id,
        container = flow.container, address = flow.address, endpoint = flow.pod.route.kind(), bytes_to_pod = to_pod,
        bytes_from_pod = from_pod, seconds = flow.begun.elapsed().as_secs_f64(), result, cause,
        "connection"
    );
}
