//! Reads lines from a Unix socket, and keeps the bytes that follow the last one.

use std::io;
use std::os::fd::OwnedFd;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::descriptor;
use crate::rpc::Answer;

/// The longest line, in bytes, without its end. A call has a few hundred.
pub(super) const MAX_LINE: usize = 64 << 10;

/// How many bytes to reserve for each read.
const CHUNK: usize = 4 << 10;

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// The line is too long.
    #[error("the line is longer than {MAX_LINE} bytes; the connection is closed")]
    TooLong,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connection that is read line by line, and loses no byte that follows a line.
pub(super) struct Lines {
    stream: UnixStream,
    /// Bytes that were read and not yet returned as a line.
    buffer: BytesMut,
}

impl Lines {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The next line, without its end; `None` if the caller has ended. Cancel safe: all state is in `self`.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, LineError> {
        // No byte before `seen` ends a line: only what each read adds is searched.
        let mut seen = 0;
        loop {
            if let Some(end) = self.buffer[seen..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(seen + end).freeze();
                self.buffer.advance(1);
                return if line.len() > MAX_LINE { Err(LineError::TooLong) } else { Ok(Some(line)) };
            }
            seen = self.buffer.len();
            if seen > MAX_LINE {
                return Err(LineError::TooLong);
            }
            self.buffer.reserve(CHUNK);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    pub(super) async fn write(&mut self, answer: &Answer) -> io::Result<()> {
        self.stream.write_all(&answer.line()).await
    }

    /// Writes an answer with a descriptor for the caller.
    pub(super) async fn write_with(&mut self, answer: &Answer, descriptor: OwnedFd) -> io::Result<()> {
        let line = answer.line();
        let sent = descriptor::send(&self.stream, &line, descriptor).await?;
        self.stream.write_all(&line[sent..]).await
    }

    /// The connection, and the bytes that followed the last line.
    pub(super) fn into_parts(self) -> (UnixStream, Bytes) {
        (self.stream, self.buffer.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(bytes: &[u8]) -> Lines {
        let (mut caller, stream) = UnixStream::pair().unwrap();
        let bytes = bytes.to_vec();
        tokio::spawn(async move { caller.write_all(&bytes).await });
        Lines::new(stream)
    }

    #[tokio::test]
    async fn lines_are_read_one_by_one_and_the_rest_is_kept() {
        let mut lines = said(b"one\n\ntwo\nthree").await;
        for line in ["one", "", "two"] {
            assert_eq!(lines.next().await.unwrap().unwrap(), line);
        }
        assert!(lines.next().await.unwrap().is_none(), "a line without its end does not count");
        assert_eq!(lines.into_parts().1, "three");
    }

    #[tokio::test]
    async fn a_line_may_reach_the_limit_but_not_exceed_it() {
        let line = vec![b'x'; MAX_LINE];
        let mut lines = said(&[&line[..], b"\n"].concat()).await;
        assert_eq!(lines.next().await.unwrap().unwrap(), line);
        let mut lines = said(&[&line[..], b"x\n"].concat()).await;
        assert!(matches!(lines.next().await, Err(LineError::TooLong)));
        let mut lines = said(&[&line[..], b"xxxx"].concat()).await;
        assert!(matches!(lines.next().await, Err(LineError::TooLong)), "its end is not awaited");
    }
}
