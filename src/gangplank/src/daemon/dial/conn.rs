//! A connection into a pod that counts what it moves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use gangplank_dial::PodConn;
use gangplank_streaming::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::daemon::connections::Meter;

/// A [`PodConn`] and the meter that counts its bytes and notes how it ends.
pub(crate) struct MeteredConn {
    conn: PodConn,
    meter: Meter,
}

impl MeteredConn {
    pub(super) fn new(conn: PodConn, meter: Meter) -> Self {
        Self { conn, meter }
    }

    /// Gives up the connection: the pod sees a reset if the transport can carry one.
    pub(crate) fn abort(&mut self) {
        self.meter.aborted();
        self.conn.abort();
    }

    /// The socket itself, if the connection is one in the pod's network namespace. What it moves from now on is not
    /// counted.
    pub(crate) fn into_socket(self) -> Result<TcpStream, Box<Self>> {
        let Self { conn, mut meter } = self;
        match conn.into_socket() {
            Ok(socket) => {
                meter.handed_over();
                Ok(socket)
            }
            Err(conn) => Err(Box::new(Self { conn, meter })),
        }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.meter.moved(*bytes as u64, 0),
            Poll::Ready(Err(error)) => self.meter.failed(error),
            Poll::Pending => {}
        }
        written
    }
}

impl Connection for MeteredConn {
    fn abort(&mut self) {
        Self::abort(self);
    }
}

impl AsyncRead for MeteredConn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.conn).poll_read(cx, buf));
        match &read {
            Ok(()) => this.meter.moved(0, (buf.filled().len() - before) as u64),
            Err(error) => this.meter.failed(error),
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for MeteredConn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.conn).poll_write(cx, buf);
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.conn).poll_write_vectored(cx, bufs);
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.conn.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().conn).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = ready!(Pin::new(&mut this.conn).poll_shutdown(cx));
        if let Err(error) = &shut {
            this.meter.failed(error);
        }
        Poll::Ready(shut)
    }
}
