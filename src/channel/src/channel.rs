//! An open channel as an async byte stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One forwarded connection, as the host sees it: a byte stream each way.
///
/// - Reading gives `Ok(0)` only when the pod has ended its side. A transport that ends without that is an
///   error, and so is a pod that resets the connection (the error's kind is that of the pod's errno).
/// - `poll_shutdown` ends the direction towards the pod; it is ready once the pod's side has taken every byte
///   and the end. Reading goes on after it.
/// - A write may take a part of what it is given; the rest must follow in the next write (as `write_all`
///   does). Ending the direction instead is an error.
/// - Dropping the channel after both ends is orderly. Dropping it earlier resets the pod's connection.
#[derive(Debug)]
pub struct Channel {}

impl Channel {
    /// Resets the connection now; every later read and write fails.
    pub fn abort(&mut self) {}
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
