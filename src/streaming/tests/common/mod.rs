//! A server that dials loopback, a client that speaks frames, and pods of every temper.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod frames;
pub mod raw;
pub mod watch;
pub mod ws;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use gangplank_streaming::{Client, Config, Dial, DialError, DialErrorKind, Server, Target};
use spdy_rs::{Connection, Event, Role};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Dials the host's loopback; some ports stand for failures.
pub struct Loopback;

pub const SANDBOX_GONE: u16 = 1;
pub const NEVER_ANSWERS: u16 = 2;

impl Dial for Loopback {
    type Conn = TcpStream;

    async fn dial(&self, target: Target) -> Result<TcpStream, DialError> {
        match target.port {
            SANDBOX_GONE => Err(DialError::new(DialErrorKind::SandboxGone, "the sandbox has stopped")),
            NEVER_ANSWERS => std::future::pending().await,
            port => TcpStream::connect(("127.0.0.1", port))
                .await
                .map_err(|e| DialError::new(DialErrorKind::Refused, format!("connect to port {port}: {e}"))),
        }
    }
}

pub struct Host<D: Dial = Loopback> {
    pub server: Server<D>,
    pub address: SocketAddr,
    pub stop: CancellationToken,
}

impl Host {
    pub async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        Self::dialling(config, Loopback).await
    }
}

impl<D: Dial> Host<D> {
    pub async fn dialling(config: Config, dial: D) -> Self {
        let server = Server::new(config, dial);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (serving, stopped) = (server.clone(), stop.clone());
        tokio::spawn(async move { serving.serve(listener, stopped).await });
        Self { server, address, stop }
    }

    pub fn url(&self) -> String {
        self.server.url(&format!("http://{}", self.address), "sandbox0123", &[]).unwrap()
    }

    /// A fresh token for a channel WebSocket.
    pub fn token_for(&self, ports: &[u16]) -> String {
        let ports: Vec<i32> = ports.iter().copied().map(i32::from).collect();
        let url = self.server.url("http://a", "sandbox0123", &ports).unwrap();
        url.rsplit_once('/').unwrap().1.to_owned()
    }

    /// A fresh token alone.
    pub fn token(&self) -> String {
        self.url().rsplit_once('/').unwrap().1.to_owned()
    }

    pub async fn connect(&self) -> Peer {
        Peer::connect(&self.url()).await
    }

    /// So many sessions are open, or soon will be.
    pub async fn expect_sessions(&self, n: u64) {
        eventually(&format!("{n} sessions"), || self.server.stats().sessions_open == n).await;
    }

    /// At least one session was opened, and soon all have ended.
    pub async fn expect_no_session(&self) {
        let ended = || {
            let stats = self.server.stats();
            stats.sessions_total > 0 && stats.sessions_open == 0
        };
        eventually("all sessions end", ended).await;
    }
}

/// What a peer saw, payload joined.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Seen {
    Replied(u32),
    Data(u32, Vec<u8>),
    Fin(u32),
    Reset(u32, u32),
    Ponged(u32),
    GoAway,
    Closed,
}

/// A client that speaks frames.
pub struct Peer<S = TcpStream> {
    pub socket: S,
    pub spdy: Connection,
    seen: VecDeque<Seen>,
    requests: u32,
}

/// The two streams of a forwarded connection.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    pub error: u32,
    pub data: u32,
}

pub const LONG: Duration = Duration::from_secs(20);

impl Peer {
    pub async fn connect(url: &str) -> Self {
        let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut socket = TcpStream::connect(host).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Self::over(socket, Connection::new(Role::Client, spdy_rs::Config::default()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// A peer whose session has been begun by other means.
    pub fn over(socket: S, spdy: Connection) -> Self {
        Self { socket, spdy, seen: VecDeque::new(), requests: 0 }
    }

    pub async fn flush(&mut self) {
        let output = self.spdy.output().to_vec();
        self.spdy.clear_output();
        self.socket.write_all(&output).await.unwrap();
    }

    pub async fn open_stream(&mut self, kind: &str, port: u16, request: u32) -> u32 {
        let (port, request) = (port.to_string(), request.to_string());
        let headers = [("streamtype", kind), ("port", &port), ("requestid", &request)];
        let id = self.spdy.open(&headers, false).unwrap();
        self.flush().await;
        id
    }

    /// Opens both streams of a connection, without waiting for anything.
    pub async fn open(&mut self, port: u16) -> Streams {
        let request = self.requests;
        self.requests += 1;
        let error = self.open_stream("error", port, request).await;
        self.spdy.finish(error).unwrap();
        let data = self.open_stream("data", port, request).await;
        Streams { error, data }
    }

    /// Opens a connection that must work.
    pub async fn forward(&mut self, port: u16) -> Streams {
        let streams = self.open(port).await;
        assert_eq!(self.next().await, Seen::Replied(streams.error));
        assert_eq!(self.next().await, Seen::Replied(streams.data));
        streams
    }

    pub async fn send(&mut self, id: u32, bytes: &[u8]) {
        for piece in bytes.chunks(32 << 10) {
            let header = self.spdy.data_header(id, piece.len(), false).unwrap();
            self.socket.write_all(&header).await.unwrap();
            self.socket.write_all(piece).await.unwrap();
        }
    }

    pub async fn finish(&mut self, id: u32) {
        self.spdy.finish(id).unwrap();
        self.flush().await;
    }

    pub async fn reset(&mut self, id: u32) {
        self.spdy.reset(id, spdy_rs::Status::Cancel);
        self.flush().await;
    }

    pub async fn ping(&mut self) {
        let id = self.spdy.ping();
        self.flush().await;
        assert_eq!(self.next().await, Seen::Ponged(id));
    }

    /// Pings, and passes over all that comes before the answer.
    pub async fn skip_to_pong(&mut self) {
        let id = self.spdy.ping();
        self.flush().await;
        while self.next().await != Seen::Ponged(id) {}
    }

    /// The next thing seen, data as it came.
    pub async fn next(&mut self) -> Seen {
        loop {
            if let Some(seen) = self.seen.pop_front() {
                return seen;
            }
            let mut buf = vec![0; 256 << 10];
            let read = tokio::time::timeout(LONG, self.socket.read(&mut buf)).await.expect("nothing came");
            let n = read.unwrap_or(0);
            if n == 0 {
                return Seen::Closed;
            }
            let mut input = &buf[..n];
            while let Some(event) = self.spdy.recv(&mut input).unwrap() {
                match event {
                    Event::Replied { id, .. } => self.seen.push_back(Seen::Replied(id)),
                    Event::Data { id, payload, fin } => {
                        if !payload.is_empty() {
                            self.seen.push_back(Seen::Data(id, payload.to_vec()));
                        }
                        if fin {
                            self.seen.push_back(Seen::Fin(id));
                        }
                    }
                    Event::Reset { id, status } => self.seen.push_back(Seen::Reset(id, status)),
                    Event::Ponged { id } => self.seen.push_back(Seen::Ponged(id)),
                    Event::GoAway { .. } => self.seen.push_back(Seen::GoAway),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// Data of this stream up to its FIN; nothing else may come in between.
    pub async fn read_to_fin(&mut self, id: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Seen::Data(from, bytes) if from == id => all.extend(bytes),
                Seen::Fin(from) if from == id => return all,
                other => panic!("waiting for data of {id}: {other:?}"),
            }
        }
    }

    /// Exactly this many bytes of this stream.
    pub async fn read(&mut self, id: u32, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            match self.next().await {
                Seen::Data(from, bytes) if from == id => all.extend(bytes),
                other => panic!("waiting for data of {id}: {other:?}"),
            }
        }
        assert_eq!(all.len(), len);
        all
    }

    /// Nothing comes for a while.
    pub async fn expect_silence(&mut self, time: Duration) {
        assert!(self.seen.is_empty());
        let mut byte = [0];
        let read = tokio::time::timeout(time, self.socket.read(&mut byte)).await;
        assert!(read.is_err(), "something came");
    }
}

pub async fn read_head<S: AsyncRead + Unpin>(socket: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A pod: serves every connection with `serve`, on the port that it gives.
pub async fn pod<F, Fut>(serve: F) -> u16
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(socket));
        }
    });
    port
}

pub async fn echo_pod() -> u16 {
    pod(async |mut socket| {
        let (mut from, mut to) = socket.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
    .await
}

/// A port where nothing listens.
pub async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Numbers that look random and are the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from 0 to `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}

/// Waits until something is so; it must become so within [`LONG`].
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A local connection that a client forwards, as its program sees it.
pub async fn local(client: &Client, port: u16) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.forward(port, listener.accept().await.unwrap().0);
    near
}
