//! A connection to a place in a pod, whatever way it went.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use channel::Channel;
use streaming::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::framed::Framed;
use crate::connections::Meter;

/// A byte stream each way to a place in a pod: what a dial gives.
///
/// `poll_shutdown` ends the direction towards the pod and is ready once the pod's side has it all; reading goes
/// on until the pod's own end. Dropped earlier, the pod sees a reset where the way can carry one.
///
/// Of [`Network::Udp`](crate::Network::Udp), the stream is of datagrams, each preceded by its length in two bytes,
/// the more significant first, 65,507 at most. Shutting down ends what is sent; answers come until 60 s pass without
/// a datagram. A reader that is more than 64 datagrams behind loses those that come then.
pub struct PodConn {
    transport: Transport,
    /// None for a program that links this crate: it counts for itself.
    meter: Option<Meter>,
}

/// The way it went.
#[derive(Debug)]
pub(super) enum Transport {
    /// Straight to the port, in the pod's network namespace.
    Tcp(TcpStream),
    /// Through the relay in the pod.
    Channel(Channel),
    /// Datagrams, either way, framed.
    Datagrams(Framed),
}

/// Does the same to whichever connection it is.
macro_rules! either {
    ($transport:expr, $inner:ident => $does:expr) => {
        match $transport {
            Transport::Tcp($inner) => $does,
            Transport::Channel($inner) => $does,
            Transport::Datagrams($inner) => $does,
        }
    };
}

impl From<Transport> for PodConn {
    fn from(transport: Transport) -> Self {
        Self { transport, meter: None }
    }
}

impl PodConn {
    pub(super) fn metered(transport: Transport, meter: Option<Meter>) -> Self {
        Self { transport, meter }
    }

    /// Gives the connection up: the pod sees a reset where the way can carry one.
    pub fn abort(&mut self) {
        self.note(Meter::aborted);
        either!(&mut self.transport, conn => conn.abort());
    }

    /// The socket itself, if it is one of this machine. It is not counted any further.
    pub(crate) fn into_socket(mut self) -> Result<TcpStream, Box<Self>> {
        match self.transport {
            Transport::Tcp(socket) => {
                if let Some(meter) = &mut self.meter {
                    meter.handed_over();
                }
                Ok(socket)
            }
            Transport::Channel(_) | Transport::Datagrams(_) => Err(Box::new(self)),
        }
    }

    fn note(&mut self, what: impl FnOnce(&mut Meter)) {
        if let Some(meter) = &mut self.meter {
            what(meter);
        }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.note(|meter| meter.moved(*bytes as u64, 0)),
            Poll::Ready(Err(error)) => self.note(|meter| meter.failed(error)),
            Poll::Pending => {}
        }
        written
    }
}

impl Connection for PodConn {
    fn abort(&mut self) {
        Self::abort(self);
    }
}

impl AsyncRead for PodConn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = ready!(either!(&mut this.transport, conn => Pin::new(conn).poll_read(cx, buf)));
        let bytes = buf.filled().len() - before;
        match &read {
            Ok(()) => this.note(|meter| meter.moved(0, bytes as u64)),
            Err(error) => this.note(|meter| meter.failed(error)),
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for PodConn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = either!(&mut this.transport, conn => Pin::new(conn).poll_write(cx, buf));
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = either!(&mut this.transport, conn => Pin::new(conn).poll_write_vectored(cx, bufs));
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.transport, conn => conn.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.get_mut().transport, conn => Pin::new(conn).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = ready!(either!(&mut this.transport, conn => Pin::new(conn).poll_shutdown(cx)));
        if let Err(error) = &shut {
            this.note(|meter| meter.failed(error));
        }
        Poll::Ready(shut)
    }
}
