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

use crate::daemon::dial::MeteredConn;

/// Bytes of each direction's buffer.
const BUFFER: usize = 32 << 10;

/// How often it is looked whether a caller that has ended its direction has left altogether. Nothing tells of
/// that by itself while nothing is sent to it.
const LOOK: Duration = Duration::from_secs(1);

/// How long the pod may take for the caller's last bytes and its end after its own, when the caller has left.
const LINGER: Duration = Duration::from_secs(10);

/// What has ended.
#[derive(Debug, Clone, Copy, Default)]
struct Ended {
    /// The caller's direction.
    caller: bool,
    /// The pod's; the caller has been told.
    pod: bool,
}

/// Moves bytes until both directions have ended, or one has failed, or the caller has left.
pub(super) async fn run(stream: UnixStream, early: Bytes, mut pod: MeteredConn) {
    let (ended, has_ended) = watch::channel(Ended::default());
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
    drop(pod); // before the caller is told, so that it can ask at once what has become of the pod
    drop(caller);
}

/// Waits until the caller has closed its socket before the pod's end. To end one direction only is not to leave, and
/// to close when the pod has ended is how most callers end: then the pod still gets the rest, as far as it takes it.
async fn left(descriptor: std::os::fd::OwnedFd, mut has_ended: watch::Receiver<Ended>) {
    if has_ended.wait_for(|ended| ended.caller).await.is_err() {
        return pending().await; // the copying is over
    }
    loop {
        let mut polled = [PollFd::new(&descriptor, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP) {
            if has_ended.borrow().pod {
                tokio::time::sleep(LINGER).await;
            }
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The caller's socket, with what was read of it already.
struct Caller {
    early: Bytes,
    stream: UnixStream,
    ended: watch::Sender<Ended>,
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
            this.ended.send_modify(|ended| ended.caller = true);
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
        let this = self.get_mut();
        let shut = ready!(Pin::new(&mut this.stream).poll_shutdown(cx));
        this.ended.send_modify(|ended| ended.pod = true);
        Poll::Ready(shut)
    }
}
