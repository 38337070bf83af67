//! From the way into a pod and a request to a connection.

use std::path::Path;
use std::time::Duration;

use channel::{Token, Way};
use gangplank_podnet::{Destination, Network};
use streaming::{DialError, DialErrorKind};

use super::conn::Transport;
use super::framed::{Datagrams, Framed};
use super::namespace::Sockets;
use super::request::Request;
use super::{direct, kata};
use crate::pods::Endpoint;

/// Time for the way to a relay and back, beyond a dial's own: the channel's is a second less, and it knows more.
const WAY: Duration = Duration::from_secs(4);

/// The way into one pod.
#[derive(Debug, Clone)]
pub(super) struct Door {
    /// Where it begins.
    pub(super) endpoint: Endpoint,
    /// What the pod's relay and we prove to each other.
    pub(super) token: Option<Token>,
    /// The pod's name, for errors.
    pub(super) pod: String,
}

/// How long a dial may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Inside the pod.
    dial: Duration,
    /// Altogether.
    all: Duration,
}

impl Patience {
    /// For this long inside the pod, and for the way there.
    pub(crate) fn of(dial: Duration) -> Self {
        Self { dial, all: dial + WAY }
    }

    /// To be over before somebody gives the dial up after this long: a little earlier, for the sentence to come back.
    pub(super) fn before(limit: Duration) -> Self {
        Self { dial: limit * 9 / 10, all: limit * 19 / 20 }
    }
}

/// Reaches what is requested, behind this door.
///
/// May be dropped at any time.
pub(super) async fn reach(
    sockets: &Sockets,
    door: &Door,
    request: &Request,
    patience: Patience,
) -> Result<Transport, DialError> {
    let Patience { dial, all } = patience;
    if let Endpoint::Netns(path) = &door.endpoint {
        return direct(sockets, path, &door.pod, request, dial).await;
    }
    let endpoint = relay_of(door).await?;
    let attempt = tokio::time::timeout(all, relay(door.way(&endpoint), request, dial)).await;
    attempt.unwrap_or_else(|_| Err(silent(&endpoint, all)))
}

impl Door {
    /// To the relay at this endpoint.
    pub(super) fn way<'a>(&'a self, endpoint: &'a channel::Endpoint) -> Way<'a> {
        Way { endpoint, token: self.token.as_ref() }
    }
}

/// Where the relay of a pod is reached that has one.
pub(super) async fn relay_of(door: &Door) -> Result<channel::Endpoint, DialError> {
    let Door { endpoint, pod, .. } = door;
    match endpoint {
        Endpoint::Relay(endpoint) => Ok(endpoint.clone()),
        Endpoint::Kata { state, port } => kata::relay(state, *port, pod).await,
        Endpoint::Netns(_) => {
            let cause =
                format!("pod {pod:?} has no relay: it is dialled from here, in its network namespace");
            Err(DialError::new(DialErrorKind::Unsupported, cause))
        }
    }
}

fn silent(endpoint: &channel::Endpoint, limit: Duration) -> DialError {
    let cause = format!(
        "{endpoint}: no answer within {limit:?}; the guest may be paused, still booting, or without a relay"
    );
    DialError::new(DialErrorKind::Relay, cause)
}

fn late(pod: &str, request: &Request, limit: Duration) -> DialError {
    let cause = format!(
        "connect to {} in pod {pod:?}: no answer within {limit:?}; see whether a packet filter drops it",
        request.destination
    );
    DialError::new(DialErrorKind::TimedOut, cause)
}

async fn direct(
    sockets: &Sockets,
    namespace: &Path,
    pod: &str,
    request: &Request,
    limit: Duration,
) -> Result<Transport, DialError> {
    let container = &request.container;
    if !container.is_empty() {
        let cause = format!(
            "container {container:?}: pod {pod:?} has no relay, and its containers share one network; leave the \
             container out"
        );
        return Err(DialError::new(DialErrorKind::Unsupported, cause));
    }
    let dial = async {
        match &request.destination {
            Destination::Tcp(at) => direct::dial(sockets, namespace, pod, *at).await.map(Transport::Tcp),
            Destination::Udp(at) => direct::datagrams(sockets, namespace, pod, *at)
                .await
                .map(|socket| Transport::Datagrams(Framed::new(Datagrams::Socket(socket)))),
            other => Err(DialError::new(DialErrorKind::Unsupported, not_by(pod, other.network()))),
        }
    };
    tokio::time::timeout(limit, dial).await.unwrap_or_else(|_| Err(late(pod, request, limit)))
}

fn not_by(pod: &str, network: Network) -> String {
    format!("network {network}: pod {pod:?} has no relay, so only tcp and udp reach it")
}

async fn relay(way: Way<'_>, request: &Request, limit: Duration) -> Result<Transport, DialError> {
    let Request { container, destination } = request;
    let (network, address) = (destination.network(), destination.address());
    let open = match network {
        Network::Tcp => channel::Open::tcp(address, limit),
        Network::Udp => channel::Open::udp(address, limit),
        _ => channel::Open::unix(address, limit),
    };
    let open = open.in_container(container);
    let reached = match network {
        Network::Udp => channel::dial_datagrams(way, open)
            .await
            .map(|datagrams| Transport::Datagrams(Framed::new(Datagrams::Relay(datagrams)))),
        _ => channel::dial(way, open).await.map(Transport::Channel),
    };
    reached.map_err(from_channel)
}

/// Whether a pod's namespace is there, or its relay answers.
pub(super) async fn probe(door: &Door, limit: Duration) -> Result<(), DialError> {
    match door.endpoint {
        Endpoint::Netns(_) => Ok(()),
        _ => probe_relay(door.way(&relay_of(door).await?), limit).await,
    }
}

/// A request that every relay refuses after it has read it: whoever refuses so is there and speaks our version.
async fn probe_relay(way: Way<'_>, limit: Duration) -> Result<(), DialError> {
    let endpoint = way.endpoint;
    let mut open = channel::Open::tcp("", limit);
    open.network = channel::Network::Unspecified.into();
    match tokio::time::timeout(limit, channel::dial(way, open)).await {
        Ok(Err(error)) if error.kind == channel::DialErrorKind::BadEndpoint => Ok(()),
        Ok(Err(error)) => Err(from_channel(error)),
        Ok(Ok(_)) => {
            let cause = format!("{endpoint}: what answers there connects to nowhere; it is no relay");
            Err(DialError::new(DialErrorKind::RelayUnusable, cause))
        }
        Err(_) => Err(silent(endpoint, limit)),
    }
}

pub(super) fn from_channel(error: channel::DialError) -> DialError {
    use channel::DialErrorKind as Kind;
    let kind = match error.kind {
        Kind::Refused => DialErrorKind::Refused,
        Kind::Unreachable => DialErrorKind::Unreachable,
        Kind::TimedOut => DialErrorKind::TimedOut,
        Kind::Denied => DialErrorKind::Denied,
        Kind::RelayNotReady | Kind::Busy => DialErrorKind::Relay,
        Kind::RelayUnusable => DialErrorKind::RelayUnusable,
        Kind::BadEndpoint => DialErrorKind::Unsupported,
        _ => DialErrorKind::Internal,
    };
    DialError::new(kind, error.cause)
}
