//! A connection to a place in a pod, whichever transport carries it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use gangplank_channel::Channel;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::datagrams::FramedDatagrams;

/// A byte stream in each direction to a place in a pod: the result of a dial.
///
/// `poll_shutdown` ends the direction towards the pod and is ready once the pod's side has all of it; reading goes on
/// until the pod's own end. If the connection is dropped earlier, the pod sees a reset where the transport can carry one.
///
/// With [`Network::Udp`](crate::Network::Udp), it is a stream of datagrams, each preceded by its length in two bytes in
/// big-endian order, at most 65,507. Shutting down ends sending; answers keep coming until 60 s pass without a datagram.
/// A reader that is more than 64 datagrams behind loses the newest ones.
#[derive(Debug)]
pub struct PodConn(Transport);

#[derive(Debug)]
enum Transport {
    /// Straight to the port, in the pod's network namespace.
    Tcp(TcpStream),
    /// Through the relay in the pod.
    Channel(Box<Channel>),
    /// Datagrams over either, each with its length.
    Datagrams(FramedDatagrams),
}

/// Does the same with each transport.
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

    /// Gives the connection up: the pod sees a reset where the transport can carry one.
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
    /// The connection, unchanged, if it is carried by anything else.
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
