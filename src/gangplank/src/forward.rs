//! `gangplank forward`: our own port-forward client. It asks CRI for a session and listens here.

mod cri_client;
mod ports;

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use streaming::{Client, ClientError, ClientEvent};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub(crate) use self::ports::PortPair;
use crate::config::UnixUrl;
use crate::listen;
use crate::signals::Signals;

/// Why ports are not forwarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// Nobody answers at the socket.
    #[error("cannot reach CRI at {}: {source}; start gangplank, or name its socket with --cri", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Whoever answers there refuses.
    #[error("CRI at {} gives no port-forward session with {pod:?}: {cause}", socket.display())]
    Cri {
        /// The socket.
        socket: PathBuf,
        /// The pod, as it was named.
        pod: String,
        /// The refusal.
        cause: String,
    },
    /// The session could not be opened.
    #[error("cannot open a port-forward session: {0}")]
    Session(#[from] ClientError),
    /// No port here.
    #[error(
        "cannot listen on port {port} of 127.0.0.1 or [::1]: {source}; stop whoever uses it or choose another"
    )]
    Listen {
        /// The port.
        port: u16,
        /// What the system says of 127.0.0.1.
        source: io::Error,
    },
    /// The session ended by itself.
    #[error("lost the session with the pod: {0}")]
    Lost(String),
    /// The system refuses something else.
    #[error("cannot go on: {0}")]
    System(#[from] io::Error),
}

/// Forwards until a signal asks to end.
///
/// # Errors
/// When there is no session or no port, or the session ends by itself.
pub(crate) async fn run(cri: &UnixUrl, pod: &str, pairs: &[PortPair]) -> Result<(), ForwardError> {
    let mut signals = Signals::catch()?;
    let forward = Forward::start(cri, pod, pairs).await?;
    for port in forward.ports() {
        writeln!(io::stdout(), "Forwarding from {} -> {}", port.here, port.remote)?;
    }
    tokio::select! {
        _ = signals.next() => Ok(()),
        why = forward.run() => Err(ForwardError::Lost(why)),
    }
}

/// A session and the ports here that lead into it. Dropping it ends both.
pub(crate) struct Forward {
    client: Client,
    ports: Vec<Port>,
    accepted: mpsc::Receiver<(u16, TcpStream)>,
    // Dropped with the rest, which ends the listening.
    _listening: JoinSet<()>,
}

/// A port here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    /// Where we listen.
    pub(crate) here: SocketAddr,
    /// The port of the pod it leads to.
    pub(crate) remote: u16,
}

impl Forward {
    /// Opens a session and listens, on 127.0.0.1 and on ::1 for each port, or on one if the other is not to
    /// be had.
    ///
    /// # Errors
    /// When there is no session or no port.
    pub(crate) async fn start(cri: &UnixUrl, pod: &str, pairs: &[PortPair]) -> Result<Self, ForwardError> {
        // First the ports: a wrong one must not cost a session.
        let mut listeners = Vec::new();
        for pair in pairs {
            for listener in loopback(pair.local).await? {
                listeners.push((listener, pair.remote));
            }
        }
        let url = cri_client::port_forward(cri, pod).await?;
        let client = Client::connect(&url).await?;
        let (connections, accepted) = mpsc::channel(1);
        let (mut ports, mut listening) = (Vec::new(), JoinSet::new());
        for (listener, remote) in listeners {
            ports.push(Port { here: listener.local_addr()?, remote });
            listening.spawn(accept(listener, remote, connections.clone()));
        }
        Ok(Self { client, ports, accepted, _listening: listening })
    }

    /// The ports here, in the order of the pairs.
    pub(crate) fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Forwards connections until the session ends by itself, and says why it did.
    pub(crate) async fn run(mut self) -> String {
        loop {
            tokio::select! {
                Some((port, local)) = self.accepted.recv() => self.client.forward(port, local),
                event = self.client.event() => match event {
                    Some(ClientEvent::Refused { port }) => {
                        tell(&format!("port {port} of the pod cannot be reached; the daemon's log says why"));
                    }
                    Some(ClientEvent::Failed { port, text }) => tell(&format!("port {port} of the pod: {text}")),
                    Some(ClientEvent::Closed(why)) => return why,
                    None => return "it has ended".into(),
                },
            }
        }
    }
}

fn tell(what: &str) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "gangplank: {what}");
}

async fn accept(listener: TcpListener, port: u16, connections: mpsc::Sender<(u16, TcpStream)>) {
    loop {
        let local = listen::accept(&listener).await;
        if connections.send((port, local)).await.is_err() {
            return;
        }
    }
}

/// Listens on this port of 127.0.0.1 and of ::1, or of the one that can be had.
async fn loopback(port: u16) -> Result<Vec<TcpListener>, ForwardError> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    // The same on both, also when it was chosen for us.
    let port = v4.as_ref().ok().and_then(|v4| v4.local_addr().ok()).map_or(port, |v4| v4.port());
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await;
    match (v4, v6) {
        (Err(source), Err(_)) => Err(ForwardError::Listen { port, source }),
        (v4, v6) => Ok(v4.into_iter().chain(v6).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
        listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_chosen_port_is_the_same_on_both_addresses() {
        let addresses = addresses(&loopback(0).await.unwrap());
        assert!(addresses[0].ip().is_loopback() && addresses[0].port() != 0);
        assert!(addresses.iter().all(|address| address.port() == addresses[0].port()));
    }

    #[tokio::test]
    async fn one_address_is_enough() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let addresses = addresses(&loopback(port).await.unwrap());
        assert_eq!(addresses, [SocketAddr::from((Ipv6Addr::LOCALHOST, port))]);
    }

    #[tokio::test]
    async fn a_port_in_use_on_both_is_named() {
        let _taken = loopback(0).await.unwrap();
        let port = _taken[0].local_addr().unwrap().port();
        let error = loopback(port).await.unwrap_err().to_string();
        assert!(error.contains(&format!("port {port}")), "{error}");
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_told() {
        let cri = UnixUrl::from_url("unix:///nowhere/cri.sock").unwrap();
        let pair = PortPair { local: 0, remote: 80 };
        let error = Forward::start(&cri, "demo", &[pair]).await.err().unwrap().to_string();
        assert!(error.contains("/nowhere/cri.sock") && error.contains("--cri"), "{error}");
    }
}
