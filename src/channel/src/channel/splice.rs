//! The guest's payload into a pipe, without a copy in this program. Headers are still read, each by itself.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::{Channel, Role};

impl Channel {
    /// Moves at most `most` bytes of payload into an empty pipe, given by its writing end: as `poll_read` in all
    /// else. Plain reads may come before and after.
    ///
    /// # Errors
    /// As `poll_read`'s.
    pub fn poll_splice_in(
        &mut self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        match self.poll_pieces(cx, pipe, most) {
            Poll::Pending => self.poll_silence(cx, Role::Reader),
            ready => ready,
        }
    }

    /// As many pieces as are there; 0 is the peer's end.
    fn poll_pieces(
        &mut self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        self.send_control(cx);
        let mut moved = self.stash.pour(pipe, most)?;
        while moved < most {
            match self.poll_piece(cx, (pipe, moved == 0), most - moved) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(len)) => moved += len,
                _ if moved > 0 => break, // the next call says so
                other => return other,
            }
        }
        match moved {
            0 => self.link.handed_on_end(),
            _ => self.link.handed_on(moved),
        }
        self.send_control(cx);
        Poll::Ready(Ok(moved))
    }

    /// Payload of one frame, after whatever comes before it.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        pipe: (BorrowedFd<'_>, bool),
        most: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.error()));
            }
            if self.link.has_peer_ended() {
                return Poll::Ready(Ok(0));
            }
            if self.link.payload_left() > 0 {
                break;
            }
            ready!(self.poll_fill(cx, Role::Reader, &mut ReadBuf::new(&mut [])))?;
        }
        let most = most.min(self.link.payload_left());
        match ready!(self.socket.poll_splice(cx, Role::Reader, pipe, most)) {
            Ok(0) => Poll::Ready(Err(self.fail_eof())),
            Ok(len) => {
                self.silence.hear();
                self.link.skip(len);
                Poll::Ready(Ok(len))
            }
            Err(error) => Poll::Ready(Err(self.fail_read(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::pipe::{PipeFlags, pipe_with};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::tests::{frame, hear, pair, soon};
    use super::*;
    use crate::frame::{self, Kind, MAX_DATA};
    use crate::link::{WINDOW, charge};

    /// What one splice gives, by a pipe of its own.
    async fn splice(channel: &mut Channel, most: usize) -> io::Result<Vec<u8>> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let len = soon(poll_fn(|cx| channel.poll_splice_in(cx, write.as_fd(), most))).await?;
        drop(write);
        Ok(drain(&read, len))
    }

    fn drain(pipe: &OwnedFd, len: usize) -> Vec<u8> {
        let (mut got, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match rustix::io::read(pipe, &mut piece).unwrap() {
                0 => break,
                more => got.extend_from_slice(&piece[..more]),
            }
        }
        assert_eq!(got.len(), len);
        got
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    /// Sends frames of many sizes, with others between them, as far as credit goes.
    async fn send(guest: &mut UnixStream, mut payload: &[u8]) {
        let mut credit = WINDOW as usize;
        for size in [1, 5_000, MAX_DATA, 17, 40_000].into_iter().cycle() {
            if payload.is_empty() {
                return;
            }
            let (now, later) = payload.split_at(payload.len().min(size));
            let taken = charge(now.len() as u32) as usize;
            while credit < taken {
                let mut returned = [0; 8];
                soon(guest.read_exact(&mut returned)).await.unwrap();
                assert_eq!(returned[..4], frame::header(Kind::Credit, 4));
                credit += u32::from_be_bytes([returned[4], returned[5], returned[6], returned[7]]) as usize;
            }
            credit -= taken;
            let wire = [frame(Kind::Data, now), frame(Kind::Credit, &[0; 4])].concat();
            guest.write_all(&wire).await.unwrap();
            payload = later;
        }
    }

    #[tokio::test]
    async fn payload_comes_by_pipe_and_by_read_in_order_and_its_credit_is_returned() {
        let (mut channel, mut guest) = pair(false);
        let payload = pattern(5 * WINDOW as usize);
        let sent = payload.clone();
        let sending = tokio::spawn(async move {
            send(&mut guest, &sent).await;
            guest
        });
        let (mut got, mut buffer) = (Vec::new(), vec![0; 10_000]);
        for most in [1, 60_000, 7, 3 * MAX_DATA].into_iter().cycle() {
            if got.len() == payload.len() {
                break;
            }
            got.extend(splice(&mut channel, most).await.unwrap());
            if most == 7 && got.len() < payload.len() {
                let len = soon(channel.read(&mut buffer)).await.unwrap();
                got.extend_from_slice(&buffer[..len]);
            }
        }
        assert!(got == payload);
        drop(sending.await.unwrap());
    }

    #[tokio::test]
    async fn the_end_comes_after_the_payload_and_is_acknowledged_when_it_is_taken() {
        let (mut channel, mut guest) = pair(false);
        guest.write_all(&[frame(Kind::Data, b"last"), frame(Kind::Fin, b"")].concat()).await.unwrap();
        assert_eq!(splice(&mut channel, 100).await.unwrap(), b"last");
        assert_eq!(splice(&mut channel, 100).await.unwrap(), b"");
        hear(&mut guest, &frame(Kind::FinAck, b"")).await;
    }

    #[tokio::test]
    async fn what_a_writer_had_to_read_comes_first() {
        let (mut channel, mut guest) = pair(false);
        guest.write_all(&frame(Kind::Data, b"first ")).await.unwrap();
        // More than the window, so that the writer reads on for credit.
        let window = vec![0; WINDOW as usize];
        let writing = channel.write_all(&window);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(100), writing).await.is_err());
        guest.write_all(&frame(Kind::Data, b"then")).await.unwrap();
        assert_eq!(splice(&mut channel, 4).await.unwrap(), b"firs");
        let mut got = splice(&mut channel, 100).await.unwrap();
        while got.len() < 6 {
            got.extend(splice(&mut channel, 100).await.unwrap());
        }
        assert_eq!(got, b"t then");
    }

    #[tokio::test]
    async fn a_transport_that_ends_gives_its_bytes_first_and_then_the_failure() {
        let (mut channel, mut guest) = pair(false);
        guest.write_all(&frame(Kind::Data, b"half a frame")[..8]).await.unwrap();
        drop(guest);
        assert_eq!(splice(&mut channel, 100).await.unwrap(), b"half");
        let error = splice(&mut channel, 100).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_violation_between_frames_is_told_after_the_payload_before_it() {
        let (mut channel, mut guest) = pair(false);
        guest.write_all(&[frame(Kind::Data, b"good"), frame(Kind::Fin, b"bad")].concat()).await.unwrap();
        assert_eq!(splice(&mut channel, 100).await.unwrap(), b"good");
        assert_eq!(splice(&mut channel, 100).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
