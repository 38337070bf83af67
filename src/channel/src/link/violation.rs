//! How a peer ends a link before its end: by a RESET, or by breaking the protocol.

use crate::frame::Kind;

/// What the peer said when it reset the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The error, by Linux' numbers; 0 where there is none.
    pub errno: i32,
    /// One sentence, or nothing.
    pub text: String,
}

/// How the peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// No such type.
    #[error("a frame of the unknown type {0}")]
    UnknownFrame(u8),
    /// A length that the type does not allow.
    #[error("a {kind:?} frame of {len} bytes")]
    Length {
        /// The frame's type.
        kind: Kind,
        /// What its header announced.
        len: usize,
    },
    /// A frame that has no place here: OPEN and OPENED after the opening, DATA or a second FIN after the FIN, an
    /// acknowledgement of nothing.
    #[error("a {0:?} frame where it has no place")]
    OutOfPlace(Kind),
    /// DATA beyond the credit given.
    #[error("{0} bytes more than it had credit for")]
    BeyondCredit(u32),
    /// Credit beyond the window.
    #[error("{0} bytes of credit more than the window has")]
    CreditBeyondWindow(u32),
}
