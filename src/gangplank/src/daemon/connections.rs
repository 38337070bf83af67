//! The forwarded connections that are open: who has them, what they have moved, and a line for the audit when
//! they have ended. Every front's connections come by here, since all are dialled in one place.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gangplank_dial::Request;
use gangplank_streaming::{DialError, DialErrorKind};
use prometheus_client::metrics::counter::Counter;

use crate::daemon::lost_pods::LostPods;
use crate::daemon::metrics::Metrics;
use crate::daemon::pods::Pod;

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

/// The connections that are open.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<BTreeMap<u64, Arc<Flow>>>,
    next: AtomicU64,
}

impl Connections {
    /// In the order in which they were dialled.
    pub(crate) fn open(&self) -> Vec<Arc<Flow>> {
        self.lock().values().cloned().collect()
    }

    /// How many lead into this pod.
    pub(crate) fn open_to(&self, pod: &str) -> usize {
        self.lock().values().filter(|flow| &*flow.pod.id == pod).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Flow>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a dial and its connection are entered into. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    pub(crate) connections: Arc<Connections>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lost: Arc<LostPods>,
}

impl Accounts {
    /// A dial begins. [`Dialing::connected`] or [`Dialing::failed`] says what came of it.
    pub(crate) fn dialing(&self, caller: Caller, pod: Arc<Pod>, request: &Request) -> Dialing {
        let flow = Flow {
            id: self.connections.next.fetch_add(1, Relaxed),
            caller,
            pod,
            container: request.container.clone(),
            address: request.to_string(),
            begun: Instant::now(),
            to_pod: AtomicU64::new(0),
            from_pod: AtomicU64::new(0),
        };
        Dialing { flow: Arc::new(flow), accounts: self.clone(), is_over: false }
    }

    /// Unless another connection into the pod is open: then its guest lives, too.
    fn may_be_lost(&self, pod: &Arc<Pod>) {
        if self.connections.open_to(&pod.id) == 0 {
            self.lost.add(pod);
        }
    }
}

/// A dial under way. If it is dropped without a result, its caller has left.
#[derive(Debug)]
pub(crate) struct Dialing {
    flow: Arc<Flow>,
    accounts: Accounts,
    is_over: bool,
}

impl Dialing {
    /// The dial has succeeded. The meter counts what the connection moves.
    pub(crate) fn connected(mut self) -> Meter {
        self.is_over = true;
        let (flow, accounts) = (Arc::clone(&self.flow), self.accounts.clone());
        let (metrics, kind) = (&accounts.metrics, flow.pod.route.kind());
        metrics.dialled(kind, "ok", flow.begun.elapsed());
        metrics.opened(kind);
        let [to_pod, from_pod] = metrics.bytes(kind);
        accounts.lost.remove(&flow.pod.id);
        accounts.connections.lock().insert(flow.id, Arc::clone(&flow));
        Meter {
            flow,
            accounts,
            connected: Some(Instant::now()),
            to_pod,
            from_pod,
            result: "ok",
            cause: String::new(),
            is_cut_off: false,
        }
    }

    /// The dial has failed.
    pub(crate) fn failed(mut self, error: &DialError) {
        if error.kind == DialErrorKind::Relay {
            self.accounts.may_be_lost(&self.flow.pod);
        }
        self.end(error.kind.name(), &error.cause);
    }

    fn end(&mut self, result: &'static str, cause: &str) {
        self.is_over = true;
        self.accounts.metrics.dialled(self.flow.pod.route.kind(), result, self.flow.begun.elapsed());
        audit(&self.flow, result, cause);
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        if !self.is_over {
            self.end("abandoned", "the caller left before the port answered");
        }
    }
}

/// Counts what an open connection moves. Dropped when that ends.
#[derive(Debug)]
pub(crate) struct Meter {
    flow: Arc<Flow>,
    accounts: Accounts,
    /// When it was connected, until the pod's first byte has come.
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
                self.accounts.metrics.first_byte(kind, connected.elapsed());
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
        self.accounts.connections.lock().remove(&self.flow.id);
        self.accounts.metrics.closed(self.flow.pod.route.kind(), self.result);
        if self.is_cut_off {
            self.accounts.may_be_lost(&self.flow.pod);
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
