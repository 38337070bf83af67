//! The crate as its users see it: bytes in, events and bytes out.

mod common;
mod recorded;
