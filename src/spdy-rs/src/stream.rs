//! The state of one stream.
//!
//! ```text
//!            SYN_STREAM                SYN_REPLY
//!   (none) ─────────────► unanswered ─────────────► open
//!                              │                      │ FIN from either side
//!                              │ RST_STREAM           ▼
//!                              │               half-closed (local or remote)
//!                              ▼                      │ FIN from the other, or RST_STREAM
//!                           (none) ◄──────────────────┘
//! ```
//!
//! The side that opened a stream may send data and FIN before the answer; the other side may not (Go clients drop what
//! precedes the SYN_REPLY). A stream that is reset, or closed in both directions, is forgotten. Frames that still arrive
//! for it are ignored, since they may have crossed ours.

/// Which side may still send, and whether the stream has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The SYN_REPLY of the side that did not open the stream is still to come.
    pub(crate) unanswered: bool,
    /// We opened it.
    pub(crate) ours: bool,
    /// We have not sent FIN.
    pub(crate) local_open: bool,
    /// The peer has not sent FIN.
    pub(crate) remote_open: bool,
}

impl Stream {
    pub(crate) fn opened_by_us(fin: bool) -> Self {
        Self { unanswered: true, ours: true, local_open: !fin, remote_open: true }
    }

    pub(crate) fn opened_by_peer(fin: bool, unidirectional: bool) -> Self {
        Self { unanswered: true, ours: false, local_open: !unidirectional, remote_open: !fin }
    }

    pub(crate) fn may_send(&self) -> bool {
        self.local_open && (self.ours || !self.unanswered)
    }

    /// Nothing more can happen on it. An unanswered stream is not over, even if it is closed in both directions.
    pub(crate) fn is_over(&self) -> bool {
        !self.unanswered && !self.local_open && !self.remote_open
    }
}
