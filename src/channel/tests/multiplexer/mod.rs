//! A hybrid vsock multiplexer with the vices of real ones, between a host and a guest that are both Unix sockets.
//!
//! Always: a host that half-closes loses the connection both ways; a connection with more than 256 KiB
//! outstanding one way stops for good; a client that leaves before OK kills the device. The rest by [`Vices`].

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)] // each test program uses its part

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gangplank_channel::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// More than this outstanding one way, and the connection is dead.
pub const MOST_OUTSTANDING: usize = 256 << 10;

#[derive(Debug, Clone, Default)]
pub struct Vices {
    /// OK comes this late.
    pub ok_after: Duration,
    /// OK comes byte by byte.
    pub ok_in_pieces: bool,
    /// What the guest says first comes in one segment with OK.
    pub ok_glued: bool,
    /// This comes instead of OK.
    pub answer: Option<&'static str>,
    /// Nothing is ever answered.
    pub silent: bool,
    /// A guest that closes first loses what the host has not yet read, with a clean EOF.
    pub loses_tail: bool,
    /// The host hears of a guest's close this late.
    pub eof_after: Duration,
    /// The guest's backlog is full for the first so many requests: a bare EOF comes instead of OK.
    pub overflows: usize,
}

/// What a device has seen of its clients.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections that sent CONNECT.
    pub connects: AtomicUsize,
    /// Connections that closed without a word.
    pub wordless: AtomicUsize,
    /// CONNECT lines that did not come as one whole.
    pub cut: AtomicUsize,
    /// Bytes that came between CONNECT and OK.
    pub early: AtomicUsize,
    /// A client left between CONNECT and OK. The device is dead.
    pub killed: AtomicBool,
    /// Connections that were stopped because too much was outstanding.
    pub stalled: AtomicUsize,
    /// The most that was outstanding one way.
    pub outstanding: AtomicUsize,
}

pub struct Multiplexer {
    _folder: tempfile::TempDir,
    path: PathBuf,
    pub seen: Arc<Seen>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    accepting: JoinHandle<()>,
}

impl Multiplexer {
    /// Connections to any port go to the Unix socket `guest`.
    pub fn start(guest: &Path, vices: Vices) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (seen, connections) = (Arc::new(Seen::default()), Arc::<Mutex<Vec<_>>>::default());
        let (device, all, guest) = (seen.clone(), connections.clone(), guest.to_owned());
        let accepting = tokio::spawn(async move {
            loop {
                let (host, _) = listener.accept().await.unwrap();
                let serving = tokio::spawn(serve(host, guest.clone(), vices.clone(), device.clone()));
                all.lock().unwrap().push(serving);
            }
        });
        Self { _folder: folder, path, seen, connections, accepting }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Hybrid { path: self.path.clone(), port: 1024 }
    }

    /// The device dies: every connection ends with a plain EOF.
    pub fn die(&self) {
        self.accepting.abort();
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// Nothing was done that a real device does not forgive.
    pub fn is_unharmed(&self) {
        let seen = &self.seen;
        assert!(!seen.killed.load(SeqCst), "a client left between CONNECT and OK");
        assert_eq!(seen.wordless.load(SeqCst), 0, "a client connected and left without a word");
        assert_eq!(seen.cut.load(SeqCst), 0, "CONNECT came in pieces");
        assert_eq!(seen.early.load(SeqCst), 0, "bytes came before OK");
        assert_eq!(seen.stalled.load(SeqCst), 0, "too much was outstanding");
    }
}

impl Drop for Multiplexer {
    fn drop(&mut self) {
        self.die();
    }
}

async fn serve(mut host: UnixStream, guest: PathBuf, vices: Vices, seen: Arc<Seen>) {
    let mut line = [0; 64];
    let len = host.read(&mut line).await.unwrap_or(0);
    if len == 0 {
        seen.wordless.fetch_add(1, SeqCst);
        return;
    }
    if &line[..len] != b"CONNECT 1024\n" {
        seen.cut.fetch_add(1, SeqCst);
    }
    let before = seen.connects.fetch_add(1, SeqCst);
    if before < vices.overflows {
        return;
    }
    if vices.silent || seen.killed.load(SeqCst) {
        watch(&mut host, &seen).await;
        return;
    }
    if timeout(vices.ok_after, watch(&mut host, &seen)).await.is_ok() {
        return;
    }
    if let Some(answer) = vices.answer {
        let _ = host.write_all(answer.as_bytes()).await;
        return;
    }
    let Ok(mut guest) = UnixStream::connect(guest).await else { return };
    if say_ok(&mut host, &mut guest, &vices).await.is_ok() {
        carry_both(host, guest, &vices, seen).await;
    }
}

/// Returns when the client leaves.
async fn watch(host: &mut UnixStream, seen: &Seen) {
    let mut buffer = [0; 1024];
    loop {
        match host.read(&mut buffer).await {
            Ok(0) | Err(_) => return seen.killed.store(true, SeqCst),
            Ok(len) => seen.early.fetch_add(len, SeqCst),
        };
    }
}

async fn say_ok(host: &mut UnixStream, guest: &mut UnixStream, vices: &Vices) -> std::io::Result<()> {
    let mut ok = b"OK 1073741824\n".to_vec();
    if vices.ok_glued {
        guest.read_buf(&mut ok).await?;
    }
    if vices.ok_in_pieces {
        for byte in ok {
            host.write_all(&[byte]).await?;
            sleep(Duration::from_millis(3)).await;
        }
        return Ok(());
    }
    host.write_all(&ok).await
}

async fn carry_both(host: UnixStream, guest: UnixStream, vices: &Vices, seen: Arc<Seen>) {
    for socket in [&host, &guest] {
        // Hardly anything waits in the kernel, so that nearly all that is outstanding is seen here.
        socket2::SockRef::from(socket).set_send_buffer_size(1).unwrap();
    }
    let ((mut from_host, mut to_host), (mut from_guest, mut to_guest)) =
        (host.into_split(), guest.into_split());
    let stopped = AtomicBool::new(false);
    // Whichever ends first ends both: dropping closes.
    tokio::select! {
        () = carry(&mut from_host, &mut to_guest, false, &stopped, &seen) => {}
        () = async {
            carry(&mut from_guest, &mut to_host, vices.loses_tail, &stopped, &seen).await;
            sleep(vices.eof_after).await;
        } => {}
    }
}

async fn carry(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    loses_tail: bool,
    stopped: &AtomicBool,
    seen: &Seen,
) {
    let (mut waiting, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        if stopped.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break,
                Ok(len) => waiting.extend_from_slice(&buffer[..len]),
            },
            written = to.write(&waiting), if !waiting.is_empty() => match written {
                Ok(len) => drop(waiting.drain(..len)),
                Err(_) => return,
            },
        }
        seen.outstanding.fetch_max(waiting.len(), SeqCst);
        if waiting.len() > MOST_OUTSTANDING && !stopped.swap(true, SeqCst) {
            seen.stalled.fetch_add(1, SeqCst);
        }
    }
    if !loses_tail {
        let _ = to.write_all(&waiting).await;
    }
}
