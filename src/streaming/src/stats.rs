//! Counters of the streaming server.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::dial::DialErrorKind;

/// What the server has done since it started. Only grows, but for `sessions_open`.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    sessions_open: AtomicU64,
    sessions_total: AtomicU64,
    connections_total: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    dials_failed: [AtomicU64; DialErrorKind::ALL.len()],
    connections_failed: AtomicU64,
    streams_stuck: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Sessions that are open.
    pub sessions_open: u64,
    /// Sessions that have been opened.
    pub sessions_total: u64,
    /// Connections of ended sessions.
    pub connections_total: u64,
    /// Bytes to pods, of ended sessions.
    pub bytes_sent: u64,
    /// Bytes from pods, of ended sessions.
    pub bytes_received: u64,
    /// Failed dials, by kind.
    pub dials_failed: Vec<(DialErrorKind, u64)>,
    /// Connections that failed after they were established.
    pub connections_failed: u64,
    /// Connections that were reset because they held up their session.
    pub streams_stuck: u64,
}

impl Stats {
    /// The counters now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let dials_failed = DialErrorKind::ALL.iter().zip(&self.dials_failed);
        Snapshot {
            sessions_open: self.sessions_open.load(Relaxed),
            sessions_total: self.sessions_total.load(Relaxed),
            connections_total: self.connections_total.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            dials_failed: dials_failed.map(|(kind, n)| (*kind, n.load(Relaxed))).collect(),
            connections_failed: self.connections_failed.load(Relaxed),
            streams_stuck: self.streams_stuck.load(Relaxed),
        }
    }

    pub(crate) fn session_opened(&self) {
        self.sessions_open.fetch_add(1, Relaxed);
        self.sessions_total.fetch_add(1, Relaxed);
    }

    pub(crate) fn session_closed(&self, connections: u64, sent: u64, received: u64) {
        self.sessions_open.fetch_sub(1, Relaxed);
        self.connections_total.fetch_add(connections, Relaxed);
        self.bytes_sent.fetch_add(sent, Relaxed);
        self.bytes_received.fetch_add(received, Relaxed);
    }

    pub(crate) fn dial_failed(&self, kind: DialErrorKind) {
        self.dials_failed[kind as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_failed(&self) {
        self.connections_failed.fetch_add(1, Relaxed);
    }

    pub(crate) fn stream_stuck(&self) {
        self.streams_stuck.fetch_add(1, Relaxed);
    }
}
