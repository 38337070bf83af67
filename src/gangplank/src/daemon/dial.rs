//! Dials into the pods of the registry: where a pod is now, what the daemon's rules allow, and the record of each result.

mod announcements;
mod conn;
mod listening_instead;
mod lost;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gangplank_dial::{DialTimeouts, NamespaceSockets, PodDialer, PodEndpoint, Ports, Request, Rule, Token};
use gangplank_streaming::{Dial, DialError, DialErrorKind, Target};
use tokio::sync::Semaphore;

pub(crate) use self::conn::MeteredConn;
use crate::daemon::connections::{Accounts, Caller};
use crate::daemon::pods::{Obstacle, Pod, Registry, Route};
use crate::daemon::runtime::{Runtime, network_namespace};

/// Concurrent look-ups of what listens instead, after a refused dial. Further refusals are logged without one.
const MAX_LOOK_UPS: usize = 4;

/// Dials into all pods of a registry. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    pods: Arc<Registry>,
    sockets: NamespaceSockets,
    accounts: Accounts,
    timeouts: DialTimeouts,
    runtime: Option<Runtime>,
    rules: Arc<[Rule]>,
    look_ups: Arc<Semaphore>,
}

impl Dialer {
    /// A dialler for these pods. `limit` is how long the streaming server waits for a dial.
    ///
    /// # Errors
    /// If /proc is not mounted or no thread can be started.
    pub(crate) fn new(pods: Arc<Registry>, accounts: Accounts, limit: Duration) -> io::Result<Self> {
        Ok(Self {
            pods,
            sockets: NamespaceSockets::start()?,
            accounts,
            timeouts: DialTimeouts::just_within(limit),
            runtime: None,
            rules: Arc::default(),
            look_ups: Arc::new(Semaphore::new(MAX_LOOK_UPS)),
        })
    }

    /// Adds the runtime, which knows the network namespaces of its pods.
    pub(crate) fn asking(self, runtime: Option<Runtime>) -> Self {
        Self { runtime, ..self }
    }

    /// Adds rules on what may be dialled; the first that matches decides.
    pub(crate) fn within(self, rules: &[Rule]) -> Self {
        Self { rules: rules.into(), ..self }
    }

    /// Dials into a pod for this caller. The future may be dropped at any time.
    pub(crate) async fn open(
        &self,
        pod: &Arc<Pod>,
        request: &Request,
        timeouts: DialTimeouts,
        caller: Caller,
    ) -> Result<MeteredConn, DialError> {
        let dialing = self.accounts.dialing(caller, Arc::clone(pod), request);
        match self.reach(pod, request, timeouts).await {
            Ok(conn) => Ok(MeteredConn::new(conn, dialing.connected())),
            Err(error) => {
                dialing.failed(&error);
                Err(error)
            }
        }
    }

    async fn reach(
        &self,
        pod: &Pod,
        request: &Request,
        timeouts: DialTimeouts,
    ) -> Result<gangplank_dial::PodConn, DialError> {
        let request =
            request.allowed(&self.rules, "the daemon").map_err(|denial| denied(&pod.name, &denial))?;
        let dialer = self.pod_dialer(pod).await?.with_timeouts(timeouts);
        let reached = dialer.reach(&request).await.map_err(DialError::from);
        if let Err(DialError { kind: DialErrorKind::Refused, .. }) = &reached {
            self.log_what_listens(pod.name.clone(), dialer, request);
        }
        reached
    }

    /// Logs what listens instead of a refused port. This runs in the background, so that the caller gets its answer first.
    fn log_what_listens(&self, pod: String, dialer: PodDialer, request: Request) {
        let Ok(permit) = Arc::clone(&self.look_ups).try_acquire_owned() else { return };
        tokio::spawn(async move {
            if let Some(line) = listening_instead::line(&dialer, &request).await {
                tracing::info!(pod, "{line}");
            }
            drop(permit);
        });
    }

    /// Checks that the pod's relay answers, or that its namespace exists.
    pub(crate) async fn probe(&self, pod: &Pod, limit: Duration) -> Result<(), DialError> {
        Ok(self.pod_dialer(pod).await?.probe(limit).await?)
    }

    /// What listens in a pod, or in one of its containers.
    pub(crate) async fn ports(&self, pod: &Pod, container: &str) -> Result<Ports, DialError> {
        Ok(self.pod_dialer(pod).await?.ports(container).await?)
    }

    /// The dialler for a pod, as it is reached now. The token is read each time, so that its file can be replaced.
    async fn pod_dialer(&self, pod: &Pod) -> Result<PodDialer, DialError> {
        let endpoint = self.endpoint(pod).await?;
        let dialer = PodDialer::sharing(self.sockets.clone(), endpoint).named(&pod.name);
        let Some(file) = &pod.token_file else { return Ok(dialer) };
        let token = Token::read(file).map_err(|error| {
            let cause = format!(
                "reach pod {:?} with the token in {}: {error}; correct its token file",
                pod.name,
                file.display()
            );
            DialError::new(DialErrorKind::Internal, cause)
        });
        Ok(dialer.with_token(token?))
    }

    /// Where a pod is reached now.
    async fn endpoint(&self, pod: &Pod) -> Result<PodEndpoint, DialError> {
        if let Some(obstacle) = pod.obstacle() {
            return Err(blocked(pod, &obstacle));
        }
        match pod.route.endpoint().map_err(|obstacle| blocked(pod, &obstacle))? {
            Some(endpoint) => Ok(endpoint),
            None => self.namespace(pod).await.map(PodEndpoint::Netns),
        }
    }

    /// The network namespace of a pod without an endpoint; its runtime knows it.
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
        self.pods.found(&pod.id, Route::Endpoint(PodEndpoint::Netns(path.clone())));
        Ok(path)
    }
}

impl Dial for Dialer {
    type Conn = MeteredConn;

    fn dial(&self, target: Target) -> impl Future<Output = Result<MeteredConn, DialError>> + Send {
        let dialer = self.clone();
        async move {
            let pod = dialer.pods.get(&target.sandbox).ok_or_else(|| unknown(&target.sandbox))?;
            let (request, caller) = (Request::port(target.port), Caller::Client(target.client));
            dialer.open(&pod, &request, dialer.timeouts, caller).await
        }
    }
}

fn denied(pod: &str, denial: &str) -> DialError {
    DialError::new(DialErrorKind::Denied, format!("reach pod {pod:?}: {denial}"))
}

fn unknown(sandbox: &str) -> DialError {
    let cause = format!("pod sandbox {sandbox:?} no longer exists; forward to its successor");
    DialError::new(DialErrorKind::SandboxGone, cause)
}

fn blocked(pod: &Pod, obstacle: &Obstacle) -> DialError {
    let cause = format!("reach pod {:?} at {}: {obstacle}", pod.name, pod.route);
    DialError::new(DialErrorKind::SandboxGone, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::pods::tests::pod_at;

    async fn failure(pods: Registry, sandbox: &str) -> DialError {
        let dialer = Dialer::new(Arc::new(pods), Accounts::default(), Duration::from_secs(10)).unwrap();
        dialer.dial(Target { sandbox: sandbox.into(), port: 80, client: None }).await.err().unwrap()
    }

    #[tokio::test]
    async fn an_unknown_sandbox_ends_the_session() {
        let error = failure(Registry::default(), "abc").await;
        assert!(error.kind.ends_session());
        assert!(error.cause.contains("\"abc\""), "{}", error.cause);
    }

    #[tokio::test]
    async fn a_pod_whose_vm_is_not_running_ends_the_session() {
        let pods = Registry::new([pod_at("abc", "demo", "hvsock:///nowhere/v.sock:1024")]);
        let error = failure(pods, "abc").await;
        assert_eq!(error.kind, DialErrorKind::SandboxGone);
        assert!(error.cause.contains("/nowhere/v.sock is not there"), "{}", error.cause);
    }

    #[tokio::test]
    async fn what_listens_instead_of_a_refused_port_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.sock");
        let listen = [gangplank_relay::Listen::Unix { path: path.clone() }];
        let guest = gangplank_relay::Relay::bind(&listen, gangplank_relay::Config::default()).unwrap();
        let stopper = guest.stopper();
        let running = std::thread::spawn(move || guest.run());
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (open, closed) = (port(), port().local_addr().unwrap().port());
        let open = open.local_addr().unwrap().port().to_string();

        for endpoint in [format!("unix://{}", path.display()), "netns:///proc/self/ns/net".into()] {
            let dialer = PodDialer::new(endpoint.parse().unwrap()).unwrap().named("demo");
            let line = listening_instead::line(&dialer, &Request::port(closed)).await.unwrap();
            let named = line.strip_prefix(&format!("nothing listens on {closed}; listening: "));
            let is_named = named.is_some_and(|ports| ports.split([',', ' ']).any(|port| port == open));
            // This machine may listen on more ports than a line names.
            assert!(is_named || line.ends_with(" and more"), "{line}");
        }
        stopper.stop();
        running.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_answer_to_a_refused_dial_does_not_wait_for_the_look_up() {
        let pods = Registry::new([pod_at("abc", "demo", "netns:///proc/self/ns/net")]);
        let dialer = Dialer::new(Arc::new(pods), Accounts::default(), Duration::from_secs(10)).unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let taken = Arc::clone(&dialer.look_ups).acquire_many_owned(MAX_LOOK_UPS as u32).await.unwrap();
        let target = || Target { sandbox: "abc".into(), port: closed, client: None };
        assert_eq!(dialer.dial(target()).await.err().unwrap().kind, DialErrorKind::Refused);
        drop(taken);
        assert_eq!(dialer.dial(target()).await.err().unwrap().kind, DialErrorKind::Refused);
        assert_eq!(dialer.look_ups.available_permits(), MAX_LOOK_UPS - 1, "one goes on in the background");
    }

    #[tokio::test]
    async fn an_unreadable_token_file_is_named() {
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
