//! Frames as they stand on the wire, without any idea of what may come.

use std::collections::BTreeMap;

/// One frame of the server's. Neighbouring data frames of a stream are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Reply,
    Data(Vec<u8>),
    Fin,
    Reset(u32),
    Ping(u32),
    GoAway,
}

/// What came, stream by stream; frames of the whole session under 0.
pub type Heard = BTreeMap<u32, Vec<Frame>>;

/// Adds a frame to what came.
pub fn note(heard: &mut Heard, id: u32, frame: Frame) {
    let stream = heard.entry(id).or_default();
    match (stream.last_mut(), frame) {
        (Some(Frame::Data(all)), Frame::Data(more)) => all.extend(more),
        (_, frame) => stream.push(frame),
    }
}

/// Takes all whole frames off the front of `bytes`.
pub fn take_frames(bytes: &mut Vec<u8>, heard: &mut Heard) {
    while let Some(header) = bytes.first_chunk::<8>() {
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        if bytes.len() < 8 + len {
            return;
        }
        let frame: Vec<u8> = bytes.drain(..8 + len).collect();
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        match (word(0), frame[4]) {
            (id, flags) if id >> 31 == 0 => {
                if len > 0 {
                    note(heard, id, Frame::Data(frame[8..].to_vec()));
                }
                if flags & 1 != 0 {
                    note(heard, id, Frame::Fin);
                }
            }
            (0x8003_0002, 0) => note(heard, word(8), Frame::Reply),
            (0x8003_0003, 0) => note(heard, word(8), Frame::Reset(word(12))),
            (0x8003_0006, 0) => note(heard, 0, Frame::Ping(word(8))),
            (0x8003_0007, 0) => note(heard, 0, Frame::GoAway),
            other => panic!("the server sent a frame {other:x?}"),
        }
    }
}
