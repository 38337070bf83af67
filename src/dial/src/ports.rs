//! Lists the listening ports of a pod: the relay reports them, or the host's kernel if the pod has no relay.

use std::io;

use gangplank_channel::Ports;
use gangplank_podnet::{Namespaces, listening};

use crate::direct::no_socket;
use crate::endpoint::PodEndpoint;
use crate::error::{PodDialError, PodDialErrorKind};
use crate::namespace_sockets::NamespaceSockets;
use crate::reach::PodTarget;

pub(crate) async fn ports(
    sockets: &NamespaceSockets,
    target: &PodTarget,
    container: &str,
) -> Result<Ports, PodDialError> {
    let PodEndpoint::Netns(namespace) = &target.endpoint else {
        let endpoint = target.relay().await?;
        return Ok(gangplank_channel::ports(target.relay_address(&endpoint), container).await?);
    };
    target.refuse_container(container)?;
    let pod = &target.name;
    let file = sockets.foreign(namespace).map_err(|error| no_socket(namespace, pod, &error))?;
    // Reading /proc blocks.
    let read = || Ok::<Vec<_>, io::Error>(listening(&Namespaces::in_network(file), None)?.collect());
    let found = tokio::task::spawn_blocking(read).await.map_err(io::Error::from).flatten();
    let mut ports = Ports::default();
    ports.add(found.map_err(|error| {
        let cause = format!(
            "list what listens in network namespace {} of pod {pod:?}: {error}; run gangplank as root or with \
             CAP_SYS_ADMIN",
            namespace.display()
        );
        PodDialError::new(PodDialErrorKind::Internal, cause)
    })?);
    Ok(ports)
}
