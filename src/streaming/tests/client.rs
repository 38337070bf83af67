//! Our own client, against our own server and against what is none.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::*;
use gangplank_streaming::{Client, ClientError, ClientEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

async fn refusal(url: &str) -> ClientError {
    match timeout(LONG, Client::connect(url)).await.expect("it goes on") {
        Err(e) => e,
        Ok(_) => panic!("a session with {url}"),
    }
}

#[tokio::test]
async fn urls_that_are_none_are_told_so() {
    for url in ["", "/portforward/x", "https://127.0.0.1:1/portforward/x", "unix:///run/x", "http://"] {
        let error = refusal(url).await;
        assert!(matches!(error, ClientError::BadUrl { .. }), "{url}: {error}");
        let text = format!("{url:?} is not a streaming URL: expected http://HOST:PORT/PATH");
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let url = format!("http://127.0.0.1:{}/portforward/x", closed_port().await);
    let error = refusal(&url).await;
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/portforward/x").unwrap();
    assert!(error.to_string().starts_with(&format!("connecting to the streaming server at {address}: ")));
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_text() {
    let host = Host::start().await;
    let error = refusal(&format!("http://{}/portforward/nonsense", host.address)).await;
    let text = format!(
        "the streaming server at {} refused the session: 404 Not Found: 404 page not found",
        host.address
    );
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn what_is_no_streaming_server_is_no_session() {
    let answers = [
        "SSH-2.0-OpenSSH\r\n",
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        // A text without end is cut.
        "HTTP/1.1 500 Internal Server Error\r\n\r\n",
    ];
    for answer in answers {
        let port = pod(async move |mut socket| {
            socket.write_all(answer.as_bytes()).await.unwrap();
            while answer.contains(" 500 ") && socket.write_all(&[b'x'; 1_000]).await.is_ok() {}
        })
        .await;
        let error = refusal(&format!("http://127.0.0.1:{port}/portforward/x")).await;
        let refused = matches!(error, ClientError::Refused { .. });
        assert_eq!(refused, answer.starts_with("HTTP"), "{answer}: {error}");
        assert!(error.to_string().len() < 5_000);
    }
}

#[tokio::test]
async fn a_half_close_goes_both_ways() {
    let host = Host::start().await;
    let port = pod(async |mut socket| {
        let mut request = Vec::new();
        socket.read_to_end(&mut request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        socket.write_all(&request).await.unwrap();
    })
    .await;
    let client = Client::connect(&host.url()).await.unwrap();
    let mut program = local(&client, port).await;
    program.write_all(b"question").await.unwrap();
    program.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, program.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"question");
}

#[tokio::test]
async fn a_client_that_is_dropped_ends_its_session_and_connections() {
    let host = Host::start().await;
    let port = echo_pod().await;
    let client = Client::connect(&host.url()).await.unwrap();
    let mut program = local(&client, port).await;
    program.write_all(b"x").await.unwrap();
    assert_eq!(program.read_u8().await.unwrap(), b'x');
    drop(client);
    assert!(timeout(LONG, program.read_u8()).await.expect("it goes on").is_err());
    host.expect_no_session().await;
}

#[tokio::test]
async fn a_used_url_is_used() {
    let host = Host::start().await;
    let url = host.url();
    let _client = Client::connect(&url).await.unwrap();
    assert!(matches!(refusal(&url).await, ClientError::Refused { .. }));
}

#[tokio::test]
async fn our_client_says_what_failed_and_goes_on() {
    let host = Host::start().await;
    let (good, bad) = (echo_pod().await, closed_port().await);
    let mut client = Client::connect(&host.url()).await.unwrap();
    let mut refused = local(&client, bad).await;
    assert_eq!(timeout(LONG, client.event()).await.unwrap(), Some(ClientEvent::Refused { port: bad }));
    let end = timeout(LONG, refused.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(end.is_err() || end.is_ok_and(|n| n == 0));
    let mut works = local(&client, good).await;
    works.write_all(b"x").await.unwrap();
    assert_eq!(works.read_u8().await.unwrap(), b'x');
    host.server.end_sandbox("sandbox0123", "it stopped");
    match timeout(LONG, client.event()).await.unwrap() {
        Some(ClientEvent::Failed { port, text }) => {
            assert_eq!(port, good);
            assert_eq!(text, format!("error forwarding port {good} to pod sandbox0123, uid : it stopped"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(timeout(LONG, client.event()).await.unwrap(), Some(ClientEvent::Closed(_))));
    assert_eq!(timeout(LONG, client.event()).await.unwrap(), None);
}

#[tokio::test]
async fn events_that_nobody_takes_are_bounded_and_the_end_is_told() {
    let host = Host::start().await;
    let (good, bad) = (echo_pod().await, closed_port().await);
    let mut client = Client::connect(&host.url()).await.unwrap();
    for _ in 0..300 {
        let mut refused = local(&client, bad).await;
        let _ = refused.read_to_end(&mut Vec::new()).await;
    }
    let mut works = local(&client, good).await;
    works.write_all(b"x").await.unwrap();
    assert_eq!(works.read_u8().await.unwrap(), b'x');
    host.server.end_sandbox("sandbox0123", "it stopped");
    let end = timeout(LONG, works.read_to_end(&mut Vec::new())).await.expect("the session ends");
    assert!(end.is_err() || end.is_ok_and(|n| n == 0));
    for _ in 0..256 {
        assert_eq!(timeout(LONG, client.event()).await.unwrap(), Some(ClientEvent::Refused { port: bad }));
    }
    assert!(matches!(timeout(LONG, client.event()).await.unwrap(), Some(ClientEvent::Closed(_))));
    assert_eq!(timeout(LONG, client.event()).await.unwrap(), None);
}
