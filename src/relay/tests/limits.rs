//! What the relay does to hosts that say the wrong thing, nothing, or too much.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers are no #[test] to the lint

mod common;

use std::time::Duration;

use common::*;
use gangplank_channel::errno::EPROTO;
use gangplank_channel::frame::{self, Kind};
use gangplank_channel::open::{self, Opened, Opens};
use gangplank_channel::preamble::{PREAMBLE_LEN, VERSION};
use gangplank_channel::{Open, OpenErrorKind};
use gangplank_relay::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A host that speaks the protocol by hand.
struct Host(UnixStream);

impl Host {
    async fn connect(guest: &Guest) -> Self {
        Self(UnixStream::connect(guest.path()).await.unwrap())
    }

    async fn say(&mut self, words: &[u8]) {
        self.0.write_all(words).await.unwrap();
    }

    async fn hear_opened(&mut self) -> Opened {
        hear_opened(&mut self.0).await
    }

    async fn hear_preamble(&mut self) {
        let mut preamble = [0; PREAMBLE_LEN];
        soon(self.0.read_exact(&mut preamble)).await.unwrap();
        assert_eq!(preamble, VERSION.encode());
    }

    /// The relay closes without another word.
    async fn is_left(&mut self) {
        assert_eq!(soon(self.0.read(&mut [0; 10])).await.unwrap_or(0), 0);
    }
}

/// Closes refused connections soon.
fn short() -> Config {
    Config { linger: Duration::from_millis(200), ..Config::default() }
}

fn tcp(port: u16) -> Open {
    Open::tcp(format!("127.0.0.1:{port}"), Duration::from_secs(5))
}

#[tokio::test]
async fn a_host_of_another_version_is_refused_with_a_sentence() {
    let guest = Guest::start_with(short());
    let mut host = Host::connect(&guest).await;
    host.say(b"GPCH\x01\x01\x00\x00whatever version 1 says").await;
    let opened = host.hear_opened().await;
    assert_eq!(opened.kind(), open::Kind::Version);
    assert!(opened.text.contains("version 1.1") && opened.text.contains("update"), "{}", opened.text);
    host.is_left().await;
}

#[tokio::test]
async fn a_request_in_single_bytes_is_served() {
    let guest = Guest::start();
    let port = pod(echo).await;
    let mut host = Host::connect(&guest).await;
    for byte in tcp(port).opening() {
        host.say(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(host.hear_opened().await, Opened::connected());
}

#[tokio::test]
async fn a_peer_that_is_not_a_host_gets_no_answer() {
    let guest = Guest::start();
    let mut host = Host::connect(&guest).await;
    host.hear_preamble().await;
    host.say(b"GET / HTTP/1.1\r\n\r\n").await;
    host.is_left().await;
}

#[tokio::test]
async fn hostile_requests_are_refused() {
    let guest = Guest::start_with(short());
    for (rest, part) in [
        (&b"\x01\x00\x10\x01"[..], "4097 bytes"),
        (b"\x01\xff\xff\xff", "16777215 bytes"),
        (b"\x03\x00\x00\x01x", "type 3"),
        (b"\x01\x00\x00\x01\xff", "cannot be decoded"),
        (b"\x01\x00\x00\x00", "does not know (0)"),
        (b"\x01\x00\x00\x00\x03\x00\x00\x01x", "more than its first message"),
    ] {
        let mut host = Host::connect(&guest).await;
        host.say(&[b"GPCH\x02\x00\x00\x00", rest].concat()).await;
        let opened = host.hear_opened().await;
        assert_eq!(opened.kind(), open::Kind::Invalid, "{}", opened.text);
        assert!(opened.text.contains(part), "{}", opened.text);
        host.is_left().await;
    }
}

#[tokio::test]
async fn a_host_that_says_nothing_is_left() {
    let guest = Guest::start_with(Config { open: Duration::from_millis(200), ..Config::default() });
    let silent = Host::connect(&guest).await;
    let mut slow = Host::connect(&guest).await;
    slow.say(b"GPCH\x02").await;
    for mut host in [silent, slow] {
        host.hear_preamble().await;
        host.is_left().await;
    }
}

#[tokio::test]
async fn a_host_that_breaks_the_protocol_is_reset() {
    let guest = Guest::start_with(short());
    let port = pod(echo).await;
    let beyond_credit =
        [&frame::header(Kind::Data, frame::MAX_DATA)[..], &[0; frame::MAX_DATA]].concat().repeat(4);
    for words in [&[9, 0, 0, 0][..], &[6, 0, 0, 0], &[3, 0, 0, 0], &beyond_credit] {
        let mut host = Host::connect(&guest).await;
        host.say(&tcp(port).opening()).await;
        host.hear_opened().await;
        host.say(words).await;
        let mut got = Vec::new();
        soon(host.0.read_to_end(&mut got)).await.unwrap();
        let reset = got.windows(8).any(|part| part[0] == 7 && part[4..] == EPROTO.to_be_bytes());
        assert!(reset, "no RESET after {:?}", &words[..4]);
    }
}

#[tokio::test]
async fn a_relay_that_is_full_says_so_and_serves_again() {
    let guest = Guest::start_with(Config { connections: 2, ..short() });
    let port = pod(echo).await;
    let first = guest.dial(port).await;
    let _second = guest.dial(port).await;
    let error = guest.try_dial(&format!(":{port}")).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Busy);
    assert!(error.cause.contains("2 connections, as many as it may"), "{error}");
    drop(first);
    soon(async { while guest.try_dial(&format!(":{port}")).await.is_err() {} }).await;
}

/// A port whose backlog is full answers nothing, as a firewall that drops.
#[tokio::test]
async fn a_port_that_does_not_answer_is_a_dial_that_timed_out() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap();
    let port = address.as_socket().unwrap().port();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&address);
        waiting.push(client);
    }
    let guest = Guest::start();
    let open = Open::tcp(format!(":{port}"), Duration::from_millis(300));
    let error = soon(gangplank_channel::dial(&guest.endpoint(), open)).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::TimedOut, "{error}");
    assert!(error.cause.contains(&format!("no answer within the limit from 127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_caller_that_leaves_a_dial_leaves_nothing_behind() {
    let guest = Guest::start_with(Config { connections: 4, ..short() });
    let port = pod(echo).await;
    for _ in 0..40 {
        let mut host = Host::connect(&guest).await;
        host.say(&tcp(port).opening()).await;
    }
    soon(async { while guest.try_dial(&format!(":{port}")).await.is_err() {} }).await;
}
