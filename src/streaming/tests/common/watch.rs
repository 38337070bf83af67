//! A dial that counts what it has under way and what it gave.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};

use gangplank_streaming::{Connection, Dial, DialError, Target};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Loopback, eventually};

/// Dials as [`Loopback`] does, and counts.
#[derive(Default, Clone)]
pub struct Watched {
    pub dialling: Arc<AtomicUsize>,
    pub open: Arc<AtomicUsize>,
}

impl Watched {
    pub async fn expect_dialling(&self, n: usize) {
        eventually(&format!("{n} dials"), || self.dialling.load(SeqCst) == n).await;
    }

    pub async fn expect_open(&self, n: usize) {
        eventually(&format!("{n} connections"), || self.open.load(SeqCst) == n).await;
    }
}

struct Guard(Arc<AtomicUsize>);

impl Guard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// A connection that is counted while it lives.
pub struct Counted {
    socket: TcpStream,
    _open: Guard,
}

impl Dial for Watched {
    type Conn = Counted;

    async fn dial(&self, target: Target) -> Result<Counted, DialError> {
        let _dialling = Guard::new(&self.dialling);
        let socket = Loopback.dial(target).await?;
        Ok(Counted { socket, _open: Guard::new(&self.open) })
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Connection for Counted {
    fn abort(&mut self) {
        self.socket.abort();
    }
}
