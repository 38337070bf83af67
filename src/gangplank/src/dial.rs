//! Dialling: from a pod and a place in it to a connection.

mod conn;
mod direct;
mod kata;
mod namespace;
mod pod_dialer;
mod reach;
mod request;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use streaming::{Dial, DialError, DialErrorKind, Target};

pub use self::conn::PodConn;
use self::namespace::Sockets;
pub use self::pod_dialer::PodDialer;
pub(crate) use self::reach::Patience;
pub(crate) use self::request::Request;
pub use self::request::{Network, RequestError};
use crate::connections::{Caller, Connections};
use crate::pods::{Endpoint, Obstacle, Pod, Registry, Route};
use crate::runtime::{Runtime, network_namespace};

/// Reaches places in all pods of a registry, and keeps the books of it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    pods: Arc<Registry>,
    sockets: Sockets,
    connections: Arc<Connections>,
    patience: Patience,
    runtime: Option<Runtime>,
}

impl Dialer {
    /// For these pods. `limit` is after what time a streaming server gives a dial up.
    ///
    /// # Errors
    /// When there is no /proc, or no thread can be had.
    pub(crate) fn new(
        pods: Arc<Registry>,
        connections: Arc<Connections>,
        limit: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            pods,
            sockets: Sockets::start()?,
            connections,
            patience: Patience::before(limit),
            runtime: None,
        })
    }

    /// The same with a runtime that knows its pods' network namespaces.
    pub(crate) fn asking(self, runtime: Option<Runtime>) -> Self {
        Self { runtime, ..self }
    }

    /// Reaches a place in a pod, for this caller. May be dropped at any time.
    pub(crate) async fn open(
        &self,
        pod: &Arc<Pod>,
        request: &Request,
        patience: Patience,
        caller: Caller,
    ) -> Result<PodConn, DialError> {
        let dialing = self.connections.dialing(caller, Arc::clone(pod), &request.address);
        let reached = match self.endpoint(pod).await {
            Ok(endpoint) => reach::reach(&self.sockets, &endpoint, &pod.name, request, patience).await,
            Err(absent) => Err(absent),
        };
        match reached {
            Ok(transport) => Ok(PodConn::metered(transport, dialing.connected())),
            Err(error) => {
                dialing.failed(&error);
                Err(error)
            }
        }
    }

    /// Whether the pod's relay answers, or its namespace is there.
    pub(crate) async fn probe(&self, pod: &Pod, limit: Duration) -> Result<(), DialError> {
        reach::probe(&self.endpoint(pod).await?, &pod.name, limit).await
    }

    /// Where the way into a pod begins now.
    async fn endpoint(&self, pod: &Pod) -> Result<Endpoint, DialError> {
        if let Some(obstacle) = pod.obstacle() {
            return Err(in_the_way(pod, &obstacle));
        }
        match pod.route.endpoint().map_err(|obstacle| in_the_way(pod, &obstacle))? {
            Some(endpoint) => Ok(endpoint),
            None => self.namespace(pod).await.map(Endpoint::Netns),
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
        async move {
            let pod = dialer.pods.get(&target.sandbox).ok_or_else(|| unknown(&target.sandbox))?;
            let (request, caller) = (Request::port(target.port), Caller::Client(target.client));
            dialer.open(&pod, &request, dialer.patience, caller).await
        }
    }
}

fn unknown(sandbox: &str) -> DialError {
    let cause = format!("pod sandbox {sandbox:?} is not there any more; forward to its successor");
    DialError::new(DialErrorKind::SandboxGone, cause)
}

fn in_the_way(pod: &Pod, obstacle: &Obstacle) -> DialError {
    let cause = format!("reach pod {:?} at {}: {obstacle}", pod.name, pod.route);
    DialError::new(DialErrorKind::SandboxGone, cause)
}

#[cfg(test)]
mod tests {
    use super::reach::from_channel;
    use super::*;
    use crate::pods::tests::pod_at;

    async fn failure(pods: Registry, sandbox: &str) -> DialError {
        let dialer = Dialer::new(Arc::new(pods), Arc::default(), Duration::from_secs(10)).unwrap();
        dialer.dial(Target { sandbox: sandbox.into(), port: 80, client: None }).await.err().unwrap()
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
        let dialer = Dialer::new(Arc::new(pods), Arc::default(), Duration::from_secs(10)).unwrap();
        let error =
            dialer.dial(Target { sandbox: "abc".into(), port: closed, client: None }).await.err().unwrap();
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
