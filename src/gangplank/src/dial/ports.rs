//! What listens in a pod: its relay tells, or the kernel does where there is none.

use std::io;
use std::time::Duration;

use channel::Ports;
use gangplank_podnet::{Namespaces, listening};
use streaming::{DialError, DialErrorKind};

use super::direct::no_socket;
use super::namespace::Sockets;
use super::reach::{Door, from_channel, relay_of};
use super::request::Request;
use crate::pods::Endpoint;

/// How long a relay may take to say what listens after a dial that was refused.
const LOOK_UP: Duration = Duration::from_secs(1);

/// As many ports are named of those that listen.
const MOST_PORTS: usize = 20;

/// What listens behind this door.
///
/// # Errors
/// When the relay is not reached; when the namespace must not be entered.
pub(super) async fn ports(sockets: &Sockets, door: &Door, container: &str) -> Result<Ports, DialError> {
    let Endpoint::Netns(namespace) = &door.endpoint else {
        let endpoint = relay_of(door).await?;
        return channel::ports(door.way(&endpoint), container).await.map_err(from_channel);
    };
    let pod = &door.pod;
    if !container.is_empty() {
        let cause = format!(
            "container {container:?}: pod {pod:?} has no relay, and its containers share one network; leave the \
             container out"
        );
        return Err(DialError::new(DialErrorKind::Unsupported, cause));
    }
    let namespace_file = sockets.foreign(namespace).map_err(|error| no_socket(namespace, pod, &error))?;
    let internal = |error: &io::Error| {
        let cause = format!(
            "read what listens in network namespace {} of pod {pod:?}: {error}; run gangplank as root or with \
             CAP_SYS_ADMIN",
            namespace.display()
        );
        DialError::new(DialErrorKind::Internal, cause)
    };
    let read =
        || Ok::<Vec<_>, io::Error>(listening(&Namespaces::in_network(namespace_file), None)?.collect());
    let answer = tokio::task::spawn_blocking(read).await;
    let listening = answer.map_err(io::Error::from).flatten().map_err(|error| internal(&error))?;
    let mut ports = Ports::default();
    ports.add(listening);
    Ok(ports)
}

/// A line for the log: what listens instead of the port that refused. None if that cannot be told in time.
pub(super) async fn instead(sockets: &Sockets, door: &Door, request: &Request) -> Option<String> {
    let port = request.destination.host_port()?.port;
    let listening = ports(sockets, door, &request.container);
    let listening = tokio::time::timeout(LOOK_UP, listening).await.ok()?.ok()?;
    let mut ports: Vec<_> =
        listening.listening.iter().filter(|at| at.is_local_tcp()).map(|at| at.address.port()).collect();
    ports.dedup();
    let more = if ports.len() > MOST_PORTS || listening.is_cut { " and more" } else { "" };
    ports.truncate(MOST_PORTS);
    let others = match &ports[..] {
        [] => "nothing does on any other port".to_owned(),
        ports => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("listening: {}{more}", ports.join(", "))
        }
    };
    Some(format!("nothing listens on {port}; {others}"))
}
