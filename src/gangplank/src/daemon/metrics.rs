//! What is counted, and the page that shows it: Prometheus' text format.
//!
//! No label has more values than this program knows beforehand: kinds of endpoints, results, directions, methods.

mod server;

use std::time::Duration;

use gangplank_streaming::Snapshot;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub(crate) use self::server::Page;

/// From half a millisecond, a dial on this machine, to the longest that a dial may take.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    endpoint: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dial {
    endpoint: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bytes {
    endpoint: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

/// All that is counted outside the streaming server.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    dials: Family<Dial, Counter>,
    dial_seconds: Family<OfKind, Histogram>,
    first_byte_seconds: Family<OfKind, Histogram>,
    bytes: Family<Bytes, Counter>,
    connections_open: Family<OfKind, Gauge>,
    connections: Family<Dial, Counter>,
    calls: Family<Call, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histograms = || Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        Self {
            dials: Family::default(),
            dial_seconds: histograms(),
            first_byte_seconds: histograms(),
            bytes: Family::default(),
            connections_open: Family::default(),
            connections: Family::default(),
            calls: Family::default(),
        }
    }
}

impl Metrics {
    /// A dial has ended so, after this time.
    pub(crate) fn dialled(&self, endpoint: &'static str, result: &'static str, took: Duration) {
        self.dials.get_or_create(&Dial { endpoint, result }).inc();
        self.dial_seconds.get_or_create(&OfKind { endpoint }).observe(took.as_secs_f64());
    }

    /// The pod's first byte came this long after its port was connected.
    pub(crate) fn first_byte(&self, endpoint: &'static str, took: Duration) {
        self.first_byte_seconds.get_or_create(&OfKind { endpoint }).observe(took.as_secs_f64());
    }

    /// A connection has opened.
    pub(crate) fn opened(&self, endpoint: &'static str) {
        self.connections_open.get_or_create(&OfKind { endpoint }).inc();
    }

    /// A connection has ended so.
    pub(crate) fn closed(&self, endpoint: &'static str, result: &'static str) {
        self.connections_open.get_or_create(&OfKind { endpoint }).dec();
        self.connections.get_or_create(&Dial { endpoint, result }).inc();
    }

    /// The counters of bytes to pods and from pods.
    pub(crate) fn bytes(&self, endpoint: &'static str) -> [Counter; 2] {
        ["to_pod", "from_pod"].map(|direction| self.bytes.get_or_create_owned(&Bytes { endpoint, direction }))
    }

    /// A JSON-RPC call has been answered so.
    pub(crate) fn called(&self, method: &'static str, result: &'static str) {
        self.calls.get_or_create(&Call { method, result }).inc();
    }

    /// The whole page.
    pub(crate) fn page(&self, streaming: &Snapshot, pods: usize) -> String {
        let mut registry = Registry::with_prefix("gangplank");
        self.register(&mut registry);
        register_sessions(&mut registry, streaming);
        registry.register("pods", "Pods that are known.", ConstGauge::new(pods as u64));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn register(&self, to: &mut Registry) {
        to.register("dials", "Dials into pods, by what came of them.", self.dials.clone());
        to.register("dial_seconds", "How long dials took, whatever came of them.", self.dial_seconds.clone());
        to.register(
            "first_byte_seconds",
            "How long after a connection was there the pod's first byte came.",
            self.first_byte_seconds.clone(),
        );
        to.register("bytes", "Bytes moved, as they move.", self.bytes.clone());
        to.register(
            "connections_open",
            "Connections into pods that are open.",
            self.connections_open.clone(),
        );
        to.register(
            "connections",
            "Connections into pods that have ended, by how.",
            self.connections.clone(),
        );
        to.register("jsonrpc_calls", "JSON-RPC calls, by what came of them.", self.calls.clone());
    }
}

/// What the streaming server counts itself.
fn register_sessions(to: &mut Registry, streaming: &Snapshot) {
    let gauge = ConstGauge::<u64>::new;
    to.register("sessions_open", "Port-forward sessions that are open.", gauge(streaming.sessions_open));
    to.register(
        "sessions",
        "Port-forward sessions that have been opened.",
        ConstCounter::new(streaming.sessions_total),
    );
    to.register(
        "streams_open",
        "Connections of port-forward sessions that are open or being dialled.",
        gauge(streaming.connections_open),
    );
    to.register(
        "session_held_bytes",
        "Bytes held for pods that do not read, out of each session's budget.",
        gauge(streaming.bytes_held),
    );
    let resets = Family::<Cause, Counter>::default();
    for (kind, count) in &streaming.dials_failed {
        resets.get_or_create(&Cause { cause: kind.name() }).inc_by(*count);
    }
    resets.get_or_create(&Cause { cause: "connection_failed" }).inc_by(streaming.connections_failed);
    resets.get_or_create(&Cause { cause: "stuck" }).inc_by(streaming.streams_stuck);
    to.register(
        "resets",
        "Connections of port-forward sessions that were reset, by why: a failed dial's kind, connection_failed \
         after it was there, or stuck, which is a pod that held up its session.",
        resets,
    );
}
