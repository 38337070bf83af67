//! What a request must say to become a session, and what it is told otherwise.
//!
//! The order of the checks, the statuses and the texts are those of the reference server, so that clients and
//! proxies find what they know. Source: k8s.io/streaming v0.37.2, pkg/httpstream/httpstream.go and
//! spdy/upgrade.go.

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING, UPGRADE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The protocol inside SPDY.
const PORT_FORWARD: &str = "portforward.k8s.io";

/// The WebSocket subprotocol that carries SPDY in binary messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// An answer without or with a short text.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What the connection becomes after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// SPDY on the connection itself.
    Spdy,
    /// SPDY in binary WebSocket messages.
    Tunnel,
}

/// Decides what a request asks for: the protocol with its 101, or the refusal.
pub(crate) fn negotiate<B>(request: &Request<B>) -> Result<(Protocol, Answer), Answer> {
    // RFC 9110, 7.8: Upgrade means nothing in HTTP/1.0. A 101 would be a lie, since hyper does not upgrade then.
    if request.version() < Version::HTTP_11 {
        let text = "unable to upgrade: HTTP/1.0 has no upgrades: send the request as HTTP/1.1";
        return Err(refuse(StatusCode::BAD_REQUEST, text.into()));
    }
    if announces_body(request.headers()) {
        let text = "unable to upgrade: the request announces a body: send Content-Length: 0";
        return Err(refuse(StatusCode::BAD_REQUEST, text.into()));
    }
    if has_token(request.headers(), &UPGRADE, |v| v.eq_ignore_ascii_case("websocket"))
        && has_token(request.headers(), &CONNECTION, is_upgrade)
    {
        return websocket(request).map(|answer| (Protocol::Tunnel, answer));
    }
    spdy(request.headers()).map(|answer| (Protocol::Spdy, answer))
}

fn spdy(headers: &HeaderMap) -> Result<Answer, Answer> {
    let offered = list(headers, &STREAM_PROTOCOL);
    if !headers.contains_key(&STREAM_PROTOCOL) {
        let count = headers.keys().filter(|name| *name != http::header::HOST).count();
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            format!(
                "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {count} headers"
            ),
        ));
    }
    if offered.is_empty() {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: header X-Stream-Protocol-Version contains [], but no valid protocols".into(),
        ));
    }
    if !offered.contains(&PORT_FORWARD) {
        let offered = offered.join(" ");
        let mut answer = refuse(
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{offered}], server accepts [{PORT_FORWARD}]"
            ),
        );
        answer.headers_mut().insert(ACCEPTED_PROTOCOLS, HeaderValue::from_static(PORT_FORWARD));
        return Err(answer);
    }
    let spdy = has_token(headers, &UPGRADE, |v| v.to_ascii_lowercase().contains("spdy/3.1"));
    if !spdy || !has_token(headers, &CONNECTION, is_upgrade) {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: missing upgrade headers in request: \
             send Connection: Upgrade and Upgrade: SPDY/3.1"
                .into(),
        ));
    }
    Ok(switch("SPDY/3.1", &[(STREAM_PROTOCOL, HeaderValue::from_static(PORT_FORWARD))]))
}

fn websocket<B>(request: &Request<B>) -> Result<Answer, Answer> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "bad method".into()));
    }
    let Some(key) = headers.get(http::header::SEC_WEBSOCKET_KEY) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "missing Sec-WebSocket-Key".into()));
    };
    if headers.get(http::header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        let mut answer = refuse(StatusCode::BAD_REQUEST, "missing or bad WebSocket Version".into());
        answer.headers_mut().insert(http::header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(answer);
    }
    if !list(headers, &SEC_WEBSOCKET_PROTOCOL).contains(&TUNNEL) {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            format!("unable to upgrade: this server speaks the WebSocket subprotocol {TUNNEL}"),
        ));
    }
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key".into()))?;
    Ok(switch(
        "websocket",
        &[
            (http::header::SEC_WEBSOCKET_ACCEPT, accept),
            (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(TUNNEL)),
        ],
    ))
}

fn switch(to: &'static str, more: &[(HeaderName, HeaderValue)]) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    headers.extend(more.iter().cloned());
    answer
}

/// A refusal with a sentence.
pub(crate) fn refuse(status: StatusCode, text: String) -> Answer {
    let mut answer = plain(status, text + "\n");
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// The answer to a path that is none.
pub(crate) fn no_such_path() -> Answer {
    plain(StatusCode::NOT_FOUND, "404: Page Not Found".into())
}

/// The answer to a token that is unknown, used or expired.
pub(crate) fn no_such_token() -> Answer {
    refuse(StatusCode::NOT_FOUND, "404 page not found".into())
}

/// The answer to a method that the path does not have.
pub(crate) fn bad_method() -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into());
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    answer
}

fn plain(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// A body would have to be read before the connection changes hands, and one that never comes would hold a
/// session's place for ever.
fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn is_upgrade(value: &str) -> bool {
    value.to_ascii_lowercase().contains("upgrade")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, is: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).any(is)
}

/// The values of a header that may come in several lines, each a list.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().method(method).uri("/portforward/x");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    fn post(headers: &[(&str, &str)]) -> Result<(Protocol, Answer), Answer> {
        negotiate(&request(Method::POST, headers))
    }

    #[test]
    fn spdy_is_taken_however_it_is_written() {
        for headers in [
            [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", PORT_FORWARD)],
            [
                ("connection", "keep-alive, upgrade"),
                ("upgrade", "spdy/3.1"),
                ("x-stream-protocol-version", "v9.k8s.io, portforward.k8s.io"),
            ],
        ] {
            let (protocol, answer) = post(&headers).unwrap();
            assert_eq!(protocol, Protocol::Spdy);
            assert_eq!(answer.status(), 101);
            assert_eq!(answer.headers()["x-stream-protocol-version"], PORT_FORWARD);
        }
    }

    #[test]
    fn a_missing_or_empty_protocol_is_a_bad_request() {
        assert_eq!(post(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]).unwrap_err().status(), 400);
        assert_eq!(post(&[("x-stream-protocol-version", " ,")]).unwrap_err().status(), 400);
        assert_eq!(post(&[("x-stream-protocol-version", PORT_FORWARD)]).unwrap_err().status(), 400);
    }

    #[test]
    fn an_unknown_protocol_is_forbidden_and_told_what_is_known() {
        let answer = post(&[("x-stream-protocol-version", "v9.k8s.io")]).unwrap_err();
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.headers()["x-accepted-stream-protocol-versions"], PORT_FORWARD);
    }

    #[test]
    fn the_tunnel_is_answered_with_its_own_name() {
        let good = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io"),
        ];
        let (protocol, answer) = negotiate(&request(Method::GET, &good)).unwrap();
        assert_eq!(protocol, Protocol::Tunnel);
        assert_eq!(answer.headers()["sec-websocket-protocol"], TUNNEL);
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(post(&good).unwrap_err().status(), 405);
        for (missing, status) in [(2, 400), (3, 400), (4, 403)] {
            let mut bad = good.to_vec();
            bad.remove(missing);
            assert_eq!(negotiate(&request(Method::GET, &bad)).unwrap_err().status(), status);
        }
    }
}
