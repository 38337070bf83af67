//! Copies between a caller's socket and a connection into a pod, until both directions have ended.
//!
//! ```text
//!   caller ── early bytes, then its socket ──► pod      each direction ends by itself;
//!   caller ◄────────────────────────────────── pod      a failure ends both, and resets the pod's connection
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

use crate::daemon::dial::MeteredConn;

/// The size of each direction's buffer, in bytes.
const BUFFER: usize = 32 << 10;

/// How often to check whether a caller that has ended its direction has closed the socket too. While nothing is sent
/// to it, only polling shows that.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// After the pod has ended its direction and the caller has left: how long the pod may take to read the caller's last
/// bytes.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);

/// Which directions have ended.
#[derive(Debug, Clone, Copy, Default)]
struct EndedDirections {
    /// From the caller to the pod.
    caller: bool,
    /// From the pod to the caller, who has seen the end.
    pod: bool,
}

/// Moves bytes until both directions have ended, or one has failed, or the caller has left.
pub(super) async fn run(stream: UnixStream, early: Bytes, mut pod: MeteredConn) {
    let (ended, has_ended) = watch::channel(EndedDirections::default());
    let descriptor = rustix::io::dup(&stream);
    let mut caller = CallerSocket { early, stream, ended };
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
        tracing::debug!(%error, "a JSON-RPC stream was given up");
        pod.abort();
    }
    drop(pod); // first, so that a caller that sees the end already finds the pod's new state in pod.list
    drop(caller);
}

/// Waits until the caller has left, which ends the copying.
///
/// A caller that has only ended its own direction has not left. Most callers close their socket once the pod has ended:
/// then the pod gets some time to read the rest.
async fn left(descriptor: std::os::fd::OwnedFd, mut has_ended: watch::Receiver<EndedDirections>) {
    if has_ended.wait_for(|ended| ended.caller).await.is_err() {
        return pending().await; // copying has ended
    }
    loop {
        let mut polled = [PollFd::new(&descriptor, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP) {
            if has_ended.borrow().pod {
                tokio::time::sleep(LINGER_TIMEOUT).await;
            }
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The caller's socket, with the bytes that were already read from it.
struct CallerSocket {
    early: Bytes,
    stream: UnixStream,
    ended: watch::Sender<EndedDirections>,
}

impl AsyncRead for CallerSocket {
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
            this.ended.send_modify(|ended| ended.caller = true);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CallerSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = ready!(Pin::new(&mut this.stream).poll_shutdown(cx));
        this.ended.send_modify(|ended| ended.pod = true);
        Poll::Ready(shut)
    }
}
