//! What a request must say to become a session, and what it is told otherwise.
//!
//! The order of the checks, the statuses and the texts are those of the reference server, so that clients and
//! proxies find what they know. Source: k8s.io/streaming v0.37.2, pkg/httpstream/httpstream.go and
//! spdy/upgrade.go.

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING,
    UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::session::channels::Encoding;

/// The protocol inside SPDY.
const PORT_FORWARD: &str = "portforward.k8s.io";

/// The WebSocket subprotocol that carries SPDY in binary messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The WebSocket subprotocols with channels. There is a `v5.channel.k8s.io` too, which clients offer first where
/// it exists; but it is not made for port-forward, and clients take its close messages for data.
const CHANNELS: &str = "v4.channel.k8s.io";
const BASE64_CHANNELS: &str = "v4.base64.channel.k8s.io";

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
    /// WebSocket messages with a channel's number each, in this encoding.
    Channels(Encoding),
}

impl Protocol {
    /// A short stable name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spdy => "spdy",
            Self::Tunnel => "tunnel",
            Self::Channels(_) => "channels",
        }
    }
}

/// Decides what a request asks for: the protocol with its 101, or the refusal. Web pages of other servers than
/// the one that was asked are let in only if `allow_origin`.
pub(crate) fn negotiate<B>(request: &Request<B>, allow_origin: bool) -> Result<(Protocol, Answer), Answer> {
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
        return websocket(request, allow_origin);
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

fn websocket<B>(request: &Request<B>, allow_origin: bool) -> Result<(Protocol, Answer), Answer> {
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
    if !allow_origin && is_foreign(headers) {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "unable to upgrade: web pages of other servers are not let in: \
             send no Origin, or set the streaming server's allow_origin"
                .into(),
        ));
    }
    let (protocol, name) = subprotocol(headers)?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key".into()))?;
    let mut answer = switch("websocket", &[(http::header::SEC_WEBSOCKET_ACCEPT, accept)]);
    if let Some(name) = name {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((protocol, answer))
}

/// The first of the client's subprotocols that is known, with its name; without any, binary channels.
fn subprotocol(headers: &HeaderMap) -> Result<(Protocol, Option<&'static str>), Answer> {
    let known = |name: &&str| match *name {
        TUNNEL => Some((Protocol::Tunnel, Some(TUNNEL))),
        CHANNELS => Some((Protocol::Channels(Encoding::Binary), Some(CHANNELS))),
        BASE64_CHANNELS => Some((Protocol::Channels(Encoding::Base64), Some(BASE64_CHANNELS))),
        _ => None,
    };
    let offered = list(headers, &SEC_WEBSOCKET_PROTOCOL);
    if offered.is_empty() {
        return Ok((Protocol::Channels(Encoding::Binary), None));
    }
    offered.iter().find_map(known).ok_or_else(|| {
        let offered = offered.join(" ");
        refuse(
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{offered}], \
                 server accepts [{CHANNELS} {BASE64_CHANNELS} {TUNNEL}]"
            ),
        )
    })
}

/// Whether a browser sent the request for a page that came from elsewhere. Python's client names the server that
/// it asks as its origin, and a page that the server itself gave out would do so too; there is no such page.
fn is_foreign(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let own = |origin: &HeaderValue| {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        authority.zip(host).is_some_and(|((_, authority), host)| authority.eq_ignore_ascii_case(host))
    };
    !headers.get_all(ORIGIN).iter().all(own)
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
        negotiate(&request(Method::POST, headers), false)
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

    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    fn get(headers: &[(&str, &str)]) -> Result<(Protocol, Answer), Answer> {
        negotiate(&request(Method::GET, headers), false)
    }

    fn offering(subprotocols: &str) -> Result<(Protocol, Answer), Answer> {
        get(&[&WEBSOCKET[..], &[("sec-websocket-protocol", subprotocols)]].concat())
    }

    #[test]
    fn the_tunnel_is_answered_with_its_own_name() {
        let (protocol, answer) = offering(TUNNEL).unwrap();
        assert_eq!(protocol, Protocol::Tunnel);
        assert_eq!(answer.headers()["sec-websocket-protocol"], TUNNEL);
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(post(&WEBSOCKET).unwrap_err().status(), 405);
        for missing in [2, 3] {
            let mut bad = WEBSOCKET.to_vec();
            bad.remove(missing);
            assert_eq!(get(&bad).unwrap_err().status(), 400);
        }
    }

    #[test]
    fn the_first_subprotocol_that_is_known_wins() {
        let binary = Protocol::Channels(Encoding::Binary);
        let base64 = Protocol::Channels(Encoding::Base64);
        for (offered, protocol, name) in [
            ("v4.channel.k8s.io", binary, CHANNELS),
            ("v5.channel.k8s.io, v4.channel.k8s.io", binary, CHANNELS), // kube-rs
            ("v4.channel.k8s.io,v3.channel.k8s.io,v2.channel.k8s.io,channel.k8s.io", binary, CHANNELS), // JavaScript
            ("base64.channel.k8s.io,v4.base64.channel.k8s.io, v4.channel.k8s.io", base64, BASE64_CHANNELS),
            ("v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io", binary, CHANNELS),
            ("SPDY/3.1+portforward.k8s.io, v4.channel.k8s.io", Protocol::Tunnel, TUNNEL),
        ] {
            let (chosen, answer) = offering(offered).unwrap();
            assert_eq!(chosen, protocol, "{offered}");
            assert_eq!(answer.headers()["sec-websocket-protocol"], name, "{offered}");
        }
    }

    #[test]
    fn without_a_subprotocol_channels_are_binary_and_none_is_answered() {
        for answer in [get(&WEBSOCKET), offering(" ,")] {
            let (protocol, answer) = answer.unwrap();
            assert_eq!(protocol, Protocol::Channels(Encoding::Binary));
            assert!(!answer.headers().contains_key("sec-websocket-protocol"));
        }
    }

    #[test]
    fn unknown_subprotocols_are_forbidden() {
        for offered in ["v5.channel.k8s.io", "chat", "V4.CHANNEL.K8S.IO"] {
            assert_eq!(offering(offered).unwrap_err().status(), 403, "{offered}");
        }
    }

    #[test]
    fn web_pages_of_others_are_refused_unless_allowed() {
        for (host, origin, status) in [
            ("127.0.0.1:8001", "http://127.0.0.1:8001", 101), // Python
            ("k8s.example", "https://K8s.example", 101),
            ("127.0.0.1:8001", "http://127.0.0.1:8002", 403),
            ("127.0.0.1:8001", "http://evil.example", 403),
            ("127.0.0.1:8001", "null", 403),
        ] {
            let asked = [&WEBSOCKET[..], &[("host", host), ("origin", origin)]].concat();
            let answer = get(&asked).map_or_else(|refusal| refusal, |(_, answer)| answer);
            assert_eq!(answer.status(), status, "{origin}");
            assert!(negotiate(&request(Method::GET, &asked), true).is_ok());
        }
        let twice = [("host", "a"), ("origin", "http://a"), ("origin", "http://evil.example")];
        assert_eq!(get(&[&WEBSOCKET[..], &twice].concat()).unwrap_err().status(), 403);
    }
}
