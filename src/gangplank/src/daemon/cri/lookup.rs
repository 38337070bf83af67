//! Which pod a call means, and whether it can be forwarded to, in gRPC's terms.

use std::sync::Arc;

use tonic::Status;

use crate::daemon::pods::{LookupError, Obstacle, Pod, Registry};

/// The pod with this id, prefix of an id, or name.
pub(super) fn resolve(pods: &Registry, reference: &str) -> Result<Arc<Pod>, Status> {
    if reference.is_empty() {
        return Err(Status::invalid_argument("missing required pod_sandbox_id"));
    }
    pods.resolve(reference).map_err(|error| match error {
        LookupError::NotFound(_) => Status::not_found(error.to_string()),
        LookupError::Ambiguous(..) => Status::invalid_argument(error.to_string()),
    })
}

/// Why no session can be opened to this pod.
pub(super) fn not_ready(pod: &Pod, obstacle: &Obstacle) -> Status {
    let sentence = format!("pod sandbox {} is not ready: {obstacle}", pod.id);
    match obstacle {
        Obstacle::Missing(_) | Obstacle::Stopped => Status::failed_precondition(sentence),
        Obstacle::Barred(_) => Status::permission_denied(sentence),
    }
}
