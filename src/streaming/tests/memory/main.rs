//! What sessions cost in memory and descriptors, while they last and after.
//!
//! The server runs on a thread of its own, whose heap is counted; clients and pods run on the test's.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod allocator;
#[path = "../common/mod.rs"]
mod common;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use allocator::Held;
use common::ws::{BINARY, Message, Ws, offering};
use common::*;
use gangplank_streaming::{Config, Connection, Dial, DialError, Limits, Server, Target};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Runs a test while no other has as much as a runtime: descriptors belong to the process.
fn alone(test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

const KIB: isize = 1 << 10;
const MIB: isize = 1 << 20;

/// A server on a thread of its own.
struct Apart<D: Dial> {
    server: Server<D>,
    address: SocketAddr,
    runtime: Handle,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl<D: Dial> Drop for Apart<D> {
    fn drop(&mut self) {
        let (stop, thread) = self.thread.take().unwrap();
        drop(stop);
        let _ = thread.join();
    }
}

impl<D: Dial> Apart<D> {
    fn start(limits: Limits, dial: D) -> Self {
        let (sender, receiver) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let server = Server::new(Config { limits, ..Config::default() }, dial);
                sender.send((server.clone(), address, Handle::current())).unwrap();
                tokio::spawn(async move { server.serve(listener, CancellationToken::new()).await });
                let _ = stopped.await;
            });
        });
        let (server, address, runtime) = receiver.recv().unwrap();
        Self { server, address, runtime, thread: Some((stop, thread)) }
    }

    async fn connect(&self) -> Peer {
        let url = self.server.url(&format!("http://{}", self.address), "sandbox0123", &[]).unwrap();
        Peer::connect(&url).await
    }

    async fn held(&self) -> Held {
        self.runtime.spawn(async { allocator::held() }).await.unwrap()
    }

    async fn forget_peak(&self) {
        self.runtime.spawn(async { allocator::forget_peak() }).await.unwrap();
    }

    /// Waits until the server holds no more than this.
    async fn expect_held(&self, what: &str, most: isize) {
        let waiting = async {
            while self.held().await.now > most {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(LONG, waiting).await.is_err() {
            panic!("{what}: {} bytes are held, {most} expected at most", self.held().await.now);
        }
    }
}

/// A pod that sends every byte back, one at a time, and costs no heap of its own.
#[derive(Default)]
struct Echo {
    byte: Option<u8>,
    ended: bool,
    reader: Option<Waker>,
}

struct Echoes;

impl Dial for Echoes {
    type Conn = Echo;

    async fn dial(&self, _: Target) -> Result<Echo, DialError> {
        Ok(Echo::default())
    }
}

impl Connection for Echo {}

impl AsyncRead for Echo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.byte.take() {
            Some(byte) => buf.put_slice(&[byte]),
            None if self.ended => {}
            None => {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Echo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.byte.is_some() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.byte = buf.first().copied();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len().min(1)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.ended = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

async fn echo_once(peer: &mut Peer, streams: Streams) {
    peer.send(streams.data, b"x").await;
    assert_eq!(peer.read(streams.data, 1).await, b"x");
}

#[test]
fn an_idle_connection_costs_little_and_an_ended_one_nothing() {
    alone(async {
        let apart = Apart::start(Limits::default(), Echoes);
        let mut warm = apart.connect().await;
        let streams = warm.forward(80).await;
        echo_once(&mut warm, streams).await;
        drop(warm);
        eventually("the first session ends", || apart.server.stats().sessions_open == 0).await;
        let empty = apart.held().await.now;

        let mut peers = [apart.connect().await, apart.connect().await];
        for peer in &mut peers {
            peer.ping().await;
        }
        let idle = apart.held().await.now;
        let session = (idle - empty) / 2;
        assert!(session < 64 * KIB, "an idle session holds {session} bytes");

        let mut open = Vec::new();
        for peer in &mut peers {
            for _ in 0..500 {
                let streams = peer.forward(80).await;
                echo_once(peer, streams).await;
                open.push(streams);
            }
        }
        let connection = (apart.held().await.now - idle) / 1_000;
        assert!(connection < KIB, "an idle connection holds {connection} bytes");

        for (i, streams) in open.into_iter().enumerate() {
            let peer = &mut peers[i / 500];
            peer.finish(streams.data).await;
            assert_eq!(peer.read_to_fin(streams.data).await, b"");
            assert_eq!(peer.next().await, Seen::Fin(streams.error));
        }
        drop(peers);
        apart.expect_held("after the sessions", empty + 16 * KIB).await;
    });
}

#[test]
fn a_channel_websocket_costs_little_after_traffic_and_an_ended_one_nothing() {
    alone(async {
        let apart = Apart::start(Limits::default(), Loopback);
        let ports = [echo_pod().await];
        let connect = async || {
            let url = apart.server.url("http://a", "sandbox0123", &ports.map(i32::from)).unwrap();
            let token = url.rsplit_once('/').unwrap().1;
            let mut ws = Ws::ask(apart.address, token, &offering(BINARY)).await.0;
            ws.expect_ports(&ports).await;
            ws.send(0, &[7; 32 << 10]).await;
            ws.read(0, 32 << 10).await;
            ws
        };
        drop(connect().await);
        eventually("the first session ends", || apart.server.stats().sessions_open == 0).await;
        let empty = apart.held().await.now;
        let mut open = Vec::new();
        for _ in 0..10 {
            open.push(connect().await);
        }
        let session = (apart.held().await.now - empty) / 10;
        assert!(session < 128 * KIB, "an idle session holds {session} bytes");
        for ws in &mut open {
            ws.close(1000).await;
            assert_eq!(ws.next().await, Message::Close(1000));
        }
        eventually("the sessions end", || apart.server.stats().sessions_open == 0).await;
        apart.expect_held("after the sessions", empty + 16 * KIB).await;
    });
}

#[test]
fn sixteen_mebibytes_announced_and_not_sent_cost_nothing() {
    alone(async {
        let apart = Apart::start(Limits::default(), Echoes);
        let mut peer = apart.connect().await;
        let streams = peer.forward(80).await;
        echo_once(&mut peer, streams).await;
        let before = apart.held().await.now;
        apart.forget_peak().await;
        let header = peer.spdy.data_header(streams.data, (1 << 24) - 1, false).unwrap();
        peer.socket.write_all(&header).await.unwrap();
        peer.socket.write_all(b"x").await.unwrap();
        assert_eq!(peer.read(streams.data, 1).await, b"x");
        let cost = apart.held().await.peak - before;
        assert!(cost < 64 * KIB, "{cost} bytes");
    });
}

#[test]
fn a_pod_that_does_not_read_costs_its_sessions_budget_at_most() {
    alone(async {
        // A session that reads no more hears of its client's end only after it has given up the pods.
        let limits = Limits {
            session_budget: 4 << 20,
            stream_stall_timeout: Duration::from_secs(1),
            ..Limits::default()
        };
        let apart = Apart::start(limits, Loopback);
        let stuck = pod(async |mut socket| {
            let _ = socket.ready(tokio::io::Interest::ERROR).await;
            let _ = socket.shutdown().await;
        })
        .await;
        let mut peer = apart.connect().await;
        let streams = peer.forward(echo_pod().await).await;
        echo_once(&mut peer, streams).await;
        let streams = [peer.forward(stuck).await, peer.forward(stuck).await];
        let before = apart.held().await.now;
        apart.forget_peak().await;
        let upload = async {
            loop {
                for pair in streams {
                    peer.send(pair.data, &[0; 32 << 10]).await;
                }
            }
        };
        let _ = timeout(Duration::from_secs(3), upload).await;
        let cost = apart.held().await.peak - before;
        assert!(cost > 2 * MIB, "the pods took it all: {cost} bytes");
        assert!(cost < 5 * MIB, "{cost} bytes");
        drop(peer);
        apart.expect_held("after the session", before + 64 * KIB).await;
    });
}

#[test]
fn a_client_that_does_not_read_costs_one_chunk() {
    alone(async {
        let apart = Apart::start(Limits::default(), Loopback);
        static SENT: AtomicUsize = AtomicUsize::new(0);
        let source = pod(async |mut socket| {
            while socket.write_all(&[7; 64 << 10]).await.is_ok() {
                SENT.fetch_add(1, SeqCst);
            }
        })
        .await;
        let mut peer = apart.connect().await;
        let streams = peer.forward(echo_pod().await).await;
        echo_once(&mut peer, streams).await;
        let before = apart.held().await.now;
        apart.forget_peak().await;
        for _ in 0..20 {
            peer.open(source).await;
        }
        let mut last = 0;
        while last == 0 || last != SENT.load(SeqCst) {
            last = SENT.load(SeqCst);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let cost = apart.held().await.peak - before;
        assert!(cost < MIB, "{cost} bytes");
        drop(peer);
        apart.expect_held("after the session", before + 64 * KIB).await;
    });
}

/// Descriptors of the pipes that the server's thread keeps.
const KEPT_PIPES: usize = 8;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Begins a download and resets it once data has come.
async fn abort_download(peer: &mut Peer, source: u16) {
    let streams = peer.open(source).await;
    let is_data = |seen: &Seen| matches!(seen, Seen::Data(id, _) if *id == streams.data);
    while !is_data(&peer.next().await) {}
    peer.reset(streams.data).await;
}

#[test]
fn aborted_downloads_and_vanished_clients_leave_nothing() {
    alone(async {
        let apart = Apart::start(Limits::default(), Loopback);
        let source = pod(async |mut socket| while socket.write_all(&[7; 64 << 10]).await.is_ok() {}).await;
        let mut peer = apart.connect().await;
        abort_download(&mut peer, source).await;
        peer.skip_to_pong().await;
        let before = apart.held().await.now;
        for _ in 0..20 {
            abort_download(&mut peer, source).await;
        }
        peer.skip_to_pong().await;
        apart.expect_held("after twenty aborted downloads", before + 32 * KIB).await;

        drop(peer);
        eventually("the session ends", || apart.server.stats().sessions_open == 0).await;
        let (before, open) = (apart.held().await.now, descriptors());
        for _ in 0..20 {
            let mut peer = apart.connect().await;
            abort_download(&mut peer, source).await;
            peer.open(source).await;
            drop(peer);
        }
        eventually("all descriptors are closed", || descriptors() <= open + KEPT_PIPES).await;
        apart.expect_held("after twenty vanished clients", before + 32 * KIB).await;
    });
}
