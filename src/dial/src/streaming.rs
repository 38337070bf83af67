//! Implements the traits of `gangplank-streaming`, so that its server can forward into pods.

use gangplank_streaming::{Connection, DialError, DialErrorKind};

use crate::{PodConn, PodDialError, PodDialErrorKind};

impl Connection for PodConn {
    fn abort(&mut self) {
        Self::abort(self);
    }
}

impl From<PodDialError> for DialError {
    fn from(error: PodDialError) -> Self {
        let kind = match error.kind {
            PodDialErrorKind::Refused => DialErrorKind::Refused,
            PodDialErrorKind::Unreachable => DialErrorKind::Unreachable,
            PodDialErrorKind::TimedOut => DialErrorKind::TimedOut,
            PodDialErrorKind::Denied => DialErrorKind::Denied,
            PodDialErrorKind::Relay => DialErrorKind::Relay,
            PodDialErrorKind::RelayUnusable => DialErrorKind::RelayUnusable,
            PodDialErrorKind::PodGone => DialErrorKind::SandboxGone,
            PodDialErrorKind::Unsupported => DialErrorKind::Unsupported,
            PodDialErrorKind::Internal => DialErrorKind::Internal,
        };
        Self::new(kind, error.cause)
    }
}
