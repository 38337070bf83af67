//! No input makes a connection panic or use more memory than its bound.

use proptest::prelude::*;

use spdy_rs::{Config, Connection, Error, Role};

use crate::allocator::measure;
use crate::peer::{Talk, control, words};

const CONFIG: Config =
    Config { max_streams: 20, max_packed_block: 1 << 10, max_plain_block: 4 << 10, max_headers: 8 };

/// The most bytes that a connection may hold besides its output: inflate context and window, a partial frame, a block
/// being decompressed, the list of streams.
const MOST: isize = (64 << 10) + 2 * (1 << 10) + 2 * (4 << 10) + 2_048;

/// Well-formed frames that make no sense, and bytes that are not even frames.
#[derive(Debug, Clone)]
enum Nonsense {
    Control { kind: u16, flags: u8, words: Vec<u32> },
    Opens { id: u32, flags: u8, value: String },
    Replies { id: u32, flags: u8 },
    LateHeaders { id: u32, flags: u8 },
    Data { id: u32, flags: u8, payload: Vec<u8> },
    Bytes(Vec<u8>),
}

fn nonsense() -> impl Strategy<Value = Nonsense> {
    let id = || prop_oneof![50 => 1u32..60, 1 => any::<u32>()];
    prop_oneof![
        9 => (prop::sample::select(vec![(3, 2), (6, 1), (7, 2), (4, 3), (9, 2), (5, 0), (10, 1), (77, 9)]), any::<u8>(), id())
            .prop_map(|((kind, len), flags, id)| Nonsense::Control { kind, flags, words: vec![id; len] }),
        1 => (0u16..12, any::<u8>(), prop::collection::vec(id(), 0..4))
            .prop_map(|(kind, flags, words)| Nonsense::Control { kind, flags, words }),
        20 => (id(), 0u8..4, "[a-z]{0,40}").prop_map(|(id, flags, value)| Nonsense::Opens { id, flags, value }),
        3 => (id(), 0u8..2).prop_map(|(id, flags)| Nonsense::Replies { id, flags }),
        3 => (id(), 0u8..2).prop_map(|(id, flags)| Nonsense::LateHeaders { id, flags }),
        20 => (id(), 0u8..2, prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(id, flags, payload)| Nonsense::Data { id, flags, payload }),
        1 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Nonsense::Bytes),
    ]
}

fn speak(all: Vec<Nonsense>) -> Vec<u8> {
    let mut talk = Talk::with_server();
    for one in all {
        match one {
            Nonsense::Control { kind, flags, words: w } => talk.says_control(kind, flags, &words(&w)),
            Nonsense::Opens { id, flags, value } => talk.opens_with(id, flags, &[("a", &value)]),
            Nonsense::Replies { id, flags } => talk.replies(id, flags),
            Nonsense::LateHeaders { id, flags } => talk.sends_headers(id, flags),
            Nonsense::Data { id, flags, payload } => {
                talk.announces_data(id, payload.len(), flags).says_bytes(&payload)
            }
            Nonsense::Bytes(bytes) => talk.says_bytes(&bytes),
        };
    }
    talk.take_said()
}

/// Feeds the bytes in these pieces and checks what holds for every connection at any time.
fn survives(role: Role, bytes: &[u8], cuts: &[usize]) {
    let ((), usage) = measure(|| {
        let mut us = Connection::new(role, CONFIG);
        us.open(&[("a", "b")], false);
        us.clear_output();
        let (mut rest, mut heard) = (bytes, 0);
        for cut in cuts.iter().cycle() {
            let (mut piece, after) = rest.split_at(rest.len().min(*cut));
            (rest, heard) = (after, heard + piece.len());
            let error = exhaust(&mut us, &mut piece, heard);
            if error.is_some() || rest.is_empty() {
                assert_eq!(us.recv(&mut &[0x80][..]).err(), error, "an error is final");
                break;
            }
        }
    });
    // While it doubles, the output takes three times its size.
    assert!(usage.peak <= MOST + 3 * bytes.len() as isize, "{usage:?}");
    assert_eq!(usage.kept, 0);
}

/// Feeds all of the piece, after which the connection has had `heard` bytes in total.
fn exhaust(us: &mut Connection, piece: &mut &[u8], heard: usize) -> Option<Error> {
    loop {
        let result = us.recv(piece);
        assert!(us.streams() <= CONFIG.max_streams);
        assert!(us.output().len() <= heard, "{} bytes for {heard}", us.output().len());
        match result {
            Ok(Some(_)) => {}
            Ok(None) => {
                assert!(piece.is_empty());
                return None;
            }
            Err(error) => return Some(error),
        }
    }
}

proptest! {
    #[test]
    fn bytes_at_random(bytes in prop::collection::vec(any::<u8>(), 0..2_000), server: bool, cut in 1usize..50) {
        survives(if server { Role::Server } else { Role::Client }, &bytes, &[cut]);
    }

    #[test]
    fn frames_at_random(
        frames in prop::collection::vec(nonsense(), 0..80),
        server: bool,
        cuts in prop::collection::vec(1usize..100, 1..20),
    ) {
        survives(if server { Role::Server } else { Role::Client }, &speak(frames), &cuts);
    }

    #[test]
    fn blocks_at_random(bytes in prop::collection::vec(any::<u8>(), 0..1_000), good_deflate: bool) {
        let block = if good_deflate { Talk::with_server().pack(&bytes) } else { bytes };
        let mut frame = words(&[1, 0]);
        frame.extend([0; 2]);
        frame.extend(block);
        survives(Role::Server, &[&control(1, 0, frame.len()), &frame[..]].concat(), &[usize::MAX]);
    }
}
