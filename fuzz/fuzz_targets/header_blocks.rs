//! Arbitrary header blocks, one after another in one session: no panic, the limits hold, and accepted headers can be
//! read.
//!
//! Input: blocks, each preceded by its length in two bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spdy_rs::{Config, Connection, Event, Headers, Role};

const CONFIG: Config =
    Config { max_streams: 4, max_packed_block: 4 << 10, max_plain_block: 16 << 10, max_headers: 16 };

fuzz_target!(|input: &[u8]| {
    let mut server = Connection::new(Role::Server, CONFIG);
    let (mut rest, mut id) = (input, 1u32);
    while let [l0, l1, after @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*l0, *l1])).min(after.len());
        let (block, next) = after.split_at(len);
        rest = next;
        match server.recv(&mut &syn_stream(id, block)[..]) {
            Ok(Some(Event::Opened { headers, .. })) => read(&headers),
            Ok(None) => assert!(server.streams() == CONFIG.max_streams, "the block was refused without a reason"),
            Ok(Some(other)) => panic!("{other:?}"),
            Err(_) => return,
        }
        id += 2;
    }
});

fn syn_stream(id: u32, block: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = (10 + block.len() as u32).to_be_bytes();
    let mut frame = vec![0x80, 3, 0, 1, 0, l0, l1, l2];
    frame.extend(id.to_be_bytes());
    frame.extend([0; 6]);
    frame.extend(block);
    frame
}

fn read(headers: &Headers) {
    let all: Vec<_> = headers.iter().collect();
    assert!(all.len() <= CONFIG.max_headers);
    let bytes: usize = 4 + all.iter().map(|(name, value)| 8 + name.len() + value.len()).sum::<usize>();
    assert!(bytes <= CONFIG.max_plain_block);
    for (name, _) in &all {
        if let Ok(name) = std::str::from_utf8(name) {
            let first = all.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
            let value = first.and_then(|(_, value)| value.split(|b| *b == 0).next());
            assert_eq!(headers.get(name), value);
        }
    }
}
