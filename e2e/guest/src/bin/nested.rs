//! The host's side of a guest with the kernel's own vhost-vsock (e2e/guest/check-nested): `nested ENDPOINT HTTP ECHO`, the
//! relay's endpoint and two ports in the guest.
//!
//! First waits until the guest connects to its vsock port 9000, which the test guest does once it is up. Then it prints
//! what to do with the guest, and reads from standard input that it was done:
//! - `nested: save the guest`: `ended`, once its QEMU has saved it and ended;
//! - `nested: restore the guest`: `restored`, once it runs in another QEMU;
//! - `nested: kill the guest`.
//!
//! Ends with status 0 after `nested: all is well`, otherwise panics.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test

use std::io::{self, Read};
use std::time::{Duration, Instant};

use gangplank_channel::{Channel, Endpoint, Open, OpenError, OpenErrorKind, dial};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Longer than anything here takes on an emulated machine in an emulated machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A second is promised. The machine may be slow; anything that only a time limit ends takes at least 20 s.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this hangs")
}

/// Waits for the guest to report that it is up.
fn is_ready() {
    let listener = Socket::new(Domain::VSOCK, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::vsock(u32::MAX, 9_000)).unwrap();
    listener.listen(1).unwrap();
    let (mut guest, _) = listener.accept().unwrap();
    let mut word = String::new();
    guest.read_to_string(&mut word).unwrap();
    assert_eq!(word, "READY");
}

async fn reach(endpoint: &Endpoint, port: u16) -> Result<Channel, OpenError> {
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

/// The guest's boot id: its kernel takes a new one at each boot.
async fn boot_id(endpoint: &Endpoint, http: u16) -> String {
    let mut channel = reach(endpoint, http).await.unwrap();
    let mut page = String::new();
    soon(channel.write_all(b"GET /boot-id HTTP/1.1\r\nHost: guest\r\n\r\n")).await.unwrap();
    soon(channel.read_to_string(&mut page)).await.unwrap();
    let (_, id) = page.trim_end().split_once("\r\n\r\n").expect("a page");
    assert_eq!(id.len(), 36, "{page}");
    id.to_owned()
}

/// Sends bytes back and forth until that fails.
async fn end_of_moving(channel: Channel) -> (Instant, io::Error) {
    let (mut from, mut to) = tokio::io::split(channel);
    let sending = async { while to.write_all(&[7; 65_536]).await.is_ok() {} };
    let reading = async {
        let mut buffer = vec![0; 65_536];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) => panic!("a clean end"),
                Ok(_) => {}
                Err(error) => return (Instant::now(), error),
            }
        }
    };
    soon(async { tokio::join!(sending, reading) }).await.1
}

async fn end_of_idle(mut channel: Channel) -> (Instant, io::Error) {
    let error = soon(channel.read(&mut [0])).await.unwrap_err();
    (Instant::now(), error)
}

/// Waits until the caller has printed the word.
async fn told(expected: &'static str) -> Instant {
    let read = tokio::task::spawn_blocking(move || {
        let mut word = String::new();
        io::stdin().read_line(&mut word).unwrap();
        assert_eq!(word.trim_end(), expected);
        Instant::now()
    });
    soon(read).await.unwrap()
}

/// For its connections, a saved guest is gone, like a killed one. Once restored, it is the same guest, and the next
/// dial reaches it without further action.
async fn save_and_restore(endpoint: &Endpoint, http: u16, echo: u16) {
    let boot = boot_id(endpoint, http).await;
    let (moving, idle) = (reach(endpoint, echo).await.unwrap(), reach(endpoint, echo).await.unwrap());
    println!("nested: save the guest");
    let (moving, idle, ended) = tokio::join!(end_of_moving(moving), end_of_idle(idle), told("ended"));
    for (name, (at, error)) in [("moving", moving), ("idle", idle)] {
        // The kernel ends connections while the process is ending, so they may end first.
        let (early, late) = (ended.saturating_duration_since(at), at.saturating_duration_since(ended));
        println!(
            "nested: as it should be, the {name} connection {late:?} after (or {early:?} before) it: {error}"
        );
        assert!(error.to_string().contains("gone away"), "{error}");
        assert!(late < AT_ONCE, "{late:?}");
    }
    let asked = Instant::now();
    let nobody = reach(endpoint, echo).await.unwrap_err();
    assert_eq!(nobody.kind, OpenErrorKind::RelayNotReady, "{nobody}");
    println!("nested: as it should be, a dial meanwhile, after {:?}: {nobody}", asked.elapsed());

    println!("nested: restore the guest");
    told("restored").await;
    let asked = Instant::now();
    let restored = reach(endpoint, echo).await.unwrap();
    println!("nested: reached again, after {:?}", asked.elapsed());
    echoes(restored, 4 << 20).await;
    assert_eq!(boot_id(endpoint, http).await, boot, "it was booted anew");
    println!("nested: 4 MiB came back unchanged, of the same boot ({boot})");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let endpoint: Endpoint = arguments[0].parse().unwrap();
    let [http, port] = [1, 2].map(|number: usize| arguments[number].parse::<u16>().unwrap());

    is_ready();
    println!("nested: the guest is up");
    echoes(reach(&endpoint, port).await.unwrap(), 4 << 20).await;
    println!("nested: 4 MiB came back unchanged, and both ends");
    for _ in 0..50 {
        echoes(reach(&endpoint, port).await.unwrap(), 1_000).await;
    }
    println!("nested: 50 connections in turn");
    let refused = reach(&endpoint, 1).await.unwrap_err();
    assert_eq!(refused.kind, OpenErrorKind::Refused, "{refused}");
    println!("nested: as it should be: {refused}");
    let nobody = reach(&Endpoint::Vsock { cid: 4_711, port: 1024 }, port).await.unwrap_err();
    assert_eq!(nobody.kind, OpenErrorKind::RelayNotReady, "{nobody}");
    println!("nested: as it should be: {nobody}");

    save_and_restore(&endpoint, http, port).await;

    let living = reach(&endpoint, port).await.unwrap();
    println!("nested: kill the guest");
    let asked = Instant::now();
    let (_, error) = end_of_idle(living).await;
    println!("nested: as it should be, after {:?}: {error}", asked.elapsed());
    assert!(error.to_string().contains("gone away"), "{error}");
    println!("nested: all is well");
}
