//! The dialler of one pod.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gangplank_channel::{Ports, Token};
use gangplank_podnet::{Network, Rule};

use crate::endpoint::PodEndpoint;
use crate::error::{PodDialError, PodDialErrorKind};
use crate::namespace_sockets::NamespaceSockets;
use crate::pod_conn::PodConn;
use crate::ports;
use crate::reach::{self, DialTimeouts, PodTarget};
use crate::request::Request;

/// How long a dial may take inside the pod unless [`PodDialer::with_timeouts`] sets another limit.
const LIMIT: Duration = Duration::from_secs(10);

/// Connects to ports and sockets inside one pod. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PodDialer {
    target: PodTarget,
    rules: Arc<[Rule]>,
    sockets: NamespaceSockets,
    timeouts: DialTimeouts,
}

impl PodDialer {
    /// A dialler for the pod behind this endpoint. It does not connect yet.
    ///
    /// # Errors
    /// If /proc is not mounted, or the thread that creates sockets in other network namespaces cannot be started.
    pub fn new(endpoint: PodEndpoint) -> io::Result<Self> {
        Ok(Self::sharing(NamespaceSockets::start()?, endpoint))
    }

    /// Like [`new`](Self::new), for a program with many pods: they all share one thread.
    pub fn sharing(sockets: NamespaceSockets, endpoint: PodEndpoint) -> Self {
        let target = PodTarget { name: endpoint.to_string(), endpoint, token: None };
        Self { target, rules: Arc::default(), sockets, timeouts: DialTimeouts::in_pod(LIMIT) }
    }

    /// Sets the name of the pod in errors, instead of its endpoint.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { target: PodTarget { name: name.into(), ..self.target }, ..self }
    }

    /// Sets the token that the pod's relay and this program prove to each other that they have. A relay without it is not
    /// used. A pod without a relay needs no token.
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        Self { target: PodTarget { token: Some(token), ..self.target }, ..self }
    }

    /// Sets the rules on what may be dialled; the first match decides. If none matches, only loopback addresses are
    /// allowed. The relay applies its own rules in addition.
    #[must_use]
    pub fn with_rules(self, rules: impl Into<Arc<[Rule]>>) -> Self {
        Self { rules: rules.into(), ..self }
    }

    /// Sets time limits other than 10 s inside the pod. A relay allows at most 60 s.
    #[must_use]
    pub fn with_timeouts(self, timeouts: DialTimeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// Connects to `address`. The result is a byte stream whose two directions end separately.
    ///
    /// `container` is empty for the pod itself. With [`Network::Tcp`] and [`Network::Udp`], `address` is `HOST:PORT`; the
    /// host is an address, or `localhost` or empty (both loopback addresses, IPv4 first). With [`Network::Unix`] it is an
    /// absolute path. [`PodConn`] documents how datagrams are framed on the stream. Must be called within a tokio runtime.
    /// Cancel safe.
    ///
    /// # Errors
    /// Any [`PodDialErrorKind`], with a sentence on what was tried, where, and what came of it. A malformed address or an
    /// unsupported network is [`Unsupported`](PodDialErrorKind::Unsupported). If a rule forbids the address, the error is
    /// [`Denied`](PodDialErrorKind::Denied) and names the rule.
    pub async fn dial(
        &self,
        container: &str,
        network: Network,
        address: &str,
    ) -> Result<PodConn, PodDialError> {
        let request = Request::new(container, Some(network), address)
            .map_err(|error| PodDialError::new(PodDialErrorKind::Unsupported, error.to_string()))?;
        let allowed = request.allowed(&self.rules, "this program").map_err(|denial| {
            PodDialError::new(PodDialErrorKind::Denied, format!("reach pod {:?}: {denial}", self.target.name))
        });
        self.reach(&allowed?).await
    }

    /// Connects without checking the rules: see [`Request::allowed`]. Cancel safe.
    ///
    /// # Errors
    /// As for [`dial`](Self::dial), except that no rule denies anything.
    pub async fn reach(&self, request: &Request) -> Result<PodConn, PodDialError> {
        reach::reach(&self.sockets, &self.target, request, self.timeouts).await
    }

    /// The listening ports of the pod, or of one of its containers if `container` is not empty.
    ///
    /// # Errors
    /// If the relay does not answer each request within 4 s.
    pub async fn ports(&self, container: &str) -> Result<Ports, PodDialError> {
        ports::ports(&self.sockets, &self.target, container).await
    }

    /// Checks that the pod's relay answers within the limit. An ordinary pod always passes, untested.
    ///
    /// # Errors
    /// Says why the relay cannot be used.
    pub async fn probe(&self, limit: Duration) -> Result<(), PodDialError> {
        reach::probe(&self.target, limit).await
    }

    /// The endpoint of the pod's relay. Kata's is looked up at every call.
    ///
    /// # Errors
    /// If the pod has no relay, or its VM cannot be found.
    pub async fn relay(&self) -> Result<gangplank_channel::Endpoint, PodDialError> {
        self.target.relay().await
    }
}
