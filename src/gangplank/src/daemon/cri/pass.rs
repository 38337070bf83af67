//! Passing calls on to the runtime frame by frame, as bytes, with everything that HTTP/2 carries beside them.

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use k8s_api::cri::{
    RemovePodSandboxRequest, RunPodSandboxRequest, RunPodSandboxResponse, StopPodSandboxRequest,
};
use tonic::Status;
use tonic::body::Body;

use super::copy::{Copied, Copy};
use super::follow::Follower;
use super::grpc;

/// Calls that are read as they pass.
#[derive(Debug, Clone, Copy)]
pub(super) enum Watched {
    /// RunPodSandbox.
    Run,
    /// StopPodSandbox.
    Stop,
    /// RemovePodSandbox.
    Remove,
}

impl Follower {
    /// Passes a call on. Deadline and metadata are headers. If the client goes away, this is dropped, which cancels the
    /// call.
    pub(super) async fn pass(&self, request: Request<Body>) -> Response<Body> {
        match self.runtime().send(request).await {
            Ok(answer) => answer.map(Body::new),
            Err(error) => {
                tracing::info!(%error, "a CRI call was not passed on");
                Status::from(error).into_http()
            }
        }
    }

    /// Passes a call on and notes its outcome before the client learns it.
    pub(super) async fn watched(&self, call: Watched, request: Request<Incoming>) -> Response<Body> {
        // Until the call has succeeded, its outcome is unknown.
        let mut outcome = Outcome { follower: self.clone(), call, noted: false, asked: Copy::default() };
        let asked = outcome.asked.clone();
        let request = request.map(|body| Body::new(Copied::new(body, asked, |_: &HeaderMap| ())));
        let answer = self.pass(request).await;
        if answer.headers().contains_key(grpc::STATUS) {
            return answer;
        }
        let copy = Copy::default();
        let answered = copy.clone();
        let ended = move |trailers: &HeaderMap| outcome.ended(trailers, &answered);
        answer.map(|body| Body::new(Copied::new(body, copy, ended)))
    }
}

/// The outcome of a watched call. If it is dropped without success, the follower asks the runtime.
struct Outcome {
    follower: Follower,
    call: Watched,
    asked: Copy,
    noted: bool,
}

impl Outcome {
    fn ended(&mut self, trailers: &HeaderMap, answered: &Copy) {
        let succeeded = trailers.get(grpc::STATUS).is_some_and(|status| status == "0");
        self.noted = succeeded && self.note(answered).is_some();
    }

    /// `None` if the copies cannot be decoded.
    fn note(&self, answered: &Copy) -> Option<()> {
        match self.call {
            Watched::Run => {
                let asked: RunPodSandboxRequest = self.asked.message()?;
                let answered: RunPodSandboxResponse = answered.message()?;
                self.follower.ran(asked, answered.pod_sandbox_id);
            }
            Watched::Stop => {
                let asked: StopPodSandboxRequest = self.asked.message()?;
                self.follower.stopped(&asked.pod_sandbox_id);
            }
            Watched::Remove => {
                let asked: RemovePodSandboxRequest = self.asked.message()?;
                self.follower.removed(&asked.pod_sandbox_id);
            }
        }
        Some(())
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.noted {
            self.follower.look_again();
        }
    }
}
