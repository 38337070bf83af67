//! A relay in a thread of this process, and a pod: whatever listens on a local port.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)] // each test program uses its part

use std::future::Future;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use gangplank_channel::open::{Opened, Opening};
use gangplank_channel::{Channel, Endpoint, Open, OpenError, dial};
use gangplank_relay::{Config, Listen, Relay, Stopper, seccomp};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

/// Far more than anything here takes, so that a hang fails and a slow machine does not.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// We promise one second. A busy machine may add some; anything that only a time limit ends takes 10.
pub const AT_ONCE: Duration = Duration::from_secs(5);

pub struct Guest {
    folder: tempfile::TempDir,
    stopper: Stopper,
    relay: Option<JoinHandle<()>>,
}

impl Guest {
    pub fn start() -> Self {
        Self::start_with(Config::default())
    }

    pub fn start_with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = Listen::Unix { path: folder.path().join("relay.sock") };
        let (stopper, relay) = start_confined(listen, config);
        Self { folder, stopper, relay: Some(relay) }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("relay.sock")
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Unix { path: self.path() }
    }

    pub async fn dial(&self, port: u16) -> Channel {
        self.try_dial(&format!("127.0.0.1:{port}")).await.unwrap()
    }

    pub async fn try_dial(&self, address: &str) -> Result<Channel, OpenError> {
        dial(&self.endpoint(), Open::tcp(address, Duration::from_secs(10))).await
    }

    pub fn stop(&mut self) {
        self.stopper.stop();
        if let Some(relay) = self.relay.take() {
            relay.join().unwrap();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A relay in a thread that can make no other system calls than the program can: so what a feature needs is on the
/// list, or its test fails.
pub fn start_confined(listen: Listen, config: Config) -> (Stopper, JoinHandle<()>) {
    let relay = Relay::bind(std::slice::from_ref(&listen), config.clone()).unwrap();
    let stopper = relay.stopper();
    let run = move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        seccomp::confine(&[listen], &config).expect("a kernel with seccomp");
        relay.run().unwrap();
    };
    (stopper, std::thread::spawn(run))
}

/// Reads the relay's answer to a request that a test has sent by hand.
pub async fn hear_opened(relay: &mut UnixStream) -> Opened {
    let mut opening = Opening::default();
    loop {
        let mut piece = vec![0; opening.wanted()];
        let len = soon(relay.read(&mut piece)).await.unwrap();
        assert_ne!(len, 0, "the relay left without an answer");
        if let Some(opened) = opening.handle(&piece[..len]).unwrap() {
            return opened;
        }
    }
}

/// A pod that serves every connection this way; gives its port.
pub async fn pod<F, S>(serve: S) -> u16
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(TcpStream) -> F + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(connection));
        }
    });
    port
}

pub async fn echo(mut connection: TcpStream) {
    let (mut from, mut to) = connection.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// A port on which nothing listens.
pub async fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Fails instead of hanging.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("this hangs")
}

/// Bytes in which any lost, repeated or misplaced piece is noticed.
pub fn pattern(seed: u64, len: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = seed | 1;
    let mut left = len;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let size = left.min(61_007);
        left -= size;
        let mut piece = Vec::with_capacity(size + 8);
        while piece.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            piece.extend_from_slice(&state.to_le_bytes());
        }
        piece.truncate(size);
        Some(piece)
    })
}

pub async fn send_pattern(to: &mut (impl AsyncWrite + Unpin), seed: u64, len: usize) {
    for piece in pattern(seed, len) {
        to.write_all(&piece).await.unwrap();
    }
}

/// Reads the pattern, and checks that nothing follows it.
pub async fn expect_pattern(from: &mut (impl AsyncRead + Unpin), seed: u64, len: usize) {
    let mut at = 0;
    for piece in pattern(seed, len) {
        let mut got = vec![0; piece.len()];
        from.read_exact(&mut got).await.unwrap();
        assert!(got == piece, "bytes {at}.. differ");
        at += piece.len();
    }
    assert_eq!(from.read(&mut [0]).await.unwrap(), 0);
}
