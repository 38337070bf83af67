//! Bytes and ends through a real relay to real TCP servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers are no #[test] to the lint

mod common;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use common::*;
use gangplank_channel::OpenErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::sleep;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn an_answer_long_after_the_half_close_arrives_whole() {
    let guest = Guest::start();
    let port = pod(|mut connection| async move {
        let mut request = Vec::new();
        connection.read_to_end(&mut request).await.unwrap();
        sleep(Duration::from_millis(700)).await;
        send_pattern(&mut connection, request.len() as u64, MIB).await;
    })
    .await;
    let mut channel = guest.dial(port).await;
    soon(async {
        channel.write_all(&[1; 5_000]).await.unwrap();
        channel.shutdown().await.unwrap();
        expect_pattern(&mut channel, 5_000, MIB).await;
    })
    .await;
}

#[tokio::test]
async fn the_pods_end_arrives_at_once_and_writing_goes_on() {
    let guest = Guest::start();
    let (tell, mut told) = mpsc::unbounded_channel();
    let port = pod(move |mut connection| {
        let tell = tell.clone();
        async move {
            connection.write_all(b"bye").await.unwrap();
            connection.shutdown().await.unwrap();
            let mut got = Vec::new();
            connection.read_to_end(&mut got).await.unwrap();
            tell.send(got.len()).unwrap();
        }
    })
    .await;
    let mut channel = guest.dial(port).await;
    soon(async {
        let mut got = Vec::new();
        channel.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"bye");
        // More than the window: credit must be found although the reader has stopped.
        channel.write_all(&vec![7; MIB]).await.unwrap();
        channel.shutdown().await.unwrap();
        assert_eq!(told.recv().await, Some(MIB));
        assert_eq!(channel.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn shutdown_waits_until_the_pod_has_it_all() {
    let guest = Guest::start();
    let port = pod(|mut connection| async move {
        sleep(Duration::from_millis(500)).await;
        expect_pattern(&mut connection, 3, 8 * MIB).await;
        sleep(Duration::from_secs(3600)).await;
    })
    .await;
    let mut channel = guest.dial(port).await;
    soon(async {
        send_pattern(&mut channel, 3, 8 * MIB).await;
        channel.shutdown().await.unwrap();
        channel.shutdown().await.unwrap();
    })
    .await;
    let error = channel.write(b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn what_comes_while_shutting_down_is_kept() {
    let guest = Guest::start();
    let port = pod(|mut connection| async move {
        send_pattern(&mut connection, 9, 100_000).await;
        sleep(Duration::from_millis(300)).await;
        connection.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
    let mut channel = guest.dial(port).await;
    soon(async {
        channel.write_all(&[0; 100_000]).await.unwrap();
        channel.shutdown().await.unwrap();
        expect_pattern(&mut channel, 9, 100_000).await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_resets_is_an_error_of_that_kind() {
    let guest = Guest::start();
    let port = pod(|mut connection| async move {
        connection.write_all(b"half an ans").await.unwrap();
        connection.read_exact(&mut [0; 4]).await.unwrap();
        connection.set_zero_linger().unwrap();
    })
    .await;
    let mut channel = guest.dial(port).await;
    soon(async {
        channel.read_exact(&mut [0; 11]).await.unwrap();
        channel.write_all(b"stop").await.unwrap();
        let error = channel.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        assert!(error.to_string().contains("the pod's connection failed"), "{error}");
        let again = channel.write(b"x").await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_closes_early_still_gets_its_answer_through() {
    let guest = Guest::start();
    let port = pod(|mut connection| async move {
        connection.read_exact(&mut [0; 1_000]).await.unwrap();
        connection.write_all(b"too much").await.unwrap();
    })
    .await;
    let mut channel = guest.dial(port).await;
    soon(async {
        let (mut from, mut to) = tokio::io::split(&mut channel);
        let upload = async { while to.write_all(&[0; 10_000]).await.is_ok() {} };
        let answer = async {
            let mut got = Vec::new();
            let end = from.read_to_end(&mut got).await;
            (got, end)
        };
        let ((), (got, _)) = tokio::join!(upload, answer);
        assert_eq!(got, b"too much");
    })
    .await;
}

#[tokio::test]
async fn a_refused_port_is_reported_and_harms_no_other() {
    let guest = Guest::start();
    let port = unused_port().await;
    let error = guest.try_dial(&format!("localhost:{port}")).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Refused);
    for part in ["nothing listens", &format!("127.0.0.1:{port} or [::1]:{port}"), "relay.sock"] {
        assert!(error.cause.contains(part), "{error}");
    }
    let port = pod(echo).await;
    let mut channel = guest.dial(port).await;
    channel.write_all(b"still here").await.unwrap();
    channel.read_exact(&mut [0; 10]).await.unwrap();
}

#[tokio::test]
async fn what_is_not_allowed_or_supported_is_reported() {
    let guest = Guest::start();
    let denied = guest.try_dial("169.254.169.254:80").await.unwrap_err();
    assert_eq!(denied.kind, OpenErrorKind::Denied);
    assert!(denied.cause.contains("`loopback only`"), "{denied}");
    let invalid = guest.try_dial("nonsense").await.unwrap_err();
    assert_eq!(invalid.kind, OpenErrorKind::BadEndpoint);
}

#[tokio::test]
async fn localhost_reaches_a_pod_that_listens_on_ipv6_alone() {
    let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else {
        panic!("this machine has no IPv6 loopback, so the test cannot show what it should");
    };
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { echo(listener.accept().await.unwrap().0).await });
    let guest = Guest::start();
    let mut channel = guest.try_dial(&format!(":{port}")).await.unwrap();
    channel.write_all(b"six").await.unwrap();
    channel.read_exact(&mut [0; 3]).await.unwrap();
}

#[tokio::test]
async fn sixty_four_mebibytes_both_ways_at_once() {
    let guest = Guest::start();
    let port = pod(|connection| async move {
        let (mut from, mut to) = connection.into_split();
        let sending = tokio::spawn(async move {
            send_pattern(&mut to, 1, 64 * MIB).await;
            to.shutdown().await.unwrap();
        });
        expect_pattern(&mut from, 2, 64 * MIB).await;
        sending.await.unwrap();
    })
    .await;
    let (mut from, mut to) = tokio::io::split(guest.dial(port).await);
    let sending = tokio::spawn(async move {
        send_pattern(&mut to, 2, 64 * MIB).await;
        to.shutdown().await.unwrap();
    });
    soon(async {
        expect_pattern(&mut from, 1, 64 * MIB).await;
        sending.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn writes_and_reads_of_any_size_give_the_same_bytes() {
    let guest = Guest::start();
    let port = pod(echo).await;
    let (mut from, mut to) = tokio::io::split(guest.dial(port).await);
    let all: Vec<u8> = pattern(5, 700_000).flatten().collect();
    let expected = all.clone();
    let sending = tokio::spawn(async move {
        let (mut at, mut size) = (0, 1);
        while at < all.len() {
            let end = (at + size).min(all.len());
            to.write_all(&all[at..end]).await.unwrap();
            at = end;
            size = size * 7 % 9_973 + 1;
        }
        to.shutdown().await.unwrap();
    });
    soon(async {
        let (mut got, mut size) = (Vec::new(), 1);
        loop {
            let mut buffer = vec![0; size];
            match from.read(&mut buffer).await.unwrap() {
                0 => break,
                len => got.extend_from_slice(&buffer[..len]),
            }
            size = size * 5 % 12_289 + 1;
        }
        assert!(got == expected);
        sending.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn two_hundred_connections_at_once() {
    let guest = std::sync::Arc::new(Guest::start());
    let port = pod(echo).await;
    let all: Vec<_> = (0..200)
        .map(|seed| {
            let guest = guest.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(guest.dial(port).await);
                let sending = async {
                    send_pattern(&mut to, seed, 64 << 10).await;
                    to.shutdown().await.unwrap();
                };
                tokio::join!(sending, expect_pattern(&mut from, seed, 64 << 10));
            })
        })
        .collect();
    soon(async {
        for one in all {
            one.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_thousand_connections_in_turn() {
    let guest = Guest::start();
    let port = pod(echo).await;
    soon(async {
        for _ in 0..1_000 {
            let mut channel = guest.dial(port).await;
            channel.write_all(b"x").await.unwrap();
            channel.shutdown().await.unwrap();
            let mut got = Vec::new();
            channel.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"x");
        }
    })
    .await;
}

/// A pod that waits for its peer's end and says which kind it was.
async fn witness() -> (u16, mpsc::UnboundedReceiver<std::io::Result<usize>>) {
    let (tell, told) = mpsc::unbounded_channel();
    let port = pod(move |mut connection| {
        let tell = tell.clone();
        async move {
            let end = connection.read_to_end(&mut Vec::new()).await;
            tell.send(end).unwrap();
        }
    })
    .await;
    (port, told)
}

async fn sees_reset(told: &mut mpsc::UnboundedReceiver<std::io::Result<usize>>) {
    let error = soon(told.recv()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_channel_dropped_early_resets_the_pod() {
    let guest = Guest::start();
    let (port, mut told) = witness().await;
    let mut channel = guest.dial(port).await;
    channel.write_all(b"some").await.unwrap();
    drop(channel);
    sees_reset(&mut told).await;
}

#[tokio::test]
async fn an_aborted_channel_resets_the_pod_at_once() {
    let guest = Guest::start();
    let (port, mut told) = witness().await;
    let mut channel = guest.dial(port).await;
    channel.abort();
    sees_reset(&mut told).await;
    assert_eq!(channel.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(channel.write(&[0]).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn a_host_that_vanishes_in_mid_transfer_resets_the_pod() {
    let guest = Guest::start();
    let (port, mut told) = witness().await;
    // By hand: a host that opens, sends a part of a frame and vanishes.
    let mut host = tokio::net::UnixStream::connect(guest.path()).await.unwrap();
    let open = gangplank_channel::Open::tcp(format!(":{port}"), Duration::from_secs(5));
    host.write_all(&gangplank_channel::open::Opens::opening(&open)).await.unwrap();
    host.read_exact(&mut [0; 12]).await.unwrap();
    host.write_all(b"\x03\x00\x10\x00partial").await.unwrap();
    drop(host);
    sees_reset(&mut told).await;
}

#[tokio::test]
async fn a_finished_channel_ends_the_pod_cleanly() {
    let guest = Guest::start();
    let (port, mut told) = witness().await;
    let mut channel = guest.dial(port).await;
    channel.write_all(b"some").await.unwrap();
    channel.shutdown().await.unwrap();
    assert_eq!(channel.read(&mut [0]).await.unwrap(), 0);
    drop(channel);
    assert_eq!(soon(told.recv()).await.unwrap().unwrap(), 4);
}

#[tokio::test]
async fn a_relay_that_stops_in_mid_transfer_is_an_error_within_a_second() {
    let mut guest = Guest::start();
    let port =
        pod(|mut connection| async move { while connection.write_all(&[7; 65_536]).await.is_ok() {} }).await;
    let mut channel = guest.dial(port).await;
    channel.read_exact(&mut vec![0; MIB]).await.unwrap();
    guest.stop();
    let ended = Instant::now();
    let error = soon(channel.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert!(ended.elapsed() < AT_ONCE, "{:?}", ended.elapsed());
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    let gone = guest.try_dial(":80").await.unwrap_err();
    assert_eq!(gone.kind, OpenErrorKind::RelayNotReady);
}

#[tokio::test]
async fn both_sides_stalled_and_released_lose_nothing() {
    let guest = Guest::start();
    let port = pod(|connection| async move {
        let (mut from, mut to) = connection.into_split();
        let sending = tokio::spawn(async move {
            send_pattern(&mut to, 1, 16 * MIB).await;
            to.shutdown().await.unwrap();
        });
        sleep(Duration::from_millis(500)).await;
        expect_pattern(&mut from, 2, 16 * MIB).await;
        sending.await.unwrap();
    })
    .await;
    let (mut from, mut to) = tokio::io::split(guest.dial(port).await);
    let sending = tokio::spawn(async move {
        send_pattern(&mut to, 2, 16 * MIB).await;
        to.shutdown().await.unwrap();
    });
    sleep(Duration::from_millis(500)).await;
    soon(async {
        expect_pattern(&mut from, 1, 16 * MIB).await;
        sending.await.unwrap();
    })
    .await;
}
