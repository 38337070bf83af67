//! One forwarded connection between host and guest: endpoints, transports, and the protocol on them.
//!
//! The protocol is docs/protocol.md. Without features this crate knows the protocol alone, does no I/O, and is
//! what the guest's relay builds on. The feature `tokio` adds the host's side.

pub mod open;

#[cfg(feature = "tokio")]
mod channel;
#[cfg(feature = "tokio")]
mod dial;
#[cfg(feature = "tokio")]
mod endpoint;

pub use open::{Network, Open, Opened};

#[cfg(feature = "tokio")]
pub use crate::{
    channel::Channel,
    dial::{DialError, DialErrorKind, dial},
    endpoint::{Endpoint, EndpointError},
};
