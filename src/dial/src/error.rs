//! Why a dial failed.

use std::fmt;

/// A dial that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
#[non_exhaustive]
pub struct PodDialError {
    /// What kind of failure it is.
    pub kind: PodDialErrorKind,
    /// One sentence: what was tried, where, and what came of it. It includes the system's error, if any.
    pub cause: String,
}

/// Kinds of failed dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PodDialErrorKind {
    /// Nothing listens at the address.
    Refused,
    /// There is no route to the address, or the network is down.
    Unreachable,
    /// There was no answer within the limit.
    TimedOut,
    /// A rule, the token check or the system forbids it.
    Denied,
    /// The relay was not reached this time; the next dial may work.
    Relay,
    /// The relay cannot be used at all: it is missing, speaks another version or has another token.
    RelayUnusable,
    /// The pod is gone.
    PodGone,
    /// The request is malformed, or the pod does not support its network or container.
    Unsupported,
    /// A fault of this program or machine, such as too few descriptors.
    Internal,
}

impl PodDialErrorKind {
    /// A short, stable name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Denied => "denied",
            Self::Relay => "relay",
            Self::RelayUnusable => "relay_unusable",
            Self::PodGone => "sandbox_gone",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for PodDialErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PodDialError {
    /// An error of this kind, with its sentence.
    pub fn new(kind: PodDialErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into() }
    }
}

impl From<gangplank_channel::OpenError> for PodDialError {
    fn from(error: gangplank_channel::OpenError) -> Self {
        use gangplank_channel::OpenErrorKind as Channel;
        let kind = match error.kind {
            Channel::Refused => PodDialErrorKind::Refused,
            Channel::Unreachable => PodDialErrorKind::Unreachable,
            Channel::TimedOut => PodDialErrorKind::TimedOut,
            Channel::Denied => PodDialErrorKind::Denied,
            Channel::RelayNotReady | Channel::Busy => PodDialErrorKind::Relay,
            Channel::RelayUnusable => PodDialErrorKind::RelayUnusable,
            Channel::BadEndpoint => PodDialErrorKind::Unsupported,
            _ => PodDialErrorKind::Internal,
        };
        Self::new(kind, error.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_channel_keep_their_kind_and_sentence() {
        let of = |kind| PodDialError::from(gangplank_channel::OpenError::new(kind, "a sentence"));
        assert_eq!(of(gangplank_channel::OpenErrorKind::Refused).kind, PodDialErrorKind::Refused);
        assert_eq!(of(gangplank_channel::OpenErrorKind::RelayNotReady).kind, PodDialErrorKind::Relay);
        assert_eq!(of(gangplank_channel::OpenErrorKind::RelayUnusable).kind, PodDialErrorKind::RelayUnusable);
        assert_eq!(of(gangplank_channel::OpenErrorKind::BadEndpoint).cause, "a sentence");
    }
}
