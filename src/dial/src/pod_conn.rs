//! A connection into a pod, over any transport.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use gangplank_channel::Channel;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::datagrams::FramedDatagrams;

/// A connection to a port or socket in a pod: the result of a dial.
///
/// `poll_shutdown` ends the direction towards the pod and is ready once the pod's side has received everything. Reading
/// continues until the pod ends its direction. If the connection is dropped before both have ended, the pod sees a reset
/// where the transport can carry one.
///
/// With [`Network::Udp`](crate::Network::Udp), it is a stream of datagrams of at most 65,507 bytes, each preceded by its
/// length in two big-endian bytes. Shutting down ends sending; answers are read until 60 s pass without a datagram. A
/// reader that is more than 64 datagrams behind loses the newest ones.
#[derive(Debug)]
pub struct PodConn(Transport);

#[derive(Debug)]
enum Transport {
    /// A socket in the pod's network namespace, connected to the port.
    Tcp(TcpStream),
    /// Through the relay in the pod.
    Channel(Box<Channel>),
    /// Datagrams over either, with their lengths.
    Datagrams(FramedDatagrams),
}

/// Evaluates an expression with the stream of whichever transport it is.
macro_rules! each {
    ($transport:expr, $inner:ident => $does:expr) => {
        match $transport {
            Transport::Tcp($inner) => $does,
            Transport::Channel($inner) => $does,
            Transport::Datagrams($inner) => $does,
        }
    };
}

impl PodConn {
    pub(crate) fn tcp(socket: TcpStream) -> Self {
        Self(Transport::Tcp(socket))
    }

    pub(crate) fn channel(channel: Channel) -> Self {
        Self(Transport::Channel(Box::new(channel)))
    }

    pub(crate) fn datagrams(datagrams: FramedDatagrams) -> Self {
        Self(Transport::Datagrams(datagrams))
    }

    /// Aborts the connection: the pod sees a reset where the transport can carry one.
    pub fn abort(&mut self) {
        match &mut self.0 {
            // A failure only means that the pod sees a FIN instead.
            Transport::Tcp(socket) => drop(socket.set_zero_linger()),
            Transport::Channel(channel) => channel.abort(),
            Transport::Datagrams(datagrams) => datagrams.abort(),
        }
    }

    /// The socket itself, if the connection is a socket in the pod's network namespace.
    ///
    /// # Errors
    /// Returns the connection unchanged if another transport carries it.
    pub fn into_socket(self) -> Result<TcpStream, Self> {
        match self.0 {
            Transport::Tcp(socket) => Ok(socket),
            other => Err(Self(other)),
        }
    }
}

impl AsyncRead for PodConn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().0, conn => Pin::new(conn).poll_read(cx, buf))
    }
}

impl AsyncWrite for PodConn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().0, conn => Pin::new(conn).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().0, conn => Pin::new(conn).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.0, conn => conn.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().0, conn => Pin::new(conn).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().0, conn => Pin::new(conn).poll_shutdown(cx))
    }
}
