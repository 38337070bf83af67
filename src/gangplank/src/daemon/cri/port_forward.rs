//! PortForward in front of a runtime: ours for the pods that have a route, the runtime's for the others.
//!
//! ```text
//!   request ── decoded once ── Follower::forwardable ──┬── a pod ──► URL of a session of ours
//!                                                      ├── none ───► the runtime, as the bytes that came
//!                                                      └── error ──► refused
//! ```

use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use k8s_api::cri::PortForwardRequest;
use tonic::Status;
use tonic::body::Body;

use super::follow::Follower;
use super::{CriFront, grpc, refused};

/// The longest request, in bytes. One has an id and a few ports.
const MAX_REQUEST: usize = 64 << 10;

impl CriFront {
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
        // A body that does not decode is compressed or of a newer shape: the runtime may know it.
        let forwarded = match grpc::decode::<PortForwardRequest>(&body) {
            Some(asked) => self.forward(behind, &asked).await,
            None => None,
        };
        match forwarded {
            Some(Ok(answer)) => answer,
            Some(Err(why)) => why.into_http(),
            None => behind.pass(Request::from_parts(parts, Body::new(Full::<Bytes>::from(body)))).await,
        }
    }

    /// `None` if the runtime has to forward.
    async fn forward(
        &self,
        behind: &Follower,
        asked: &PortForwardRequest,
    ) -> Option<Result<Response<Body>, Status>> {
        match behind.forwardable(&asked.pod_sandbox_id).await {
            Ok(Some(pod)) => Some(self.session(&pod, asked).map(|url| grpc::answer(&url))),
            Ok(None) => None,
            Err(why) => {
                refused(asked, &why);
                Some(Err(why))
            }
        }
    }
}
