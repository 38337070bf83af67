//! The crate as its users see it: bytes in, events and bytes out.

// A helper that fails, fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod peer;
mod recorded;
mod reference;
mod rules;
