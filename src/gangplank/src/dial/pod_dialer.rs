//! The dialler of one pod, for programs that link this crate.

use std::io;
use std::time::Duration;

use channel::{Ports, Token};
use gangplank_podnet::{Network, Rule};
use streaming::{DialError, DialErrorKind};

use super::conn::PodConn;
use super::namespace::Sockets;
use super::reach::{self, Door, Patience};
use super::request::Request;
use super::{denied, ports};
use crate::pods::Endpoint;

/// The time for a dial whose caller does not say otherwise.
const LIMIT: Duration = Duration::from_secs(10);

/// Reaches places inside one pod. Cheap to clone; for another pod, make another.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use gangplank::{Network, PodDialer};
///
/// let pod = PodDialer::new("hvsock:///run/vm/demo/v.sock:1024".parse()?)?;
/// let stream = pod.dial("", Network::Tcp, "localhost:80").await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct PodDialer {
    door: Door,
    rules: Vec<Rule>,
    sockets: Sockets,
    limit: Duration,
}

impl PodDialer {
    /// For the pod behind this endpoint. Nothing is connected yet.
    ///
    /// # Errors
    /// When there is no /proc, or no thread can be had (one makes sockets in other network namespaces).
    pub fn new(endpoint: Endpoint) -> io::Result<Self> {
        let door = Door { pod: endpoint.to_string(), endpoint, token: None };
        Ok(Self { door, rules: Vec::new(), sockets: Sockets::start()?, limit: LIMIT })
    }

    /// The same with a token: the pod's relay and this program prove to each other that they have it, and a relay
    /// that does not is not used. A pod without a relay has none.
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        Self { door: Door { token: Some(token), ..self.door }, ..self }
    }

    /// The same with rules on what may be dialled, of which the first that matches decides. Where none does, loopback
    /// addresses may, and nothing else. The relay has rules of its own.
    #[must_use]
    pub fn with_rules(self, rules: Vec<Rule>) -> Self {
        Self { rules, ..self }
    }

    /// The same with another time limit for a dial inside the pod, instead of 10 s; a relay's own is 60 s.
    /// The way to a relay and back may take 3 s more.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Connects to `address` and gives a byte stream each way, whose half-closes are real.
    ///
    /// `container` is empty for the pod itself. By [`Network::Tcp`] and [`Network::Udp`], `address` is `HOST:PORT`; the
    /// host is an address, or `localhost` or nothing (both loopback addresses, IPv4 first). By [`Network::Unix`] it is an
    /// absolute path. How datagrams go over the stream is said of [`PodConn`]. Must be called within a tokio runtime,
    /// and may be dropped at any time.
    ///
    /// # Errors
    /// Each kind of [`streaming::DialErrorKind`]; the sentence says what was tried, where, and what came of it.
    /// What neither the relay nor an ordinary pod serves, and an address that makes no sense, is
    /// [`Unsupported`](streaming::DialErrorKind::Unsupported); what a rule forbids is
    /// [`Denied`](streaming::DialErrorKind::Denied), and the rule is named.
    pub async fn dial(&self, container: &str, network: Network, address: &str) -> Result<PodConn, DialError> {
        let request = Request::new(container, Some(network), address)
            .map_err(|error| DialError::new(DialErrorKind::Unsupported, error.to_string()))?;
        let request = request.allowed(&self.rules).map_err(|denial| denied(&self.door.pod, &denial))?;
        let patience = Patience::of(self.limit);
        reach::reach(&self.sockets, &self.door, &request, patience).await.map(PodConn::from)
    }

    /// What listens in the pod, or in one of its containers.
    ///
    /// # Errors
    /// When the relay is not reached within 4 s each time that it is asked.
    pub async fn ports(&self, container: &str) -> Result<Ports, DialError> {
        ports::ports(&self.sockets, &self.door, container).await
    }
}
