//! The HTTP front, byte for byte: recorded requests, refusals, limits.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::raw::{Answer, Raw, upgrade_head};
use common::*;
use gangplank_streaming::{Config, Limits, TokenError};
use tokio::io::AsyncWriteExt;

/// Requests and the reference server's answers, as recorded; one of them ends in a WebSocket frame.
const PROBES: &[u8] = include_bytes!("vectors/http-probes.txt");

/// An answer of ours that is meant to differ from the recorded one.
struct Difference {
    probe: &'static str,
    reason: &'static str,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

const PLAIN: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
const NOSNIFF: (&str, &str) = ("x-content-type-options", "nosniff");
const SPDY: &[(&str, &str)] = &[
    ("connection", "Upgrade"),
    ("upgrade", "SPDY/3.1"),
    ("x-stream-protocol-version", "portforward.k8s.io"),
];
const MISSING_UPGRADE: &str = "unable to upgrade: missing upgrade headers in request: \
                               send Connection: Upgrade and Upgrade: SPDY/3.1\n";

const DIFFERENCES: &[Difference] = &[
    Difference {
        probe: "same token again (token was consumed by the failed request)",
        reason: "a request that could not be upgraded does not use its token up",
        status: 101,
        headers: SPDY,
        body: "",
    },
    Difference {
        probe: "portforward token at /exec/",
        reason: "exec is not served here, so its path is unknown rather than the token",
        status: 404,
        headers: &[PLAIN],
        body: "404: Page Not Found",
    },
    Difference {
        probe: "good protocol, no Upgrade header",
        reason: "the text says what to send instead of dumping Go's map of headers",
        status: 400,
        headers: &[PLAIN, NOSNIFF],
        body: MISSING_UPGRADE,
    },
    Difference {
        probe: "HTTP/1.0 upgrade",
        reason: "RFC 9110, 7.8: Upgrade in an HTTP/1.0 request must be ignored; no client sends it",
        status: 400,
        headers: &[PLAIN, NOSNIFF],
        body: "unable to upgrade: HTTP/1.0 has no upgrades: send the request as HTTP/1.1\n",
    },
    Difference {
        probe: "websocket unsupported subprotocol",
        reason: "the tunnel is served, so that crictl -r websocket works",
        status: 101,
        headers: &[
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io"),
        ],
        body: "",
    },
    Difference {
        probe: "websocket via POST",
        reason: "refusals say what their text is and keep the connection, here as everywhere",
        status: 405,
        headers: &[PLAIN, NOSNIFF],
        body: "bad method\n",
    },
    Difference {
        probe: "websocket version 12",
        reason: "refusals say what their text is and keep the connection, here as everywhere",
        status: 400,
        headers: &[PLAIN, NOSNIFF, ("sec-websocket-version", "13")],
        body: "missing or bad WebSocket Version\n",
    },
    Difference {
        probe: "websocket without key",
        reason: "the text names the header that is missing",
        status: 400,
        headers: &[PLAIN, NOSNIFF],
        body: "missing Sec-WebSocket-Key\n",
    },
    Difference {
        probe: "websocket empty subprotocol list (none requested)",
        reason: "who asks for no subprotocol is answered none, rather than one without a name",
        status: 101,
        headers: &[
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ],
        body: "",
    },
];

/// One recorded request with its answer.
struct Probe {
    title: String,
    request: String,
    answer: Answer,
}

fn probes() -> Vec<Probe> {
    let text = String::from_utf8_lossy(PROBES);
    let parts = text.split("### ").filter(|part| !part.trim().is_empty());
    parts.map(|part| parse_probe(part.split("\n===").next().unwrap())).collect()
}

fn parse_probe(text: &str) -> Probe {
    let (title, rest) = text.split_once('\n').unwrap();
    let of = |mark: &str| -> Vec<&str> { rest.lines().filter_map(|line| line.strip_prefix(mark)).collect() };
    let request = of("> ").join("\r\n") + "\r\n\r\n";
    let answer = of("< ");
    let end = answer.iter().position(|line| line.is_empty()).unwrap_or(answer.len());
    let mut body = answer.get(end + 1..).unwrap_or_default().join("\n");
    let head = Answer::parse_head(&answer[..end].join("\r\n"));
    // The recording shows lines; whether the last one ended in a newline follows from the length.
    if head.length().is_some_and(|length| length == body.len() + 1) {
        body.push('\n');
    }
    Probe { title: title.to_owned(), request, answer: Answer { body, ..head } }
}

/// Puts a token that this server knows in the place of the recorded one.
fn with_token(request: &str, token: &str) -> String {
    let (method, rest) = request.split_once(' ').unwrap();
    let (path, rest) = rest.split_once(' ').unwrap();
    let Some((dir, old)) = path[1..].split_once('/') else { return request.to_owned() };
    let slash = if old.ends_with('/') { "/" } else { "" };
    format!("{method} /{dir}/{token}{slash} {rest}")
}

#[tokio::test]
async fn every_recorded_request_is_answered_as_recorded_or_differs_for_a_reason() {
    let host = Host::start().await;
    let probes = probes();
    assert_eq!(probes.len(), 23);
    let mut token = String::new();
    for probe in probes {
        token = match &*probe.title {
            "unknown token" => "AAAAAAAA".to_owned(),
            title if title.starts_with("same token again") => token,
            _ => host.token(),
        };
        let mut raw = Raw::connect(host.address).await;
        raw.say(&with_token(&probe.request, &token)).await;
        let is_head = probe.request.starts_with("HEAD ");
        let seen = if is_head { raw.head().await } else { raw.answer().await };
        check_probe(&probe, &seen);
        match &*probe.title {
            "HTTP/1.0 upgrade" => assert_eq!(raw.rest().await, ""),
            // Its token names no ports, so the session ends at once: a close frame of code 1000.
            title if title.starts_with("websocket empty") => {
                assert_eq!(raw.rest().await, String::from_utf8_lossy(b"\x88\x02\x03\xe8"));
            }
            title => raw.expect_open(title).await,
        }
    }
}

fn check_probe(probe: &Probe, seen: &Answer) {
    let title = &*probe.title;
    let Some(ours) = DIFFERENCES.iter().find(|d| d.probe == title) else {
        assert_eq!(seen.status, probe.answer.status, "{title}");
        assert_eq!(seen.telling_headers(), probe.answer.telling_headers(), "{title}");
        assert_eq!(seen.body, probe.answer.body, "{title}");
        assert_eq!(seen.length(), probe.answer.length(), "{title}");
        return;
    };
    let (status, body) = (seen.status, &*seen.body);
    assert_eq!((status, body), (ours.status, ours.body), "{title}: {}", ours.reason);
    let mut headers: Vec<_> = ours.headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    headers.sort();
    assert_eq!(seen.telling_headers(), headers, "{title}: {}", ours.reason);
    let same = seen.status == probe.answer.status
        && seen.telling_headers() == probe.answer.telling_headers()
        && seen.body == probe.answer.body;
    assert!(!same, "{title} does not differ any more: take it off the list");
}

fn with_head_timeout(request_head_timeout: Duration) -> Config {
    Config { limits: Limits { request_head_timeout, ..Limits::default() }, ..Config::default() }
}

#[tokio::test]
async fn bytes_that_come_with_the_request_are_part_of_the_session() {
    let host = Host::start().await;
    let port = echo_pod().await.to_string();
    let mut spdy = spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default());
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "0")];
    let error = spdy.open(&headers("error"), true).unwrap();
    let data = spdy.open(&headers("data"), false).unwrap();
    spdy.send(data, &pattern(5_000), true).unwrap();
    let mut segment = upgrade_head(&host.token()).into_bytes();
    segment.extend_from_slice(spdy.output());
    spdy.clear_output();
    let mut raw = Raw::connect(host.address).await;
    raw.socket.write_all(&segment).await.unwrap();
    assert_eq!(raw.head().await.status, 101);
    let mut peer = Peer::over(raw.socket, spdy);
    assert_eq!(peer.next().await, Seen::Replied(error));
    assert_eq!(peer.next().await, Seen::Replied(data));
    assert!(peer.read_to_fin(data).await == pattern(5_000));
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused_and_one_below_is_not() {
    let host = Host::start().await;
    for (filling, status) in [(15 << 10, 101), (17 << 10, 431), (1 << 20, 431)] {
        let mut raw = Raw::connect(host.address).await;
        let head = upgrade_head(&host.token());
        let filler = format!("X-Filler: {}\r\n\r\n", "x".repeat(filling));
        // The server may close before it has all of a head that is too long.
        let _ =
            raw.socket.write_all((head.strip_suffix("\r\n").unwrap().to_owned() + &filler).as_bytes()).await;
        let seen = if status == 101 { raw.head().await } else { Answer::parse_head(&raw.rest().await) };
        assert_eq!(seen.status, status, "{filling}");
    }
}

#[tokio::test]
async fn a_head_of_too_many_headers_is_refused() {
    let host = Host::start().await;
    let mut raw = Raw::connect(host.address).await;
    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    raw.say(&format!("GET /portforward/x HTTP/1.1\r\n{many}\r\n")).await;
    assert!(raw.rest().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn a_head_that_dribbles_is_given_up_in_time() {
    let host = Host::with(with_head_timeout(Duration::from_millis(400))).await;
    let mut raw = Raw::connect(host.address).await;
    let dribble = async {
        loop {
            if raw.socket.write_all(b"G").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, dribble).await.unwrap();
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed_in_time() {
    let host = Host::with(with_head_timeout(Duration::from_millis(400))).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::connect(host.address).await);
    }
    for mut raw in silent {
        assert_eq!(raw.rest().await, "");
    }
}

#[tokio::test]
async fn a_refused_connection_may_ask_again_but_not_idle() {
    let host = Host::with(with_head_timeout(Duration::from_millis(400))).await;
    let mut raw = Raw::connect(host.address).await;
    for _ in 0..3 {
        raw.say("GET /portforward/nonsense HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 404);
    }
    assert_eq!(raw.rest().await, "");
    let mut raw = Raw::connect(host.address).await;
    raw.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 404);
    raw.say(&upgrade_head(&host.token())).await;
    assert_eq!(raw.head().await.status, 101);
    let spdy = spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default());
    Peer::over(raw.socket, spdy).ping().await;
}

#[tokio::test]
async fn requests_may_be_pipelined_and_garbage_ends_the_connection() {
    let host = Host::start().await;
    let mut raw = Raw::connect(host.address).await;
    raw.say(&format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{}", upgrade_head(&host.token()))).await;
    assert_eq!(raw.answer().await.status, 404);
    assert_eq!(raw.head().await.status, 101);
    let mut raw = Raw::connect(host.address).await;
    raw.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n\x01\x02\x03 garbage\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 404);
    let rest = raw.rest().await;
    assert!(rest.starts_with("HTTP/1.1 400 "), "{rest}");
}

#[tokio::test]
async fn what_is_not_http_1_is_turned_away() {
    let host = Host::start().await;
    for hello in
        ["\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n \r\n\r\n"]
    {
        let mut raw = Raw::connect(host.address).await;
        raw.say(hello).await;
        let rest = raw.rest().await;
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400 "), "{hello:?}: {rest:?}");
    }
}

#[tokio::test]
async fn a_thousand_tokens_may_wait_and_not_one_more() {
    let host = Host::start().await;
    let mut tokens: Vec<_> = (0..1_000).map(|_| host.token()).collect();
    assert_eq!(host.server.url("http://a", "s", &[]), Err(TokenError::Full));
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 1_000);
    // 128 bits in an alphabet of 64 letters take 22 of them.
    assert!(tokens.iter().all(|t| t.len() >= 22), "{:?}", tokens[0]);
    for token in &tokens {
        let mut raw = Raw::connect(host.address).await;
        raw.say(&upgrade_head(token)).await;
        assert_eq!(raw.head().await.status, 101);
        raw.socket.set_zero_linger().unwrap();
    }
    host.server.url("http://a", "s", &[]).unwrap();
}

#[tokio::test]
async fn a_token_is_good_for_one_session_whoever_is_first() {
    let host = Host::start().await;
    let token = host.token();
    let mut statuses = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(Raw::connect(host.address).await);
    }
    for raw in &mut connections {
        raw.say(&upgrade_head(&token)).await;
    }
    for raw in &mut connections {
        statuses.push(raw.head().await.status);
    }
    statuses.sort();
    assert_eq!(statuses, [101, 404, 404, 404, 404, 404, 404, 404]);
}

#[tokio::test]
async fn a_body_that_never_comes_holds_no_session() {
    let limits = Limits { request_head_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    for length in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut raw = Raw::connect(host.address).await;
        let head = upgrade_head(&host.token()).replace("Content-Length: 0", length);
        raw.say(&head).await;
        let rest = raw.rest().await;
        assert!(rest.starts_with("HTTP/1.1 400 "), "{length}: {rest}");
        assert_eq!(host.server.stats().sessions_total, 0);
    }
}
