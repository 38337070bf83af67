//! Dialling: from a pod and a place in it to a connection.

mod conn;
mod direct;
mod framed;
mod kata;
mod lost;
mod namespace;
mod pod_dialer;
mod ports;
mod reach;
mod request;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use channel::{Ports, Token};
use gangplank_podnet::Rule;
use streaming::{Dial, DialError, DialErrorKind, Target};
use tokio::sync::Semaphore;

pub use self::conn::PodConn;
use self::conn::Transport;
pub(crate) use self::framed::{LENGTH, MAX_DATAGRAM};
pub(crate) use self::lost::Lost;
use self::namespace::Sockets;
pub use self::pod_dialer::PodDialer;
use self::reach::Door;
pub(crate) use self::reach::Patience;
pub(crate) use self::request::Request;
use crate::connections::{Caller, Connections};
use crate::pods::{Endpoint, Obstacle, Pod, Registry, Route};
use crate::runtime::{Runtime, network_namespace};

/// Refused dials after which it is looked up at the same time what listens instead. Of others nothing is said.
const LOOK_UPS: usize = 4;

/// Reaches places in all pods of a registry, and keeps the books of it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    pods: Arc<Registry>,
    sockets: Sockets,
    connections: Arc<Connections>,
    patience: Patience,
    runtime: Option<Runtime>,
    rules: Arc<[Rule]>,
    look_ups: Arc<Semaphore>,
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
            rules: Arc::default(),
            look_ups: Arc::new(Semaphore::new(LOOK_UPS)),
        })
    }

    /// The same with a runtime that knows its pods' network namespaces.
    pub(crate) fn asking(self, runtime: Option<Runtime>) -> Self {
        Self { runtime, ..self }
    }

    /// The same with rules on what may be dialled, of which the first that matches decides.
    pub(crate) fn within(self, rules: &[Rule]) -> Self {
        Self { rules: rules.into(), ..self }
    }

    /// Reaches a place in a pod, for this caller. May be dropped at any time.
    pub(crate) async fn open(
        &self,
        pod: &Arc<Pod>,
        request: &Request,
        patience: Patience,
        caller: Caller,
    ) -> Result<PodConn, DialError> {
        let dialing = self.connections.dialing(caller, Arc::clone(pod), request);
        match self.reach(pod, request, patience).await {
            Ok(transport) => Ok(PodConn::metered(transport, dialing.connected())),
            Err(error) => {
                dialing.failed(&error);
                Err(error)
            }
        }
    }

    async fn reach(&self, pod: &Pod, request: &Request, patience: Patience) -> Result<Transport, DialError> {
        let request = request.allowed(&self.rules).map_err(|denial| denied(&pod.name, &denial))?;
        let door = self.door(pod).await?;
        let reached = reach::reach(&self.sockets, &door, &request, patience).await;
        if let Err(DialError { kind: DialErrorKind::Refused, .. }) = &reached {
            self.tell_what_listens(door, request);
        }
        reached
    }

    /// Into the log, after the caller has its answer: it must not wait for this.
    fn tell_what_listens(&self, door: Door, request: Request) {
        let Ok(place) = Arc::clone(&self.look_ups).try_acquire_owned() else { return };
        let sockets = self.sockets.clone();
        tokio::spawn(async move {
            if let Some(line) = ports::instead(&sockets, &door, &request).await {
                tracing::info!(pod = door.pod, "{line}");
            }
            drop(place);
        });
    }

    /// Whether the pod's relay answers, or its namespace is there.
    pub(crate) async fn probe(&self, pod: &Pod, limit: Duration) -> Result<(), DialError> {
        reach::probe(&self.door(pod).await?, limit).await
    }

    /// What listens in a pod, or in one of its containers.
    pub(crate) async fn ports(&self, pod: &Pod, container: &str) -> Result<Ports, DialError> {
        ports::ports(&self.sockets, &self.door(pod).await?, container).await
    }

    /// The way into a pod now. Its token is read each time, so that it may be another one tomorrow.
    async fn door(&self, pod: &Pod) -> Result<Door, DialError> {
        let endpoint = self.endpoint(pod).await?;
        let token = pod.token_file.as_deref().map(|file| {
            Token::read(file).map_err(|error| {
                let cause = format!(
                    "reach pod {:?} with the token in {}: {error}; correct its token file",
                    pod.name,
                    file.display()
                );
                DialError::new(DialErrorKind::Internal, cause)
            })
        });
        Ok(Door { endpoint, token: token.transpose()?, pod: pod.name.clone() })
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

fn denied(pod: &str, denial: &str) -> DialError {
    DialError::new(DialErrorKind::Denied, format!("reach pod {pod:?}: {denial}"))
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
    async fn after_a_refusal_it_is_known_what_listens_instead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.sock");
        let listen = [relay::Listen::Unix { path: path.clone() }];
        let guest = relay::Relay::bind(&listen, relay::Config::default()).unwrap();
        let stopper = guest.stopper();
        let running = std::thread::spawn(move || guest.run());
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (open, closed) = (port(), port().local_addr().unwrap().port());
        let open = open.local_addr().unwrap().port().to_string();

        let sockets = Sockets::start().unwrap();
        for endpoint in [format!("unix://{}", path.display()), "netns:///proc/self/ns/net".into()] {
            let door = Door { endpoint: endpoint.parse().unwrap(), token: None, pod: "demo".into() };
            let line = ports::instead(&sockets, &door, &Request::port(closed)).await.unwrap();
            let named = line.strip_prefix(&format!("nothing listens on {closed}; listening: "));
            let is_named = named.is_some_and(|ports| ports.split([',', ' ']).any(|port| port == open));
            // This machine may have more ports than are named.
            assert!(is_named || line.ends_with(" and more"), "{line}");
        }
        stopper.stop();
        running.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_answer_to_a_refused_dial_does_not_wait_for_the_look_up() {
        let pods = Registry::new([pod_at("abc", "demo", "netns:///proc/self/ns/net")]);
        let dialer = Dialer::new(Arc::new(pods), Arc::default(), Duration::from_secs(10)).unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let taken = Arc::clone(&dialer.look_ups).acquire_many_owned(LOOK_UPS as u32).await.unwrap();
        let target = || Target { sandbox: "abc".into(), port: closed, client: None };
        assert_eq!(dialer.dial(target()).await.err().unwrap().kind, DialErrorKind::Refused);
        drop(taken);
        assert_eq!(dialer.dial(target()).await.err().unwrap().kind, DialErrorKind::Refused);
        assert_eq!(dialer.look_ups.available_permits(), LOOK_UPS - 1, "one goes on in the background");
    }

    #[tokio::test]
    async fn a_token_file_that_is_none_is_told() {
        let pod = Pod {
            token_file: Some("/nowhere/token".into()),
            ..pod_at("abc", "demo", "netns:///proc/self/ns/net")
        };
        let error = failure(Registry::new([pod]), "abc").await;
        assert_eq!(error.kind, DialErrorKind::Internal);
        assert!(
            error.cause.contains("/nowhere/token") && error.cause.contains("token file"),
            "{}",
            error.cause
        );
    }
}
