//! Settings and limits of the streaming server.

use std::time::Duration;

use crate::tls::Tls;

/// How a failed connection is told to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ErrorStyle {
    /// The stream is reset and the session goes on. Text only when the whole session is useless.
    #[default]
    Reset,
    /// Text on the error stream for every failure, as other runtimes do. Go clients since client-go 0.23
    /// then end the whole session.
    Text,
}

/// The server's settings.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// How failures are told. On channel WebSockets text costs nothing else, so they get it in any case.
    pub errors: ErrorStyle,
    /// Whether any web page may open WebSockets. Otherwise a request with an `Origin` that is not the server it
    /// asked is answered 403.
    pub allow_origin: bool,
    /// With TLS, every connection is TLS, with HTTP/1.1 inside. Clients must know the certificate: a kubelet
    /// trusts only the roots of its node, and presents no certificate of its own.
    pub tls: Option<Tls>,
    /// What one client may use.
    pub limits: Limits,
}

/// Every limit of the server. All are enforced, none is a hint. Each says what becomes of who passes it, and its
/// value unless it is set. A session compares its times every quarter of the shortest, and at least every second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once, all clients together. One more is answered 503. 10,000.
    pub sessions: usize,
    /// Streams of a session at once; a forwarded connection takes two. One more is refused alone. 1,024.
    pub streams: usize,
    /// Bytes that a session may hold for pods that do not read, all its streams together; more than 0. While it
    /// is spent, the client's socket is not read. 16 MiB.
    pub session_budget: usize,
    /// Unused tokens at once. One more is [`TokenError::Full`](crate::TokenError::Full). 1,000.
    pub pending_tokens: usize,
    /// Life of an unused token, which is unknown after that. 60 s.
    pub token_ttl: Duration,
    /// Bytes of a request's head, at least 8 KiB. More are answered 431. 16 KiB.
    pub request_head: usize,
    /// Time for a request's head to arrive, from the connection's start or the last answer on, and for a TLS
    /// handshake before that. The connection is closed then. 10 s.
    pub request_head_timeout: Duration,
    /// Time for a pod's port to answer a dial, which has failed then. Go clients give up after 30 s. 10 s.
    pub dial_timeout: Duration,
    /// Time for both streams of a forwarded connection to be opened. The first is closed then. 30 s.
    pub pair_timeout: Duration,
    /// Time without any data in a session, which is ended then. Pings do not count. 4 h.
    pub idle_timeout: Duration,
    /// Time without any frame from a client that has pinged before, whose session is ended then. kubectl pings
    /// every 5 s, or every 10 s through a tunnel. Does not concern channel WebSockets, whose clients ping when they
    /// like. 90 s.
    pub silence_timeout: Duration,
    /// Time in which a client takes not one byte of what waits for it. The session is ended then. 60 s.
    pub write_stall_timeout: Duration,
    /// Time in which one stream may keep its session from reading. It is reset then, and the others go on. 20 s.
    pub stream_stall_timeout: Duration,
    /// Time without data for a client to end its side after the pod has ended, or, where clients can't, for the pod
    /// to take what they sent. The pod's connection is aborted then. 5 s.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            streams: 1_024,
            session_budget: 16 << 20,
            pending_tokens: 1_000,
            token_ttl: Duration::from_secs(60),
            request_head: 16 << 10,
            request_head_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(10),
            pair_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(4 * 3600),
            silence_timeout: Duration::from_secs(90),
            write_stall_timeout: Duration::from_secs(60),
            stream_stall_timeout: Duration::from_secs(20),
            linger: Duration::from_secs(5),
        }
    }
}
