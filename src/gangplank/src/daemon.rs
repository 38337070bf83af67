//! The daemon: its parts put together, from start to shutdown.

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

use self::config::{Config, ConfigError, JsonRpc, SocketMode};
use self::connections::Accounts;
use self::dial::Dialer;
use self::metrics::Page;
use self::pods::{Registry, Source};
use self::runtime::Runtime;
use crate::listen::{self, ListenError, UnixSocket};
use crate::signals::Signals;
use crate::unix_url::UnixUrl;

/// How long the fronts may take for calls under way when everything else has ended.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The files for TLS are no good.
    #[error("streaming.tls: {0}")]
    Tls(#[from] gangplank_streaming::TlsError),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system refuses something else.
    #[error("cannot start: {0}; see the limits of this process, and whether /proc is there")]
    System(#[from] io::Error),
    /// The streaming server gave up.
    #[error("the streaming server has ended: {0}; start gangplank again")]
    Streaming(io::Error),
}

/// A running daemon. Dropping it ends everything at once.
pub(crate) struct Daemon {
    streaming: Server<Dialer>,
    sessions: JoinHandle<()>,
    fronts: TaskTracker,
    /// Those that JSON-RPC calls have given.
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
    /// The Kubernetes API, if it is served.
    pub(crate) kube_api: Option<SocketAddr>,
    /// JSON-RPC, if it is served.
    pub(crate) jsonrpc: Option<UnixUrl>,
    /// Metrics, if they are shown.
    pub(crate) metrics: Option<SocketAddr>,
}

/// Everything that listens, before anything serves.
struct Listeners {
    streaming: (TcpListener, SocketAddr),
    kube_api: Option<(TcpListener, SocketAddr)>,
    metrics: Option<(TcpListener, SocketAddr)>,
    cri: UnixSocket,
    jsonrpc: Option<UnixSocket>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ListenError> {
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

async fn tcp(address: Option<SocketAddr>) -> Result<Option<(TcpListener, SocketAddr)>, ListenError> {
    match address {
        Some(address) => listen::tcp(address).await.map(Some),
        None => Ok(None),
    }
}

/// Runs until a signal asks to end, and then until the sessions have ended.
///
/// # Errors
/// When the daemon cannot start, or cannot go on.
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
    tracing::info!(signal, ?grace, "shutting down: no new sessions; a second signal ends at once");
    tokio::select! {
        Drained { finished, ended } = daemon.shut_down(grace) => {
            tracing::info!(finished, ended, "drained: sessions that finished by themselves and that were ended");
        }
        signal = signals.next() => tracing::warn!(signal, "ended at once, with the sessions that were left"),
    }
    Ok(())
}

impl Daemon {
    /// Listens and serves, all of it or nothing.
    ///
    /// # Errors
    /// When an address is in use or the system refuses something.
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
            let front = kube_api::Front::new(Arc::clone(&pods), streaming.clone());
            fronts.spawn(front.serve(listener, closing.clone()));
        }
        if let (Some(socket), Some(JsonRpc { uids, .. })) = (jsonrpc, &config.jsonrpc) {
            let (pods, accounts) = (Arc::clone(&pods), accounts.clone());
            let front = jsonrpc::Front::new(pods, dialer, streaming.clone(), accounts, uids);
            streams = Some(front.streams());
            fronts.spawn(front.serve(socket, closing.clone()));
        }
        if let Some((listener, _)) = metrics {
            let page =
                Page { metrics: accounts.metrics, streaming: streaming.clone(), pods: Arc::clone(&pods) };
            fronts.spawn(page.serve(listener, stop.clone()));
        }
        let sessions = tokio::spawn({
            let (streaming, closing) = (streaming.clone(), closing.clone());
            async move { streaming.serve(listener, closing).await }
        });
        addresses.log(pods.all().len());
        Ok(Self { streaming, sessions, fronts, streams, closing, stop, addresses })
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Ends only if the streaming server gives up by itself.
    async fn gave_up(&mut self) -> DaemonError {
        match (&mut self.sessions).await {
            Ok(()) => DaemonError::Streaming(io::Error::other("it was not asked to")),
            Err(panic) => DaemonError::Streaming(io::Error::other(panic)),
        }
    }

    /// Refuses new sessions, and lets open ones go on for `grace` before it ends them.
    ///
    /// CRI is served until the last session has ended: a kubelet takes a runtime that is silent for 30 s for dead.
    pub(crate) async fn shut_down(self, grace: Duration) -> Drained {
        self.closing.cancel();
        let streams = async {
            // Its front has ended, or is about to: no stream comes any more.
            if let Some(streams) = &self.streams {
                streams.close();
                let _ = tokio::time::timeout(grace, streams.wait()).await;
            }
        };
        let (drained, ()) = tokio::join!(self.streaming.drain(grace), streams);
        self.stop.cancel();
        self.fronts.close();
        // Whoever is still in the middle of a call then will see its connection close.
        let _ = tokio::time::timeout(LAST_CALLS, self.fronts.wait()).await;
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
    Registry::new(config.pod.iter().map(|pod| pod.pod(Source::Configuration, created)))
}

/// The beginning of the streaming server's URLs. Who gets one is on this machine, so a server that listens on
/// all addresses is named by a loopback address.
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
    fn urls_have_a_host_that_can_be_dialled() {
        let base = |bound: &str| super::base(bound.parse().unwrap(), false);
        assert_eq!(base("127.0.0.1:80"), "http://127.0.0.1:80");
        assert_eq!(base("0.0.0.0:80"), "http://127.0.0.1:80");
        assert_eq!(base("[::]:80"), "http://[::1]:80");
        assert_eq!(base("10.1.2.3:80"), "http://10.1.2.3:80");
        assert_eq!(super::base("127.0.0.1:80".parse().unwrap(), true), "https://127.0.0.1:80");
    }
}
