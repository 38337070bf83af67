//! Following the runtime behind us: the registry mirrors its pods, and sessions end with their sandboxes.
//!
//! Calls are noted as they pass. That is not enough: a runtime has older sandboxes and other clients. So it is asked for
//! its list after each (re)connect, after a watched call whose outcome is unknown, and when a client names an unknown
//! pod.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gangplank_streaming::Server;
use k8s_api::cri::{PodSandbox, PodSandboxState, RunPodSandboxRequest};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::daemon::dial::Dialer;
use crate::daemon::pods::{Pod, Registry, RouteRules, Source};
use crate::daemon::runtime::Runtime;

/// How long to wait before connecting again to a runtime that is down. Calls that pass do not wait for it.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How often a list may be overtaken by changes before the caller stops waiting.
const OVERTAKEN: usize = 5;

/// Follows a runtime. Cheap to clone; all clones are one follower.
#[derive(Clone)]
pub(crate) struct Follower {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    pods: Arc<Registry>,
    rules: RouteRules,
    streaming: Server<Dialer>,
    again: Notify,
}

impl Follower {
    /// Keeps `pods` as the runtime has them, with routes by these rules, and ends sessions of this server.
    pub(crate) fn new(
        runtime: Runtime,
        pods: Arc<Registry>,
        rules: RouteRules,
        streaming: Server<Dialer>,
    ) -> Self {
        Self { inner: Arc::new(Inner { runtime, pods, rules, streaming, again: Notify::new() }) }
    }

    /// Asks the runtime whenever needed, until `stop`.
    pub(crate) async fn follow(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut reached = true;
            loop {
                match self.follow_once().await {
                    Ok(()) => reached = true,
                    Err(error) => {
                        // Log it once, not twice a second.
                        if std::mem::replace(&mut reached, false) {
                            tracing::warn!(
                                error = error.message(),
                                "cannot list the runtime's pods; trying again"
                            );
                        }
                        tokio::time::sleep(RECONNECT_PAUSE).await;
                    }
                }
            }
        })
        .await;
    }

    /// Asks once and waits until it is time to ask again.
    async fn follow_once(&self) -> Result<(), Status> {
        let lost = self.inner.runtime.connected().await?;
        self.refresh().await?;
        tokio::select! {
            () = lost.cancelled() => tracing::info!("the connection to the container runtime has ended"),
            () = self.inner.again.notified() => {}
        }
        Ok(())
    }

    /// Updates the registry to the runtime's current list.
    ///
    /// # Errors
    /// The runtime's own error, or Unavailable if it does not answer.
    pub(super) async fn refresh(&self) -> Result<(), Status> {
        let Inner { runtime, pods, .. } = &*self.inner;
        for _ in 0..OVERTAKEN {
            let version = pods.version();
            let listed = runtime.sandboxes().await?.into_iter().map(|sandbox| self.pod(sandbox)).collect();
            if let Some(ended) = pods.replace(version, listed) {
                ended.iter().for_each(|pod| self.end(&pod.id));
                tracing::debug!(pods = pods.all().len(), "the runtime's pods are known");
                return Ok(());
            }
        }
        self.look_again();
        Ok(())
    }

    /// Asks for the list again soon.
    pub(super) fn look_again(&self) {
        self.inner.again.notify_one();
    }

    /// The runtime.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    /// The pods as they are known now.
    pub(super) fn pods(&self) -> &Registry {
        &self.inner.pods
    }

    fn pod(&self, sandbox: PodSandbox) -> Pod {
        let ready = sandbox.state() == PodSandboxState::SandboxReady;
        let metadata = sandbox.metadata.unwrap_or_default();
        let since = Duration::from_nanos(u64::try_from(sandbox.created_at).unwrap_or_default());
        let rules = &self.inner.rules;
        let route = rules.route(&sandbox.id, &sandbox.runtime_handler, &sandbox.annotations);
        Pod {
            token_file: rules.token_file(&sandbox.id, &sandbox.runtime_handler, &route),
            route,
            id: sandbox.id.into(),
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            labels: sandbox.labels,
            source: Source::Runtime { ready },
            created: UNIX_EPOCH + since,
        }
    }
}

/// Calls that were seen to succeed.
impl Follower {
    /// A sandbox runs.
    pub(super) fn ran(&self, asked: RunPodSandboxRequest, id: String) {
        let config = asked.config.unwrap_or_default();
        let mut pod = self.pod(PodSandbox {
            id,
            metadata: config.metadata,
            state: PodSandboxState::SandboxReady.into(),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: asked.runtime_handler,
            created_at: 0,
        });
        pod.created = SystemTime::now();
        tracing::debug!(sandbox = %pod.id, route = %pod.route, "a pod runs");
        self.inner.pods.put(pod);
    }

    /// A sandbox has stopped.
    pub(super) fn stopped(&self, id: &str) {
        let id = self.full(id);
        self.inner.pods.stop(&id);
        self.end(&id);
    }

    /// A sandbox was removed.
    pub(super) fn removed(&self, id: &str) {
        let id = self.full(id);
        self.inner.pods.remove(&id);
        self.end(&id);
    }

    fn end(&self, id: &str) {
        let why = format!("pod sandbox {id} has stopped; forward to its successor");
        self.inner.streaming.end_sandbox(id, &why);
    }

    /// Runtimes accept a prefix in place of an id.
    fn full(&self, id: &str) -> Arc<str> {
        match &self.inner.pods.with_prefix(id)[..] {
            [only] => Arc::clone(&only.id),
            _ => id.into(),
        }
    }
}
