//! The CRI streaming server for port-forward, generic over how a port is dialled.
//!
//! An embedder implements [`Dial`]; [`Server`] does the rest: tokens, HTTP upgrades, SPDY/3.1 and WebSocket
//! sessions, limits.

mod config;
mod dial;

pub use config::{Config, ErrorStyle, Limits};
pub use dial::{Connection, Dial, DialError, DialErrorKind, Target};
