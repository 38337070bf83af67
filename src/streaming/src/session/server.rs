//! What the sessions of a server share: where they dial, and what is counted and logged.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::timeout;
use tracing::{info, warn};

use super::forward::{Dialing, Forward};
use crate::config::{ErrorStyle, Limits};
use crate::dial::{Dial, DialError, DialErrorKind, Target};
use crate::stats::{Counters, Stats};

/// What a session of the server is made of.
pub(crate) struct ServerSession<D> {
    pub(crate) dial: Arc<D>,
    pub(crate) sandbox: Arc<str>,
    pub(crate) client: Option<SocketAddr>,
    pub(crate) errors: ErrorStyle,
    pub(crate) limits: Arc<Limits>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) counters: Arc<Counters>,
}

impl<D: Dial> ServerSession<D> {
    /// Dials a port, for no longer than the limit.
    pub(super) fn dial(&self, port: u16) -> Dialing<D::Conn> {
        let target = Target { sandbox: self.sandbox.clone(), port, client: self.client };
        let limit = self.limits.dial_timeout;
        let dial = self.dial.clone();
        Box::pin(async move {
            timeout(limit, dial.dial(target)).await.unwrap_or_else(|_| {
                let cause = format!("dialling port {port}: no answer within {limit:?}");
                Err(DialError::new(DialErrorKind::TimedOut, cause))
            })
        })
    }

    /// The text that Kubernetes' own servers write, so that clients show what they always showed.
    pub(super) fn text(&self, port: u16, cause: &str) -> String {
        format!("error forwarding port {port} to pod {}, uid : {cause}", self.sandbox)
    }

    /// Counts and logs a dial that failed.
    pub(super) fn dial_failed(&self, port: u16, error: &DialError) {
        self.stats.dial_failed(error.kind);
        info!(sandbox = %self.sandbox, port, kind = error.kind.name(), cause = %error, "a dial failed");
    }

    /// Counts and logs a connection that failed.
    pub(super) fn conn_failed(&self, port: u16, error: &io::Error) {
        self.stats.connection_failed();
        info!(sandbox = %self.sandbox, port, cause = %error, "a connection failed");
    }

    /// Counts and logs a connection that held up its session.
    pub(super) fn stuck<I>(&self, forward: &Forward<D::Conn, I>) {
        self.stats.stream_stuck();
        warn!(
            sandbox = %self.sandbox, port = forward.port, held = forward.charge(),
            limit = ?self.limits.stream_stall_timeout,
            "reset a connection whose pod does not read: it held up its session"
        );
    }
}

/// Ports that the log names; more are only forwarded.
const LOGGED_PORTS: usize = 16;

/// Adds a port to those that the log names, each once.
pub(super) fn log_port(ports: &mut Vec<u16>, port: u16) {
    if !ports.contains(&port) && ports.len() < LOGGED_PORTS {
        ports.push(port);
    }
}
