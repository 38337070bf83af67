//! Which pods we forward to ourselves, as the runtime sees them now.

use std::sync::Arc;
use std::time::Duration;

use gangplank_dial::PodEndpoint;
use k8s_api::cri::{PodSandboxState, PodSandboxStatusResponse};
use tonic::{Code, Status};

use super::follow::Follower;
use super::lookup::{not_ready, resolve};
use crate::daemon::pods::{LookupError, Obstacle, Pod, Route, Source};
use crate::daemon::runtime::network_namespace;

/// How long the runtime may take to say whether a pod of ours still runs; after that, what the registry knows must do.
/// crictl waits for 2 s in total.
const STATUS_LIMIT: Duration = Duration::from_secs(1);

impl Follower {
    /// The pod, if we forward its ports; `None` if the runtime has to.
    ///
    /// # Errors
    /// If there is no such pod, or no session can be opened to it.
    pub(super) async fn forwardable(&self, reference: &str) -> Result<Option<Arc<Pod>>, Status> {
        let pods = self.pods();
        let pod = match resolve(pods, reference) {
            Err(unknown) if unknown.code() == Code::NotFound => {
                self.refresh().await?;
                resolve(pods, reference)?
            }
            other => other?,
        };
        if pod.source == Source::Configuration {
            return Ok(Some(pod));
        }
        match pod.obstacle() {
            Some(obstacle @ Obstacle::Stopped) => Err(not_ready(&pod, &obstacle)),
            _ if pod.route == Route::Runtime => Ok(None),
            _ => self.still_running(pod).await,
        }
    }

    /// The pod, unless the runtime says that it has gone in the meantime. Guests outlive their runtime, so if the runtime
    /// does not answer, the registry decides.
    async fn still_running(&self, pod: Arc<Pod>) -> Result<Option<Arc<Pod>>, Status> {
        let needs_namespace = pod.route == Route::Namespace;
        let asking = self.runtime().sandbox(&pod.id, needs_namespace);
        let answered = if needs_namespace {
            asking.await
        } else {
            let silent = |_| Err(Status::unavailable("no answer"));
            tokio::time::timeout(STATUS_LIMIT, asking).await.unwrap_or_else(silent)
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(gone) if gone.code() == Code::NotFound => {
                self.removed(&pod.id);
                return Err(Status::not_found(LookupError::NotFound(pod.id.as_ref().into()).to_string()));
            }
            Err(error) if needs_namespace => return Err(error),
            Err(_) => return Ok(Some(pod)),
        };
        let state = answer.status.as_ref().map(|status| status.state());
        if state.is_some_and(|state| state != PodSandboxState::SandboxReady) {
            self.stopped(&pod.id);
            return Err(not_ready(&pod, &Obstacle::Stopped));
        }
        if needs_namespace { Ok(self.in_its_namespace(&pod, &answer)) } else { Ok(Some(pod)) }
    }

    /// The pod with its namespace. Without one, the runtime has to forward.
    fn in_its_namespace(&self, pod: &Pod, answer: &PodSandboxStatusResponse) -> Option<Arc<Pod>> {
        match network_namespace(answer) {
            Ok(path) => {
                self.pods().found(&pod.id, Route::Endpoint(PodEndpoint::Netns(path)));
                // `None` only if the pod was removed this very moment; then the runtime says so.
                self.pods().get(&pod.id)
            }
            Err(error) => {
                tracing::warn!(sandbox = %pod.id, %error, "passing PortForward on to the runtime");
                None
            }
        }
    }
}
