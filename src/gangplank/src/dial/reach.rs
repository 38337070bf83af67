//! From an endpoint and a request to a connection.

use std::path::Path;
use std::time::Duration;

use streaming::{DialError, DialErrorKind};

use super::conn::Transport;
use super::namespace::Sockets;
use super::request::{Address, Network, Request};
use super::{direct, kata};
use crate::pods::Endpoint;

/// Time for the way to a relay and back, beyond a dial's own: the channel's is a second less, and it knows more.
const WAY: Duration = Duration::from_secs(4);

/// How long a relay may take to say what listens, after a dial that was refused.
const LOOK_UP: Duration = Duration::from_secs(1);

/// As many ports are named of those that listen.
const MOST_PORTS: usize = 20;

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

/// Reaches what is requested, in the pod behind this endpoint. `pod` is its name, for errors.
///
/// May be dropped at any time.
pub(super) async fn reach(
    sockets: &Sockets,
    endpoint: &Endpoint,
    pod: &str,
    request: &Request,
    patience: Patience,
) -> Result<Transport, DialError> {
    let Patience { dial, all } = patience;
    match endpoint {
        Endpoint::Netns(path) => direct(sockets, path, pod, request, dial).await,
        Endpoint::Kata { .. } | Endpoint::Relay(_) => {
            let endpoint = relay_of(endpoint, pod).await?;
            let attempt = tokio::time::timeout(all, relay(&endpoint, request, dial)).await;
            attempt.unwrap_or_else(|_| Err(silent(&endpoint, all)))
        }
    }
}

/// Where the relay of a pod is reached that has one.
pub(super) async fn relay_of(endpoint: &Endpoint, pod: &str) -> Result<channel::Endpoint, DialError> {
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
        request.address
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
    if let Some(refusal) = not_served(pod, request) {
        return Err(DialError::new(DialErrorKind::Unsupported, refusal));
    }
    let address: Address = request
        .address
        .parse()
        .map_err(|error| DialError::new(DialErrorKind::Unsupported, format!("{error}")))?;
    if let Some(ip) = address.host.filter(|ip| !ip.is_loopback()) {
        let cause = format!("{ip} is no loopback address, and no other is dialled in a pod");
        return Err(DialError::new(DialErrorKind::Denied, cause));
    }
    let dial = direct::dial(sockets, namespace, pod, address);
    let conn = tokio::time::timeout(limit, dial).await.unwrap_or_else(|_| Err(late(pod, request, limit)))?;
    Ok(Transport::Tcp(conn))
}

/// Why an ordinary pod, without a relay, does not serve a request.
fn not_served(pod: &str, request: &Request) -> Option<String> {
    let Request { container, network, .. } = request;
    if !container.is_empty() {
        return Some(format!(
            "container {container:?}: pod {pod:?} has no relay, and its containers share one network; leave the \
             container out"
        ));
    }
    (*network != Network::Tcp)
        .then(|| format!("network {network}: pod {pod:?} has no relay, and is reached by tcp only"))
}

async fn relay(
    endpoint: &channel::Endpoint,
    request: &Request,
    limit: Duration,
) -> Result<Transport, DialError> {
    let network = match request.network {
        Network::Tcp => channel::Network::Tcp,
        Network::Unix => channel::Network::Unix,
        Network::Udp => {
            let cause =
                "network udp: a byte stream does not keep datagrams apart; only tcp and unix are dialled";
            return Err(DialError::new(DialErrorKind::Unsupported, cause));
        }
    };
    let mut open = channel::Open::tcp(request.address.clone(), limit);
    open.container.clone_from(&request.container);
    open.network = network.into();
    match channel::dial(endpoint, open).await {
        Ok(channel) => Ok(Transport::Channel(channel)),
        Err(error) if error.kind == channel::DialErrorKind::Refused && request.container.is_empty() => {
            let port = request.address.parse::<Address>().map(|address| address.port);
            let told = match port {
                Ok(port) => refusal(endpoint, port).await,
                Err(_) => None,
            };
            Err(DialError::new(DialErrorKind::Refused, told.unwrap_or(error.cause)))
        }
        Err(error) => Err(from_channel(error)),
    }
}

/// What listens instead of the port that refused; none if the relay cannot tell in time.
async fn refusal(endpoint: &channel::Endpoint, port: u16) -> Option<String> {
    let listening = tokio::time::timeout(LOOK_UP, channel::ports(endpoint, "")).await.ok()?.ok()?;
    let mut ports: Vec<_> =
        listening.iter().filter(|at| at.is_local_tcp()).map(|at| at.address.port()).collect();
    ports.dedup();
    let more = if ports.len() > MOST_PORTS { " and more" } else { "" };
    ports.truncate(MOST_PORTS);
    let listening = match &ports[..] {
        [] => "nothing does on any other port".to_owned(),
        ports => {
            format!("listening: {}{more}", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "))
        }
    };
    Some(format!("nothing listens on {port}; {listening}; says the relay at {endpoint}"))
}

/// Whether a pod's namespace is there, or its relay answers.
pub(super) async fn probe(endpoint: &Endpoint, pod: &str, limit: Duration) -> Result<(), DialError> {
    match endpoint {
        Endpoint::Netns(_) => Ok(()),
        _ => probe_relay(&relay_of(endpoint, pod).await?, limit).await,
    }
}

/// A request that every relay refuses after it has read it: whoever refuses so is there and speaks our version.
async fn probe_relay(endpoint: &channel::Endpoint, limit: Duration) -> Result<(), DialError> {
    let mut open = channel::Open::tcp("", limit);
    open.network = channel::Network::Unspecified.into();
    match tokio::time::timeout(limit, channel::dial(endpoint, open)).await {
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
