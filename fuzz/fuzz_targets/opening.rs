//! The first bytes from either side of a channel, whole and in pieces: no panic, the same message or the same refusal,
//! and bounded reading.
//!
//! Input: one byte for the length of the pieces and the side, then the bytes.

#![no_main]

use std::fmt::Debug;

use gangplank_channel::frame::{HEADER_LEN, MAX_OPENING};
use gangplank_channel::open::{Opening, OpeningError, Opens};
use gangplank_channel::preamble::PREAMBLE_LEN;
use gangplank_channel::{Open, Opened};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [how, said @ ..] = input else { return };
    let piece = usize::from(how >> 1).max(1);
    if how & 1 == 0 { check::<Open>(said, piece) } else { check::<Opened>(said, piece) }
});

fn check<M: Opens + Debug + PartialEq>(said: &[u8], piece: usize) {
    let (whole, taken) = hear::<M>(said, usize::MAX);
    let (pieces, taken_in_pieces) = hear::<M>(said, piece);
    assert_eq!(whole, pieces);
    // Read in pieces, a fault may be detected earlier.
    assert!(taken_in_pieces <= taken && taken <= PREAMBLE_LEN + HEADER_LEN + MAX_OPENING);
}

/// Reads no more than is wanted, as both sides do. Returns the result and how much was read.
fn hear<M: Opens>(said: &[u8], piece: usize) -> (Result<Option<M>, OpeningError>, usize) {
    let (mut opening, mut at) = (Opening::<M>::default(), 0);
    while at < said.len() {
        let wanted = opening.wanted();
        assert!(wanted > 0, "it is incomplete but wants nothing");
        let now = &said[at..said.len().min(at.saturating_add(wanted.min(piece)))];
        at += now.len();
        match opening.handle(now) {
            Ok(None) => {}
            end => return (end, at),
        }
    }
    (Ok(None), at)
}
