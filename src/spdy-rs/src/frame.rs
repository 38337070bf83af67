//! Frame headers: the eight bytes that precede every payload.
//!
//! ```text
//! control  1 version(15) type(16)  flags(8) length(24)
//! data     0 stream id(31)         flags(8) length(24)
//! ```
//!
//! Source: SPDY Protocol, Draft 3.1, section 2.2.

/// Bytes of a frame's header.
pub(crate) const HEADER_LEN: usize = 8;

/// The longest payload of a frame: its length field has 24 bits.
pub const MAX_FRAME_LEN: usize = (1 << 24) - 1;

/// Largest stream id.
pub(crate) const MAX_STREAM_ID: u32 = 0x7fff_ffff;

/// Bytes of a stream id in front of a SYN_REPLY's or HEADERS' block.
pub(crate) const ID: usize = 4;

/// Bytes in front of a SYN_STREAM's block: id, associated id, priority, slot.
pub(crate) const SYN_STREAM_FIXED: usize = 10;

/// The sender of this frame sends nothing more on its stream.
pub(crate) const FLAG_FIN: u8 = 0x01;
/// The receiver of this SYN_STREAM may not send on it.
pub(crate) const FLAG_UNIDIRECTIONAL: u8 = 0x02;

/// The version that we send. Peers do not check it, and we do not check theirs.
const VERSION: u16 = 3;

/// Types of control frames.
pub(crate) mod kind {
    pub(crate) const SYN_STREAM: u16 = 1;
    pub(crate) const SYN_REPLY: u16 = 2;
    pub(crate) const RST_STREAM: u16 = 3;
    pub(crate) const PING: u16 = 6;
    pub(crate) const GOAWAY: u16 = 7;
    pub(crate) const HEADERS: u16 = 8;
}

/// Why a stream is reset. Go peers treat all of them alike. Source: SPDY Protocol, Draft 3.1, section 2.6.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Status {
    /// The other side broke a rule, such as that ids only grow.
    ProtocolError = 1,
    /// A frame came for a stream that is not active.
    InvalidStream = 2,
    /// The stream was refused before anything was done for it.
    RefusedStream = 3,
    /// The version is not known.
    UnsupportedVersion = 4,
    /// The stream is no longer wanted.
    Cancel = 5,
    /// Something failed on the side that resets.
    InternalError = 6,
    /// The peer violated flow control, which Kubernetes' peers do not have.
    FlowControlError = 7,
    /// A second SYN_REPLY came for a stream.
    StreamInUse = 8,
    /// Data came for a stream that is half-closed.
    StreamAlreadyClosed = 9,
    /// The frame is too large for the receiver.
    FrameTooLarge = 11,
}

/// A parsed frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameHeader {
    Control { kind: u16, flags: u8, len: u32 },
    Data { id: u32, flags: u8, len: u32 },
}

impl FrameHeader {
    pub(crate) fn parse(bytes: [u8; HEADER_LEN]) -> Self {
        let [a, b, c, d, flags, l0, l1, l2] = bytes;
        let len = u32::from_be_bytes([0, l0, l1, l2]);
        if a & 0x80 != 0 {
            Self::Control { kind: u16::from_be_bytes([c, d]), flags, len }
        } else {
            Self::Data { id: u32::from_be_bytes([a, b, c, d]), flags, len }
        }
    }
}

/// The header of a data frame. `len` must not exceed [`MAX_FRAME_LEN`].
pub(crate) fn data_header(id: u32, len: usize, fin: bool) -> [u8; HEADER_LEN] {
    debug_assert!(len <= MAX_FRAME_LEN && id <= MAX_STREAM_ID);
    let [a, b, c, d] = id.to_be_bytes();
    let [_, l0, l1, l2] = (len as u32).to_be_bytes();
    [a, b, c, d, if fin { FLAG_FIN } else { 0 }, l0, l1, l2]
}

/// The header of a control frame.
pub(crate) fn control_header(kind: u16, flags: u8, len: usize) -> [u8; HEADER_LEN] {
    debug_assert!(len <= MAX_FRAME_LEN);
    let [v0, v1] = (0x8000 | VERSION).to_be_bytes();
    let [k0, k1] = kind.to_be_bytes();
    let [_, l0, l1, l2] = (len as u32).to_be_bytes();
    [v0, v1, k0, k1, flags, l0, l1, l2]
}

/// Appends a control frame whose payload is a few 32-bit words: RST_STREAM, PING or GOAWAY.
pub(crate) fn push_words(out: &mut Vec<u8>, kind: u16, words: &[u32]) {
    out.extend_from_slice(&control_header(kind, 0, 4 * words.len()));
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// The 32-bit word at offset `at`, or 0 if the payload is too short (callers have checked its length).
pub(crate) fn word(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_a_round_trip() {
        assert_eq!(
            FrameHeader::parse(data_header(0x7fff_ffff, MAX_FRAME_LEN, true)),
            FrameHeader::Data { id: 0x7fff_ffff, flags: FLAG_FIN, len: 0x00ff_ffff }
        );
        assert_eq!(
            FrameHeader::parse(control_header(kind::PING, 0, 4)),
            FrameHeader::Control { kind: kind::PING, flags: 0, len: 4 }
        );
    }
}
