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
//! The opener may send data and FIN while its stream is unanswered; the answerer may not (Go clients drop what
//! precedes the SYN_REPLY). A stream that is closed both ways or reset is forgotten; frames that still come
//! for it are ignored, since they may have crossed ours.

/// Which side may still send, and whether the answer has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The SYN_REPLY is still to come, from whoever did not open the stream.
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

    /// Nothing more can happen on it.
    pub(crate) fn is_over(&self) -> bool {
        !self.unanswered && !self.local_open && !self.remote_open
    }
}
