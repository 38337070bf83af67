//! The daemon: puts its parts together and runs them, from start to shutdown.
//!
//! ```text
//! Daemon::start ──► serving ──signal──► shut_down: no new sessions, the open ones drain for `grace`, CRI last ──► ended
//!                                           └── a second signal ends it at once ─────────────────────────────────►┘
//! ```

pub(crate) mod config;
pub(crate) mod connections;
mod cri;
pub(crate) mod dial;
mod jsonrpc;
mod kube_api;
pub(crate) mod logs;
mod lost_pods;
mod metrics;
pub(crate) mod pods;
mod runtime;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gangplank_streaming::{Drained, Server};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::config::{Config, ConfigError, JsonRpcSection, SocketMode};
use self::connections::Accounts;
use self::dial::Dialer;
use self::metrics::MetricsPage;
use self::pods::{Registry, Source};
use self::runtime::Runtime;
use crate::listen::{self, BindError, UnixSocket};
use crate::signals::Signals;
use crate::unix_url::UnixUrl;

/// How long pending calls may take once everything else has ended.
const LAST_CALLS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The TLS files are not usable.
    #[error("streaming.tls: {0}")]
    Tls(#[from] gangplank_streaming::TlsError),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The system refuses something else that the daemon needs.
    #[error("cannot start: {0}; check the limits of this process, and that /proc is mounted")]
    System(#[from] io::Error),
    /// The streaming server ended without being told to.
    #[error("the streaming server ended unexpectedly: {0}; restart gangplank")]
    Streaming(io::Error),
}

/// A running daemon. Dropping it ends everything at once.
pub(crate) struct Daemon {
    streaming: Server<Dialer>,
    sessions: JoinHandle<()>,
    fronts: TaskTracker,
    /// The streams that JSON-RPC calls have opened.
    streams: Option<TaskTracker>,
    /// Ends everything that opens sessions; a child of `stop`.
    closing: CancellationToken,
    /// Ends the rest: CRI, which the kubelet must never miss, and what follows the runtime and the guests.
    stop: CancellationToken,
    addresses: Addresses,
}

/// Where a daemon listens.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// CRI.
    pub(crate) cri: UnixUrl,
    /// The streaming server.
    pub(crate) streaming: SocketAddr,
    /// The Kubernetes API, if enabled.
    pub(crate) kube_api: Option<SocketAddr>,
    /// JSON-RPC, if enabled.
    pub(crate) jsonrpc: Option<UnixUrl>,
    /// Metrics, if enabled.
    pub(crate) metrics: Option<SocketAddr>,
}

/// All listeners. They are bound before anything is served, so that a start that fails has served nothing.
struct Listeners {
    streaming: (TcpListener, SocketAddr),
    kube_api: Option<(TcpListener, SocketAddr)>,
    metrics: Option<(TcpListener, SocketAddr)>,
    cri: UnixSocket,
    jsonrpc: Option<UnixSocket>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, BindError> {
        let unix = |listen: &UnixUrl, mode: SocketMode| UnixSocket::bind(listen.path(), mode.0);
        Ok(Self {
            streaming: listen::tcp(config.streaming.listen).await?,
            kube_api: tcp(config.kube_api.as_ref().map(|kube_api| kube_api.listen)).await?,
            metrics: tcp(config.metrics.as_ref().map(|metrics| metrics.listen)).await?,
            jsonrpc: config.jsonrpc.as_ref().map(|rpc| unix(&rpc.listen, rpc.socket_mode)).transpose()?,
            cri: unix(&config.cri.listen, config.cri.socket_mode)?,
        })
    }

    fn addresses(&self, config: &Config) -> Addresses {
        Addresses {
            cri: config.cri.listen.clone(),
            streaming: self.streaming.1,
            kube_api: self.kube_api.as_ref().map(|(_, bound)| *bound),
            jsonrpc: config.jsonrpc.as_ref().map(|rpc| rpc.listen.clone()),
            metrics: self.metrics.as_ref().map(|(_, bound)| *bound),
        }
    }
}

async fn tcp(address: Option<SocketAddr>) -> Result<Option<(TcpListener, SocketAddr)>, BindError> {
    match address {
        Some(address) => listen::tcp(address).await.map(Some),
        None => Ok(None),
    }
}

/// Runs until a signal, and then until the open sessions have ended.
///
/// # Errors
/// If the daemon cannot start, or cannot go on.
pub(crate) async fn serve(file: &Path) -> Result<(), DaemonError> {
    let config = Config::load(file)?;
    logs::start(&config.log);
    // Every socket gets its mode before it is bound, and the umask must not change that.
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut signals = Signals::catch()?;
    let mut daemon = Daemon::start(&config).await?;
    let signal = tokio::select! {
        signal = signals.next() => signal,
        gave_up = daemon.gave_up() => return Err(gave_up),
    };
    let grace = config.shutdown.grace.0;
    tracing::info!(
        signal,
        ?grace,
        "shutting down: no new sessions are accepted; a second signal ends the daemon at once"
    );
    tokio::select! {
        Drained { finished, ended } = daemon.shut_down(grace) => {
            tracing::info!(finished, ended, "drained: how many sessions finished by themselves, and how many were ended");
        }
        signal = signals.next() => tracing::warn!(signal, "ended at once, with all open sessions"),
    }
    Ok(())
}

impl Daemon {
    /// Binds all listeners and serves them, or none.
    ///
    /// # Errors
    /// If an address is in use, or the system refuses something.
    pub(crate) async fn start(config: &Config) -> Result<Self, DaemonError> {
        let pods = Arc::new(registry(config));
        let settings = config.streaming_server()?;
        let accounts = Accounts::default();
        let runtime = config.cri.upstream.clone().map(Runtime::new);
        let dialer = Dialer::new(Arc::clone(&pods), accounts.clone(), settings.limits.dial_timeout)?
            .asking(runtime.clone())
            .within(&config.dial.rules());
        let streaming = Server::new(settings, dialer.clone());
        let (stop, fronts, mut streams) = (CancellationToken::new(), TaskTracker::new(), None);
        let closing = stop.child_token();

        let listeners = Listeners::bind(config).await?;
        let addresses = listeners.addresses(config);
        let Listeners { streaming: (listener, bound), kube_api, metrics, cri, jsonrpc } = listeners;

        fronts.spawn(dialer.clone().find_lost(stop.clone()));
        let base = base(bound, config.streaming.tls.is_some());
        let mut front = cri::CriFront::new(Arc::clone(&pods), streaming.clone(), &base);
        if let Some(runtime) = runtime {
            let follower =
                cri::Follower::new(runtime, Arc::clone(&pods), config.route_rules(), streaming.clone());
            fronts.spawn(follower.clone().follow(stop.clone()));
            front = front.before(follower);
        }
        fronts.spawn(front.serve(cri, stop.clone()));
        if let Some((listener, _)) = kube_api {
            let front = kube_api::KubeApiFront::new(Arc::clone(&pods), streaming.clone());
            fronts.spawn(front.serve(listener, closing.clone()));
        }
        if let (Some(socket), Some(JsonRpcSection { uids, .. })) = (jsonrpc, &config.jsonrpc) {
            let (pods, accounts) = (Arc::clone(&pods), accounts.clone());
            let front = jsonrpc::JsonRpcFront::new(pods, dialer, streaming.clone(), accounts, uids);
            streams = Some(front.streams());
            fronts.spawn(front.serve(socket, closing.clone()));
        }
        if let Some((listener, _)) = metrics {
            let page = MetricsPage {
                metrics: accounts.metrics,
                streaming: streaming.clone(),
                pods: Arc::clone(&pods),
            };
            fronts.spawn(page.serve(listener, stop.clone()));
        }
        let sessions = tokio::spawn({
            let (streaming, closing) = (streaming.clone(), closing.clone());
            async move { streaming.serve(listener, closing).await }
        });
        addresses.log(pods.all().len());
        Ok(Self { streaming, sessions, fronts, streams, closing, stop, addresses })
    }

    /// Where the daemon listens.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Resolves only if the streaming server ends by itself.
    async fn gave_up(&mut self) -> DaemonError {
        match (&mut self.sessions).await {
            Ok(()) => DaemonError::Streaming(io::Error::other("nothing told it to")),
            Err(panic) => DaemonError::Streaming(io::Error::other(panic)),
        }
    }

    /// Refuses new sessions, and lets open ones go on for `grace` before it ends them.
    ///
    /// CRI is served until the last session has ended: a kubelet takes a runtime that is silent for 30 s for dead.
    pub(crate) async fn shut_down(self, grace: Duration) -> Drained {
        self.closing.cancel();
        let streams = async {
            // The JSON-RPC front has ended or is about to, so no stream is added any more.
            if let Some(streams) = &self.streams {
                streams.close();
                let _ = tokio::time::timeout(grace, streams.wait()).await;
            }
        };
        let (drained, ()) = tokio::join!(self.streaming.drain(grace), streams);
        self.stop.cancel();
        self.fronts.close();
        // A call that takes even longer sees its connection close.
        let _ = tokio::time::timeout(LAST_CALLS_TIMEOUT, self.fronts.wait()).await;
        drained
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Addresses {
    fn log(&self, pods: usize) {
        let or_off = |address: Option<String>| address.unwrap_or_else(|| "off".into());
        let kube_api = or_off(self.kube_api.map(|address| address.to_string()));
        let jsonrpc = or_off(self.jsonrpc.as_ref().map(UnixUrl::to_string));
        let metrics = or_off(self.metrics.map(|address| address.to_string()));
        tracing::info!(cri = %self.cri, streaming = %self.streaming, kube_api, jsonrpc, metrics, pods, "serving");
    }
}

fn registry(config: &Config) -> Registry {
    let created = SystemTime::now();
    Registry::new(config.pod.iter().map(|pod| pod.to_pod(Source::Configuration, created)))
}

/// The prefix of the streaming server's URLs. Their clients are on this machine, so a server that listens on all
/// addresses is named by a loopback address.
fn base(bound: SocketAddr, tls: bool) -> String {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, bound.port()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn session_urls_have_a_host_that_can_be_dialled() {
        let base = |bound: &str| super::base(bound.parse().unwrap(), false);
        assert_eq!(base("127.0.0.1:80"), "http://127.0.0.1:80");
        assert_eq!(base("0.0.0.0:80"), "http://127.0.0.1:80");
        assert_eq!(base("[::]:80"), "http://[::1]:80");
        assert_eq!(base("10.1.2.3:80"), "http://10.1.2.3:80");
        assert_eq!(super::base("127.0.0.1:80".parse().unwrap(), true), "https://127.0.0.1:80");
    }
}
