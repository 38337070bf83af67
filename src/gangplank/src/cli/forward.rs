//! `gangplank forward`: our own port-forward client. It listens here, and asks JSON-RPC for each connection or
//! CRI for a session.
//!
//! ```text
//!   listeners, udp ──► a task for each pod (by_rpc, by_cri) ──► streams
//!                             └── events ──► report
//! ```

mod by_cri;
mod by_rpc;
mod cri_client;
mod line;
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
use self::line::{Event, Events, Line};
use self::listeners::Listener;
pub(crate) use self::ports::{PortPair, Target};
pub(crate) use self::report::Report;
use self::udp::Peer;
use crate::cli::rpc_socket::{RPC, unix_url};
use crate::rpc::client::CallError;
use crate::signals::Signals;
use crate::unix_url::UnixUrl;

/// How often the table is drawn again.
const REFRESH: Duration = Duration::from_millis(250);

/// Options of the command.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "gangplank forward [OPTIONS] POD PORT... [POD PORT...]...",
    after_help = "\
Each port is one of
  8080:80            port 8080 here, on 127.0.0.1 and ::1, to port 80 of the pod
  80                 the same port on both sides
  :80                any free port here, which is printed
  127.0.0.2:8080:80  port 8080 of that address
  5353:53/udp        datagrams, as in dig -p 5353 @127.0.0.1; each sender has an association with the port of its
                     own, until 60 s pass without a datagram or 256 others have sent since

A forward stays when the daemon or the pod goes away, says so, and goes on when they are back. In a terminal a line for
each forward shows its connections, bytes and last error.

Examples:
  gangplank forward demo 8080:80 :443
  gangplank forward web 8080:80 default/db 5432
  gangplank forward dns 5353:53/udp
  gangplank forward --json demo :80 | jq -r 'select(.event == \"listening\") | .local'"
)]
pub(crate) struct Options {
    /// The daemon's JSON-RPC socket [default: unix:///run/gangplank/rpc.sock if it is there, else the default of --cri]
    #[arg(long, value_name = "URL", env = "GANGPLANK_RPC", value_parser = unix_url)]
    rpc: Option<UnixUrl>,
    /// A CRI socket instead, of gangplank or of another runtime [default: unix:///run/gangplank/cri.sock]
    #[arg(long, value_name = "URL", value_parser = unix_url)]
    cri: Option<UnixUrl>,
    /// End when the first connection has
    #[arg(long)]
    once: bool,
    /// Tell what happens as JSON, an object a line
    #[arg(long)]
    json: bool,
    /// A pod and its ports, and as many more of that as you like
    #[arg(required = true, num_args = 2.., value_name = "POD PORT...")]
    what: Vec<String>,
}

/// Why ports are not forwarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// What is to be forwarded is not understood.
    #[error("{0}")]
    Usage(String),
    /// The daemon refuses, or does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
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
    #[error("cannot listen on port {port} of {address}: {source}; stop whoever uses it or choose another")]
    Listen {
        /// The addresses that were tried.
        address: String,
        /// The port.
        port: u16,
        /// What the system says of the first.
        source: io::Error,
    },
    /// The one connection that was to be forwarded was not.
    #[error("the connection failed: {0}")]
    Once(String),
    /// The system refuses something else.
    #[error("cannot go on: {0}")]
    System(#[from] io::Error),
}

impl Options {
    /// A CRI socket that is named goes before a JSON-RPC socket, which the environment may name.
    fn way(&self) -> Way {
        let there = |rpc: &UnixUrl| rpc.path().exists();
        match (&self.cri, &self.rpc) {
            (Some(cri), _) => Way::Cri(cri.clone()),
            (None, Some(rpc)) => Way::Rpc(rpc.clone()),
            (None, None) => {
                UnixUrl::from_url(RPC).filter(there).map_or(Way::Cri(UnixUrl::default()), Way::Rpc)
            }
        }
    }
}

/// Which socket is asked for connections into pods.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// JSON-RPC, for each connection.
    Rpc(UnixUrl),
    /// CRI, for a session with each pod.
    Cri(UnixUrl),
}

/// Forwards until a signal asks to end.
///
/// # Errors
/// When there is no pod or no port at the beginning, or with `--once` when the connection fails.
pub(crate) async fn run(options: &Options) -> Result<(), ForwardError> {
    let targets = ports::targets(&options.what).map_err(ForwardError::Usage)?;
    let way = options.way();
    let mut signals = Signals::catch()?;
    let mut forward = Forward::start(&way, &targets).await?;
    let report = Report::new(options.json);
    tokio::select! {
        _ = signals.next() => Ok(()),
        ended = forward.run(report, options.once) => ended,
    }
}

/// Ports here that lead into pods. Dropping it ends all.
pub(crate) struct Forward {
    ports: Vec<Port>,
    lines: Vec<Arc<Line>>,
    events: mpsc::UnboundedReceiver<Event>,
    // Dropped with the rest, which ends them.
    _tasks: JoinSet<()>,
}

/// A port here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Where we listen.
    pub(crate) here: SocketAddr,
    /// The pod it leads to, as it was named.
    pub(crate) pod: Arc<str>,
    /// The port of the pod.
    pub(crate) remote: u16,
    /// Streams or datagrams.
    pub(crate) network: Network,
}

/// What has come here for a pod.
enum Local {
    /// A connection.
    Tcp(Arc<Line>, TcpStream),
    /// Datagrams of one sender.
    Udp(Peer),
}

/// What the task of one pod works with.
struct PodLines {
    pod: Arc<str>,
    all: Vec<Arc<Line>>,
    accepted: mpsc::Receiver<Local>,
    events: Events,
}

impl Forward {
    /// Listens, and sees that the pods are there.
    ///
    /// # Errors
    /// When there is no pod or no port.
    pub(crate) async fn start(way: &Way, targets: &[Target]) -> Result<Self, ForwardError> {
        if let Way::Cri(_) = way
            && let Some(pair) =
                targets.iter().flat_map(|target| &target.pairs).find(|pair| pair.network == Network::Udp)
        {
            let text =
                format!("{pair}: CRI carries TCP only; leave out --cri and use the daemon's JSON-RPC socket");
            return Err(ForwardError::Usage(text));
        }
        let (sender, events) = mpsc::unbounded_channel();
        let mut forward = Self { ports: Vec::new(), lines: Vec::new(), events, _tasks: JoinSet::new() };
        for target in targets {
            forward.add(way, target, sender.clone()).await?;
        }
        Ok(forward)
    }

    async fn add(&mut self, way: &Way, target: &Target, events: Events) -> Result<(), ForwardError> {
        let pod: Arc<str> = target.pod.as_str().into();
        let (connections, accepted) = mpsc::channel(1);
        let mut all = Vec::new();
        let mut listening = Vec::new();
        // First the ports: a wrong one must not cost a session.
        for pair in &target.pairs {
            let listeners = listeners::bind(*pair).await?;
            let here = listeners.iter().map(Listener::local_addr).collect::<io::Result<Vec<_>>>()?;
            let line = Arc::new(Line::new(here[0], Arc::clone(&pod), pair.remote, pair.network));
            let port =
                |here| Port { here, pod: Arc::clone(&pod), remote: pair.remote, network: pair.network };
            self.ports.extend(here.into_iter().map(port));
            listening.extend(listeners.into_iter().map(|listener| (listener, Arc::clone(&line))));
            all.push(line);
        }
        self.lines.extend(all.iter().cloned());
        let lines = PodLines { pod, all, accepted, events };
        match way {
            Way::Rpc(rpc) => self._tasks.spawn(ByRpc::start(rpc.clone(), lines).await?.run()),
            Way::Cri(cri) => self._tasks.spawn(ByCri::start(cri.clone(), lines).await?.run()),
        };
        for (listener, line) in listening {
            self._tasks.spawn(listener.serve(line, connections.clone()));
        }
        Ok(())
    }

    /// The ports here, in the order of the pairs.
    pub(crate) fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Forwards and tells what happens, for ever or until one connection has ended.
    ///
    /// # Errors
    /// When that one connection failed, or nobody takes what is told.
    pub(crate) async fn run(&mut self, mut report: Report, once: bool) -> Result<(), ForwardError> {
        report.begin(&self.ports, &self.lines)?;
        let mut refresh = tokio::time::interval(REFRESH);
        let mut failure = None;
        loop {
            let event = tokio::select! {
                Some(event) = self.events.recv() => event,
                _ = refresh.tick() => {
                    report.refresh(&self.lines)?;
                    continue;
                }
            };
            if let Event::Failed(line, why) = &event {
                line.failed(why);
                failure = Some(why.clone());
            }
            report.event(&event)?;
            report.refresh(&self.lines)?;
            if once && matches!(event, Event::Closed(..) | Event::Failed(..)) {
                // A failure is told after its connection has gone, if it is told.
                if let Ok(Some(Event::Failed(_, why))) =
                    tokio::time::timeout(REFRESH, self.events.recv()).await
                {
                    failure = Some(why);
                }
                return failure.map_or(Ok(()), |why| Err(ForwardError::Once(why)));
            }
        }
    }
}

impl PodLines {
    fn tell(&self, event: Event) {
        let _ = self.events.send(event); // nobody listens any more at the end
    }

    /// Sends away whoever connects until this is there.
    async fn refuse_until<T>(&mut self, this: impl Future<Output = T>, why: &str) -> T {
        let mut this = std::pin::pin!(this);
        loop {
            tokio::select! {
                there = this.as_mut() => return there,
                Some(local) = self.accepted.recv() => {
                    let line = local.send_away();
                    let _ = self.events.send(Event::Failed(line, format!("the pod is away: {why}")));
                }
            }
        }
    }
}

impl Local {
    fn send_away(self) -> Arc<Line> {
        match self {
            Self::Tcp(line, mut socket) => {
                socket.abort();
                line
            }
            Self::Udp(peer) => peer.line,
        }
    }
}

/// What carries this port, for people: nothing for TCP.
fn suffix(network: Network) -> &'static str {
    if network == Network::Udp { "/udp" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_told() {
        let pairs = vec![":80".parse().unwrap()];
        let target = Target { pod: "demo".into(), pairs };
        let url = |name: &str| UnixUrl::from_url(&format!("unix:///nowhere/{name}.sock")).unwrap();
        for (way, option) in [(Way::Cri(url("cri")), "--cri"), (Way::Rpc(url("rpc")), "--rpc")] {
            let error = Forward::start(&way, std::slice::from_ref(&target)).await.err().unwrap().to_string();
            assert!(error.contains("/nowhere/") && error.contains(option), "{error}");
        }
    }

    #[tokio::test]
    async fn datagrams_do_not_go_by_cri() {
        let target = Target { pod: "demo".into(), pairs: vec![":53/udp".parse().unwrap()] };
        let error = Forward::start(&Way::Cri(UnixUrl::default()), &[target]).await.err().unwrap().to_string();
        assert!(error.starts_with("0:53/udp: CRI carries TCP only"), "{error}");
    }
}
