//! The metrics, and their page in Prometheus' text format.
//!
//! All label values are fixed names (kinds of endpoints, results, directions, methods), so the page has a bounded size.

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

pub(crate) use self::server::MetricsPage;

/// The buckets of histograms, in seconds: from a dial on this machine to the longest that a dial may take.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DialLabels {
    endpoint: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    endpoint: &'static str,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// Everything that is counted outside the streaming server.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    dials: Family<DialLabels, Counter>,
    dial_seconds: Family<EndpointLabel, Histogram>,
    first_byte_seconds: Family<EndpointLabel, Histogram>,
    bytes: Family<BytesLabels, Counter>,
    connections_open: Family<EndpointLabel, Gauge>,
    connections: Family<DialLabels, Counter>,
    calls: Family<CallLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histograms = || Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
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
    /// Counts a dial with its result and how long it took.
    pub(crate) fn dialled(&self, endpoint: &'static str, result: &'static str, took: Duration) {
        self.dials.get_or_create(&DialLabels { endpoint, result }).inc();
        self.dial_seconds.get_or_create(&EndpointLabel { endpoint }).observe(took.as_secs_f64());
    }

    /// Records how long after the connection the pod's first byte came.
    pub(crate) fn first_byte(&self, endpoint: &'static str, took: Duration) {
        self.first_byte_seconds.get_or_create(&EndpointLabel { endpoint }).observe(took.as_secs_f64());
    }

    /// Counts a connection that has opened.
    pub(crate) fn opened(&self, endpoint: &'static str) {
        self.connections_open.get_or_create(&EndpointLabel { endpoint }).inc();
    }

    /// Counts a connection that has ended, with its result.
    pub(crate) fn closed(&self, endpoint: &'static str, result: &'static str) {
        self.connections_open.get_or_create(&EndpointLabel { endpoint }).dec();
        self.connections.get_or_create(&DialLabels { endpoint, result }).inc();
    }

    /// The counters of bytes to pods, and from pods.
    pub(crate) fn bytes(&self, endpoint: &'static str) -> [Counter; 2] {
        ["to_pod", "from_pod"]
            .map(|direction| self.bytes.get_or_create_owned(&BytesLabels { endpoint, direction }))
    }

    /// Counts a JSON-RPC call with its result.
    pub(crate) fn called(&self, method: &'static str, result: &'static str) {
        self.calls.get_or_create(&CallLabels { method, result }).inc();
    }

    /// The whole page.
    pub(crate) fn page(&self, streaming: &Snapshot, pods: usize) -> String {
        let mut registry = Registry::with_prefix("gangplank");
        self.register(&mut registry);
        register_sessions(&mut registry, streaming);
        registry.register("pods", "Known pods.", ConstGauge::new(pods as u64));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn register(&self, to: &mut Registry) {
        to.register("dials", "Dials into pods, by result.", self.dials.clone());
        to.register("dial_seconds", "How long dials took, whatever their result.", self.dial_seconds.clone());
        to.register(
            "first_byte_seconds",
            "How long after a connection was established the pod's first byte came.",
            self.first_byte_seconds.clone(),
        );
        to.register("bytes", "Bytes moved, counted as they move.", self.bytes.clone());
        to.register("connections_open", "Open connections into pods.", self.connections_open.clone());
        to.register(
            "connections",
            "Connections into pods that have ended, by result.",
            self.connections.clone(),
        );
        to.register("jsonrpc_calls", "JSON-RPC calls, by result.", self.calls.clone());
    }
}

/// The streaming server's own counters.
fn register_sessions(to: &mut Registry, streaming: &Snapshot) {
    let gauge = ConstGauge::<u64>::new;
    to.register("sessions_open", "Open port-forward sessions.", gauge(streaming.sessions_open));
    to.register(
        "sessions",
        "Port-forward sessions opened so far.",
        ConstCounter::new(streaming.sessions_total),
    );
    to.register(
        "streams_open",
        "Connections of port-forward sessions that are open or being dialled.",
        gauge(streaming.connections_open),
    );
    to.register(
        "session_held_bytes",
        "Bytes buffered for pods that do not read, out of the sessions' budgets.",
        gauge(streaming.bytes_held),
    );
    let resets = Family::<CauseLabel, Counter>::default();
    for (kind, count) in &streaming.dials_failed {
        resets.get_or_create(&CauseLabel { cause: kind.name() }).inc_by(*count);
    }
    resets.get_or_create(&CauseLabel { cause: "connection_failed" }).inc_by(streaming.connections_failed);
    resets.get_or_create(&CauseLabel { cause: "stuck" }).inc_by(streaming.streams_stuck);
    to.register(
        "resets",
        "Connections of port-forward sessions that were reset, by cause: the kind of a failed dial, connection_failed \
         for one that failed later, or stuck for a pod that blocked its session.",
        resets,
    );
}
