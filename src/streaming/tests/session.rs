//! Sessions as a client sees them, frame by frame, over real sockets.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::*;
use gangplank_streaming::{Config, ErrorStyle, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn silent_until_the_client_speaks() {
    let host = Host::start().await;
    let mut peer = host.connect().await;
    peer.expect_silence(Duration::from_millis(300)).await;
    peer.ping().await;
}

#[tokio::test]
async fn echoes_and_half_closes_both_ways() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"hello").await;
    assert_eq!(peer.read(streams.data, 5).await, b"hello");
    peer.finish(streams.data).await;
    assert_eq!(peer.read_to_fin(streams.data).await, b"");
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
    peer.ping().await;
}

#[tokio::test]
async fn an_answer_after_the_half_close_arrives_whole() {
    let host = Host::start().await;
    let port = pod(async |mut socket| {
        let mut request = Vec::new();
        socket.read_to_end(&mut request).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        socket.write_all(&request).await.unwrap();
    })
    .await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    let sent = pattern(300_000);
    peer.send(streams.data, &sent).await;
    peer.finish(streams.data).await;
    assert!(peer.read_to_fin(streams.data).await == sent);
}

#[tokio::test]
async fn a_refused_port_leaves_the_session_alive() {
    let host = Host::start().await;
    let (good, bad) = (echo_pod().await, closed_port().await);
    let mut peer = host.connect().await;
    let refused = peer.open(bad).await;
    assert_eq!(peer.next().await, Seen::Replied(refused.error));
    assert_eq!(peer.next().await, Seen::Reset(refused.data, 3));
    assert_eq!(peer.next().await, Seen::Fin(refused.error));
    let streams = peer.forward(good).await;
    peer.send(streams.data, b"x").await;
    assert_eq!(peer.read(streams.data, 1).await, b"x");
}

#[tokio::test]
async fn a_refused_port_is_told_in_text_where_that_is_asked_for() {
    let host = Host::with(Config { errors: ErrorStyle::Text, ..Config::default() }).await;
    let mut peer = host.connect().await;
    let port = closed_port().await;
    expect_text(&mut peer, port, &format!("connect to port {port}")).await;
}

#[tokio::test]
async fn a_sandbox_that_is_gone_is_always_told_in_text() {
    let host = Host::start().await;
    let mut peer = host.connect().await;
    expect_text(&mut peer, SANDBOX_GONE, "the sandbox has stopped").await;
}

async fn expect_text(peer: &mut Peer, port: u16, cause: &str) {
    let streams = peer.open(port).await;
    assert_eq!(peer.next().await, Seen::Replied(streams.error));
    assert_eq!(peer.next().await, Seen::Replied(streams.data));
    assert_eq!(peer.next().await, Seen::Fin(streams.data));
    let start = format!("error forwarding port {port} to pod sandbox0123, uid : {cause}");
    match peer.next().await {
        Seen::Data(id, text) if id == streams.error => {
            assert!(text.starts_with(start.as_bytes()), "{text:?}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(peer.next().await, Seen::Reset(streams.data, 5));
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
}

#[tokio::test]
async fn a_pod_that_ends_first_ends_the_client_at_once() {
    let host = Host::start().await;
    let port = pod(async |mut socket| socket.write_all(b"bye").await.unwrap()).await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    assert_eq!(peer.read_to_fin(streams.data).await, b"bye");
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
    peer.reset(streams.data).await; // as Go clients do
    peer.ping().await;
}

#[tokio::test]
async fn a_pod_that_resets_resets_the_stream_only() {
    let host = Host::start().await;
    let port = pod(async |mut socket| {
        let _ = socket.read_u8().await;
        socket.set_zero_linger().unwrap();
    })
    .await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"x").await;
    assert_eq!(peer.next().await, Seen::Reset(streams.data, 5));
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
    peer.ping().await;
    assert_eq!(host.server.stats().connections_failed, 1);
}

#[tokio::test]
async fn a_client_that_resets_resets_the_pod() {
    let host = Host::start().await;
    let (ended, end) = tokio::sync::oneshot::channel();
    let ended = std::sync::Mutex::new(Some(ended));
    let port = pod(move |mut socket| {
        let ended = ended.lock().unwrap().take().unwrap();
        async move {
            let mut all = Vec::new();
            let _ = ended.send(socket.read_to_end(&mut all).await.map_err(|e| e.kind()));
        }
    })
    .await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"x").await;
    peer.reset(streams.data).await;
    assert_eq!(end.await.unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
}

#[tokio::test]
async fn streams_pair_in_either_order_and_early_data_waits() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let data = peer.open_stream("data", port, 7).await;
    peer.send(data, b"early").await;
    peer.finish(data).await;
    let error = peer.open_stream("error", port, 7).await;
    assert_eq!(peer.next().await, Seen::Replied(error));
    assert_eq!(peer.next().await, Seen::Replied(data));
    assert_eq!(peer.read_to_fin(data).await, b"early");
    assert_eq!(peer.next().await, Seen::Fin(error));
}

#[tokio::test]
async fn duplicates_are_refused_alone() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let error = peer.open_stream("error", port, 1).await;
    let second = peer.open_stream("error", port, 1).await;
    let data = peer.open_stream("data", port, 1).await;
    assert_eq!(peer.next().await, Seen::Replied(error));
    assert_eq!(peer.next().await, Seen::Reset(second, 1));
    assert_eq!(peer.next().await, Seen::Replied(data));
}

#[tokio::test]
async fn large_transfers_arrive_whole_in_both_directions_at_once() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let client = gangplank_streaming::Client::connect(&host.url()).await.unwrap();
    let local = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = tokio::net::TcpStream::connect(local.local_addr().unwrap()).await.unwrap();
    client.forward(port, local.accept().await.unwrap().0);
    let sent = pattern(40 << 20);
    let (mut from, mut to) = near.into_split();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        to.write_all(&copy).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    from.read_to_end(&mut received).await.unwrap();
    writing.await.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn a_pod_that_does_not_read_does_not_hold_up_the_others() {
    let host = Host::start().await;
    let stuck = pod(async |socket| {
        std::future::pending::<()>().await;
        drop(socket);
    })
    .await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let bad = peer.forward(stuck).await;
    peer.send(bad.data, &vec![0; 8 << 20]).await;
    let good = peer.forward(port).await;
    peer.send(good.data, b"still here").await;
    assert_eq!(peer.read(good.data, 10).await, b"still here");
}

#[tokio::test]
async fn a_pod_that_stays_stuck_is_reset_when_the_budget_is_spent() {
    let limits = Limits {
        session_budget: 1 << 20,
        stream_stall_timeout: Duration::from_millis(400),
        ..Limits::default()
    };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let stuck = pod(async |socket| {
        std::future::pending::<()>().await;
        drop(socket);
    })
    .await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let bad = peer.forward(stuck).await;
    let good = peer.forward(port).await;
    peer.send(bad.data, &vec![0; 24 << 20]).await;
    peer.send(good.data, b"still here").await;
    assert_eq!(peer.next().await, Seen::Reset(bad.data, 5));
    assert_eq!(peer.next().await, Seen::Fin(bad.error));
    assert_eq!(peer.read(good.data, 10).await, b"still here");
    assert_eq!(host.server.stats().streams_stuck, 1);
}

#[tokio::test]
async fn a_sandbox_that_stops_ends_its_sessions_with_a_text() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    host.server.end_sandbox("another", "no");
    peer.ping().await;
    host.server.end_sandbox("sandbox0123", "the sandbox was stopped");
    match peer.next().await {
        Seen::Data(id, text) => {
            assert_eq!(id, streams.error);
            assert!(String::from_utf8(text).unwrap().ends_with("the sandbox was stopped"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(peer.next().await, Seen::Reset(streams.data, 5));
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
    assert_eq!(peer.next().await, Seen::GoAway);
    assert_eq!(peer.next().await, Seen::Closed);
}

#[tokio::test]
async fn a_drain_refuses_new_sessions_and_ends_old_ones_in_time() {
    let host = Host::start().await;
    let mut peer = host.connect().await;
    peer.ping().await;
    let (url, server) = (host.url(), host.server.clone());
    let drain = tokio::spawn(async move { server.drain(Duration::from_millis(500)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    peer.ping().await;
    let refused = gangplank_streaming::Client::connect(&url).await.err().unwrap().to_string();
    assert!(refused.contains("503") && refused.contains("shutting down"), "{refused}");
    assert_eq!(peer.next().await, Seen::GoAway);
    assert_eq!(peer.next().await, Seen::Closed);
    assert_eq!(drain.await.unwrap(), gangplank_streaming::Drained { finished: 0, ended: 1 });
}

fn quick() -> Limits {
    let short = Duration::from_millis(300);
    Limits { dial_timeout: short, pair_timeout: short, linger: short, ..Limits::default() }
}

#[tokio::test]
async fn dials_pairs_and_lingering_ends_are_limited() {
    let host = Host::with(Config { limits: quick(), ..Config::default() }).await;
    let mut peer = host.connect().await;
    let slow = peer.open(NEVER_ANSWERS).await;
    assert_eq!(peer.next().await, Seen::Replied(slow.error));
    assert_eq!(peer.next().await, Seen::Reset(slow.data, 3));
    assert_eq!(peer.next().await, Seen::Fin(slow.error));

    let lone_error = peer.open_stream("error", 80, 8).await;
    assert_eq!(peer.next().await, Seen::Replied(lone_error));
    assert_eq!(peer.next().await, Seen::Fin(lone_error));
    assert_eq!(peer.next().await, Seen::Reset(lone_error, 5));
    let lone_data = peer.open_stream("data", 80, 9).await;
    assert_eq!(peer.next().await, Seen::Reset(lone_data, 5));

    let port = pod(async |mut socket| {
        socket.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let half = peer.forward(port).await;
    assert_eq!(peer.next().await, Seen::Fin(half.data));
    assert_eq!(peer.next().await, Seen::Fin(half.error));
    assert_eq!(peer.next().await, Seen::Reset(half.data, 5));
}

#[tokio::test]
async fn a_session_without_data_ends_in_order_and_pings_do_not_help() {
    let limits = Limits { idle_timeout: Duration::from_millis(500), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    peer.ping().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    peer.ping().await;
    assert_eq!(peer.next().await, Seen::Reset(streams.data, 5));
    assert_eq!(peer.next().await, Seen::Fin(streams.error));
    assert_eq!(peer.next().await, Seen::GoAway);
    assert_eq!(peer.next().await, Seen::Closed);
}

#[tokio::test]
async fn a_client_that_falls_silent_after_pings_is_given_up() {
    let limits = Limits { silence_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let mut never_pinged = host.connect().await;
    let port = echo_pod().await;
    let streams = never_pinged.forward(port).await;
    let mut peer = host.connect().await;
    peer.ping().await;
    assert_eq!(peer.next().await, Seen::Closed);
    never_pinged.send(streams.data, b"x").await;
    assert_eq!(never_pinged.read(streams.data, 1).await, b"x");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let limits = Limits { write_stall_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let port = pod(async |mut socket| while socket.write_all(&[0; 64 << 10]).await.is_ok() {}).await;
    let mut peer = host.connect().await;
    peer.forward(port).await;
    let gone = async {
        while host.server.stats().sessions_open > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn floods_of_pings_that_nobody_reads_cost_only_the_session() {
    let limits = Limits { write_stall_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let mut peer = host.connect().await;
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1].repeat(10_000);
    let flood = async { while peer.socket.write_all(&ping).await.is_ok() {} };
    tokio::time::timeout(LONG, flood).await.unwrap();
    let gone = async {
        while host.server.stats().sessions_open > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn sessions_are_listed_with_what_they_have_moved_while_they_live() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = host.connect().await;
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"hello").await;
    assert_eq!(peer.read(streams.data, 5).await, b"hello");
    let sessions = host.server.sessions();
    let [session] = &sessions[..] else { panic!("{sessions:?}") };
    assert_eq!((&*session.sandbox, session.protocol), ("sandbox0123", "spdy"));
    assert_eq!(session.client, Some(peer.socket.local_addr().unwrap()));
    assert_eq!((session.connections_open, session.connections_total), (1, 1));
    assert_eq!((session.bytes_sent, session.bytes_received, session.bytes_held), (5, 5, 0));
    assert_eq!(host.server.stats().bytes_sent, 5);

    drop(peer);
    host.expect_no_session().await;
    assert!(host.server.sessions().is_empty());
    let stats = host.server.stats();
    assert_eq!((stats.connections_open, stats.connections_total), (0, 1));
    assert_eq!((stats.bytes_sent, stats.bytes_received), (5, 5), "what has ended still counts");
}
