//! Arbitrary bytes from a peer, received whole and in pieces: no panic, the same events either way, and no more output
//! than input.
//!
//! Input: one byte for the role, one for the length of the pieces, then the bytes from the peer.

#![no_main]

#[path = "../../src/spdy-rs/tests/spdy/common.rs"]
mod common;

use libfuzzer_sys::fuzz_target;
use spdy_rs::{Config, Connection, Role};

use common::{hear, hear_in_pieces};

fuzz_target!(|input: &[u8]| {
    let [role, piece, said @ ..] = input else { return };
    let (mut whole, mut cut) = (listener(*role), listener(*role));
    let heard = hear(&mut whole, said);
    let lengths = std::iter::repeat(usize::from(*piece).max(1));
    assert_eq!(heard, hear_in_pieces(&mut cut, said, lengths));
    assert_eq!(whole.output(), cut.output());
    assert_eq!((whole.streams(), whole.last_peer_stream()), (cut.streams(), cut.last_peer_stream()));
    assert!(whole.output().len() <= said.len());
    assert!(whole.streams() <= MAX_STREAMS);
});

const MAX_STREAMS: usize = 8;

/// A connection that already has some streams, in states that only its own commands can reach.
fn listener(role: u8) -> Connection {
    let config = Config { max_streams: MAX_STREAMS, ..Config::default() };
    let role = if role & 1 == 0 { Role::Server } else { Role::Client };
    let mut connection = Connection::new(role, config);
    for fin in [false, true, false] {
        connection.open(&[("port", "80")], fin);
    }
    connection.ping();
    connection.clear_output();
    connection
}
