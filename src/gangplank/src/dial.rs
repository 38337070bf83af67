//! Dialling: from a sandbox and a port to a connection.

mod conn;
mod direct;
mod kata;
mod namespace;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use channel::Open;
use streaming::{Dial, DialError, DialErrorKind, Target};

pub(crate) use self::conn::PodConn;
use self::namespace::Sockets;
use crate::pods::{Endpoint, Obstacle, Pod, Registry, Route};
use crate::runtime::{Runtime, network_namespace};

/// How long a relay may take to say what listens, after a dial that was refused.
const LOOK_UP: Duration = Duration::from_secs(1);

/// As many ports are named of those that listen.
const MOST_PORTS: usize = 20;

/// Reaches the ports of all pods in a registry. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    pods: Arc<Registry>,
    sockets: Sockets,
    relay_limit: Duration,
    runtime: Option<Runtime>,
}

impl Dialer {
    /// For these pods. `limit` is after what time whoever dials gives up.
    ///
    /// # Errors
    /// When there is no /proc, or no thread can be had.
    pub(crate) fn new(pods: Arc<Registry>, limit: Duration) -> io::Result<Self> {
        // The relay gives up a little earlier, so that its sentence comes back in time.
        Ok(Self { pods, sockets: Sockets::start()?, relay_limit: limit * 9 / 10, runtime: None })
    }

    /// The same with a runtime that knows its pods' network namespaces.
    pub(crate) fn asking(self, runtime: Option<Runtime>) -> Self {
        Self { runtime, ..self }
    }

    async fn connect(&self, target: &Target) -> Result<PodConn, DialError> {
        let pod = self.pods.get(&target.sandbox).ok_or_else(|| unknown(&target.sandbox))?;
        if let Some(obstacle) = pod.obstacle() {
            return Err(in_the_way(&pod, &obstacle));
        }
        let endpoint = pod.route.endpoint().map_err(|obstacle| in_the_way(&pod, &obstacle))?;
        match endpoint {
            Some(Endpoint::Netns(path)) => {
                direct::dial(&self.sockets, &path, &pod.name, target.port).await.map(PodConn::Tcp)
            }
            Some(Endpoint::Kata { state, port }) => {
                let endpoint = kata::relay(&state, port, &pod.name).await?;
                relay(&endpoint, target.port, self.relay_limit).await
            }
            Some(Endpoint::Relay(endpoint)) => relay(&endpoint, target.port, self.relay_limit).await,
            None => {
                let path = self.namespace(&pod).await?;
                direct::dial(&self.sockets, &path, &pod.name, target.port).await.map(PodConn::Tcp)
            }
        }
    }

    /// The network namespace of a pod that has no endpoint, as its runtime tells it.
    async fn namespace(&self, pod: &Pod) -> Result<PathBuf, DialError> {
        let unusable = |why: &str| {
            let cause = format!("reach pod {:?} in its network namespace: {why}", pod.name);
            DialError::new(DialErrorKind::RelayUnusable, cause)
        };
        let Some(runtime) = self.runtime.as_ref().filter(|_| pod.route == Route::Namespace) else {
            return Err(unusable(
                "its runtime forwards its ports; set cri.netns = true, or add a [[runtime]]",
            ));
        };
        let answer = runtime.sandbox(&pod.id, true).await.map_err(|error| unusable(error.message()))?;
        let path = network_namespace(&answer).map_err(|error| unusable(&error.to_string()))?;
        self.pods.found(&pod.id, Route::Endpoint(Endpoint::Netns(path.clone())));
        Ok(path)
    }
}

impl Dial for Dialer {
    type Conn = PodConn;

    fn dial(&self, target: Target) -> impl Future<Output = Result<PodConn, DialError>> + Send {
        let dialer = self.clone();
        async move { dialer.connect(&target).await }
    }
}

async fn relay(endpoint: &channel::Endpoint, port: u16, limit: Duration) -> Result<PodConn, DialError> {
    let open = Open::tcp(format!("localhost:{port}"), limit);
    match channel::dial(endpoint, open).await {
        Ok(channel) => Ok(PodConn::Channel(channel)),
        Err(error) if error.kind == channel::DialErrorKind::Refused => {
            let cause = refusal(endpoint, port).await.unwrap_or(error.cause);
            Err(DialError::new(DialErrorKind::Refused, cause))
        }
        Err(error) => Err(from_channel(error)),
    }
}

/// What listens instead of the port that refused; none if the relay cannot tell in time.
async fn refusal(endpoint: &channel::Endpoint, port: u16) -> Option<String> {
    let listening = tokio::time::timeout(LOOK_UP, channel::ports(endpoint, "")).await.ok()?.ok()?;
    let mut ports: Vec<_> =
        listening.iter().filter(|at| at.is_local_tcp()).map(|at| at.address.port()).collect();
    ports.dedup();
    let more = if ports.len() > MOST_PORTS { " and more" } else { "" };
    ports.truncate(MOST_PORTS);
    let listening = match &ports[..] {
        [] => "nothing does on any other port".to_owned(),
        ports => {
            format!("listening: {}{more}", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "))
        }
    };
    Some(format!("nothing listens on {port}; {listening}; says the relay at {endpoint}"))
}

fn unknown(sandbox: &str) -> DialError {
    let cause = format!("pod sandbox {sandbox:?} is not there any more; forward to its successor");
    DialError::new(DialErrorKind::SandboxGone, cause)
}

fn in_the_way(pod: &Pod, obstacle: &Obstacle) -> DialError {
    let cause = format!("reach pod {:?} at {}: {obstacle}", pod.name, pod.route);
    DialError::new(DialErrorKind::SandboxGone, cause)
}

fn from_channel(error: channel::DialError) -> DialError {
    use channel::DialErrorKind as Kind;
    let kind = match error.kind {
        Kind::Refused => DialErrorKind::Refused,
        Kind::Unreachable => DialErrorKind::Unreachable,
        Kind::TimedOut => DialErrorKind::TimedOut,
        Kind::Denied => DialErrorKind::Denied,
        Kind::RelayNotReady | Kind::Busy => DialErrorKind::Relay,
        Kind::RelayUnusable => DialErrorKind::RelayUnusable,
        _ => DialErrorKind::Internal,
    };
    DialError::new(kind, error.cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod_at;

    async fn failure(pods: Registry, sandbox: &str) -> DialError {
        let dialer = Dialer::new(Arc::new(pods), Duration::from_secs(10)).unwrap();
        dialer.dial(Target { sandbox: sandbox.into(), port: 80 }).await.err().unwrap()
    }

    #[tokio::test]
    async fn a_sandbox_that_is_not_known_ends_the_session() {
        let error = failure(Registry::default(), "abc").await;
        assert!(error.kind.ends_session());
        assert!(error.cause.contains("\"abc\""), "{}", error.cause);
    }

    #[tokio::test]
    async fn a_pod_whose_vm_does_not_run_ends_the_session() {
        let pods = Registry::new([pod_at("abc", "demo", "hvsock:///nowhere/v.sock:1024")]);
        let error = failure(pods, "abc").await;
        assert_eq!(error.kind, DialErrorKind::SandboxGone);
        assert!(error.cause.contains("/nowhere/v.sock is not there"), "{}", error.cause);
    }

    #[test]
    fn failures_of_the_relay_keep_kind_and_sentence() {
        let of = |kind| from_channel(channel::DialError::new(kind, "a sentence"));
        assert_eq!(of(channel::DialErrorKind::Refused).kind, DialErrorKind::Refused);
        assert_eq!(of(channel::DialErrorKind::RelayNotReady).kind, DialErrorKind::Relay);
        assert!(of(channel::DialErrorKind::RelayUnusable).kind.ends_session());
        assert_eq!(of(channel::DialErrorKind::BadEndpoint).cause, "a sentence");
    }

    #[tokio::test]
    async fn a_refusal_says_what_listens_instead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.sock");
        let listen = [relay::Listen::Unix { path: path.clone() }];
        let guest = relay::Relay::bind(&listen, relay::Config::default()).unwrap();
        let stopper = guest.stopper();
        let running = std::thread::spawn(move || guest.run());
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (open, closed) = (port(), port().local_addr().unwrap().port());

        let pods = Registry::new([pod_at("abc", "demo", &format!("unix://{}", path.display()))]);
        let dialer = Dialer::new(Arc::new(pods), Duration::from_secs(10)).unwrap();
        let error = dialer.dial(Target { sandbox: "abc".into(), port: closed }).await.err().unwrap();
        assert_eq!(error.kind, DialErrorKind::Refused);
        let start = format!("nothing listens on {closed}; listening: ");
        let open = open.local_addr().unwrap().port().to_string();
        let named = error.cause.strip_prefix(&start).and_then(|rest| rest.split(';').next());
        let is_named = named.is_some_and(|ports| ports.split([',', ' ']).any(|port| port == open));
        // This machine may have more ports than are named.
        assert!(is_named || error.cause.contains(" and more;"), "{}", error.cause);
        stopper.stop();
        running.join().unwrap().unwrap();
    }
}
