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

/// The time for a dial unless [`PodDialer::with_timeouts`] says otherwise.
const LIMIT: Duration = Duration::from_secs(10);

/// Reaches places inside one pod. Cheap to clone; for another pod, make another.
#[derive(Debug, Clone)]
pub struct PodDialer {
    target: PodTarget,
    rules: Arc<[Rule]>,
    sockets: NamespaceSockets,
    timeouts: DialTimeouts,
}

impl PodDialer {
    /// For the pod behind this endpoint. Nothing is connected yet.
    ///
    /// # Errors
    /// If /proc is not mounted or no thread can be started (one creates sockets in other network namespaces).
    pub fn new(endpoint: PodEndpoint) -> io::Result<Self> {
        Ok(Self::sharing(NamespaceSockets::start()?, endpoint))
    }

    /// The same for a program with many pods: all of them share one thread.
    pub fn sharing(sockets: NamespaceSockets, endpoint: PodEndpoint) -> Self {
        let target = PodTarget { name: endpoint.to_string(), endpoint, token: None };
        Self { target, rules: Arc::default(), sockets, timeouts: DialTimeouts::in_pod(LIMIT) }
    }

    /// Names the pod in errors, in place of its endpoint.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { target: PodTarget { name: name.into(), ..self.target }, ..self }
    }

    /// With a token: the pod's relay and this program prove to each other that they have it, and a relay that does not
    /// is not used. A pod without a relay needs none.
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        Self { target: PodTarget { token: Some(token), ..self.target }, ..self }
    }

    /// With rules on what may be dialled; the first that matches decides. If none matches, only loopback addresses are
    /// allowed. The relay has rules of its own.
    #[must_use]
    pub fn with_rules(self, rules: impl Into<Arc<[Rule]>>) -> Self {
        Self { rules: rules.into(), ..self }
    }

    /// With other time limits than 10 s inside the pod. A relay allows at most 60 s.
    #[must_use]
    pub fn with_timeouts(self, timeouts: DialTimeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// Connects to `address` and gives a byte stream in each direction, with real half-closes.
    ///
    /// `container` is empty for the pod itself. With [`Network::Tcp`] and [`Network::Udp`], `address` is `HOST:PORT`; the
    /// host is an address, or `localhost` or empty (both loopback addresses, IPv4 first). With [`Network::Unix`] it is an
    /// absolute path. [`PodConn`] says how datagrams go over the stream. Must be called within a tokio runtime, and may
    /// be dropped at any time.
    ///
    /// # Errors
    /// Every [`PodDialErrorKind`]; the sentence says what was tried, where, and what came of it. A malformed address, and
    /// what neither the relay nor an ordinary pod serves, is [`Unsupported`](PodDialErrorKind::Unsupported); what a rule
    /// forbids is [`Denied`](PodDialErrorKind::Denied), and the rule is named.
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

    /// Connects to what is requested, without looking at the rules: see [`Request::allowed`]. May be dropped at any
    /// time.
    ///
    /// # Errors
    /// As [`dial`](Self::dial).
    pub async fn reach(&self, request: &Request) -> Result<PodConn, PodDialError> {
        reach::reach(&self.sockets, &self.target, request, self.timeouts).await
    }

    /// What listens in the pod, or in one of its containers.
    ///
    /// # Errors
    /// If the relay is not reached within 4 s, each time it is asked.
    pub async fn ports(&self, container: &str) -> Result<Ports, PodDialError> {
        ports::ports(&self.sockets, &self.target, container).await
    }

    /// Whether the pod's relay answers within the limit; for an ordinary pod, nothing is tried.
    ///
    /// # Errors
    /// Why the relay cannot be used.
    pub async fn probe(&self, limit: Duration) -> Result<(), PodDialError> {
        reach::probe(&self.target, limit).await
    }

    /// The endpoint of the pod's relay, which for Kata is looked up now.
    ///
    /// # Errors
    /// If the pod has no relay, or its VM cannot be found.
    pub async fn relay(&self) -> Result<gangplank_channel::Endpoint, PodDialError> {
        self.target.relay().await
    }
}
