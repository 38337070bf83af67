//! Channel WebSockets, as library clients use them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::raw::upgrade_head;
use common::watch::Watched;
use common::ws::{BASE64, BINARY, Message, Ws, frame, offering};
use common::*;
use gangplank_streaming::{Config, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

fn limited(limits: Limits) -> Config {
    Config { limits, ..Config::default() }
}

/// A pod that never reads, until it is told to; then it gives the number of bytes up to the end, or to an error.
async fn lazy_pod() -> (u16, oneshot::Sender<()>, oneshot::Receiver<std::io::Result<usize>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (go, going) = oneshot::channel::<()>();
    let (told, counted) = oneshot::channel();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = going.await;
        let mut all = Vec::new();
        let read = socket.read_to_end(&mut all).await;
        let _ = told.send(read.map(|_| all.len()));
    });
    (port, go, counted)
}

#[tokio::test]
async fn every_clients_handshake_leads_to_its_pod() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let python = "Origin: http://127.0.0.1:6443\r\n".to_owned();
    for (more, answered) in [
        (offering("v5.channel.k8s.io, v4.channel.k8s.io"), Some(BINARY)), // kube-rs
        (python + &offering(BINARY), Some(BINARY)),
        (offering("v4.channel.k8s.io,v3.channel.k8s.io,v2.channel.k8s.io,channel.k8s.io"), Some(BINARY)), // JavaScript
        ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n".to_owned(), None),
    ] {
        let (mut ws, answer) = Ws::ask(host.address, &host.token_for(&[port]), &more).await;
        assert_eq!(answer.status, 101);
        assert_eq!(answer.header("sec-websocket-protocol"), answered);
        assert_eq!(answer.header("sec-websocket-extensions"), None);
        ws.expect_ports(&[port]).await;
        ws.send(0, b"hello").await;
        assert_eq!(ws.read(0, 5).await, b"hello");
        ws.close(1000).await;
        assert_eq!(ws.next().await, Message::Close(1000));
        assert_eq!(ws.next().await, Message::Over);
    }
    host.expect_no_session().await;
    let stats = host.server.stats();
    assert_eq!((stats.sessions_total, stats.connections_total), (4, 4));
    assert_eq!((stats.bytes_sent, stats.bytes_received), (20, 20));
}

#[tokio::test]
async fn a_page_of_another_server_is_refused_unless_allowed() {
    for (allow_origin, status) in [(false, 403), (true, 101)] {
        let host = Host::with(Config { allow_origin, ..Config::default() }).await;
        let more = offering(BINARY) + "Origin: https://evil.example\r\n";
        let (_, answer) = Ws::ask(host.address, &host.token_for(&[80]), &more).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn more_ports_than_base64_has_channels_for_are_refused_and_the_token_is_kept() {
    let host = Host::start().await;
    let token = host.token_for(&[closed_port().await; 41]);
    let (_, answer) = Ws::ask(host.address, &token, &offering(BASE64)).await;
    assert_eq!(answer.status, 400);
    let (mut ws, answer) = Ws::ask(host.address, &token, &offering(BINARY)).await;
    assert_eq!(answer.status, 101);
    assert!(matches!(ws.next().await, Message::Binary(_)));
}

#[tokio::test]
async fn ports_of_the_request_mean_nothing_to_spdy() {
    let host = Host::start().await;
    let mut raw = common::raw::Raw::connect(host.address).await;
    raw.say(&upgrade_head(&host.token_for(&[80; 64]))).await;
    assert_eq!(raw.head().await.status, 101);
    raw.expect_open("a session of SPDY").await;
}

#[tokio::test]
async fn base64_carries_any_bytes() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let (mut ws, answer) = Ws::ask(host.address, &host.token_for(&[port]), &offering(BASE64)).await;
    assert_eq!(answer.header("sec-websocket-protocol"), Some(BASE64));
    for channel in ["0", "1"] {
        let announced = format!("{channel}{}", data_encoding::BASE64.encode(&port.to_le_bytes()));
        assert_eq!(ws.next().await, Message::Text(announced));
    }
    let sent = pattern(100_000);
    for piece in sent.chunks(30_000) {
        ws.send_text(&format!("0{}", data_encoding::BASE64.encode(piece))).await;
    }
    let mut echoed = Vec::new();
    while echoed.len() < sent.len() {
        let Message::Text(text) = ws.next().await else { panic!("not a text") };
        assert!(text.len() <= (32 << 10) + 1);
        let payload = text.strip_prefix('0').unwrap();
        echoed.extend(data_encoding::BASE64.decode(payload.as_bytes()).unwrap());
    }
    assert!(echoed == sent);
}

#[tokio::test]
async fn fragments_are_joined_even_around_a_ping() {
    let host = Host::start().await;
    let mut ws = Ws::connect(&host, &[echo_pod().await]).await;
    for piece in
        [frame(false, 2, b"\x00one "), frame(false, 0, b""), frame(true, 9, b"x"), frame(true, 0, b"two")]
    {
        ws.socket.write_all(&piece).await.unwrap();
    }
    assert_eq!(ws.next().await, Message::Pong(b"x".to_vec()));
    assert_eq!(ws.read(0, 7).await, b"one two");
}

#[tokio::test]
async fn a_message_with_16_mib_is_taken_and_a_longer_one_is_not() {
    let host = Host::start().await;
    let ws = Ws::connect(&host, &[echo_pod().await]).await;
    let sent = pattern(16 << 20); // the official Java client puts 15 MiB into one
    let message = frame(true, 2, &[&[0], &sent[..]].concat());
    let (mut from, mut to) = ws.socket.into_split();
    let writing = tokio::spawn(async move {
        to.write_all(&message).await.unwrap();
        to
    });
    let mut bytes = Vec::new();
    let mut echoed = Vec::new();
    while echoed.len() < sent.len() {
        while let Some(Message::Binary(message)) = common::ws::take_message(&mut bytes) {
            echoed.extend_from_slice(&message[1..]);
        }
        if echoed.len() < sent.len() {
            assert!(from.read_buf(&mut bytes).await.unwrap() > 0);
        }
    }
    assert!(echoed == sent);
    let mut ws = Ws { socket: from.reunite(writing.await.unwrap()).unwrap(), bytes };
    // All of it is sent, and what the server does not read must not cost the client the reason.
    let too_long = frame(true, 2, &vec![0; (16 << 20) + 2]);
    ws.socket.write_all(&too_long).await.unwrap();
    ws.expect_close(1009).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn fragments_of_more_than_16_mib_are_refused() {
    let host = Host::start().await;
    let mut ws = Ws::connect(&host, &[echo_pod().await]).await;
    ws.socket.write_all(&frame(false, 2, &vec![0; 9 << 20])).await.unwrap();
    ws.socket.write_all(&frame(true, 0, &vec![0; 9 << 20])).await.unwrap();
    ws.expect_close(1009).await;
}

#[tokio::test]
async fn what_breaks_websocket_ends_the_session_with_its_code() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let unmasked = b"\x82\x02\x00x".to_vec();
    let bad_utf8 = frame(true, 1, b"0\xff");
    for (bytes, code) in
        [(unmasked, 1002), (frame(true, 0, b"x"), 1002), (frame(true, 3, b"x"), 1002), (bad_utf8, 1007)]
    {
        let mut ws = Ws::connect(&host, &[port]).await;
        ws.socket.write_all(&bytes).await.unwrap();
        ws.expect_close(code).await;
    }
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_pods_answer_arrives_whole_before_the_close() {
    let host = Host::start().await;
    let answer = pattern(4 << 20);
    let sent = answer.clone();
    let port = pod(move |mut socket| {
        let sent = sent.clone();
        async move { socket.write_all(&sent).await.unwrap() }
    })
    .await;
    let mut ws = Ws::connect(&host, &[port]).await;
    tokio::time::sleep(Duration::from_millis(300)).await; // the pod has long ended, its bytes wait everywhere
    assert!(ws.read(0, answer.len()).await == answer);
    ws.expect_close(1000).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn the_session_lasts_until_its_last_port_ends() {
    let host = Host::start().await;
    let brief = pod(async |mut socket| socket.write_all(b"bye").await.unwrap()).await;
    let ports = [brief, echo_pod().await, brief];
    let mut ws = Ws::connect(&host, &ports).await;
    let mut heard = [ws.next().await, ws.next().await].map(|m| format!("{m:?}"));
    heard.sort();
    let bye = |channel: u8| format!("{:?}", Message::Binary([&[channel], &b"bye"[..]].concat()));
    assert_eq!(heard, [bye(0), bye(4)]);
    ws.expect_silence(Duration::from_millis(100)).await;
    ws.send(0, b"nobody is there any more").await;
    ws.send(2, b"hello").await;
    assert_eq!(ws.read(2, 5).await, b"hello");
}

#[tokio::test]
async fn a_refused_port_is_told_once_and_costs_the_others_nothing() {
    let host = Host::start().await;
    let (closed, open) = (closed_port().await, echo_pod().await);
    let mut ws = Ws::connect(&host, &[closed, open]).await;
    let text = ws.error(1).await;
    assert!(
        text.starts_with(&format!("error forwarding port {closed} to pod sandbox0123, uid : ")),
        "{text}"
    );
    ws.send(0, b"nobody is there").await;
    for _ in 0..3 {
        ws.send(2, b"hello").await;
        assert_eq!(ws.read(2, 5).await, b"hello");
    }
    let mut alone = Ws::connect(&host, &[closed]).await;
    alone.error(1).await;
    alone.expect_close(1000).await;
}

#[tokio::test]
async fn all_ports_are_dialled_at_once_and_none_for_long() {
    let limits = Limits { dial_timeout: Duration::from_millis(300), ..Limits::default() };
    let dial = Watched::default();
    let host = Host::dialling(limited(limits), dial.clone()).await;
    let mut ws = Ws::connect(&host, &[NEVER_ANSWERS; 64]).await;
    dial.expect_dialling(64).await;
    for _ in 0..64 {
        let Message::Binary(text) = ws.next().await else { panic!("not a text") };
        assert!(text[0] % 2 == 1);
        assert!(String::from_utf8_lossy(&text).ends_with("no answer within 300ms"));
    }
    ws.expect_close(1000).await;
    dial.expect_dialling(0).await;
}

#[tokio::test]
async fn a_connection_that_fails_is_told() {
    let host = Host::start().await;
    let port = pod(async |socket| socket.set_zero_linger().unwrap()).await;
    let mut ws = Ws::connect(&host, &[port]).await;
    let text = ws.error(1).await;
    assert!(text.contains("reset"), "{text}");
    ws.expect_close(1000).await;
    assert_eq!(host.server.stats().connections_failed, 1);
}

#[tokio::test]
async fn a_client_that_closes_ends_its_pods_in_order_when_they_have_all() {
    let host = Host::start().await;
    let (port, go, counted) = lazy_pod().await;
    let mut ws = Ws::connect(&host, &[port, NEVER_ANSWERS]).await;
    let sent = pattern(6 << 20);
    for piece in sent.chunks(64 << 10) {
        ws.send(0, piece).await;
    }
    ws.close(1001).await;
    assert_eq!(ws.next().await, Message::Close(1001));
    assert_eq!(host.server.stats().sessions_open, 1, "the pod has not taken it all");
    go.send(()).unwrap();
    assert_eq!(counted.await.unwrap().unwrap(), sent.len());
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_pod_that_takes_nothing_after_the_close_is_aborted_in_time() {
    let limits = Limits { linger: Duration::from_millis(300), ..Limits::default() };
    let host = Host::with(limited(limits)).await;
    let (port, go, counted) = lazy_pod().await;
    let mut ws = Ws::connect(&host, &[port]).await;
    for piece in pattern(8 << 20).chunks(64 << 10) {
        ws.send(0, piece).await;
    }
    ws.close(1000).await;
    host.expect_no_session().await;
    go.send(()).unwrap();
    assert_eq!(counted.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_vanishes_aborts_its_pods() {
    let host = Host::start().await;
    let (port, go, counted) = lazy_pod().await;
    let mut ws = Ws::connect(&host, &[port]).await;
    ws.send(0, b"hello").await;
    host.expect_sessions(1).await;
    drop(ws);
    host.expect_no_session().await;
    go.send(()).unwrap();
    assert_eq!(counted.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_dials() {
    let dial = Watched::default();
    let host = Host::dialling(Config::default(), dial.clone()).await;
    let ws = Ws::connect(&host, &[NEVER_ANSWERS; 8]).await;
    dial.expect_dialling(8).await;
    drop(ws);
    dial.expect_dialling(0).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn what_was_sent_before_the_pods_end_is_still_delivered() {
    let host = Host::start().await;
    let (told, counted) = oneshot::channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let len = 8 << 20;
    let pod = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        counted.await.unwrap(); // the client has sent all
        socket.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        all
    };
    let client = async {
        let mut ws = Ws::connect(&host, &[port]).await;
        for piece in pattern(len).chunks(64 << 10) {
            ws.send(0, piece).await;
        }
        ws.ping(b"after all").await;
        assert_eq!(ws.next().await, Message::Pong(b"after all".to_vec()));
        told.send(()).unwrap();
        ws.expect_close(1000).await;
    };
    let (all, ()) = tokio::join!(pod, client);
    assert!(all == pattern(len));
}

#[tokio::test]
async fn eight_mebibytes_go_both_ways_on_two_ports_at_once() {
    let host = Host::start().await;
    let ports = [echo_pod().await, echo_pod().await];
    let ws = Ws::connect(&host, &ports).await;
    let sent = pattern(8 << 20);
    let (mut from, mut to) = ws.socket.into_split();
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            for piece in sent.chunks(50_000) {
                for channel in [0, 2] {
                    to.write_all(&frame(true, 2, &[&[channel], piece].concat())).await.unwrap();
                }
            }
            to
        }
    });
    let (mut bytes, mut echoed) = (Vec::new(), [Vec::new(), Vec::new()]);
    while echoed.iter().any(|all| all.len() < sent.len()) {
        assert!(from.read_buf(&mut bytes).await.unwrap() > 0);
        while let Some(message) = common::ws::take_message(&mut bytes) {
            let Message::Binary(message) = message else { panic!("{message:?}") };
            assert!(message.len() <= (32 << 10) + 1);
            echoed[usize::from(message[0] / 2)].extend_from_slice(&message[1..]);
        }
    }
    assert!(echoed[0] == sent && echoed[1] == sent);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn a_port_that_does_not_read_does_not_hold_up_the_others() {
    let host = Host::start().await;
    let (lazy, _go, _) = lazy_pod().await;
    let mut ws = Ws::connect(&host, &[lazy, echo_pod().await]).await;
    for _ in 0..8 {
        for piece in pattern(1 << 20).chunks(32 << 10) {
            ws.send(0, piece).await;
        }
        ws.send(2, b"hello").await;
        assert_eq!(ws.read(2, 5).await, b"hello");
    }
}

#[tokio::test]
async fn a_port_that_stays_stuck_ends_when_the_budget_is_spent() {
    let limits = Limits {
        session_budget: 1 << 20,
        stream_stall_timeout: Duration::from_millis(400),
        ..Limits::default()
    };
    let host = Host::with(limited(limits)).await;
    let (lazy, _go, _) = lazy_pod().await;
    let ws = Ws::connect(&host, &[lazy, echo_pod().await]).await;
    let (from, mut to) = ws.socket.into_split();
    let writing = tokio::spawn(async move {
        // Much more than the budget and every buffer on the way.
        for _ in 0..1_000 {
            to.write_all(&frame(true, 2, &[0; 32 << 10])).await.unwrap();
        }
        to.write_all(&frame(true, 2, b"\x02hello")).await.unwrap();
        to
    });
    let mut near = Ws { socket: tokio::io::join(from, tokio::io::sink()), bytes: Vec::new() };
    let text = near.error(1).await;
    assert!(text.contains("took no data for 400ms"), "{text}");
    assert_eq!(near.read(2, 5).await, b"hello");
    assert_eq!(host.server.stats().streams_stuck, 1);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn a_session_without_data_ends_and_pings_do_not_help() {
    let limits = Limits { idle_timeout: Duration::from_millis(500), ..Limits::default() };
    let host = Host::with(limited(limits)).await;
    let mut ws = Ws::connect(&host, &[echo_pod().await]).await;
    ws.send(0, b"x").await;
    assert_eq!(ws.read(0, 1).await, b"x");
    let text = loop {
        ws.ping(b"").await;
        match ws.next().await {
            Message::Pong(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Message::Binary(text) if text[0] == 1 => break String::from_utf8(text).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert!(text.contains("idle"), "{text}");
    while let Message::Pong(_) = ws.next().await {}
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let limits = Limits { write_stall_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(limited(limits)).await;
    let port = pod(async |mut socket| while socket.write_all(&[0; 64 << 10]).await.is_ok() {}).await;
    let _ws = Ws::connect(&host, &[port]).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_client_that_takes_little_is_not_given_up() {
    let limits = Limits { write_stall_timeout: Duration::from_secs(1), ..Limits::default() };
    let host = Host::with(limited(limits)).await;
    let port = pod(async |mut socket| while socket.write_all(&[0; 64 << 10]).await.is_ok() {}).await;
    let mut ws = Ws::connect(&host, &[port]).await;
    // Longer than the limit altogether, and never as long without taking some.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ws.read_some(1 << 20).await;
    }
    assert_eq!(host.server.stats().sessions_open, 1);
}

#[tokio::test]
async fn pings_that_nobody_reads_the_answers_of_cost_only_the_session() {
    let limits = Limits { write_stall_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(limited(limits)).await;
    let (ports, ping) = ([echo_pod().await], frame(true, 9, &[7; 125]));
    let mut ws = Ws::connect(&host, &ports).await;
    let flood = async { while ws.socket.write_all(&ping).await.is_ok() {} };
    tokio::time::timeout(LONG, flood).await.expect("the session goes on");
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_sandbox_that_stops_ends_its_sessions_with_a_text_for_each_port() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut ws = Ws::connect(&host, &[port, closed_port().await, port]).await;
    ws.error(3).await;
    ws.send(0, b"x").await;
    assert_eq!(ws.read(0, 1).await, b"x");
    host.server.end_sandbox("sandbox0123", "the sandbox has stopped");
    for channel in [1, 5] {
        let text = ws.error(channel).await;
        assert_eq!(
            text,
            format!("error forwarding port {port} to pod sandbox0123, uid : the sandbox has stopped")
        );
    }
    ws.expect_close(1001).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_drain_ends_what_does_not_end_by_itself() {
    let host = Host::start().await;
    let mut ws = Ws::connect(&host, &[echo_pod().await]).await;
    host.expect_sessions(1).await;
    let (drained, ()) = tokio::join!(host.server.drain(Duration::from_millis(100)), async {
        assert!(ws.error(1).await.ends_with("the server shut down"));
        ws.expect_close(1001).await;
    });
    assert_eq!((drained.finished, drained.ended), (0, 1));
}
