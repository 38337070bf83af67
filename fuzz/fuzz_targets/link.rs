//! Bytes from a hostile guest (or host) on an open channel, read into buffers of different sizes: no panic, the same
//! payload or the same violation, never more than a window of data held, and bounded answers.
//!
//! Input: one byte for the length of the buffer, one for what this side did before, then the bytes from the peer.

#![no_main]

use libfuzzer_sys::fuzz_target;

use gangplank_channel::Link;
use gangplank_channel::link::{MAX_CONTROL, MAX_LEAD, Violation, WINDOW};

fuzz_target!(|input: &[u8]| {
    let [room, before, said @ ..] = input else { return };
    let (mut wide, mut narrow) = (listener(*before), listener(*before));
    let heard = hear(&mut wide, said, 4096);
    assert_eq!(heard, hear(&mut narrow, said, usize::from(*room).max(1)));
    let Ok(payload) = heard else { return };
    assert!(payload.len() <= WINDOW as usize, "nothing was handed on, so no more than the window is allowed");
    assert_eq!(wide.is_over(), narrow.is_over());
    assert_eq!(wide.has_peer_ended(), narrow.has_peer_ended());
    assert_eq!(wide.sendable(), narrow.sendable());
    assert_eq!(*wide.control(false), *narrow.control(false));
});

/// A link that may already have sent data, sent a PING or ended its direction.
fn listener(before: u8) -> Link {
    let mut link = Link::new();
    if before & 1 != 0 {
        link.begin(1000);
        link.sent(1000);
    }
    if before & 2 != 0 {
        link.ping();
    }
    if before & 4 != 0 {
        link.finish();
    }
    assert!(link.control(false).len() <= MAX_CONTROL);
    link
}

/// Reads as both ends do: scattered into the buffer, the lead, and the rest of the buffer.
fn hear(link: &mut Link, mut said: &[u8], room: usize) -> Result<Vec<u8>, Violation> {
    let mut heard = Vec::new();
    while !said.is_empty() {
        let (mut buffer, mut lead) = (vec![0; room], [0; MAX_LEAD]);
        let scatter = link.scatter(room);
        let (now, later) = said.split_at(said.len().min(room + scatter.lead));
        let (front, rest) = now.split_at(now.len().min(scatter.payload));
        let (middle, back) = rest.split_at(rest.len().min(scatter.lead));
        buffer[..front.len()].copy_from_slice(front);
        lead[..middle.len()].copy_from_slice(middle);
        buffer[front.len()..front.len() + back.len()].copy_from_slice(back);
        let payload = link.receive(&mut buffer, &lead, scatter, now.len())?;
        heard.extend_from_slice(&buffer[..payload]);
        said = later;
    }
    Ok(heard)
}
