//! The client's WebSocket, and the messages that it has not taken yet.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::metered::Metered;
use crate::session::Ended;
use crate::session::read_buffer::ReadBuffer;

/// Buffers of the WebSocket; its defaults would cost 290 KiB a session.
const BUFFER: usize = 16 << 10;

/// Room for what is on its way out: one message of ours, and answers to pings.
const MAX_WRITE: usize = 128 << 10;

/// Invariant: a message leaves `outgoing` only when the WebSocket has sent everything before it.
pub(super) struct Socket<S> {
    socket: WebSocketStream<Metered<S>>,
    outgoing: VecDeque<Message>,
    /// What waits was last seen moving then, with so many bytes written.
    blocked: Option<(Instant, u64)>,
    /// The client's bytes make no sense any more: they are dropped unread.
    deaf: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Takes over an upgraded connection; `early` are bytes that came with the request. Messages may be
    /// `max_message` bytes long.
    pub(super) async fn new(stream: S, early: Bytes, max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_WRITE)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let stream = Metered::new(stream);
        let socket =
            WebSocketStream::from_partially_read(stream, early.into(), Role::Server, Some(config)).await;
        Self { socket, outgoing: VecDeque::new(), blocked: None, deaf: false }
    }

    /// Something waits for the client.
    pub(super) fn is_busy(&self) -> bool {
        self.blocked.is_some() || !self.outgoing.is_empty()
    }

    /// When the client last took something of what waits for it.
    pub(super) fn blocked_since(&mut self, now: Instant) -> Option<Instant> {
        let written = self.socket.get_ref().written();
        let (since, before) = self.blocked.as_mut()?;
        if *before != written {
            (*since, *before) = (now, written);
        }
        Some(*since)
    }

    /// Puts a message behind those that wait.
    pub(super) fn queue(&mut self, message: Message) {
        self.outgoing.push_back(message);
    }

    /// Puts a close frame behind all messages; nothing may be queued after it.
    pub(super) fn queue_close(&mut self, code: CloseCode) {
        self.queue(Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::default() })));
    }

    /// The next message with data, whichever kind it is of: which kind it should be is for the client to know.
    /// Pings are answered on the way.
    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Ended>> {
        loop {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => return Poll::Ready(Ok(bytes)),
                Some(Ok(Message::Text(text))) => return Poll::Ready(Ok(text.into())),
                Some(Ok(Message::Close(_))) => {
                    self.outgoing.clear(); // RFC 6455, 5.5.1: nothing but the answer may follow
                    return Poll::Ready(Err(Ended::ClientWentAway));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(e)) => {
                    let ended = ended(e);
                    self.deaf = matches!(ended, Ended::WebSocket(_));
                    return Poll::Ready(Err(ended));
                }
                None => return Poll::Ready(Err(Ended::ClientClosed)),
            }
        }
    }

    /// Sends what waits, as far as the client takes it.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Ended> {
        match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.blocked = None,
            Poll::Ready(Err(e)) => return Err(ended(e)),
            Poll::Pending => {
                let written = self.socket.get_ref().written();
                self.blocked.get_or_insert((now, written));
            }
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            let Some(message) = self.outgoing.pop_front() else { return Poll::Ready(Ok(())) };
            Pin::new(&mut self.socket).start_send(message)?;
        }
    }

    /// Sends what waits, and drops what still comes, until the client closes too.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        let ended = if self.deaf { self.poll_skip(cx) } else { self.poll_last(cx) };
        ready!(ended);
        // TLS has an end of its own; for TCP, dropping the socket would do.
        Pin::new(self.socket.get_mut()).poll_shutdown(cx).map(|_| ())
    }

    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Ok(_)) = ready!(Pin::new(&mut self.socket).poll_next(cx)) {}
        Poll::Ready(())
    }

    fn poll_skip(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut buf = ReadBuffer::take();
        loop {
            let mut buf = ReadBuf::new(&mut buf);
            let read = ready!(Pin::new(self.socket.get_mut()).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

/// With which code a session of this end is closed; `None` where the client can't be told, or need not be.
pub(super) fn close_code(ended: &Ended) -> Option<CloseCode> {
    match ended {
        Ended::AllPorts => Some(CloseCode::Normal),
        Ended::Told(_) | Ended::Drained | Ended::Idle => Some(CloseCode::Away),
        Ended::WebSocket(e) => Some(match **e {
            Error::Capacity(_) => CloseCode::Size,
            Error::Utf8(_) => CloseCode::Invalid,
            _ => CloseCode::Protocol,
        }),
        _ => None,
    }
}

fn ended(error: Error) -> Ended {
    match error {
        Error::Io(e) => Ended::ClientBroke(e),
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing) => {
            Ended::ClientClosed
        }
        other => Ended::WebSocket(Box::new(other)),
    }
}
