//! Errors: what a peer can do wrong, and what a caller can.

/// The peer broke the protocol and the session cannot continue. It is always the peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A frame that belongs to a stream has stream id 0.
    #[error("a {frame} frame has stream id 0")]
    StreamZero {
        /// The kind of frame.
        frame: &'static str,
    },
    /// A frame announces a length that its type cannot have.
    #[error("a {frame} frame has an invalid length of {len} bytes")]
    BadLength {
        /// The kind of frame.
        frame: &'static str,
        /// The length that it announced.
        len: u32,
    },
    /// A header block is too large, compressed or decompressed, or has too many headers.
    #[error("a header block exceeds the limit of {limit} {unit}")]
    HeaderBlockTooLarge {
        /// The limit.
        limit: usize,
        /// What the limit counts.
        unit: &'static str,
    },
    /// A header block cannot be decompressed or parsed. All streams share one compression state, so nothing after it
    /// can be read either.
    #[error("a header block is corrupt: {0}")]
    HeaderBlock(&'static str),
}

impl Error {
    /// Whether to send a GOAWAY before closing the connection. Kubernetes' own server sends one for a stream id of 0,
    /// and otherwise closes without a word.
    pub fn says_goaway(&self) -> bool {
        matches!(self, Self::StreamZero { .. })
    }
}

/// The caller used a stream in a state that does not allow it: it was never opened, has not been answered yet, or has
/// ended. Often it is only that the peer reset it a moment before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stream {0} is not open for sending")]
pub struct StreamClosed(pub u32);
