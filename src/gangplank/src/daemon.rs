//! The daemon: its parts put together, from start to shutdown.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streaming::{Drained, Server};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ConfigError, UnixUrl};
use crate::dial::Dialer;
use crate::listen::{self, ListenError, UnixSocket};
use crate::pods::{Pod, Registry, Route, Source};
use crate::runtime::Runtime;
use crate::signals::Signals;
use crate::{cri, kube_api, logs};

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
    Tls(#[from] streaming::TlsError),
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
    sessions: JoinHandle<io::Result<()>>,
    fronts: TaskTracker,
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
}

/// Runs until a signal asks to end, and then until the sessions have ended.
///
/// # Errors
/// When the daemon cannot start, or cannot go on.
pub(crate) async fn serve(file: &Path) -> Result<(), DaemonError> {
    let config = Config::load(file)?;
    logs::start(&config.log);
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
        let runtime = config.cri.upstream.clone().map(Runtime::new);
        let dialer = Dialer::new(Arc::clone(&pods), settings.limits.dial_timeout)?.asking(runtime.clone());
        let streaming = Server::new(settings, dialer);
        let (stop, fronts) = (CancellationToken::new(), TaskTracker::new());

        let (listener, bound) = listen::tcp(config.streaming.listen).await?;
        let kube_api = match &config.kube_api {
            Some(kube_api) => Some(listen::tcp(kube_api.listen).await?),
            None => None,
        };
        let socket = UnixSocket::bind(config.cri.listen.path(), config.cri.socket_mode.0)?;

        let base = base(bound, config.streaming.tls.is_some());
        let mut cri = cri::Front::new(Arc::clone(&pods), streaming.clone(), &base);
        if let Some(runtime) = runtime {
            let follower = cri::Follower::new(runtime, Arc::clone(&pods), config.rules(), streaming.clone());
            fronts.spawn(follower.clone().follow(stop.clone()));
            cri = cri.before(follower);
        }
        fronts.spawn(cri.serve(socket, stop.clone()));
        let mut addresses = Addresses { cri: config.cri.listen.clone(), streaming: bound, kube_api: None };
        if let Some((listener, bound)) = kube_api {
            let front = kube_api::Front::new(Arc::clone(&pods), streaming.clone());
            fronts.spawn(front.serve(listener, stop.clone()));
            addresses.kube_api = Some(bound);
        }
        let sessions = tokio::spawn({
            let (streaming, stop) = (streaming.clone(), stop.clone());
            async move { streaming.serve(listener, stop).await }
        });
        addresses.log(pods.all().len());
        Ok(Self { streaming, sessions, fronts, stop, addresses })
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Ends only if the streaming server gives up by itself.
    async fn gave_up(&mut self) -> DaemonError {
        match (&mut self.sessions).await {
            Ok(Err(error)) => DaemonError::Streaming(error),
            Ok(Ok(())) => DaemonError::Streaming(io::Error::other("it was not asked to")),
            Err(panic) => DaemonError::Streaming(io::Error::other(panic)),
        }
    }

    /// Refuses new sessions, and lets those that live go on for `grace` before it ends them.
    ///
    /// The sockets are free at once, so that a successor can start.
    pub(crate) async fn shut_down(self, grace: Duration) -> Drained {
        self.stop.cancel();
        let drained = self.streaming.drain(grace).await;
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
        let kube_api = self.kube_api.map_or_else(|| "off".into(), |address| address.to_string());
        tracing::info!(cri = %self.cri, streaming = %self.streaming, kube_api, pods, "serving");
    }
}

fn registry(config: &Config) -> Registry {
    let created = SystemTime::now();
    Registry::new(config.pod.iter().map(|pod| Pod {
        id: pod.id.0.as_str().into(),
        name: pod.name.0.clone(),
        namespace: pod.namespace.0.clone(),
        uid: pod.uid.0.clone(),
        labels: pod.labels.clone(),
        route: Route::Endpoint(pod.endpoint.clone()),
        source: Source::Configuration,
        created,
    }))
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
