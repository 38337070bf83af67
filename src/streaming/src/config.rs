//! Settings and limits of the streaming server.

use std::time::Duration;

/// How a failed connection is told to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// How failures are told.
    pub errors: ErrorStyle,
    /// What one client may use.
    pub limits: Limits,
}

/// Every limit of the server. All are enforced, none is a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once, all clients together.
    pub sessions: usize,
    /// Streams of a session at once (a forwarded connection takes two).
    pub streams: usize,
    /// Bytes a session may hold for pods that do not read, all its streams together.
    pub session_budget: usize,
    /// Unused tokens at once.
    pub pending_tokens: usize,
    /// Life of an unused token.
    pub token_ttl: Duration,
    /// Bytes of a request's head.
    pub request_head: usize,
    /// Time for a request's head to arrive.
    pub request_head_timeout: Duration,
    /// Time for a pod's port to answer a dial.
    pub dial_timeout: Duration,
    /// Time for both streams of a forwarded connection to be opened.
    pub pair_timeout: Duration,
    /// Time without any data in a session. Pings do not count.
    pub idle_timeout: Duration,
    /// Time without any frame from a client that has pinged before.
    pub silence_timeout: Duration,
    /// Time in which a client takes not one byte of what waits for it.
    pub write_stall_timeout: Duration,
    /// Time in which one stream may keep its session from reading before it is reset.
    pub stream_stall_timeout: Duration,
    /// Time for a client to end its side after the pod has ended.
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
