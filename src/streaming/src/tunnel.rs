//! SPDY inside WebSocket: the payloads of binary messages, joined, are the byte stream.
//!
//! Message boundaries mean nothing on the way in; on the way out one write makes one message. A close frame is
//! the end of the stream, and for Go clients an orderly one only with code 1000. Source: k8s.io/client-go v0.37.2,
//! tools/portforward/tunneling_connection.go.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use crate::metered::Metered;
use crate::session::ClientSocket;

/// Longest message that is taken. Clients send what they have, tens of KiB.
const MAX_MESSAGE: usize = 1 << 20;

/// Largest message that we send.
const MAX_WRITE: usize = 64 << 10;

/// Buffers of the WebSocket; its defaults would cost 290 KiB a session.
const BUFFER: usize = 16 << 10;

/// A WebSocket as a byte stream.
pub(crate) struct Tunnel<S> {
    socket: WebSocketStream<Metered<S>>,
    current: Bytes,
    /// Our close frame is on its way.
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunnel<S> {
    /// Takes over an upgraded connection; `early` are bytes that came with the request.
    pub(crate) async fn new(stream: S, early: Bytes) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MAX_WRITE)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let stream = Metered::new(stream);
        let socket =
            WebSocketStream::from_partially_read(stream, early.into(), Role::Server, Some(config)).await;
        Self { socket, current: Bytes::new(), closing: false }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: Bytes) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(to_io)?;
        let n = bytes.len();
        Pin::new(&mut self.socket).start_send(Message::Binary(bytes)).map_err(to_io)?;
        // Pending is fine: the next poll_ready or poll_flush goes on with it.
        if let Poll::Ready(Err(e)) = Pin::new(&mut self.socket).poll_flush(cx) {
            return Poll::Ready(Err(to_io(e)));
        }
        Poll::Ready(Ok(n))
    }

    /// Sends a close frame, once, and all that waits before it.
    fn poll_say_close(&mut self, cx: &mut Context<'_>, code: CloseCode) -> Poll<tungstenite::Result<()>> {
        if !self.closing {
            ready!(Pin::new(&mut self.socket).poll_ready(cx))?;
            self.closing = true;
            let close = CloseFrame { code, reason: Utf8Bytes::default() };
            Pin::new(&mut self.socket).start_send(Message::Close(Some(close)))?;
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Says why the session ends, if the client takes that right now: the connection is dropped in any case.
    fn refuse(&mut self, cx: &mut Context<'_>, code: CloseCode) {
        let _ = self.poll_say_close(cx, code);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.current = bytes,
                Some(Ok(Message::Text(_))) => {
                    self.refuse(cx, CloseCode::Unsupported);
                    return Poll::Ready(Err(text_message()));
                }
                // Going on until the end lets the answer to a ping or close frame out.
                Some(Ok(_)) => {}
                Some(Err(e)) => {
                    if let tungstenite::Error::Capacity(_) = e {
                        self.refuse(cx, CloseCode::Size);
                    }
                    return Poll::Ready(Err(to_io(e)));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = Bytes::copy_from_slice(&buf[..buf.len().min(MAX_WRITE)]);
        self.poll_send(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut bytes = BytesMut::new();
        for slice in slices {
            let room = MAX_WRITE - bytes.len();
            bytes.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.poll_send(cx, bytes.freeze())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_say_close(cx, CloseCode::Normal).map_err(to_io)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> ClientSocket for Tunnel<S> {
    fn written(&self) -> u64 {
        self.socket.get_ref().written()
    }

    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(self).poll_shutdown(cx).map(|_| ())
    }
}

fn text_message() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a text message in a tunnel, which carries binary ones only")
}

fn to_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(e) => e,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
