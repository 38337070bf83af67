//! How much memory a connection takes, and that a peer cannot make it take more.

use flate2::{Compress, Compression, FlushCompress};

use spdy_rs::{Config, Connection, Event, MAX_FRAME_LEN, Role, Status};

use crate::allocator::measure;
use crate::common::hear;
use crate::peer::{FIN, Talk, control, plain_block, words};

/// A connection before its first header block: mostly the inflate context. After that comes one window.
const FRESH: isize = 64 << 10;

#[test]
fn a_connection_is_small() {
    let (_connection, usage) = measure(|| Connection::new(Role::Server, Config::default()));
    assert!(usage.peak < FRESH, "{usage:?}");
}

#[test]
fn a_forwarded_connection_leaves_nothing_behind() {
    let mut talk = Talk::with_server();
    let mut forward = |first: u32| {
        let headers = [("streamtype", "data"), ("port", "8080"), ("requestid", "0")];
        talk.opens_with(first, 0, &headers).opens_with(first + 2, 0, &headers).finishes(first).heard();
        talk.us.reply(first).unwrap();
        talk.us.reply(first + 2).unwrap();
        talk.sends(first + 2, b"hello").finishes(first + 2).heard();
        talk.us.finish(first + 2).unwrap();
        talk.us.finish(first).unwrap();
        talk.answered();
        assert_eq!(talk.us.streams(), 0);
    };
    forward(1);
    let ((), usage) = measure(|| (1..1_000).for_each(|n| forward(1 + 4 * n)));
    assert!(usage.kept < 1_024, "{usage:?}");
}

#[test]
fn data_frames_allocate_nothing() {
    let mut client = Connection::new(Role::Client, Config::default());
    let mut server = Connection::new(Role::Server, Config::default());
    let id = client.open(&[], false).unwrap();
    hear(&mut server, client.output());
    server.reply(id).unwrap();
    server.clear_output();
    let mut frames = Vec::new();
    for len in [0, 1, 64, 32 << 10, 70_000] {
        frames.extend(client.data_header(id, len, false).unwrap());
        frames.resize(frames.len() + len, 7);
    }
    let (heard, usage) = measure(|| {
        let mut bytes = 0;
        for cut in [frames.len(), 3, 50, 40_000] {
            for mut piece in frames.chunks(cut) {
                while let Some(Event::Data { payload, .. }) = server.recv(&mut piece).unwrap() {
                    bytes += payload.len();
                    server.data_header(id, payload.len(), false).unwrap();
                }
            }
        }
        bytes
    });
    assert_eq!(heard, 4 * (1 + 64 + (32 << 10) + 70_000));
    // A header that a read cuts in two is joined in a buffer, which is allocated once and then kept.
    assert!(usage.allocations <= 1 && usage.kept <= 128, "{usage:?}");
}

#[test]
fn payload_that_is_announced_but_not_sent_costs_nothing() {
    let settings = 4;
    for frame in [
        [0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
        control(settings, 0, MAX_FRAME_LEN),
        control(99, 0, MAX_FRAME_LEN),
    ] {
        let mut talk = Talk::with_server();
        talk.opens(1).heard();
        let ((), usage) = measure(|| {
            for piece in [&frame[..], &[7; 1_000]] {
                let mut piece = piece;
                while talk.us.recv(&mut piece).unwrap().is_some() {}
            }
        });
        assert_eq!((usage.peak, usage.allocations), (0, 0));
    }
}

#[test]
fn a_partial_block_costs_its_length_and_is_freed_afterwards() {
    let config = Config::default();
    let limit = config.max_packed_block;
    let mut us = Connection::new(Role::Server, config);
    let ((), usage) = measure(|| {
        us.recv(&mut &control(1, 0, 10 + limit)[..]).unwrap();
        us.recv(&mut &[7; 100][..]).unwrap();
    });
    assert!(usage.peak < 256, "{usage:?}");
    // A value of 16 KiB that does not compress, cut in the middle.
    let value: String =
        (0..15_000u32).map(|n| char::from(33 + (n.wrapping_mul(2_654_435_761) >> 16) as u8 % 90)).collect();
    let mut talk = Talk::with_server();
    talk.opens_with(1, 0, &[("v", "")]).heard();
    let block = talk.pack(&plain_block(&[("v", &value)]));
    let mut frame = control(1, 0, 10 + block.len()).to_vec();
    frame.extend(words(&[3, 0]));
    frame.extend([0; 2]);
    frame.extend(block);
    let (half, rest) = frame.split_at(frame.len() / 2);
    let ((), usage) = measure(|| {
        assert!(talk.us.recv(&mut &half[..]).unwrap().is_none());
        assert!(talk.us.recv(&mut &rest[..]).unwrap().is_some());
        assert!(talk.us.recv(&mut &[0x80][..]).unwrap().is_none());
    });
    assert!(usage.kept <= 128, "{usage:?}");
    assert!(usage.peak < 64 << 10, "{usage:?}");
}

#[test]
fn a_header_bomb_bursts_within_the_limit() {
    // Some 16 KiB that decompress to 16 MiB.
    let mut deflate = Compress::new(Compression::best(), true);
    let mut block = Vec::with_capacity(64 << 10);
    deflate.compress_vec(&vec![0; 16 << 20], &mut block, FlushCompress::Sync).unwrap();
    let limit = Config::default().max_packed_block;
    assert!(block.len() > limit / 2);
    block.truncate(limit);
    let mut frame = control(1, 0, 10 + block.len()).to_vec();
    frame.extend(words(&[1, 0]));
    frame.extend([0; 2]);
    frame.extend(block);
    let mut us = Connection::new(Role::Server, Config::default());
    let (result, usage) = measure(|| us.recv(&mut &frame[..]).map(|_| ()));
    result.unwrap_err();
    // While a buffer grows, the old one and the new one exist.
    assert!(usage.peak < 128 << 10, "{usage:?}");
    assert!(usage.kept <= FRESH, "{usage:?}");
}

#[test]
fn memory_of_a_burst_is_freed() {
    let mut talk = Talk::with_server();
    talk.opens(1).resets(1, 5).heard();
    let ((), usage) = measure(|| {
        for id in (3..2_000).step_by(2) {
            talk.opens(id).heard();
        }
        for id in (3..2_000).step_by(2) {
            talk.us.reset(id, Status::Cancel);
        }
        talk.us.clear_output();
        assert_eq!(talk.us.streams(), 0);
    });
    assert!(usage.kept < 2_048, "{usage:?}");
}

#[test]
fn output_never_exceeds_the_input() {
    // So a caller bounds unread answers by bounding what it feeds the connection.
    let mut talk = Talk::with(Role::Server, Config { max_streams: 0, ..Config::default() });
    for id in 1..2_000 {
        talk.pings(2 * id + 1).opens(id).opens_with(1, FIN, &[]);
    }
    let said = talk.take_said();
    let (heard, error) = hear(&mut talk.us, &said);
    assert_eq!((heard.len(), error), (1_999, None));
    assert!(talk.us.output().len() <= said.len());
}
