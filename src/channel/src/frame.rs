//! Frames: `type(1) length(3) payload`, big-endian.

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 4;

/// The longest payload of DATA, in bytes. AF_VSOCK and the hybrid multiplexers move packets of at most 64 KiB,
/// and it is what one read of a socket gives.
pub const MAX_DATA: usize = 65_536;

/// The longest payload of OPEN and OPENED, in bytes: what one peer makes the other hold before it is known.
pub const MAX_OPENING: usize = 4_096;

/// The longest text of a RESET, in bytes.
pub const MAX_RESET_TEXT: usize = 1_024;

/// Bytes of a RESET's errno, which precedes its text.
pub const ERRNO_LEN: usize = 4;

/// Bytes of a CREDIT's payload.
pub const CREDIT_LEN: usize = 4;

/// Types of frames, by their number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The host's first frame.
    Open = 1,
    /// The guest's first frame.
    Opened = 2,
    /// Payload.
    Data = 3,
    /// Leave to send further bytes.
    Credit = 4,
    /// The end of a direction.
    Fin = 5,
    /// All before the FIN, and the end itself, have been handed on.
    FinAck = 6,
    /// The end of both directions, by force.
    Reset = 7,
    /// Asks for PONG, by a side that has not heard anything for long.
    Ping = 8,
    /// The answer to PING, at once.
    Pong = 9,
}

impl Kind {
    /// The type with this number, where there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Opened,
            3 => Self::Data,
            4 => Self::Credit,
            5 => Self::Fin,
            6 => Self::FinAck,
            7 => Self::Reset,
            8 => Self::Ping,
            9 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether a payload of this many bytes is allowed.
    pub fn allows(self, len: usize) -> bool {
        match self {
            Self::Open | Self::Opened => len <= MAX_OPENING,
            // Empty ones are for datagrams alone, which is not known here.
            Self::Data => len <= MAX_DATA,
            Self::Credit => len == CREDIT_LEN,
            Self::Fin | Self::FinAck | Self::Ping | Self::Pong => len == 0,
            Self::Reset => (ERRNO_LEN..=ERRNO_LEN + MAX_RESET_TEXT).contains(&len),
        }
    }
}

/// The header of a frame with `len` bytes of payload, `len < 2^24`.
pub fn header(kind: Kind, len: usize) -> [u8; HEADER_LEN] {
    let [_, a, b, c] = (len as u32).to_be_bytes();
    [kind as u8, a, b, c]
}

/// The type's number and the payload's length that a header announces.
pub fn parse_header(header: [u8; HEADER_LEN]) -> (u8, usize) {
    let [kind, a, b, c] = header;
    (kind, u32::from_be_bytes([0, a, b, c]) as usize)
}

/// A whole RESET frame. A longer text is cut at a character.
pub fn reset(errno: i32, text: &str) -> Vec<u8> {
    let text = cut(text);
    let mut frame = Vec::with_capacity(HEADER_LEN + ERRNO_LEN + text.len());
    frame.extend_from_slice(&header(Kind::Reset, ERRNO_LEN + text.len()));
    frame.extend_from_slice(&errno.to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// The text, or as many of its first characters as fit into [`MAX_RESET_TEXT`] bytes.
pub fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_RESET_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_its_type_and_a_length_of_three_bytes() {
        assert_eq!(header(Kind::Data, MAX_DATA), [3, 1, 0, 0]);
        assert_eq!(parse_header([7, 0x12, 0x34, 0x56]), (7, 0x12_3456));
    }

    #[test]
    fn numbers_and_types_agree() {
        for number in 0..=u8::MAX {
            match Kind::from_number(number) {
                Some(kind) => assert_eq!(kind as u8, number),
                None => assert!(!(1..=9).contains(&number)),
            }
        }
    }

    #[test]
    fn the_text_of_a_reset_is_cut_at_a_character() {
        let frame = reset(104, &"ä".repeat(1_000));
        let (kind, len) = parse_header([frame[0], frame[1], frame[2], frame[3]]);
        assert_eq!((kind, len), (7, ERRNO_LEN + MAX_RESET_TEXT));
        assert!(Kind::Reset.allows(len));
        assert!(std::str::from_utf8(&frame[8..]).is_ok());

        let odd = reset(104, &format!("x{}", "ä".repeat(1_000)));
        assert_eq!(odd.len(), HEADER_LEN + ERRNO_LEN + MAX_RESET_TEXT - 1);
    }
}
