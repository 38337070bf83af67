//! Following the runtime behind us: the registry has its pods, and sessions end with their sandboxes.
//!
//! What passes is noted as it passes. That is not all there is: a runtime has sandboxes from before, and other
//! clients. So it is asked for all of them when it is (again) connected to, when a call that should have been noted
//! was not, and when somebody wants a pod that is not known.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_api::cri::{PodSandbox, PodSandboxState, RunPodSandboxRequest};
use streaming::Server;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::daemon::dial::Dialer;
use crate::daemon::pods::{Pod, Registry, RouteRules, Source};
use crate::daemon::runtime::Runtime;

/// How long to wait before a runtime that is not there is tried again. Calls that pass do not wait for it.
const PAUSE: Duration = Duration::from_millis(500);

/// How often a list may be overtaken by changes before the caller is let go.
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

    /// Asks the runtime whenever that is called for, until `stop`.
    pub(crate) async fn follow(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut reached = true;
            loop {
                match self.follow_once().await {
                    Ok(()) => reached = true,
                    Err(error) => {
                        // Once, not twice a second for as long as it lasts.
                        if std::mem::replace(&mut reached, false) {
                            tracing::warn!(
                                error = error.message(),
                                "the runtime's pods are not known for now"
                            );
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        })
        .await;
    }

    /// Asks, and waits until it has to be asked again.
    async fn follow_once(&self) -> Result<(), Status> {
        let lost = self.inner.runtime.connected().await?;
        self.refresh().await?;
        tokio::select! {
            () = lost.cancelled() => tracing::info!("the connection to the container runtime has ended"),
            () = self.inner.again.notified() => {}
        }
        Ok(())
    }

    /// Makes the registry what the runtime says now.
    ///
    /// # Errors
    /// What the runtime says, or Unavailable when it says nothing.
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

    /// Has the runtime asked soon.
    pub(super) fn look_again(&self) {
        self.inner.again.notify_one();
    }

    /// The runtime.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.inner.runtime
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

/// What was seen to succeed.
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

    /// A sandbox is gone.
    pub(super) fn removed(&self, id: &str) {
        let id = self.full(id);
        self.inner.pods.remove(&id);
        self.end(&id);
    }

    fn end(&self, id: &str) {
        let why = format!("pod sandbox {id} has stopped; forward to its successor");
        self.inner.streaming.end_sandbox(id, &why);
    }

    /// Runtimes take the beginning of an id for it.
    fn full(&self, id: &str) -> Arc<str> {
        match &self.inner.pods.begun_by(id)[..] {
            [only] => Arc::clone(&only.id),
            _ => id.into(),
        }
    }
}
