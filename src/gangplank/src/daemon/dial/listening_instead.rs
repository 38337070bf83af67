//! The log line on what listens in a pod, after a port has refused.

use std::time::Duration;

use gangplank_dial::{PodDialer, Request};

/// How long the pod may take to list its ports.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// The most ports that a line names.
const MAX_PORTS: usize = 20;

/// The line, or `None` if the pod does not list its ports in time.
pub(super) async fn line(dialer: &PodDialer, request: &Request) -> Option<String> {
    let port = request.destination.host_port()?.port;
    let listed = tokio::time::timeout(LOOK_UP_TIMEOUT, dialer.ports(&request.container)).await.ok()?.ok()?;
    let mut ports: Vec<_> =
        listed.listening.iter().filter(|at| at.is_local_tcp()).map(|at| at.address.port()).collect();
    ports.dedup();
    let more = if ports.len() > MAX_PORTS || listed.is_cut { " and more" } else { "" };
    ports.truncate(MAX_PORTS);
    let others = match &ports[..] {
        [] => "no other port listens".to_owned(),
        ports => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("listening: {}{more}", ports.join(", "))
        }
    };
    Some(format!("nothing listens on {port}; {others}"))
}
