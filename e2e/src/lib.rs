//! Tests with real parts: the daemon, real kubectl and crictl, a real QEMU guest.
//!
//! A test reads: a [`Pod`](pod::Pod) runs somewhere, a [`Daemon`](daemon::Daemon) serves it, a
//! [`Client`](client::Client) forwards its ports, and the test talks to the [`Forward`](client::Forward).
//! If a part is missing or fails, the helpers panic with an explanation and the programs' logs, so the test fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing harness is a failing test"
)]

pub mod bulk;
pub mod client;
pub mod daemon;
pub mod guest;
pub mod library;
pub mod node;
pub mod parts;
pub mod pattern;
pub mod pod;
pub mod ports;
pub mod process;
pub mod services;
pub mod talk;
pub mod terminal;
pub mod tls;
