//! What listens instead of a port that refused, for the log.

use std::time::Duration;

use gangplank_dial::{PodDialer, Request};

/// How long a pod may take to say what listens.
const LOOK_UP: Duration = Duration::from_secs(1);

/// The most ports that a line names.
const MOST_PORTS: usize = 20;

/// `None` if it cannot be learned in time.
pub(super) async fn line(dialer: &PodDialer, request: &Request) -> Option<String> {
    let port = request.destination.host_port()?.port;
    let listed = tokio::time::timeout(LOOK_UP, dialer.ports(&request.container)).await.ok()?.ok()?;
    let mut ports: Vec<_> =
        listed.listening.iter().filter(|at| at.is_local_tcp()).map(|at| at.address.port()).collect();
    ports.dedup();
    let more = if ports.len() > MOST_PORTS || listed.is_cut { " and more" } else { "" };
    ports.truncate(MOST_PORTS);
    let others = match &ports[..] {
        [] => "no other port listens either".to_owned(),
        ports => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("listening: {}{more}", ports.join(", "))
        }
    };
    Some(format!("nothing listens on {port}; {others}"))
}
