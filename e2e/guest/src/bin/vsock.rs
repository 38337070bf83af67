//! Channel and relay over AF_VSOCK, both in one guest (e2e/guest/check-vsock): what Unix sockets cannot show.
//!
//! Needs the kernel's vsock_loopback. Ends with status 0 after `vsock: all is well`, otherwise panics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test

#[path = "../../../../src/relay/tests/common/mod.rs"]
mod common;

use std::time::Duration;

use common::*;
use gangplank_channel::{Channel, Endpoint, Open, OpenError, OpenErrorKind, dial, ports};
use gangplank_relay::{Config, Listen, Stopper};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MIB: usize = 1 << 20;

/// This machine itself, through the loopback transport.
const SELF: u32 = 1;

/// For a relay that serves this machine itself.
fn accepting() -> Config {
    Config { extra_cid: Some(SELF), ..Config::default() }
}

fn start(port: u32, config: Config) -> Stopper {
    start_confined(Listen::Vsock { port }, config).0
}

async fn reach(vsock: u32, port: u16) -> Result<Channel, OpenError> {
    let endpoint = Endpoint::Vsock { cid: SELF, port: vsock };
    soon(dial(&endpoint, Open::tcp(format!("127.0.0.1:{port}"), Duration::from_secs(10)))).await
}

async fn fails(vsock: u32, port: u16, kind: OpenErrorKind) {
    let error = reach(vsock, port).await.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    println!("vsock: as it should be: {error}");
}

async fn moves_both_ways() {
    let port = pod(|mut connection| async move {
        expect_pattern(&mut connection, 1, 8 * MIB).await;
        send_pattern(&mut connection, 2, 8 * MIB).await;
    })
    .await;
    let mut channel = reach(1023, port).await.unwrap();
    soon(async {
        send_pattern(&mut channel, 1, 8 * MIB).await;
        channel.shutdown().await.unwrap();
        expect_pattern(&mut channel, 2, 8 * MIB).await;
    })
    .await;
}

/// Since Linux 6.12.92 a vsock connection is reset once too many packets wait in it, however few bytes they have.
async fn many_small_packets_wait_for_a_host_that_does_not_read() {
    const DRIPS: usize = 3_000;
    for drip in [1, 200] {
        let port = pod(move |mut connection| async move {
            connection.set_nodelay(true).unwrap();
            for number in 0..DRIPS {
                connection.write_all(&vec![number as u8; drip]).await.unwrap();
                // Long enough for the relay to read it separately.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let mut channel = reach(1023, port).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut got = Vec::new();
        soon(channel.read_to_end(&mut got)).await.unwrap();
        let sent = (0..DRIPS).flat_map(|number| vec![number as u8; drip]);
        assert!(sent.eq(got), "{drip} bytes each");
    }
}

async fn many_at_once() {
    let port = pod(echo).await;
    let all: Vec<_> = (0..200)
        .map(|seed| {
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(reach(1023, port).await.unwrap());
                let sending = async {
                    send_pattern(&mut to, seed, 64 << 10).await;
                    to.shutdown().await.unwrap();
                };
                tokio::join!(sending, expect_pattern(&mut from, seed, 64 << 10));
            })
        })
        .collect();
    for one in all {
        soon(one).await.unwrap();
    }
}

/// Connections in the backlog are reset with their listener. The host has no preamble by then, and tries again.
async fn a_dial_in_the_backlog_of_a_relay_that_restarts_is_served() {
    let port = pod(echo).await;
    let first = Socket::new(Domain::VSOCK, Type::STREAM.cloexec(), None).unwrap();
    first.bind(&SockAddr::vsock(u32::MAX, 1025)).unwrap();
    first.listen(16).unwrap();
    let dials: Vec<_> = (0..10).map(|_| tokio::spawn(reach(1025, port))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(dials.iter().all(|dial| !dial.is_finished()), "not in the backlog");
    // This runtime has one thread, so that no dial gets in between.
    drop(first);
    let _second = start(1025, accepting());
    for dial in dials {
        dial.await.unwrap().unwrap();
    }
}

async fn a_relay_that_ends_is_noticed(stopper: &Stopper) {
    let port = pod(echo).await;
    let mut channel = reach(1023, port).await.unwrap();
    stopper.stop();
    let error = soon(channel.read(&mut [0])).await.unwrap_err();
    println!("vsock: as it should be: {error}");
    assert!(error.to_string().contains("the relay in the guest is stopping"), "{error}");
    fails(1023, port, OpenErrorKind::RelayNotReady).await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let stopper = start(1023, accepting());
    let _strict = start(1026, Config::default());

    moves_both_ways().await;
    many_small_packets_wait_for_a_host_that_does_not_read().await;
    many_at_once().await;
    let port = pod(echo).await;
    let listening = ports(&Endpoint::Vsock { cid: SELF, port: 1023 }, "").await.unwrap();
    assert!(listening.listening.iter().any(|at| at.address.port() == port), "{listening:?}");
    fails(1023, unused_port().await, OpenErrorKind::Refused).await;
    // Nothing listens there.
    fails(1027, port, OpenErrorKind::RelayNotReady).await;
    // This relay serves only the host, which is not this machine.
    fails(1026, port, OpenErrorKind::RelayNotReady).await;
    a_dial_in_the_backlog_of_a_relay_that_restarts_is_served().await;
    a_relay_that_ends_is_noticed(&stopper).await;
    println!("vsock: all is well");
}
