//! Links that carry datagrams: each DATA frame is one, and may be empty.

use super::*;
use crate::frame::header;

fn receive(link: &mut Link, wire: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (mut all, mut datagram) = (Vec::new(), Vec::new());
    for mut bytes in wire.chunks(size) {
        while !bytes.is_empty() {
            let piece = link.receive_datagram(bytes).unwrap();
            datagram.extend_from_slice(&bytes[piece.skip..piece.skip + piece.payload]);
            bytes = &bytes[piece.skip + piece.payload..];
            if piece.ends {
                link.handed_on(datagram.len());
                all.push(std::mem::take(&mut datagram));
            }
        }
    }
    all
}

#[test]
fn bounds_are_kept_however_the_bytes_come() {
    let sent = [&b"one"[..], b"", b"", b"three", &[7; 9_000], b""];
    let mut wire = Vec::new();
    for datagram in sent {
        wire.extend_from_slice(&header(Kind::Data, datagram.len()));
        wire.extend_from_slice(datagram);
    }
    wire.extend_from_slice(&header(Kind::Fin, 0));
    for size in [1, 2, 3, 5, 4_096, wire.len()] {
        let mut link = Link::of_datagrams();
        assert_eq!(receive(&mut link, &wire, size), sent, "in pieces of {size}");
        assert!(link.has_peer_ended());
    }
}

#[test]
fn a_stream_has_no_empty_data() {
    let empty = header(Kind::Data, 0);
    let violation = Link::new().receive_datagram(&empty).unwrap_err();
    assert_eq!(violation, Violation::Length { kind: Kind::Data, len: 0 });
}

#[test]
fn credit_for_the_largest_comes_back() {
    let (mut ours, mut theirs) = (Link::of_datagrams(), Link::of_datagrams());
    for len in [MAX_DATA, 0, 1, MAX_DATA, 60_000, 30_000, MAX_DATA, MAX_DATA, 0] {
        assert!(ours.takes_datagram());
        ours.begin(len);
        ours.sent(len);
        let wire = [&header(Kind::Data, len)[..], &vec![0; len]].concat();
        assert_eq!(receive(&mut theirs, &wire, wire.len()).len(), 1);
        let control = theirs.control(false);
        ours.receive_datagram(&control).unwrap();
    }
}
