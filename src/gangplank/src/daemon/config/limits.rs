//! `[limits]`: the streaming server's limits, under the same names.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Deserialize;

use super::value::{ByteSize, value};

/// Every field of [`gangplank_streaming::Limits`]; the defaults are the streaming server's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsSection {
    sessions: NonZeroUsize,
    streams: NonZeroUsize,
    #[serde(deserialize_with = "value")]
    session_budget: ByteSize,
    pending_tokens: NonZeroUsize,
    #[serde(deserialize_with = "value")]
    token_ttl: Duration,
    #[serde(deserialize_with = "value")]
    request_head: ByteSize,
    #[serde(deserialize_with = "value")]
    request_head_timeout: Duration,
    #[serde(deserialize_with = "value")]
    dial_timeout: Duration,
    #[serde(deserialize_with = "value")]
    pair_timeout: Duration,
    #[serde(deserialize_with = "value")]
    idle_timeout: Duration,
    #[serde(deserialize_with = "value")]
    silence_timeout: Duration,
    #[serde(deserialize_with = "value")]
    write_stall_timeout: Duration,
    #[serde(deserialize_with = "value")]
    stream_stall_timeout: Duration,
    #[serde(deserialize_with = "value")]
    linger: Duration,
}

impl Default for LimitsSection {
    fn default() -> Self {
        // No default of the streaming server is zero. If one ever is, use the nearest value a key may have.
        let count = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        let limits = gangplank_streaming::Limits::default();
        Self {
            sessions: count(limits.sessions),
            streams: count(limits.streams),
            session_budget: ByteSize(limits.session_budget),
            pending_tokens: count(limits.pending_tokens),
            token_ttl: limits.token_ttl,
            request_head: ByteSize(limits.request_head),
            request_head_timeout: limits.request_head_timeout,
            dial_timeout: limits.dial_timeout,
            pair_timeout: limits.pair_timeout,
            idle_timeout: limits.idle_timeout,
            silence_timeout: limits.silence_timeout,
            write_stall_timeout: limits.write_stall_timeout,
            stream_stall_timeout: limits.stream_stall_timeout,
            linger: limits.linger,
        }
    }
}

impl From<&LimitsSection> for gangplank_streaming::Limits {
    fn from(limits: &LimitsSection) -> Self {
        Self {
            sessions: limits.sessions.get(),
            streams: limits.streams.get(),
            session_budget: limits.session_budget.0,
            pending_tokens: limits.pending_tokens.get(),
            token_ttl: limits.token_ttl,
            request_head: limits.request_head.0,
            request_head_timeout: limits.request_head_timeout,
            dial_timeout: limits.dial_timeout,
            pair_timeout: limits.pair_timeout,
            idle_timeout: limits.idle_timeout,
            silence_timeout: limits.silence_timeout,
            write_stall_timeout: limits.write_stall_timeout,
            stream_stall_timeout: limits.stream_stall_timeout,
            linger: limits.linger,
        }
    }
}
