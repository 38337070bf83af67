//! Tokens: who may open one session of which sandbox.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::channels::Encoding;

/// Random bytes of a token: 128 bits can't be guessed within a token's life.
const TOKEN_BYTES: usize = 16;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) sandbox: Arc<str>,
    /// Ports of the CRI request: those of a channel WebSocket, empty for SPDY.
    pub(crate) ports: Arc<[u16]>,
}

/// Why no token can be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too many tokens are waiting to be used; gRPC's ResourceExhausted.
    #[error("maximum number of in-flight requests exceeded")]
    Full,
    /// A port is not one. gRPC's InvalidArgument.
    #[error("port {0} is not in the range from 1 to 65535")]
    BadPort(i32),
    /// More ports than a WebSocket session has channels for. gRPC's InvalidArgument.
    #[error("{0} ports are more than the {max} that one request may name", max = MAX_PORTS)]
    TooManyPorts(usize),
    /// The server drains: it takes no new sessions. gRPC's Unavailable.
    #[error("this server is shutting down; try again when it is back")]
    ShuttingDown,
    /// The machine gives no random bytes.
    #[error("the system's random source failed: {0}")]
    NoRandomness(String),
}

/// Ports that one request may name.
const MAX_PORTS: usize = Encoding::Binary.max_ports();

/// All tokens that have not been used. A token is used once.
///
/// They are looked up by hash with a secret key, so the time a lookup takes tells nothing of other tokens.
pub(crate) struct RequestCache {
    capacity: usize,
    ttl: Duration,
    inner: Mutex<Inner>,
}

/// Invariant: `order` names every token in `grants`, oldest first; tokens that were used may linger in `order`
/// until they expire.
#[derive(Default)]
struct Inner {
    grants: HashMap<String, Grant>,
    order: VecDeque<(Instant, String)>,
}

impl RequestCache {
    pub(crate) fn new(capacity: usize, ttl: Duration) -> Self {
        Self { capacity, ttl, inner: Mutex::default() }
    }

    /// Makes a token.
    pub(crate) fn insert(&self, sandbox: &str, ports: &[i32]) -> Result<String, TokenError> {
        let grant = Grant { sandbox: sandbox.into(), ports: check_ports(ports)? };
        let token = random_token()?;
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.expire(now, self.ttl);
        if inner.grants.len() >= self.capacity {
            return Err(TokenError::Full);
        }
        if inner.order.len() >= 2 * self.capacity {
            let Inner { grants, order } = &mut *inner;
            order.retain(|(_, token)| grants.contains_key(token));
        }
        inner.grants.insert(token.clone(), grant);
        inner.order.push_back((now, token.clone()));
        Ok(token)
    }

    /// What a token stands for, if it is good; it stays good.
    pub(crate) fn peek(&self, token: &str) -> Option<Grant> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.expire(Instant::now(), self.ttl);
        inner.grants.get(token).cloned()
    }

    /// Uses a token up. False if somebody else was faster.
    pub(crate) fn consume(&self, token: &str) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.grants.remove(token).is_some()
    }
}

impl Inner {
    fn expire(&mut self, now: Instant, ttl: Duration) {
        while let Some((made, token)) = self.order.front() {
            if now.saturating_duration_since(*made) < ttl && self.grants.contains_key(token) {
                return;
            }
            self.grants.remove(token);
            self.order.pop_front();
        }
    }
}

fn check_ports(ports: &[i32]) -> Result<Arc<[u16]>, TokenError> {
    if ports.len() > MAX_PORTS {
        return Err(TokenError::TooManyPorts(ports.len()));
    }
    let check = |port: &i32| u16::try_from(*port).ok().filter(|p| *p != 0).ok_or(TokenError::BadPort(*port));
    ports.iter().map(check).collect()
}

fn random_token() -> Result<String, TokenError> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| TokenError::NoRandomness(e.to_string()))?;
    let mut token = String::with_capacity(2 * TOKEN_BYTES);
    for byte in bytes {
        let _ = write!(token, "{byte:02x}"); // writing to a String can't fail
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> RequestCache {
        RequestCache::new(3, Duration::from_secs(60))
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once() {
        let cache = cache();
        let token = cache.insert("s1", &[80, 443]).unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(cache.peek(&token), Some(Grant { sandbox: "s1".into(), ports: [80, 443].into() }));
        assert!(cache.consume(&token));
        assert!(!cache.consume(&token));
        assert_eq!(cache.peek(&token), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_expires() {
        let cache = cache();
        let token = cache.insert("s1", &[]).unwrap();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(cache.peek(&token).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.peek(&token).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_refuses_until_one_is_used_or_expires() {
        let cache = cache();
        let tokens: Vec<_> = (0..3).map(|_| cache.insert("s", &[]).unwrap()).collect();
        assert_eq!(cache.insert("s", &[]), Err(TokenError::Full));
        assert!(cache.consume(&tokens[1]));
        cache.insert("s", &[]).unwrap();
        assert_eq!(cache.insert("s", &[]), Err(TokenError::Full));
        tokio::time::advance(Duration::from_secs(60)).await;
        cache.insert("s", &[]).unwrap();
    }

    #[test]
    fn ports_are_checked() {
        let cache = cache();
        for port in [0, -1, 65_536] {
            assert_eq!(cache.insert("s", &[80, port]), Err(TokenError::BadPort(port)));
        }
        assert_eq!(cache.insert("s", &[80; 65]), Err(TokenError::TooManyPorts(65)));
        cache.insert("s", &[80; 64]).unwrap();
    }
}
