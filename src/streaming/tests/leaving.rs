//! Everybody leaves some time: clients, pods, the server. Nothing stays behind, and nobody waits for nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::raw::Raw;
use common::watch::Watched;
use common::*;
use gangplank_streaming::{Config, Dial, DialError, DialErrorKind, Drained, ErrorStyle, Limits, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn watched(limits: Limits) -> (Host<Watched>, Watched) {
    let watched = Watched::default();
    (Host::dialling(Config { limits, ..Config::default() }, watched.clone()).await, watched)
}

/// A pod that sends for ever.
async fn source_pod() -> u16 {
    pod(async |mut socket| while socket.write_all(&[7; 64 << 10]).await.is_ok() {}).await
}

/// A pod that never reads.
async fn stuck_pod() -> u16 {
    pod(async |mut socket| {
        // Ends when the other side resets: an end of the stream alone would not wake it.
        let _ = socket.ready(tokio::io::Interest::ERROR).await;
        let _ = socket.shutdown().await;
    })
    .await
}

#[tokio::test]
async fn a_dial_ends_when_its_client_resets_the_stream() {
    let (host, watched) = watched(Limits::default()).await;
    let mut peer = host.connect().await;
    let streams = peer.open(NEVER_ANSWERS).await;
    assert_eq!(peer.next().await, Seen::Replied(streams.error));
    watched.expect_dialling(1).await;
    peer.reset(streams.data).await;
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
    watched.expect_dialling(0).await;
    peer.ping().await;
}

#[tokio::test]
async fn dials_end_with_their_session_however_it_ends() {
    let (host, watched) = watched(Limits::default()).await;
    for way in ["close", "reset", "goaway", "sandbox"] {
        let mut peer = host.connect().await;
        for _ in 0..3 {
            peer.open(NEVER_ANSWERS).await;
        }
        watched.expect_dialling(3).await;
        match way {
            "close" => drop(peer),
            "reset" => {
                peer.socket.set_zero_linger().unwrap();
                drop(peer);
            }
            "goaway" => {
                peer.spdy.go_away();
                peer.flush().await;
            }
            _ => host.server.end_sandbox("sandbox0123", "it stopped"),
        }
        watched.expect_dialling(0).await;
    }
    host.expect_no_session().await;
}

#[tokio::test]
async fn twenty_aborted_downloads_leave_nothing_and_the_session_goes_on() {
    let (host, watched) = watched(Limits::default()).await;
    let (source, echo) = (source_pod().await, echo_pod().await);
    let mut peer = host.connect().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    peer.ping().await;
    let before = tasks();
    for _ in 0..20 {
        let streams = peer.open(source).await;
        let mut received = 0;
        while received < 1 << 20 {
            if let Seen::Data(id, bytes) = peer.next().await
                && id == streams.data
            {
                received += bytes.len();
            }
        }
        peer.reset(streams.data).await;
    }
    watched.expect_open(0).await;
    eventually("the pods' tasks end", || tasks() == before).await;
    peer.skip_to_pong().await;
    let streams = peer.forward(echo).await;
    peer.send(streams.data, b"x").await;
    assert_eq!(peer.read(streams.data, 1).await, b"x");
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing() {
    let limits = Limits {
        session_budget: 1 << 20,
        stream_stall_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let (host, watched) = watched(limits).await;
    let (source, stuck) = (source_pod().await, stuck_pod().await);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for (port, resets) in [(source, false), (source, true), (stuck, false), (stuck, true)] {
        let mut peer = host.connect().await;
        let streams = peer.forward(port).await;
        if port == stuck {
            // More than the budget, so that the session reads no more.
            let upload = async {
                loop {
                    peer.send(streams.data, &[0; 32 << 10]).await;
                }
            };
            let _ = timeout(Duration::from_millis(300), upload).await;
        }
        watched.expect_open(1).await;
        if resets {
            peer.socket.set_zero_linger().unwrap();
        }
        drop(peer);
        watched.expect_open(0).await;
        host.expect_no_session().await;
    }
    eventually("the tasks of sessions and pods end", || tasks() == before).await;
}

#[tokio::test]
async fn a_session_that_ends_resets_its_pods() {
    let host = Host::start().await;
    let resets = Arc::new(AtomicUsize::new(0));
    let seen = resets.clone();
    let port = pod(move |mut socket| {
        let seen = seen.clone();
        async move {
            let result = socket.read_to_end(&mut Vec::new()).await;
            let reset = result.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
            seen.fetch_add(usize::from(reset), SeqCst);
        }
    })
    .await;
    let mut peer = host.connect().await;
    peer.forward(port).await;
    peer.forward(port).await;
    drop(peer);
    eventually("both pods see a reset", || resets.load(SeqCst) == 2).await;
}

#[tokio::test]
async fn a_drain_ends_when_the_last_session_does() {
    let host = Host::start().await;
    let peer = host.connect().await;
    host.expect_sessions(1).await;
    let server = host.server.clone();
    let drain = tokio::spawn(async move { server.drain(Duration::from_secs(3_600)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!drain.is_finished());
    drop(peer);
    let drained = timeout(LONG, drain).await.expect("the drain goes on").unwrap();
    assert_eq!(drained, Drained { finished: 1, ended: 0 });
}

#[tokio::test]
async fn a_drain_waits_for_no_connection_that_is_not_a_session() {
    let limits = Limits { request_head_timeout: Duration::from_secs(3_600), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let mut silent = Raw::connect(host.address).await;
    let mut idle = Raw::connect(host.address).await;
    idle.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 404);
    let drained = timeout(LONG, host.server.drain(Duration::from_secs(3_600))).await;
    assert_eq!(drained.expect("the drain goes on"), Drained { finished: 0, ended: 0 });
    silent.say("").await;
}

#[tokio::test]
async fn a_drain_counts_who_finished_and_who_was_ended() {
    let host = Host::start().await;
    let (leaves, mut stays) = (host.connect().await, host.connect().await);
    host.expect_sessions(2).await;
    let server = host.server.clone();
    let drain = tokio::spawn(async move { server.drain(Duration::from_secs(1)).await });
    drop(leaves);
    assert_eq!(stays.next().await, Seen::GoAway);
    assert_eq!(stays.next().await, Seen::Closed);
    assert_eq!(drain.await.unwrap(), Drained { finished: 1, ended: 1 });
}

#[tokio::test]
async fn a_stopped_server_accepts_nobody_and_its_sessions_go_on() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    host.stop.cancel();
    let refused = async { while TcpStream::connect(host.address).await.is_ok() {} };
    timeout(LONG, refused).await.unwrap();
    peer.send(streams.data, b"x").await;
    assert_eq!(peer.read(streams.data, 1).await, b"x");
}

/// A dial with a fault of its own.
struct Panics;

impl Dial for Panics {
    type Conn = TcpStream;

    async fn dial(&self, _: Target) -> Result<TcpStream, DialError> {
        panic!("a fault in the embedder's code, on purpose")
    }
}

#[tokio::test]
async fn a_session_that_panics_gives_its_place_back() {
    let limits = Limits { sessions: 1, ..Limits::default() };
    let host = Host::dialling(Config { limits, ..Config::default() }, Panics).await;
    for _ in 0..3 {
        let mut peer = host.connect().await;
        peer.open(80).await;
        while peer.next().await != Seen::Closed {}
    }
    assert_eq!(host.server.drain(Duration::from_secs(3_600)).await, Drained { finished: 0, ended: 0 });
}

/// Fails every dial with the kind that the port names, by its place in the list.
struct Failing;

const KINDS: [DialErrorKind; 9] = [
    DialErrorKind::Refused,
    DialErrorKind::Unreachable,
    DialErrorKind::TimedOut,
    DialErrorKind::Denied,
    DialErrorKind::Relay,
    DialErrorKind::SandboxGone,
    DialErrorKind::RelayUnusable,
    DialErrorKind::Unsupported,
    DialErrorKind::Internal,
];

impl Dial for Failing {
    type Conn = TcpStream;

    async fn dial(&self, target: Target) -> Result<TcpStream, DialError> {
        Err(DialError::new(KINDS[target.port as usize - 1], "cause, with an ä"))
    }
}

#[tokio::test]
async fn only_failures_of_the_whole_session_are_told_in_text() {
    let host = Host::dialling(Config::default(), Failing).await;
    let mut peer = host.connect().await;
    for (port, kind) in (1..).zip(KINDS) {
        let streams = peer.open(port).await;
        assert_eq!(peer.next().await, Seen::Replied(streams.error));
        if [DialErrorKind::SandboxGone, DialErrorKind::RelayUnusable].contains(&kind) {
            expect_text(&mut peer, streams, true, port, "cause, with an ä").await;
        } else {
            assert_eq!(peer.next().await, Seen::Reset(streams.data, 3), "{kind}");
            assert_eq!(peer.next().await, Seen::Fin(streams.error), "{kind}");
        }
    }
    peer.ping().await;
    assert!(host.server.stats().dials_failed.iter().all(|(_, n)| *n == 1));
}

/// The form of Kubernetes' own servers: one data frame without a newline or FIN, then the streams' ends.
async fn expect_text(peer: &mut Peer, streams: Streams, unanswered: bool, port: u16, cause: &str) {
    if unanswered {
        assert_eq!(peer.next().await, Seen::Replied(streams.data));
    }
    assert_eq!(peer.next().await, Seen::Fin(streams.data));
    let text = format!("error forwarding port {port} to pod sandbox0123, uid : {cause}");
    assert_eq!(peer.next().await, Seen::Data(streams.error, text.into_bytes()));
    assert_eq!(peer.next().await, Seen::Reset(streams.data, 5));
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
}

#[tokio::test]
async fn a_pod_that_resets_in_the_middle_is_told_in_text_where_that_is_asked_for() {
    let host = Host::with(Config { errors: ErrorStyle::Text, ..Config::default() }).await;
    let port = pod(async |mut socket| {
        let _ = socket.read_u8().await;
        socket.set_zero_linger().unwrap();
    })
    .await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"x").await;
    expect_text(&mut peer, streams, false, port, "Connection reset by peer (os error 104)").await;
    peer.ping().await;
}
