//! Between a caller's socket and a connection into a pod, until both have ended.
//!
//! ```text
//!   caller ── early bytes, then its socket ──► pod      each direction ends by itself;
//!   caller ◄────────────────────────────────── pod      a failure ends both, and resets the pod's
//! ```

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::dial::PodConn;

/// Bytes of each direction's buffer.
const BUFFER: usize = 32 << 10;

/// How often it is looked whether a caller that has ended its direction has left altogether. Nothing tells of
/// that by itself while nothing is sent to it.
const LOOK: Duration = Duration::from_secs(1);

/// Moves bytes until both directions have ended, or one has failed, or the caller has left.
pub(super) async fn run(stream: UnixStream, early: Bytes, mut pod: PodConn) {
    let (ended, has_ended) = watch::channel(false);
    let descriptor = rustix::io::dup(&stream);
    let mut caller = Caller { early, stream, ended };
    let moved = tokio::select! {
        moved = copy_bidirectional_with_sizes(&mut caller, &mut pod, BUFFER, BUFFER) => moved.map(drop),
        () = async {
            match descriptor {
                Ok(descriptor) => left(descriptor, has_ended).await,
                Err(_) => pending().await,
            }
        } => Err(io::ErrorKind::BrokenPipe.into()),
    };
    if let Err(error) = moved {
        tracing::debug!(%error, "a stream of JSON-RPC was given up");
        pod.abort();
    }
}

/// Waits until the caller has closed its socket. To end one direction only is not to leave.
async fn left(descriptor: std::os::fd::OwnedFd, mut has_ended: watch::Receiver<bool>) {
    if has_ended.wait_for(|ended| *ended).await.is_err() {
        return pending().await; // the copying is over
    }
    loop {
        let mut polled = [PollFd::new(&descriptor, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The caller's socket, with what was read of it already.
struct Caller {
    early: Bytes,
    stream: UnixStream,
    ended: watch::Sender<bool>,
}

impl AsyncRead for Caller {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.has_remaining() {
            let len = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(len));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            this.ended.send_replace(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Caller {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
