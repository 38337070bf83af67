//! PortForward in front of a runtime: ours for the pods that we have a route to, the runtime's for the others.

use std::sync::Arc;
use std::time::Duration;

use gangplank_dial::PodEndpoint;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use k8s_api::cri::{PodSandboxState, PodSandboxStatusResponse, PortForwardRequest};
use tonic::body::Body;
use tonic::{Code, Status};

use super::copy::message;
use super::follow::Follower;
use super::{Front, refused, unary};
use crate::daemon::pods::{LookupError, Obstacle, Pod, Route, Source};
use crate::daemon::runtime::network_namespace;

/// The longest request, in bytes. One has an id and at most some ports.
const MAX_REQUEST: usize = 64 << 10;

/// How long the runtime may take to say whether a guest of ours still runs, before what is known must do: crictl
/// waits for 2 s.
const PATIENCE: Duration = Duration::from_secs(1);

impl Front {
    pub(super) async fn port_forward_before(
        &self,
        behind: &Follower,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, MAX_REQUEST).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Status::invalid_argument(format!("cannot read the request: {error}")).into_http();
            }
        };
        let asked = message::<PortForwardRequest>(&body);
        let request = Request::from_parts(parts, Body::new(Full::<Bytes>::from(body)));
        // Compressed or of a shape to come: let the runtime see.
        let Some(asked) = asked else { return behind.pass(request).await };
        match self.pod_before(behind, &asked.pod_sandbox_id).await {
            Ok(Some(pod)) => unary(request, |asked| self.session(&pod, &asked)).await,
            Ok(None) => behind.pass(request).await,
            Err(why) => {
                refused(&asked, &why);
                why.into_http()
            }
        }
    }

    /// The pod, if its ports are ours to forward.
    async fn pod_before(&self, behind: &Follower, reference: &str) -> Result<Option<Arc<Pod>>, Status> {
        let pod = match self.pod(reference) {
            Err(unknown) if unknown.code() == Code::NotFound => {
                behind.refresh().await?;
                self.pod(reference)?
            }
            other => other?,
        };
        if pod.source == Source::Configuration {
            return Ok(Some(pod));
        }
        match pod.obstacle() {
            Some(obstacle @ Obstacle::Stopped) => Err(super::not_ready(&pod, &obstacle)),
            _ if pod.route == Route::Runtime => Ok(None),
            _ => self.as_the_runtime_says(behind, pod).await,
        }
    }

    /// The pod, if the runtime does not say that it has gone meanwhile. When the runtime itself is gone, what is
    /// known must do: guests go on without it.
    async fn as_the_runtime_says(
        &self,
        behind: &Follower,
        pod: Arc<Pod>,
    ) -> Result<Option<Arc<Pod>>, Status> {
        let unknown_way = pod.route == Route::Namespace;
        let asking = behind.runtime().sandbox(&pod.id, unknown_way);
        let answered = if unknown_way {
            asking.await
        } else {
            let silent = |_| Err(Status::unavailable("no answer"));
            tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(silent)
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(gone) if gone.code() == Code::NotFound => {
                behind.removed(&pod.id);
                return Err(Status::not_found(LookupError::NotFound(pod.id.as_ref().into()).to_string()));
            }
            Err(error) if unknown_way => return Err(error),
            Err(_) => return Ok(Some(pod)),
        };
        let state = answer.status.as_ref().map(|status| status.state());
        if state.is_some_and(|state| state != PodSandboxState::SandboxReady) {
            behind.stopped(&pod.id);
            return Err(super::not_ready(&pod, &Obstacle::Stopped));
        }
        if unknown_way { Ok(self.in_its_namespace(pod, &answer)) } else { Ok(Some(pod)) }
    }

    /// The pod with its namespace, unless the runtime does not tell that one: then it has to forward itself.
    fn in_its_namespace(&self, pod: Arc<Pod>, answer: &PodSandboxStatusResponse) -> Option<Arc<Pod>> {
        match network_namespace(answer) {
            Ok(path) => {
                self.pods.found(&pod.id, Route::Endpoint(PodEndpoint::Netns(path)));
                // None only if it went in this very moment; then the runtime says so.
                self.pods.get(&pod.id)
            }
            Err(error) => {
                tracing::warn!(sandbox = %pod.id, %error, "passing PortForward on to the runtime");
                None
            }
        }
    }
}
