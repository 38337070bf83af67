//! The crate as its users see it: bytes in, events and bytes out.

// A helper that panics fails its test, as intended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod allocator;
mod common;
mod dependencies;
mod hostile;
mod memory;
mod pair;
mod peer;
mod recorded;
mod reference;
mod rules;
mod script;
