//! Sessions inside WebSocket, as a WebSocket client sees them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::frames::{Frame, Heard, take_frames};
use common::raw::{Raw, tunnel_head};
use common::*;
use futures_util::{SinkExt, StreamExt};
use gangplank_streaming::{Config, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

type Socket = WebSocketStream<TcpStream>;

async fn connect<D: gangplank_streaming::Dial>(host: &Host<D>) -> Socket {
    let mut raw = Raw::connect(host.address).await;
    raw.say(&tunnel_head(&host.token())).await;
    assert_eq!(raw.head().await.status, 101);
    WebSocketStream::from_raw_socket(raw.socket, Role::Client, None).await
}

async fn hear(socket: &mut Socket) -> Option<Message> {
    timeout(LONG, socket.next()).await.expect("nothing came").and_then(Result::ok)
}

/// A peer whose frames travel in messages of 1 to `largest` bytes.
async fn peer_in_messages(host: &Host, largest: usize) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let (mut to_server, mut from_server) = connect(host).await.split();
    let (mut from_peer, mut to_peer) = far.into_split();
    tokio::spawn(async move {
        let (mut random, mut buf) = (Random::new(1), vec![0; largest]);
        loop {
            let len = 1 + random.below(largest);
            match from_peer.read(&mut buf[..len]).await {
                Ok(n) if n > 0 => to_server.send(Message::binary(buf[..n].to_vec())).await.unwrap(),
                _ => return to_server.close().await.unwrap(),
            }
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = from_server.next().await {
            if let Message::Binary(bytes) = message {
                to_peer.write_all(&bytes).await.unwrap();
            }
        }
    });
    Peer::over(near, spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default()))
}

#[tokio::test]
async fn messages_of_any_size_carry_a_session() {
    let host = Host::start().await;
    let port = echo_pod().await;
    for largest in [1, 2, 7, 61, 5_000] {
        let mut peer = peer_in_messages(&host, largest).await;
        peer.ping().await;
        let streams = peer.forward(port).await;
        let sent = pattern(10_000);
        peer.send(streams.data, &sent).await;
        assert!(peer.read(streams.data, sent.len()).await == sent);
        peer.finish(streams.data).await;
        assert_eq!(peer.read_to_fin(streams.data).await, b"");
        assert_eq!(peer.next().await, Seen::Fin(streams.error));
    }
}

#[tokio::test]
async fn a_half_close_goes_through() {
    let host = Host::start().await;
    let port = pod(async |mut socket| {
        let mut request = Vec::new();
        socket.read_to_end(&mut request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        socket.write_all(&request).await.unwrap();
    })
    .await;
    let mut peer = peer_in_messages(&host, 61).await;
    let streams = peer.forward(port).await;
    peer.send(streams.data, b"question").await;
    peer.finish(streams.data).await;
    assert_eq!(peer.read_to_fin(streams.data).await, b"question");
}

#[tokio::test]
async fn eight_mebibytes_go_both_ways_at_once() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let mut peer = peer_in_messages(&host, 64 << 10).await;
    let streams = peer.forward(port).await;
    let sent = pattern(8 << 20);
    let mut frames = Vec::new();
    for piece in sent.chunks(32 << 10) {
        frames.extend_from_slice(&peer.spdy.data_header(streams.data, piece.len(), false).unwrap());
        frames.extend_from_slice(piece);
    }
    frames.extend_from_slice(&peer.spdy.data_header(streams.data, 0, true).unwrap());
    let (mut from, mut to) = peer.socket.into_split();
    let writing = tokio::spawn(async move {
        to.write_all(&frames).await.unwrap();
        to
    });
    let (mut bytes, mut heard) = (Vec::new(), Heard::new());
    while !heard.get(&streams.error).is_some_and(|stream| stream.contains(&Frame::Fin)) {
        let n = timeout(LONG, from.read_buf(&mut bytes)).await.expect("nothing came").unwrap();
        assert!(n > 0, "the session ended");
        take_frames(&mut bytes, &mut heard);
    }
    drop(writing.await.unwrap());
    assert!(heard[&streams.data] == [Frame::Data(sent), Frame::Fin]);
}

#[tokio::test]
async fn a_websocket_ping_is_answered_with_its_payload() {
    let host = Host::start().await;
    let mut socket = connect(&host).await;
    socket.send(Message::Ping("are you there?".into())).await.unwrap();
    assert_eq!(hear(&mut socket).await, Some(Message::Pong("are you there?".into())));
}

#[tokio::test]
async fn a_close_frame_of_the_client_ends_the_session_and_is_answered() {
    let host = Host::start().await;
    let mut socket = connect(&host).await;
    let normal = || Some(CloseFrame { code: CloseCode::Normal, reason: "".into() });
    socket.send(Message::Close(normal())).await.unwrap();
    assert_eq!(hear(&mut socket).await, Some(Message::Close(normal())));
    assert_eq!(hear(&mut socket).await, None);
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_session_that_we_end_ends_in_a_goaway_and_a_normal_close() {
    let host = Host::start().await;
    let mut socket = connect(&host).await;
    host.server.end_sandbox("sandbox0123", "it stopped");
    let goaway = vec![0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(hear(&mut socket).await, Some(Message::binary(goaway)));
    expect_close(&mut socket, CloseCode::Normal).await;
    assert_eq!(hear(&mut socket).await, None);
}

#[tokio::test]
async fn a_text_message_ends_the_session() {
    let host = Host::start().await;
    let mut socket = connect(&host).await;
    socket.send(Message::text("hello")).await.unwrap();
    expect_close(&mut socket, CloseCode::Unsupported).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_message_of_two_mebibytes_is_refused() {
    let host = Host::start().await;
    let mut socket = connect(&host).await;
    // The header alone says how long it is; a client that sent all of it could be cut off in the middle.
    let header = [0x82, 0xff, 0, 0, 0, 0, 0, 0x20, 0, 0, 1, 2, 3, 4];
    socket.get_mut().write_all(&header).await.unwrap();
    expect_close(&mut socket, CloseCode::Size).await;
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_client_that_leaves_without_a_word_ends_its_session() {
    let host = Host::start().await;
    for linger in [false, true] {
        let socket = connect(&host).await;
        host.expect_sessions(1).await;
        if linger {
            socket.get_ref().set_zero_linger().unwrap();
        }
        drop(socket);
        host.expect_no_session().await;
    }
}

/// What a client that takes nothing for a while hears when its sandbox stops. The session waits a second for
/// it; true if it was in time and saw the close frame.
async fn hears_all_before_the_close_frame(host: &Host, port: u16) -> bool {
    let mut spdy = spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default());
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "0")];
    let error = spdy.open(&headers("error"), true).unwrap();
    let data = spdy.open(&headers("data"), false).unwrap();
    let mut socket = connect(host).await;
    socket.send(Message::binary(spdy.output().to_vec())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await; // the pod fills all buffers on the way
    host.server.end_sandbox("sandbox0123", "it stopped");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (mut bytes, mut heard) = (Vec::new(), Heard::new());
    while let Some(message) = hear(&mut socket).await {
        match message {
            Message::Binary(payload) => bytes.extend_from_slice(&payload),
            Message::Close(_) => {
                take_frames(&mut bytes, &mut heard);
                assert_eq!(heard.get(&0), Some(&vec![Frame::GoAway]));
                assert_eq!(heard[&data].last(), Some(&Frame::Reset(5)));
                assert!(matches!(heard[&error][..], [Frame::Reply, Frame::Data(_), Frame::Fin]));
                return true;
            }
            other => panic!("{other:?}"),
        }
    }
    false
}

#[tokio::test]
async fn a_slow_client_hears_all_before_the_close_frame() {
    let host = Host::start().await;
    let port = pod(async |mut socket| while socket.write_all(&[0; 64 << 10]).await.is_ok() {}).await;
    for _ in 0..10 {
        if hears_all_before_the_close_frame(&host, port).await {
            return;
        }
    }
    panic!("no session ended in order");
}

async fn expect_close(socket: &mut Socket, code: CloseCode) {
    match hear(socket).await {
        Some(Message::Close(Some(frame))) => assert_eq!(frame.code, code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn floods_of_pings_that_nobody_reads_cost_only_the_session() {
    let limits = Limits { write_stall_timeout: Duration::from_millis(400), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let mut socket = connect(&host).await;
    let pings = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1].repeat(1_000);
    let flood = async { while socket.send(Message::binary(pings.clone())).await.is_ok() {} };
    timeout(LONG, flood).await.expect("the session goes on");
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_client_that_takes_little_is_not_given_up() {
    let limits = Limits { write_stall_timeout: Duration::from_secs(1), ..Limits::default() };
    let host = Host::with(Config { limits, ..Config::default() }).await;
    let port =
        pod(async |mut socket| while socket.write_all(&[0; 64 << 10]).await.is_ok() {}).await.to_string();
    let mut spdy = spdy_rs::Connection::new(spdy_rs::Role::Client, spdy_rs::Config::default());
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "0")];
    spdy.open(&headers("error"), true).unwrap();
    spdy.open(&headers("data"), false).unwrap();
    let mut socket = connect(&host).await;
    socket.send(Message::binary(spdy.output().to_vec())).await.unwrap();
    let mut buf = vec![0; 1 << 20];
    // Longer than the limit altogether, and never as long without taking some.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(timeout(LONG, socket.get_mut().read(&mut buf)).await.unwrap().unwrap() > 0);
    }
    assert_eq!(host.server.stats().sessions_open, 1);
}
