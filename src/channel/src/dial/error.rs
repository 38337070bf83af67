//! Why a dial failed, in one sentence and one of few kinds.

use std::fmt;

/// Why a channel could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct OpenError {
    /// Which kind of failure.
    pub kind: OpenErrorKind,
    /// One sentence: what was tried, where, the outcome, and where it helps, what to do next.
    pub cause: String,
}

/// Kinds of failed dials, and whose fault each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// The pod: nothing listens at the address.
    Refused,
    /// The pod: no route to the address, or its network is down.
    Unreachable,
    /// The pod: no answer within the limit.
    TimedOut,
    /// Policy: a rule of the relay forbids it.
    Denied,
    /// The guest, this once: its relay was not reached or did not answer. The next dial may work.
    RelayNotReady,
    /// The load: the device or the relay has all the connections that it may have, or too many requests wait for an
    /// answer. A later dial may work.
    Busy,
    /// The guest, for good: the peer is not a relay, or is one of another version. Every further dial would
    /// fail until it is replaced.
    RelayUnusable,
    /// The caller: the endpoint or the request is malformed, or the relay does not support it.
    BadEndpoint,
    /// This machine or the guest's: descriptors, memory, or a fault of ours.
    Internal,
}

impl OpenErrorKind {
    /// A short stable name, for logs and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Denied => "denied",
            Self::RelayNotReady => "relay_not_ready",
            Self::Busy => "busy",
            Self::RelayUnusable => "relay_unusable",
            Self::BadEndpoint => "bad_endpoint",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for OpenErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl OpenError {
    /// A failure of this kind with its sentence.
    pub fn new(kind: OpenErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into() }
    }
}

/// Why one try to reach a relay failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection ended before the relay's preamble, so that nothing was dialled and another try does no harm.
    NotServed(OpenError),
    /// Anything else.
    Final(OpenError),
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Final(error)
    }
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotServed(error) | Failure::Final(error) => error,
        }
    }
}
