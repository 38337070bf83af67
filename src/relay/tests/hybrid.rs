//! A real relay behind a multiplexer with vices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers are no #[test] to the lint

#[path = "../../channel/tests/multiplexer/mod.rs"]
mod multiplexer;

mod common;

use std::io::ErrorKind;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::*;
use gangplank_channel::{Channel, Open, dial};
use multiplexer::{MOST_OUTSTANDING, Multiplexer, Vices};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

const MIB: usize = 1 << 20;

async fn reach(device: &Multiplexer, port: u16) -> Channel {
    let open = Open::tcp(format!("127.0.0.1:{port}"), Duration::from_secs(10));
    soon(dial(&device.endpoint(), open)).await.unwrap()
}

fn vicious(guest: &Guest) -> Multiplexer {
    Multiplexer::start(&guest.path(), Vices { loses_tail: true, ok_in_pieces: true, ..Vices::default() })
}

#[tokio::test]
async fn an_answer_after_the_half_close_survives_a_device_without_half_close() {
    let guest = Guest::start();
    let device = vicious(&guest);
    let port = pod(|mut connection| async move {
        expect_pattern(&mut connection, 1, MIB).await;
        sleep(Duration::from_millis(700)).await;
        send_pattern(&mut connection, 2, MIB).await;
    })
    .await;
    let mut channel = reach(&device, port).await;
    soon(async {
        send_pattern(&mut channel, 1, MIB).await;
        channel.shutdown().await.unwrap();
        expect_pattern(&mut channel, 2, MIB).await;
    })
    .await;
    device.is_unharmed();
}

#[tokio::test]
async fn the_tail_arrives_when_the_pod_ends_first_and_the_host_reads_slowly() {
    let guest = Guest::start();
    let device = vicious(&guest);
    let port = pod(|mut connection| async move { send_pattern(&mut connection, 1, 400_000).await }).await;
    let mut channel = reach(&device, port).await;
    soon(async {
        channel.shutdown().await.unwrap();
        let expected: Vec<u8> = pattern(1, 400_000).flatten().collect();
        let mut got = Vec::new();
        loop {
            let mut piece = vec![0; 8_000];
            match channel.read(&mut piece).await.unwrap() {
                0 => break,
                len => got.extend_from_slice(&piece[..len]),
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert!(got == expected);
    })
    .await;
    device.is_unharmed();
}

#[tokio::test]
async fn both_directions_continue_after_a_stall() {
    let guest = Guest::start();
    let device = vicious(&guest);
    let port = pod(|connection| async move {
        let (mut from, mut to) = connection.into_split();
        let sending = tokio::spawn(async move {
            send_pattern(&mut to, 1, 4 * MIB).await;
            to.shutdown().await.unwrap();
        });
        sleep(Duration::from_millis(700)).await;
        expect_pattern(&mut from, 2, 4 * MIB).await;
        sending.await.unwrap();
    })
    .await;
    let (mut from, mut to) = tokio::io::split(reach(&device, port).await);
    let sending = tokio::spawn(async move {
        send_pattern(&mut to, 2, 4 * MIB).await;
        to.shutdown().await.unwrap();
    });
    sleep(Duration::from_millis(700)).await;
    soon(async {
        expect_pattern(&mut from, 1, 4 * MIB).await;
        sending.await.unwrap();
    })
    .await;
    device.is_unharmed();
}

#[tokio::test]
async fn a_host_that_does_not_read_has_little_outstanding() {
    let guest = Guest::start();
    let device = vicious(&guest);
    let port = pod(|mut connection| async move { send_pattern(&mut connection, 1, 4 * MIB).await }).await;
    let mut channel = reach(&device, port).await;
    sleep(Duration::from_millis(500)).await;
    let outstanding = device.seen.outstanding.load(SeqCst);
    assert!((100_000..MOST_OUTSTANDING).contains(&outstanding), "{outstanding}");
    soon(expect_pattern(&mut channel, 1, 4 * MIB)).await;
    device.is_unharmed();
}

#[tokio::test]
async fn a_hundred_connections_at_once() {
    let guest = Guest::start();
    let device = std::sync::Arc::new(vicious(&guest));
    let port = pod(echo).await;
    let all: Vec<_> = (0..100)
        .map(|seed| {
            let device = device.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(reach(&device, port).await);
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
    device.is_unharmed();
}

#[tokio::test]
async fn a_device_that_dies_in_mid_transfer_is_noticed_at_both_ends() {
    let guest = Guest::start();
    let device = vicious(&guest);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let port = pod(move |mut connection: TcpStream| {
        let tell = tell.clone();
        async move {
            let end = loop {
                if let Err(error) = connection.write_all(&[7; 1_000]).await {
                    break error;
                }
            };
            tell.send(end.kind()).unwrap();
        }
    })
    .await;
    let mut channel = reach(&device, port).await;
    soon(channel.read_exact(&mut vec![0; MIB])).await.unwrap();
    device.die();
    let died = Instant::now();
    let error = soon(channel.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    let end = soon(told.recv()).await.unwrap();
    assert!(matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
    assert!(died.elapsed() < AT_ONCE, "{:?}", died.elapsed());
}
