//! Answers: JSON, and the `Status` of what is refused.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use k8s_api::meta_v1::{Status, StatusDetails, Typed};
use serde::Serialize;

use super::Answer;

/// This, as JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    // The types that come here have no maps with odd keys, which is all that serde_json could refuse.
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Why a request is not answered. The client's fault, every time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal(Box<Status>);

impl Refusal {
    fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Status::failure(status.as_u16(), reason, message)))
    }

    /// There is no object of this name.
    pub(super) fn not_found(kind: &'static str, name: &str) -> Self {
        let mut refusal = Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{kind} {name:?} not found"));
        refusal.0.details = Some(StatusDetails { name: name.into(), kind });
        refusal
    }

    /// There is nothing at this path.
    pub(super) fn no_such_path(path: &str) -> Self {
        let message = format!(
            "gangplank does not serve {path}: there are pods and namespaces to get, and pods to forward ports of"
        );
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// Nothing can be changed here.
    pub(super) fn read_only(method: &Method) -> Self {
        let message = format!(
            "gangplank does not serve {method} here: its pods are those of its configuration file, and can only be \
             read and have their ports forwarded"
        );
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// Nothing can be watched here.
    pub(super) fn watch() -> Self {
        let message = "gangplank does not serve watches; ask again without --watch";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// A web page must not reach pods by way of its visitor's machine.
    pub(super) fn browser() -> Self {
        let message = "gangplank does not answer web pages, which could reach every pod; use kubectl";
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// A port is not one.
    pub(super) fn bad_port(port: &str) -> Self {
        let message =
            format!("unable to parse {port:?} as a port: write ports=80,443 with numbers from 1 to 65535");
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// None of the wanted media types is served.
    pub(super) fn not_acceptable() -> Self {
        let message =
            "gangplank answers application/json and, for pods and namespaces, tables of meta.k8s.io/v1";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// A selector cannot be understood.
    pub(super) fn bad_selector(selector: &str, expected: &str) -> Self {
        let message = format!("gangplank does not understand the selector {selector:?}: write {expected}");
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// The HTTP status.
    #[cfg(test)]
    pub(super) fn code(&self) -> u16 {
        self.0.code
    }

    /// As the answer.
    pub(super) fn into_answer(self) -> Answer {
        let status = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json(status, &Typed::v1("Status", *self.0))
    }
}
