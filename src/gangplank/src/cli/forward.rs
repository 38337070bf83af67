//! `gangplank forward`: our own port-forward client. It listens on local ports and makes a JSON-RPC call for each
//! connection, or opens one CRI session per pod.
//!
//! ```text
//!   listeners, udp ──► one task per pod (by_rpc, by_cri) ──► streams
//!                             └── events ──► report
//! ```

mod by_cri;
mod by_rpc;
mod cri_client;
mod forwarded_port;
mod listeners;
mod ports;
mod report;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gangplank_dial::Network;
use gangplank_streaming::{ClientError, Connection};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::by_cri::ByCri;
use self::by_rpc::ByRpc;
use self::forwarded_port::{Events, ForwardEvent, ForwardedPort};
use self::listeners::LocalListener;
pub(crate) use self::ports::{PodPorts, PortPair};
pub(crate) use self::report::Report;
use self::udp::UdpPeer;
use crate::cli::rpc_socket::{RPC, unix_url};
use crate::rpc::client::CallError;
use crate::signals::Signals;
use crate::unix_url::UnixUrl;

/// How often the table is refreshed.
const REFRESH: Duration = Duration::from_millis(250);

/// Options of the command.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "gangplank forward [OPTIONS] POD PORT... [POD PORT...]...",
    after_help = "\
Each port is one of
  8080:80            local port 8080, on 127.0.0.1 and ::1, to port 80 of the pod
  80                 the same port on both sides
  :80                any free local port, which is printed
  127.0.0.2:8080:80  local port 8080 on that address
  5353:53/udp        datagrams, for example for dig -p 5353 @127.0.0.1; each sender gets its own association
                     with the port, until 60 s pass without a datagram or 256 others have sent since

If the daemon or the pod goes away, gangplank says so, keeps listening, and resumes when they are back. In a terminal, a line
per forward shows its connections, bytes and last error.

Examples:
  gangplank forward demo 8080:80 :443
  gangplank forward web 8080:80 default/db 5432
  gangplank forward dns 5353:53/udp
  gangplank forward --json demo :80 | jq -r 'select(.event == \"listening\") | .local'"
)]
pub(crate) struct ForwardOptions {
    /// The daemon's JSON-RPC socket [default: unix:///run/gangplank/rpc.sock if it exists, otherwise the default of --cri]
    #[arg(long, value_name = "URL", env = "GANGPLANK_RPC", value_parser = unix_url)]
    rpc: Option<UnixUrl>,
    /// Use a CRI socket instead, of gangplank or another runtime [default: unix:///run/gangplank/cri.sock]
    #[arg(long, value_name = "URL", value_parser = unix_url)]
    cri: Option<UnixUrl>,
    /// Exit when the first connection has ended
    #[arg(long)]
    once: bool,
    /// Report events as JSON, one object per line
    #[arg(long)]
    json: bool,
    /// A pod and its ports; may be repeated
    #[arg(required = true, num_args = 2.., value_name = "POD PORT...")]
    what: Vec<String>,
}

/// Why ports cannot be forwarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// The arguments are invalid.
    #[error("{0}")]
    Usage(String),
    /// The call to the daemon failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Nothing listens on the socket.
    #[error("cannot reach CRI at {}: {source}; start gangplank, or name its socket with --cri", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The CRI server refused.
    #[error("CRI at {} refused a port-forward session with pod {pod:?}: {cause}", socket.display())]
    Cri {
        /// The socket.
        socket: PathBuf,
        /// The pod, as the user named it.
        pod: String,
        /// The server's reason.
        cause: String,
    },
    /// The session could not be opened.
    #[error("cannot open a port-forward session: {0}")]
    Session(#[from] ClientError),
    /// The local port is not available.
    #[error(
        "cannot listen on port {port} of {address}: {source}; stop the program that uses it or choose another port"
    )]
    Listen {
        /// The addresses that were tried.
        address: String,
        /// The port.
        port: u16,
        /// The system's error for the first address.
        source: io::Error,
    },
    /// With `--once`, the connection failed.
    #[error("the connection failed: {0}")]
    Once(String),
    /// Another system call failed.
    #[error("cannot continue: {0}")]
    System(#[from] io::Error),
}

impl ForwardOptions {
    /// `--cri` takes precedence over the JSON-RPC socket, which may come from the environment.
    fn api(&self) -> ForwardApi {
        let exists = |rpc: &UnixUrl| rpc.path().exists();
        match (&self.cri, &self.rpc) {
            (Some(cri), _) => ForwardApi::Cri(cri.clone()),
            (None, Some(rpc)) => ForwardApi::Rpc(rpc.clone()),
            (None, None) => UnixUrl::from_url(RPC)
                .filter(exists)
                .map_or(ForwardApi::Cri(UnixUrl::default()), ForwardApi::Rpc),
        }
    }
}

/// The API that provides connections into pods, and its socket.
#[derive(Debug, Clone)]
pub(crate) enum ForwardApi {
    /// JSON-RPC, with a call for each connection.
    Rpc(UnixUrl),
    /// CRI, with one session per pod.
    Cri(UnixUrl),
}

/// Forwards until a signal arrives.
///
/// # Errors
/// If a pod or a local port is not available at the start, or with `--once` if the connection fails.
pub(crate) async fn run(options: &ForwardOptions) -> Result<(), ForwardError> {
    let targets = ports::targets(&options.what).map_err(ForwardError::Usage)?;
    let api = options.api();
    let mut signals = Signals::catch()?;
    let mut forward = Forwarder::start(&api, &targets).await?;
    let report = Report::new(options.json);
    tokio::select! {
        _ = signals.next() => Ok(()),
        ended = forward.run(report, options.once) => ended,
    }
}

/// Forwards local ports into pods. Dropping it ends everything.
pub(crate) struct Forwarder {
    ports: Vec<BoundPort>,
    forwards: Vec<Arc<ForwardedPort>>,
    events: mpsc::UnboundedReceiver<ForwardEvent>,
    // Aborted when dropped.
    _tasks: JoinSet<()>,
}

/// A local port that is being forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundPort {
    /// The local address.
    pub(crate) here: SocketAddr,
    /// The pod, as the user named it.
    pub(crate) pod: Arc<str>,
    /// The pod's port.
    pub(crate) remote: u16,
    /// Streams or datagrams.
    pub(crate) network: Network,
}

/// Something to forward to a pod.
enum Incoming {
    /// A local connection.
    Tcp(Arc<ForwardedPort>, TcpStream),
    /// The datagrams of one local sender.
    Udp(UdpPeer),
}

/// The state that a pod's task works with, whichever API it uses.
struct PodForwards {
    pod: Arc<str>,
    all: Vec<Arc<ForwardedPort>>,
    accepted: mpsc::Receiver<Incoming>,
    events: Events,
}

impl Forwarder {
    /// Starts to listen, and checks that the pods exist.
    ///
    /// # Errors
    /// If a pod or a local port is not available.
    pub(crate) async fn start(api: &ForwardApi, targets: &[PodPorts]) -> Result<Self, ForwardError> {
        if let ForwardApi::Cri(_) = api
            && let Some(pair) =
                targets.iter().flat_map(|target| &target.pairs).find(|pair| pair.network == Network::Udp)
        {
            let text =
                format!("{pair}: CRI carries TCP only; leave out --cri and use the daemon's JSON-RPC socket");
            return Err(ForwardError::Usage(text));
        }
        let (sender, events) = mpsc::unbounded_channel();
        let mut forward = Self { ports: Vec::new(), forwards: Vec::new(), events, _tasks: JoinSet::new() };
        for target in targets {
            forward.add(api, target, sender.clone()).await?;
        }
        Ok(forward)
    }

    async fn add(&mut self, api: &ForwardApi, target: &PodPorts, events: Events) -> Result<(), ForwardError> {
        let pod: Arc<str> = target.pod.as_str().into();
        let (connections, accepted) = mpsc::channel(1);
        let mut all = Vec::new();
        let mut listening = Vec::new();
        // Bind the ports first: if that fails, no session was opened for nothing.
        for pair in &target.pairs {
            let listeners = listeners::bind(*pair).await?;
            let here = listeners.iter().map(LocalListener::local_addr).collect::<io::Result<Vec<_>>>()?;
            let forwarded =
                Arc::new(ForwardedPort::new(here[0], Arc::clone(&pod), pair.remote, pair.network));
            let port =
                |here| BoundPort { here, pod: Arc::clone(&pod), remote: pair.remote, network: pair.network };
            self.ports.extend(here.into_iter().map(port));
            listening.extend(listeners.into_iter().map(|listener| (listener, Arc::clone(&forwarded))));
            all.push(forwarded);
        }
        self.forwards.extend(all.iter().cloned());
        let forwards = PodForwards { pod, all, accepted, events };
        match api {
            ForwardApi::Rpc(rpc) => self._tasks.spawn(ByRpc::start(rpc.clone(), forwards).await?.run()),
            ForwardApi::Cri(cri) => self._tasks.spawn(ByCri::start(cri.clone(), forwards).await?.run()),
        };
        for (listener, forwarded) in listening {
            self._tasks.spawn(listener.serve(forwarded, connections.clone()));
        }
        Ok(())
    }

    /// The local ports, in the order of the arguments.
    pub(crate) fn ports(&self) -> &[BoundPort] {
        &self.ports
    }

    /// Forwards and reports events: forever, or until one connection has ended.
    ///
    /// # Errors
    /// If that one connection failed, or the report cannot be written.
    pub(crate) async fn run(&mut self, mut report: Report, once: bool) -> Result<(), ForwardError> {
        report.begin(&self.ports, &self.forwards)?;
        let mut refresh = tokio::time::interval(REFRESH);
        let mut failure = None;
        loop {
            let event = tokio::select! {
                Some(event) = self.events.recv() => event,
                _ = refresh.tick() => {
                    report.refresh(&self.forwards)?;
                    continue;
                }
            };
            if let ForwardEvent::Failed(forwarded, why) = &event {
                forwarded.failed(why);
                failure = Some(why.clone());
            }
            report.event(&event)?;
            report.refresh(&self.forwards)?;
            if once && matches!(event, ForwardEvent::Closed(..) | ForwardEvent::Failed(..)) {
                // A connection's failure, if any, is reported after its end.
                if let Ok(Some(ForwardEvent::Failed(_, why))) =
                    tokio::time::timeout(REFRESH, self.events.recv()).await
                {
                    failure = Some(why);
                }
                return failure.map_or(Ok(()), |why| Err(ForwardError::Once(why)));
            }
        }
    }
}

impl PodForwards {
    fn report(&self, event: ForwardEvent) {
        let _ = self.events.send(event); // fails only during shutdown
    }

    /// Waits for `this`, and meanwhile rejects local connections.
    async fn refuse_until<T>(&mut self, this: impl Future<Output = T>, why: &str) -> T {
        let mut this = std::pin::pin!(this);
        loop {
            tokio::select! {
                ready = this.as_mut() => return ready,
                Some(local) = self.accepted.recv() => {
                    let forwarded = local.reject();
                    let _ = self.events.send(ForwardEvent::Failed(forwarded, format!("the pod is not available: {why}")));
                }
            }
        }
    }
}

impl Incoming {
    fn reject(self) -> Arc<ForwardedPort> {
        match self {
            Self::Tcp(forwarded, mut socket) => {
                socket.abort();
                forwarded
            }
            Self::Udp(peer) => peer.forwarded,
        }
    }
}

/// How a port is displayed: `/udp` after a UDP port, nothing after a TCP port.
fn suffix(network: Network) -> &'static str {
    if network == Network::Udp { "/udp" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_an_error_that_names_the_option() {
        let pairs = vec![":80".parse().unwrap()];
        let target = PodPorts { pod: "demo".into(), pairs };
        let url = |name: &str| UnixUrl::from_url(&format!("unix:///nowhere/{name}.sock")).unwrap();
        for (api, option) in [(ForwardApi::Cri(url("cri")), "--cri"), (ForwardApi::Rpc(url("rpc")), "--rpc")]
        {
            let error =
                Forwarder::start(&api, std::slice::from_ref(&target)).await.err().unwrap().to_string();
            assert!(error.contains("/nowhere/") && error.contains(option), "{error}");
        }
    }

    #[tokio::test]
    async fn cri_does_not_carry_datagrams() {
        let target = PodPorts { pod: "demo".into(), pairs: vec![":53/udp".parse().unwrap()] };
        let error = Forwarder::start(&ForwardApi::Cri(UnixUrl::default()), &[target])
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with("0:53/udp: CRI carries TCP only"), "{error}");
    }
}
