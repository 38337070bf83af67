//! Datagrams on a byte stream: each is preceded by its length in two big-endian bytes, as in DNS over TCP (RFC 1035,
//! section 4.2.2).
//!
//! ```text
//!   writer ──► length, datagram ──► queue ──► pump ──► pod
//!   reader ◄── length, datagram ◄── queue ◄── pump ◄── pod      drops the datagram if full
//! ```

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::PollSender;

/// The largest datagram of UDP over IPv4, in bytes.
pub const MAX_DATAGRAM: usize = 65_507;

/// Bytes of a datagram's length field.
pub const LENGTH: usize = 2;

/// How many datagrams are queued in each direction. A reader that is further behind loses the newest ones.
const QUEUE: usize = 64;

/// An association ends after this long without a datagram in either direction. A relay has the same limit.
const IDLE: Duration = Duration::from_secs(60);

/// What carries the datagrams to the pod.
#[derive(Debug)]
pub(crate) enum DatagramTransport {
    /// A relay in the pod.
    Relay(Box<gangplank_channel::Datagrams>),
    /// A socket in the pod's network namespace, connected to the port.
    Socket(UdpSocket),
}

impl DatagramTransport {
    async fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        match self {
            Self::Relay(datagrams) => datagrams.send(datagram).await,
            Self::Socket(socket) => socket.send(datagram).await.map(drop),
        }
    }

    /// `None` once the association has ended. Cancel safe.
    async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Relay(datagrams) => match datagrams.receive().await {
                // The relay ended an idle association, which is its normal end.
                Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
                received => received,
            },
            Self::Socket(socket) => {
                let mut datagram = Vec::with_capacity(MAX_DATAGRAM);
                socket.recv_buf(&mut datagram).await?;
                // It may wait in the queue, and 64 full-size buffers would be 4 MiB.
                datagram.shrink_to_fit();
                Ok(Some(datagram))
            }
        }
    }
}

/// An association with a UDP port, as a byte stream. Dropping it ends the association.
#[derive(Debug)]
pub(crate) struct FramedDatagrams {
    to_pod: PollSender<Vec<u8>>,
    from_pod: Receiver<io::Result<Vec<u8>>>,
    /// The part of the current datagram written so far, including its length field. Invariant between writes:
    /// `written.len() < LENGTH + length`.
    written: Vec<u8>,
    /// The part of the current datagram not read yet, including its length field.
    unread: Bytes,
}

impl FramedDatagrams {
    /// Starts forwarding datagrams. Must be called within a tokio runtime.
    pub(crate) fn new(datagrams: DatagramTransport) -> Self {
        let (to_pod, sent) = mpsc::channel(QUEUE);
        let (received, from_pod) = mpsc::channel(QUEUE);
        tokio::spawn(pump(datagrams, sent, received));
        Self { to_pod: PollSender::new(to_pod), from_pod, written: Vec::new(), unread: Bytes::new() }
    }

    pub(crate) fn abort(&mut self) {
        self.to_pod.close();
        self.from_pod.close();
    }

    /// Takes bytes up to the end of the current datagram. Returns whether it is complete, and how many bytes were taken.
    fn take(&mut self, bytes: &[u8]) -> io::Result<(bool, usize)> {
        let len = LENGTH.saturating_sub(self.written.len()).min(bytes.len());
        self.written.extend_from_slice(&bytes[..len]);
        let Some(length) = self.written.first_chunk() else { return Ok((false, len)) };
        let whole = LENGTH + usize::from(u16::from_be_bytes(*length));
        if whole - LENGTH > MAX_DATAGRAM {
            let text = format!("a datagram of {} bytes; the limit is {MAX_DATAGRAM}", whole - LENGTH);
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let rest = (whole - self.written.len()).min(bytes.len() - len);
        self.written.extend_from_slice(&bytes[len..len + rest]);
        Ok((self.written.len() == whole, len + rest))
    }
}

/// Forwards datagrams until the association ends, its owner drops it, or it has been idle for too long.
async fn pump(
    mut datagrams: DatagramTransport,
    mut to_pod: Receiver<Vec<u8>>,
    from_pod: Sender<io::Result<Vec<u8>>>,
) {
    let mut sends = true;
    loop {
        let result = tokio::select! {
            sent = to_pod.recv(), if sends => match sent {
                Some(datagram) => datagrams.send(&datagram).await,
                None => {
                    // Shut down: answers may still arrive.
                    sends = false;
                    Ok(())
                }
            },
            received = datagrams.receive() => match received {
                Ok(Some(datagram)) => match from_pod.try_send(Ok(datagram)) {
                    Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
                    Err(TrySendError::Closed(_)) => return,
                },
                Ok(None) => return,
                Err(error) => Err(error),
            },
            () = from_pod.closed() => return,
            () = tokio::time::sleep(IDLE) => return,
        };
        if let Err(error) = result {
            // Fails only if the owner dropped the stream.
            let _ = from_pod.send(Err(error)).await;
            return;
        }
    }
}

impl AsyncRead for FramedDatagrams {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.has_remaining() {
            let Some(datagram) = ready!(this.from_pod.poll_recv(cx)) else { return Poll::Ready(Ok(())) };
            let datagram = datagram?;
            let mut framed = BytesMut::with_capacity(LENGTH + datagram.len());
            // UDP's own length field has 16 bits, so this never saturates.
            framed.extend_from_slice(&u16::try_from(datagram.len()).unwrap_or(u16::MAX).to_be_bytes());
            framed.extend_from_slice(&datagram);
            this.unread = framed.freeze();
        }
        let len = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FramedDatagrams {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Reserve a slot in the queue first: these bytes may complete a datagram, and must not be taken without one.
        let ended =
            |_| io::Error::new(ErrorKind::BrokenPipe, "the association with the pod's port has ended");
        ready!(this.to_pod.poll_reserve(cx)).map_err(ended)?;
        let (is_whole, taken) = this.take(buf)?;
        if is_whole {
            let datagram = std::mem::take(&mut this.written).split_off(LENGTH);
            this.to_pod.send_item(datagram).map_err(ended)?;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// An incomplete datagram is discarded.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().to_pod.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A stream and the pod's socket at its other end.
    async fn association() -> (FramedDatagrams, UdpSocket) {
        let (ours, pods) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        ours.connect(pods.local_addr().unwrap()).await.unwrap();
        pods.connect(ours.local_addr().unwrap()).await.unwrap();
        (FramedDatagrams::new(DatagramTransport::Socket(ours)), pods)
    }

    async fn receives(pod: &UdpSocket) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(MAX_DATAGRAM);
        pod.recv_buf(&mut datagram).await.unwrap();
        datagram
    }

    async fn reads(stream: &mut FramedDatagrams) -> Vec<u8> {
        let mut datagram = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut datagram).await.unwrap();
        datagram
    }

    #[tokio::test]
    async fn datagrams_survive_writes_of_any_size() {
        let (mut stream, pod) = association().await;
        let mut bytes = Vec::new();
        for len in [3_u16, 0, 700] {
            bytes.extend(len.to_be_bytes());
            bytes.extend(vec![len as u8; len.into()]);
        }
        for size in [1, 2, 5, 64, bytes.len()] {
            for piece in bytes.chunks(size) {
                stream.write_all(piece).await.unwrap();
            }
            for len in [3, 0, 700] {
                assert_eq!(receives(&pod).await, vec![len as u8; len], "in pieces of {size}");
            }
        }
    }

    #[tokio::test]
    async fn received_datagrams_are_preceded_by_their_length() {
        let (mut stream, pod) = association().await;
        for len in [1, 0, MAX_DATAGRAM, 9] {
            pod.send(&vec![7; len]).await.unwrap();
            assert_eq!(reads(&mut stream).await, vec![7; len]);
        }
    }

    #[tokio::test]
    async fn a_datagram_over_the_limit_is_an_error() {
        let (mut stream, _pod) = association().await;
        let error = stream.write_all(&(MAX_DATAGRAM as u16 + 1).to_be_bytes()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("65507"), "{error}");
    }

    #[tokio::test]
    async fn a_refused_port_is_an_error() {
        let (mut stream, pod) = association().await;
        drop(pod);
        stream.write_all(&[0, 1, 7]).await.unwrap();
        assert_eq!(stream.read_u16().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn answers_arrive_after_shutdown() {
        let (mut stream, pod) = association().await;
        stream.write_all(&[0, 1, 7]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(receives(&pod).await, [7]);
        pod.send(b"answer").await.unwrap();
        assert_eq!(reads(&mut stream).await, b"answer");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_association_ends_cleanly() {
        let (mut stream, _pod) = association().await;
        let begun = tokio::time::Instant::now();
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
        assert!(begun.elapsed() >= IDLE);
        assert_eq!(stream.write_all(&[0, 0]).await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_slow_reader_loses_the_newest_datagrams() {
        let (mut stream, pod) = association().await;
        for count in 0..=u8::MAX {
            pod.send(&[count]).await.unwrap();
            tokio::task::yield_now().await;
        }
        for count in 0..QUEUE as u8 {
            assert_eq!(reads(&mut stream).await, [count]);
        }
    }
}
