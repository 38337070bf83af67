//! The token: host and relay prove it to each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers are no #[test] to the lint

mod common;

use std::time::Duration;

use common::*;
use gangplank_channel::open::{Kind, Opens};
use gangplank_channel::{Open, OpenError, OpenErrorKind, RelayAddress, Token, dial, ports};
use gangplank_relay::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

fn token(text: &str) -> Token {
    Token::new(text.as_bytes()).unwrap()
}

fn asking() -> Guest {
    let linger = Duration::from_millis(200);
    Guest::start_with(Config { token: Some(token("the token of this guest")), linger, ..Config::default() })
}

async fn try_dial(
    guest: &Guest,
    token: Option<&Token>,
    port: u16,
) -> Result<gangplank_channel::Channel, OpenError> {
    let endpoint = guest.endpoint();
    let open = Open::tcp(format!("127.0.0.1:{port}"), Duration::from_secs(10));
    soon(dial(RelayAddress { endpoint: &endpoint, token }, open)).await
}

#[tokio::test]
async fn with_the_token_everything_works() {
    let (guest, ours) = (asking(), token("the token of this guest\n"));
    let port = pod(echo).await;
    let mut channel = try_dial(&guest, Some(&ours), port).await.unwrap();
    channel.write_all(b"hello").await.unwrap();
    channel.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon(channel.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"hello");

    let error = try_dial(&guest, Some(&ours), unused_port().await).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Refused, "{error}");
    let endpoint = guest.endpoint();
    let listening = ports(RelayAddress { endpoint: &endpoint, token: Some(&ours) }, "").await.unwrap();
    assert!(listening.listening.iter().any(|at| at.address.port() == port));
}

#[tokio::test]
async fn without_the_token_nothing_is_dialled() {
    let guest = asking();
    let port = pod(|_| async { panic!("the pod was reached") }).await;
    let error = try_dial(&guest, Some(&token("another guest's token")), port).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Denied);
    assert!(error.cause.contains("different ones"), "{error}");
    let error = try_dial(&guest, None, port).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Denied);
    assert!(error.cause.contains("none is configured"), "{error}");
}

#[tokio::test]
async fn a_relay_that_does_not_ask_for_the_token_is_not_used() {
    let guest = Guest::start();
    let port = pod(echo).await;
    let error = try_dial(&guest, Some(&token("the token of this guest")), port).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::RelayUnusable);
    assert!(error.cause.contains("--token-file"), "{error}");
}

/// An eavesdropper repeats what the host said: the proof does not fit another nonce.
#[tokio::test]
async fn a_proof_that_was_overheard_proves_nothing() {
    let (guest, ours) = (asking(), token("the token of this guest"));
    let port = pod(echo).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("between.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let relay = guest.path();
    let overhearing = tokio::spawn(async move {
        let (mut host, _) = listener.accept().await.unwrap();
        let mut relay = UnixStream::connect(relay).await.unwrap();
        let mut said = Vec::new();
        let mut piece = [0; 4096];
        for _ in 0..2 {
            let len = host.read(&mut piece).await.unwrap();
            said.push(piece[..len].to_vec());
            relay.write_all(&piece[..len]).await.unwrap();
            let answer = hear_opened(&mut relay).await;
            host.write_all(&answer.opening()).await.unwrap();
        }
        said
    });
    let endpoint = gangplank_channel::Endpoint::Unix { path };
    let open = Open::tcp(format!("127.0.0.1:{port}"), Duration::from_secs(10));
    let _channel = soon(dial(RelayAddress { endpoint: &endpoint, token: Some(&ours) }, open)).await.unwrap();
    let said = soon(overhearing).await.unwrap();

    let mut thief = UnixStream::connect(guest.path()).await.unwrap();
    thief.write_all(&said[0]).await.unwrap();
    assert_eq!(hear_opened(&mut thief).await.kind(), Kind::Proof);
    thief.write_all(&said[1]).await.unwrap();
    let refused = hear_opened(&mut thief).await;
    assert!(refused.text.contains("not proved"), "{}", refused.text);
}
