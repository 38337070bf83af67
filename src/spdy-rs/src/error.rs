//! What a peer can do wrong.

/// The peer broke the protocol so that the session can't go on. Always the peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A frame that needs a stream carries id 0.
    #[error("a {frame} frame names stream 0")]
    StreamZero {
        /// The kind of frame.
        frame: &'static str,
    },
    /// A frame of fixed size announces another one.
    #[error("a {frame} frame announces {len} bytes")]
    BadLength {
        /// The kind of frame.
        frame: &'static str,
        /// What it announced.
        len: u32,
    },
    /// A header block is larger than allowed, packed or unpacked, or has too many headers.
    #[error("a header block is over the limit of {limit} {unit}")]
    HeaderBlockTooLarge {
        /// The limit that was passed.
        limit: usize,
        /// What it counts.
        unit: &'static str,
    },
    /// A header block does not inflate, or does not parse once it has. The compression state is shared by
    /// all streams, so nothing after it could be read.
    #[error("a header block is corrupt: {0}")]
    HeaderBlock(&'static str),
}

impl Error {
    /// Whether the peer is told by a GOAWAY before the connection is closed; the reference server does so for
    /// stream ids of zero and closes without a word otherwise.
    pub fn says_goaway(&self) -> bool {
        matches!(self, Self::StreamZero { .. })
    }
}

/// The stream is not there for what was asked: never opened, not answered yet, ended or reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stream {0} is not open for this")]
pub struct StreamClosed(pub u32);
