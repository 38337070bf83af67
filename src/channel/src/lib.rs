//! One forwarded connection between host and guest: endpoints, transports, and the protocol on them.
//!
//! The protocol is docs/protocol.md. Without features this crate knows the protocol alone, does no I/O, and is
//! what the guest's relay builds on. The feature `tokio` adds the host's side: [`dial()`] gives a [`Channel`].

pub mod errno;
pub mod frame;
pub mod link;
pub mod open;
pub mod preamble;
pub mod token;

#[cfg(feature = "tokio")]
mod channel;
#[cfg(feature = "tokio")]
mod datagrams;
#[cfg(feature = "tokio")]
mod descriptor;
#[cfg(feature = "tokio")]
mod dial;
#[cfg(feature = "tokio")]
mod driver;
#[cfg(feature = "tokio")]
mod endpoint;
#[cfg(feature = "tokio")]
mod permit;
#[cfg(feature = "tokio")]
mod relay_address;

pub use link::Link;
pub use open::{Network, Open, Opened};
pub use token::Token;

#[cfg(feature = "tokio")]
pub use crate::{
    channel::Channel,
    datagrams::Datagrams,
    dial::{OpenError, OpenErrorKind, Ports, dial, dial_datagrams, ports},
    endpoint::{Endpoint, EndpointError},
    relay_address::RelayAddress,
};
