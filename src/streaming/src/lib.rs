//! The CRI streaming server for port-forward, generic over how a port is dialled.
//!
//! An embedder implements [`Dial`]; [`Server`] does the rest: tokens, HTTP upgrades, SPDY/3.1 sessions on plain
//! connections and inside WebSocket, limits. [`Client`] is the other end.
//!
//! ```text
//! request ─► server (token) ─► upgrade ─► session ─┬─► Dial ─► connection
//!                                                  ├─► Dial ─► connection
//!                                                  └─► …
//! ```

mod client;
mod config;
mod dial;
mod request_cache;
mod server;
mod session;
mod stats;
mod tunnel;
mod upgrade;

pub use client::{Client, ClientError, ClientEvent};
pub use config::{Config, ErrorStyle, Limits};
pub use dial::{Connection, Dial, DialError, DialErrorKind, Target};
pub use request_cache::TokenError;
pub use server::{Drained, Server};
pub use stats::Snapshot;
