//! A connection to a port of a pod, whatever way it went.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use channel::Channel;
use streaming::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a dial gives.
#[expect(clippy::large_enum_variant, reason = "most connections are the larger one")]
pub(crate) enum PodConn {
    /// Straight to the port, in the pod's network namespace.
    Tcp(TcpStream),
    /// Through the relay in the pod.
    Channel(Channel),
}

/// Does the same to whichever connection it is.
macro_rules! either {
    ($conn:expr, $inner:ident => $does:expr) => {
        match $conn {
            PodConn::Tcp($inner) => $does,
            PodConn::Channel($inner) => $does,
        }
    };
}

impl Connection for PodConn {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(socket) => socket.socket(),
            Self::Channel(_) => None,
        }
    }

    fn abort(&mut self) {
        either!(self, conn => conn.abort());
    }
}

impl AsyncRead for PodConn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), conn => Pin::new(conn).poll_read(cx, buf))
    }
}

impl AsyncWrite for PodConn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), conn => Pin::new(conn).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), conn => Pin::new(conn).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, conn => conn.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), conn => Pin::new(conn).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), conn => Pin::new(conn).poll_shutdown(cx))
    }
}
