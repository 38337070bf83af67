//! A client and a server, driven by a script of commands and checked end to end: see `script.rs`.
//!
//! Input: three bytes per command.

#![no_main]

#[path = "../../src/spdy-rs/tests/spdy/script.rs"]
mod script;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| script::run(input.as_chunks().0));
