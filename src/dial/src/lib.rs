//! Connects to ports and Unix sockets inside pods: through a relay in the pod's VM, which is reached by vsock, hybrid
//! vsock or a Unix socket, or from the host in an ordinary pod's network namespace.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use gangplank_dial::{Network, PodDialer};
//!
//! let pod = PodDialer::new("hvsock:///run/vm/demo/v.sock:1023".parse()?)?;
//! let stream = pod.dial("", Network::Tcp, "localhost:80").await?;
//! # Ok(()) }
//! ```
//!
//! ```text
//!   PodDialer ── endpoint ─┬─ netns ──────────────────── direct: a socket in that namespace
//!                          ├─ kata ── find its VM ───────┐
//!                          └─ vsock, hvsock, unix ──────┴ channel ── relay in the guest
//! ```
//!
//! With the feature `streaming`, [`PodConn`] is a connection of `gangplank-streaming`'s server, and [`PodDialError`]
//! converts into its error.

#![forbid(unsafe_code)]

mod datagrams;
mod direct;
mod endpoint;
mod error;
mod kata;
mod namespace_sockets;
mod pod_conn;
mod pod_dialer;
mod ports;
mod reach;
mod request;
#[cfg(feature = "streaming")]
mod streaming;

pub use datagrams::{LENGTH, MAX_DATAGRAM};
pub use endpoint::{PodEndpoint, PodEndpointError};
pub use error::{PodDialError, PodDialErrorKind};
pub use gangplank_channel::{Ports, Token, token::TokenError};
pub use gangplank_podnet::{
    AddressError, Destination, ListeningPort, Network, Pattern, PatternError, Rule, RuleError,
};
pub use namespace_sockets::NamespaceSockets;
pub use pod_conn::PodConn;
pub use pod_dialer::PodDialer;
pub use reach::DialTimeouts;
pub use request::Request;

/// The example in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExample;
