//! What an embedder writes: how a port of a sandbox is reached.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where one forwarded connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The full id of the sandbox, as the token was made for it.
    pub sandbox: Arc<str>,
    /// The TCP port inside the pod, 1–65535.
    pub port: u16,
    /// Whose session it is, where that is known: for an embedder's own records.
    pub client: Option<SocketAddr>,
}

/// A connection to a port inside a pod.
///
/// Half-closes are real: `poll_shutdown` ends the direction towards the pod, reading goes on until the
/// pod's own end. `poll_shutdown` is ready once the end has safely reached the pod's side, so that the value
/// may be dropped then. Dropping it earlier ends the connection abruptly where the transport can say so.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the drop that follows an abrupt end (TCP: RST) rather than an orderly one.
    fn abort(&mut self) {}
}

impl Connection for TcpStream {
    fn abort(&mut self) {
        // A failure here only means that the peer sees a FIN instead of a RST.
        let _ = self.set_zero_linger();
    }
}

impl Connection for tokio::net::UnixStream {}
impl Connection for tokio::io::DuplexStream {}

/// Reaches ports inside sandboxes. All that an embedder of the streaming server writes.
pub trait Dial: Send + Sync + 'static {
    /// What a dial gives.
    type Conn: Connection;

    /// Connects to the port. The server drops the future when the client has gone or
    /// [`Limits::dial_timeout`](crate::Limits::dial_timeout) has passed, so it must be safe to cancel.
    ///
    /// # Errors
    ///
    /// A [`DialError`], whose kind decides whether the client loses this connection or its session.
    fn dial(&self, target: Target) -> impl Future<Output = Result<Self::Conn, DialError>> + Send;
}

/// Why a port could not be reached, and how much of the session that concerns.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{cause}")]
pub struct DialError {
    /// Which kind of failure.
    pub kind: DialErrorKind,
    /// One sentence: what was tried, where, and what came of it.
    pub cause: String,
}

/// Kinds of failed dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DialErrorKind {
    /// Nothing listens on the port.
    Refused,
    /// No route to the address, or the network is down.
    Unreachable,
    /// No answer within the limit.
    TimedOut,
    /// A policy forbids it.
    Denied,
    /// The connection to the guest failed this once; the next dial may work.
    Relay,
    /// The sandbox is gone: every further dial of the session would fail too.
    SandboxGone,
    /// The guest's relay cannot be used at all (not there, wrong version): further dials would fail too.
    RelayUnusable,
    /// What was asked for is not served there.
    Unsupported,
    /// A fault of this program or machine (descriptors, memory).
    Internal,
}

impl DialErrorKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::Unreachable,
        Self::TimedOut,
        Self::Denied,
        Self::Relay,
        Self::SandboxGone,
        Self::RelayUnusable,
        Self::Unsupported,
        Self::Internal,
    ];

    /// Whether the whole session is useless, so that its user must be told and let go.
    pub fn ends_session(self) -> bool {
        matches!(self, Self::SandboxGone | Self::RelayUnusable)
    }

    /// A short stable name, for logs and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Denied => "denied",
            Self::Relay => "relay",
            Self::SandboxGone => "sandbox_gone",
            Self::RelayUnusable => "relay_unusable",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for DialErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl DialError {
    /// A failure of this kind with its sentence.
    pub fn new(kind: DialErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, cause: cause.into() }
    }
}
