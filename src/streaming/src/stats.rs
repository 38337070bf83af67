//! Counters of the streaming server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::dial::DialErrorKind;

/// What the server has done since it started, but for what the open sessions count themselves. Only grows.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    sessions_total: AtomicU64,
    connections_total: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    dials_failed: [AtomicU64; DialErrorKind::ALL.len()],
    connections_failed: AtomicU64,
    streams_stuck: AtomicU64,
}

/// What one session has moved so far. Its task writes, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    open: AtomicU64,
    connections: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    held: AtomicU64,
}

/// An open session at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its number; no other session of this server ever has it.
    pub id: u64,
    /// Its sandbox.
    pub sandbox: Arc<str>,
    /// Whose it is, where that is known.
    pub client: Option<SocketAddr>,
    /// `"spdy"` or `"tunnel"`.
    pub protocol: &'static str,
    /// How long it has been open.
    pub age: Duration,
    /// Connections that are open or being dialled.
    pub connections_open: u64,
    /// Connections that have been dialled.
    pub connections_total: u64,
    /// Bytes to the pod.
    pub bytes_sent: u64,
    /// Bytes from the pod.
    pub bytes_received: u64,
    /// Bytes held for the pod because it does not read.
    pub bytes_held: u64,
}

/// Who has a session, and since when.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) sandbox: Arc<str>,
    pub(crate) client: Option<SocketAddr>,
    pub(crate) protocol: &'static str,
    pub(crate) begun: Instant,
    pub(crate) counters: Arc<Counters>,
}

impl Live {
    pub(crate) fn info(&self, id: u64) -> SessionInfo {
        let counters = &self.counters;
        SessionInfo {
            id,
            sandbox: self.sandbox.clone(),
            client: self.client,
            protocol: self.protocol,
            age: self.begun.elapsed(),
            connections_open: counters.open.load(Relaxed),
            connections_total: counters.connections.load(Relaxed),
            bytes_sent: counters.sent.load(Relaxed),
            bytes_received: counters.received.load(Relaxed),
            bytes_held: counters.held.load(Relaxed),
        }
    }
}

impl Counters {
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn dialled(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn held(&self, bytes: usize) {
        self.held.store(bytes as u64, Relaxed);
    }

    /// Connections dialled, bytes sent and bytes received.
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        (self.connections.load(Relaxed), self.sent.load(Relaxed), self.received.load(Relaxed))
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Sessions that are open.
    pub sessions_open: u64,
    /// Sessions that have been opened.
    pub sessions_total: u64,
    /// Connections that are open or being dialled.
    pub connections_open: u64,
    /// Connections that have been dialled.
    pub connections_total: u64,
    /// Bytes to pods.
    pub bytes_sent: u64,
    /// Bytes from pods.
    pub bytes_received: u64,
    /// Bytes held for pods that do not read, all sessions together.
    pub bytes_held: u64,
    /// Failed dials, by kind.
    pub dials_failed: Vec<(DialErrorKind, u64)>,
    /// Connections that failed after they were established.
    pub connections_failed: u64,
    /// Connections that were reset because they held up their session.
    pub streams_stuck: u64,
}

impl Stats {
    /// The counters now, with those of the sessions that are open.
    pub(crate) fn snapshot<'a>(&self, open: impl Iterator<Item = &'a Counters>) -> Snapshot {
        let mut snapshot = self.of_the_ended();
        for counters in open {
            snapshot.sessions_open += 1;
            snapshot.connections_open += counters.open.load(Relaxed);
            snapshot.connections_total += counters.connections.load(Relaxed);
            snapshot.bytes_sent += counters.sent.load(Relaxed);
            snapshot.bytes_received += counters.received.load(Relaxed);
            snapshot.bytes_held += counters.held.load(Relaxed);
        }
        snapshot
    }

    fn of_the_ended(&self) -> Snapshot {
        let dials_failed = DialErrorKind::ALL.iter().zip(&self.dials_failed);
        Snapshot {
            sessions_open: 0,
            sessions_total: self.sessions_total.load(Relaxed),
            connections_open: 0,
            bytes_held: 0,
            connections_total: self.connections_total.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            dials_failed: dials_failed.map(|(kind, n)| (*kind, n.load(Relaxed))).collect(),
            connections_failed: self.connections_failed.load(Relaxed),
            streams_stuck: self.streams_stuck.load(Relaxed),
        }
    }

    pub(crate) fn session_opened(&self) {
        self.sessions_total.fetch_add(1, Relaxed);
    }

    pub(crate) fn session_closed(&self, counters: &Counters) {
        self.connections_total.fetch_add(counters.connections.load(Relaxed), Relaxed);
        self.bytes_sent.fetch_add(counters.sent.load(Relaxed), Relaxed);
        self.bytes_received.fetch_add(counters.received.load(Relaxed), Relaxed);
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
