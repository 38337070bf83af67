//! From an endpoint and a request to a connection.

use std::path::Path;
use std::time::Duration;

use gangplank_channel::{RelayAddress, Token};
use gangplank_podnet::{Destination, Network};

use crate::datagrams::{DatagramTransport, FramedDatagrams};
use crate::endpoint::PodEndpoint;
use crate::error::{PodDialError, PodDialErrorKind};
use crate::namespace_sockets::NamespaceSockets;
use crate::pod_conn::PodConn;
use crate::request::Request;
use crate::{direct, kata};

/// Extra time to reach a relay and receive its answer. The channel gives up a second earlier, because its error is more
/// precise than ours.
const RELAY_OVERHEAD: Duration = Duration::from_secs(4);

/// A pod, as the dialler sees it.
#[derive(Debug, Clone)]
pub(crate) struct PodTarget {
    pub(crate) endpoint: PodEndpoint,
    /// The secret that the pod's relay and this program prove to each other that they have.
    pub(crate) token: Option<Token>,
    /// The pod's name, for errors.
    pub(crate) name: String,
}

/// How long a dial may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialTimeouts {
    /// For the connection inside the pod.
    in_pod: Duration,
    /// For everything, including the way to the relay.
    total: Duration,
}

impl DialTimeouts {
    /// Allows `limit` inside the pod, and up to 4 s more to reach the relay and receive its answer.
    pub fn in_pod(limit: Duration) -> Self {
        Self { in_pod: limit, total: limit + RELAY_OVERHEAD }
    }

    /// Allows slightly less than `limit` in total, so that a caller who gives up at `limit` still receives the reason.
    pub fn just_within(limit: Duration) -> Self {
        Self { in_pod: limit * 9 / 10, total: limit * 19 / 20 }
    }
}

/// Connects to the request's destination. Cancel safe.
pub(crate) async fn reach(
    sockets: &NamespaceSockets,
    target: &PodTarget,
    request: &Request,
    timeouts: DialTimeouts,
) -> Result<PodConn, PodDialError> {
    let DialTimeouts { in_pod, total } = timeouts;
    if let PodEndpoint::Netns(path) = &target.endpoint {
        return from_host(sockets, path, &target.name, request, in_pod).await;
    }
    let endpoint = target.relay().await?;
    let attempt =
        tokio::time::timeout(total, by_relay(target.relay_address(&endpoint), request, in_pod)).await;
    attempt.unwrap_or_else(|_| Err(silent(&endpoint, total)))
}

impl PodTarget {
    pub(crate) fn relay_address<'a>(&'a self, endpoint: &'a gangplank_channel::Endpoint) -> RelayAddress<'a> {
        RelayAddress { endpoint, token: self.token.as_ref() }
    }

    /// The endpoint of the pod's relay.
    pub(crate) async fn relay(&self) -> Result<gangplank_channel::Endpoint, PodDialError> {
        match &self.endpoint {
            PodEndpoint::Relay(endpoint) => Ok(endpoint.clone()),
            PodEndpoint::Kata { state, port } => kata::relay(state, *port, &self.name).await,
            PodEndpoint::Netns(_) => {
                let cause = format!(
                    "pod {:?} has no relay: it is dialled from the host, in its network namespace",
                    self.name
                );
                Err(PodDialError::new(PodDialErrorKind::Unsupported, cause))
            }
        }
    }

    /// Rejects a request for one container of an ordinary pod: they share one network namespace, and the host cannot tell
    /// them apart.
    pub(crate) fn refuse_container(&self, container: &str) -> Result<(), PodDialError> {
        refuse_container(&self.name, container)
    }
}

fn refuse_container(pod: &str, container: &str) -> Result<(), PodDialError> {
    if container.is_empty() {
        return Ok(());
    }
    let cause = format!(
        "container {container:?}: pod {pod:?} has no relay, and its containers share one network; omit the container"
    );
    Err(PodDialError::new(PodDialErrorKind::Unsupported, cause))
}

fn silent(endpoint: &gangplank_channel::Endpoint, limit: Duration) -> PodDialError {
    let cause = format!(
        "{endpoint}: no answer within {limit:?}; the guest may be paused, still booting, or without a relay"
    );
    PodDialError::new(PodDialErrorKind::Relay, cause)
}

fn late(pod: &str, request: &Request, limit: Duration) -> PodDialError {
    let cause = format!(
        "connect to {} in pod {pod:?}: no answer within {limit:?}; check whether a packet filter drops it",
        request.destination
    );
    PodDialError::new(PodDialErrorKind::TimedOut, cause)
}

async fn from_host(
    sockets: &NamespaceSockets,
    namespace: &Path,
    pod: &str,
    request: &Request,
    limit: Duration,
) -> Result<PodConn, PodDialError> {
    refuse_container(pod, &request.container)?;
    let dial = async {
        match &request.destination {
            Destination::Tcp(at) => direct::dial(sockets, namespace, pod, *at).await.map(PodConn::tcp),
            Destination::Udp(at) => direct::datagrams(sockets, namespace, pod, *at)
                .await
                .map(|socket| PodConn::datagrams(FramedDatagrams::new(DatagramTransport::Socket(socket)))),
            other => Err(PodDialError::new(PodDialErrorKind::Unsupported, not_by(pod, other.network()))),
        }
    };
    tokio::time::timeout(limit, dial).await.unwrap_or_else(|_| Err(late(pod, request, limit)))
}

fn not_by(pod: &str, network: Network) -> String {
    format!("network {network}: pod {pod:?} has no relay, so only tcp and udp reach it")
}

async fn by_relay(
    relay: RelayAddress<'_>,
    request: &Request,
    limit: Duration,
) -> Result<PodConn, PodDialError> {
    let Request { container, destination } = request;
    let address = destination.address();
    let open = match destination {
        Destination::Udp(_) => {
            let open = gangplank_channel::Open::udp(address, limit).in_container(container);
            let datagrams = gangplank_channel::dial_datagrams(relay, open).await?;
            return Ok(PodConn::datagrams(FramedDatagrams::new(DatagramTransport::Relay(Box::new(
                datagrams,
            )))));
        }
        Destination::Unix(_) => gangplank_channel::Open::unix(address, limit),
        _ => gangplank_channel::Open::tcp(address, limit),
    };
    Ok(PodConn::channel(gangplank_channel::dial(relay, open.in_container(container)).await?))
}

/// Checks that the pod's relay answers. A pod without one passes: each dial opens its namespace anyway.
pub(crate) async fn probe(target: &PodTarget, limit: Duration) -> Result<(), PodDialError> {
    match target.endpoint {
        PodEndpoint::Netns(_) => Ok(()),
        _ => probe_relay(target.relay_address(&target.relay().await?), limit).await,
    }
}

/// Sends a request without a network, which every relay reads and then refuses in a known way. So a peer that refuses it
/// that way is a relay that speaks our version, and nothing was dialled.
async fn probe_relay(relay: RelayAddress<'_>, limit: Duration) -> Result<(), PodDialError> {
    let endpoint = relay.endpoint;
    let mut open = gangplank_channel::Open::tcp("", limit);
    open.network = gangplank_channel::Network::Unspecified.into();
    match tokio::time::timeout(limit, gangplank_channel::dial(relay, open)).await {
        Ok(Err(error)) if error.kind == gangplank_channel::OpenErrorKind::BadEndpoint => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(_)) => {
            let cause =
                format!("{endpoint}: the peer accepts a request for no address, so it is not a usable relay");
            Err(PodDialError::new(PodDialErrorKind::RelayUnusable, cause))
        }
        Err(_) => Err(silent(endpoint, limit)),
    }
}
