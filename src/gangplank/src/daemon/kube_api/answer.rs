//! Responses: JSON objects, and the `Status` of a refused request.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use k8s_api::meta_v1::{Status, StatusDetails, Typed};
use serde::Serialize;

use super::ApiResponse;

/// A response with this body as JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> ApiResponse {
    // serde_json fails only on maps with keys that are not strings, which these types do not have.
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Why a request is refused. The client is at fault.
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

    /// Nothing is served at this path.
    pub(super) fn no_such_path(path: &str) -> Self {
        let message =
            format!("gangplank does not serve {path}: it serves pods, namespaces, and port-forward");
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// Nothing can be changed by this API.
    pub(super) fn read_only(method: &Method) -> Self {
        let message = format!(
            "gangplank does not serve {method} here: its pods can only be read and have their ports forwarded"
        );
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// Watches are not served.
    pub(super) fn watch() -> Self {
        let message = "gangplank does not serve watches; repeat the command without --watch";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// A web page must not reach pods through its visitor's machine.
    pub(super) fn browser() -> Self {
        let message =
            "gangplank refuses requests from web pages, which could otherwise reach every pod; use kubectl";
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// A port is not valid.
    pub(super) fn bad_port(port: &str) -> Self {
        let message =
            format!("unable to parse {port:?} as a port: write ports=80,443 with numbers from 1 to 65535");
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// None of the accepted media types is served.
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

    /// The response with this status.
    pub(super) fn into_response(self) -> ApiResponse {
        let status = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json(status, &Typed::v1("Status", *self.0))
    }
}
