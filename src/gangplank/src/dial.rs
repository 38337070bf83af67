//! Dialling: from a sandbox and a port to a connection.

mod conn;
mod direct;
mod namespace;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use channel::Open;
use streaming::{Dial, DialError, DialErrorKind, Target};

pub(crate) use self::conn::PodConn;
use self::namespace::Sockets;
use crate::pods::{Endpoint, Pod, Registry};

/// How long a relay may take to say what listens, after a dial that was refused.
const LOOK_UP: Duration = Duration::from_secs(1);

/// As many ports are named of those that listen.
const MOST_PORTS: usize = 20;

/// Reaches the ports of all pods in a registry.
#[derive(Debug)]
pub(crate) struct Dialer {
    pods: Arc<Registry>,
    sockets: Sockets,
    relay_limit: Duration,
}

impl Dialer {
    /// For these pods. `limit` is after what time whoever dials gives up.
    ///
    /// # Errors
    /// When there is no /proc, or no thread can be had.
    pub(crate) fn new(pods: Arc<Registry>, limit: Duration) -> io::Result<Self> {
        // The relay gives up a little earlier, so that its sentence comes back in time.
        Ok(Self { pods, sockets: Sockets::start()?, relay_limit: limit * 9 / 10 })
    }
}

impl Dial for Dialer {
    type Conn = PodConn;

    fn dial(&self, target: Target) -> impl Future<Output = Result<PodConn, DialError>> + Send {
        let pod = self.pods.get(&target.sandbox).cloned();
        let (sockets, limit) = (self.sockets.clone(), self.relay_limit);
        async move {
            let pod = pod.ok_or_else(|| unknown(&target.sandbox))?;
            present(&pod)?;
            match &pod.endpoint {
                Endpoint::Netns(path) => {
                    direct::dial(&sockets, path, &pod.name, target.port).await.map(PodConn::Tcp)
                }
                Endpoint::Relay(endpoint) => relay(endpoint, target.port, limit).await,
            }
        }
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

fn present(pod: &Pod) -> Result<(), DialError> {
    let Some(file) = pod.missing() else { return Ok(()) };
    let cause = format!(
        "reach pod {:?} at {}: {} is not there; start the pod and forward again",
        pod.name,
        pod.endpoint,
        file.display()
    );
    Err(DialError::new(DialErrorKind::SandboxGone, cause))
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
