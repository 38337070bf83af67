//! The dialler of one pod, for programs that link this crate.

use std::io;
use std::time::Duration;

use streaming::DialError;

use super::conn::PodConn;
use super::namespace::Sockets;
use super::reach::{self, Patience};
use super::request::{Network, Request};
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
    endpoint: Endpoint,
    sockets: Sockets,
    limit: Duration,
}

impl PodDialer {
    /// For the pod behind this endpoint. Nothing is connected yet.
    ///
    /// # Errors
    /// When there is no /proc, or no thread can be had (one makes sockets in other network namespaces).
    pub fn new(endpoint: Endpoint) -> io::Result<Self> {
        Ok(Self { endpoint, sockets: Sockets::start()?, limit: LIMIT })
    }

    /// The same with another time limit for a dial inside the pod, instead of 10 s; a relay's own is 60 s.
    /// The way to a relay and back may take 3 s more.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Connects to `address` and gives a byte stream each way, whose half-closes are real.
    ///
    /// `container` is empty for the pod itself. By [`Network::Tcp`], `address` is `HOST:PORT`; the host is
    /// `localhost` or nothing (both loopback addresses, IPv4 first), or a loopback address. Must be called
    /// within a tokio runtime, and may be dropped at any time.
    ///
    /// # Errors
    /// Each kind of [`streaming::DialErrorKind`]; the sentence says what was tried, where, and what came of it.
    /// What neither the relay nor an ordinary pod serves, and an address that makes no sense, is
    /// [`Unsupported`](streaming::DialErrorKind::Unsupported).
    pub async fn dial(&self, container: &str, network: Network, address: &str) -> Result<PodConn, DialError> {
        let request = Request::new(container, network, address)
            .map_err(|error| DialError::new(streaming::DialErrorKind::Unsupported, error.to_string()))?;
        let name = self.endpoint.to_string();
        reach::reach(&self.sockets, &self.endpoint, &name, &request, Patience::of(self.limit))
            .await
            .map(PodConn::from)
    }
}
