//! The host's side of a guest with the kernel's own vhost-vsock (e2e/guest/check-nested): `nested ENDPOINT PORT`, the
//! relay's endpoint and an echo's port in the guest.
//!
//! First waits until the guest connects to its vsock port 9000, which the test guest does once it is up. Says `nested: kill the guest` when its connections have been seen to work; ends with status 0 after `nested: all is
//! well`, when that has been noticed, else it panics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test

use std::io::Read;
use std::time::{Duration, Instant};

use channel::{Channel, DialError, DialErrorKind, Endpoint, Open, dial};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// More than anything here takes on an emulated machine in an emulated machine.
const PATIENCE: Duration = Duration::from_secs(120);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this hangs")
}

/// Waits for the guest's word.
fn is_ready() {
    let listener = Socket::new(Domain::VSOCK, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::vsock(u32::MAX, 9_000)).unwrap();
    listener.listen(1).unwrap();
    let (mut guest, _) = listener.accept().unwrap();
    let mut word = String::new();
    guest.read_to_string(&mut word).unwrap();
    assert_eq!(word, "READY");
}

async fn reach(endpoint: &Endpoint, port: u16) -> Result<Channel, DialError> {
    soon(dial(endpoint, Open::tcp(format!("127.0.0.1:{port}"), Duration::from_secs(20)))).await
}

async fn echoes(channel: Channel, len: usize) {
    let sent: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    let (mut from, mut to) = tokio::io::split(channel);
    let sending = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, read) = soon(async { tokio::join!(sending, from.read_to_end(&mut got)) }).await;
    read.unwrap();
    assert!(got == sent, "{} of {len} bytes came back, or others", got.len());
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let endpoint: Endpoint = arguments[0].parse().unwrap();
    let port: u16 = arguments[1].parse().unwrap();

    is_ready();
    println!("nested: the guest is up");
    echoes(reach(&endpoint, port).await.unwrap(), 4 << 20).await;
    println!("nested: 4 MiB came back unchanged, and both ends");
    for _ in 0..50 {
        echoes(reach(&endpoint, port).await.unwrap(), 1_000).await;
    }
    println!("nested: 50 connections in turn");
    let refused = reach(&endpoint, 1).await.unwrap_err();
    assert_eq!(refused.kind, DialErrorKind::Refused, "{refused}");
    println!("nested: as it should be: {refused}");
    let nobody = reach(&Endpoint::Vsock { cid: 4_711, port: 1024 }, port).await.unwrap_err();
    assert_eq!(nobody.kind, DialErrorKind::RelayNotReady, "{nobody}");
    println!("nested: as it should be: {nobody}");

    let mut living = reach(&endpoint, port).await.unwrap();
    println!("nested: kill the guest");
    let asked = Instant::now();
    let error = soon(living.read(&mut [0])).await.unwrap_err();
    println!("nested: as it should be, after {:?}: {error}", asked.elapsed());
    assert!(error.to_string().contains("gone away"), "{error}");
    println!("nested: all is well");
}
