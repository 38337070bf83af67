//! The open connections into pods: whose they are, how much they have moved, and an audit line when they have ended.
//! All fronts' connections are here, because all are dialled in one place.
//!
//! ```text
//! Accounts::dialing ──► PendingDial ──connected──► Meter ──dropped──► audit line
//!                            └──failed, dropped──► audit line
//! ```

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

/// The caller for which a connection was dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A client of the streaming server, with its address.
    Client(Option<SocketAddr>),
    /// A process on this machine that called JSON-RPC.
    Process {
        /// Its user.
        uid: u32,
        /// Its id, unless it is in another PID namespace.
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

/// One connection: who dialled, where it leads, and how much it has moved.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: u64,
    pub(crate) caller: Caller,
    pub(crate) pod: Arc<Pod>,
    /// The container it leads into; empty for the pod itself.
    pub(crate) container: String,
    /// The address as requested, with the network unless that is tcp.
    pub(crate) address: String,
    pub(crate) begun: Instant,
    to_pod: AtomicU64,
    from_pod: AtomicU64,
}

impl Flow {
    /// Bytes moved to the pod, and from it.
    pub(crate) fn moved(&self) -> (u64, u64) {
        (self.to_pod.load(Relaxed), self.from_pod.load(Relaxed))
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
pub(crate) struct OpenConnections {
    open: Mutex<BTreeMap<u64, Arc<Flow>>>,
    next: AtomicU64,
}

impl OpenConnections {
    /// All of them, in the order in which they were dialled.
    pub(crate) fn open(&self) -> Vec<Arc<Flow>> {
        self.lock().values().cloned().collect()
    }

    /// How many lead into the pod with this id.
    pub(crate) fn open_to(&self, pod: &str) -> usize {
        self.lock().values().filter(|flow| &*flow.pod.id == pod).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Flow>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where dials and connections are recorded. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    pub(crate) connections: Arc<OpenConnections>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lost: Arc<LostPods>,
}

impl Accounts {
    /// Records that a dial begins. [`PendingDial::connected`] or [`PendingDial::failed`] records its result.
    pub(crate) fn dialing(&self, caller: Caller, pod: Arc<Pod>, request: &Request) -> PendingDial {
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
        PendingDial { flow: Arc::new(flow), accounts: self.clone(), is_over: false }
    }

    /// Counts the pod as lost, unless another connection into it is open, which shows that its guest is alive.
    fn may_be_lost(&self, pod: &Arc<Pod>) {
        if self.connections.open_to(&pod.id) == 0 {
            self.lost.add(pod);
        }
    }
}

/// A dial that has no result yet. If it is dropped without one, its caller has left.
#[derive(Debug)]
pub(crate) struct PendingDial {
    flow: Arc<Flow>,
    accounts: Accounts,
    is_over: bool,
}

impl PendingDial {
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

impl Drop for PendingDial {
    fn drop(&mut self) {
        if !self.is_over {
            self.end("abandoned", "the caller left before the port answered");
        }
    }
}

/// Counts what an open connection moves. Drop it when the connection ends.
#[derive(Debug)]
pub(crate) struct Meter {
    flow: Arc<Flow>,
    accounts: Accounts,
    /// When it was connected; `None` once the pod's first byte has come.
    connected: Option<Instant>,
    to_pod: Counter,
    from_pod: Counter,
    result: &'static str,
    cause: String,
    /// The transport to the pod was lost, and not only this connection.
    is_cut_off: bool,
}

impl Meter {
    /// Counts bytes to the pod and from it.
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

    /// The pod's side failed. Only the first result counts.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        if self.result == "ok" {
            // The transport ended before the channel did: the guest, its relay or its device is gone.
            self.is_cut_off = error.kind() == io::ErrorKind::UnexpectedEof;
            (self.result, self.cause) = ("failed", error.to_string());
        }
    }

    /// The caller's side gave up the connection.
    pub(crate) fn aborted(&mut self) {
        if self.result == "ok" {
            self.result = "aborted";
        }
    }

    /// The caller has taken over the socket. What moves from now on is not counted.
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

/// Logs one line for each connection that was requested, under the target `audit`.
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
