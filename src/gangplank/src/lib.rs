//! The host daemon and its command line. Programs that want a connection into a pod link `gangplank-dial` instead.
//!
//! `daemon` serves; `cli` is the commands, one of which starts the daemon; `rpc` is what the two say to each other.

pub mod cli;

mod daemon;
mod listen;
mod rpc;
mod signals;
mod unix_url;
