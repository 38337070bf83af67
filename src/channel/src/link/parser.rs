//! Cuts a stream of bytes into frames. Knows their form, not their order.

use super::violation::{Reset, Violation};
use crate::frame::{self, CREDIT_LEN, ERRNO_LEN, HEADER_LEN, Kind};

/// Where in the stream the next byte is.
#[derive(Debug)]
pub(super) enum Parser {
    /// In a header, of which `have < HEADER_LEN` bytes are known.
    Header { bytes: [u8; HEADER_LEN], have: usize },
    /// In the payload of DATA, of which `left > 0` bytes are missing.
    Payload { left: usize },
    /// In the payload of CREDIT, of which `have < CREDIT_LEN` bytes are known.
    Credit { bytes: [u8; CREDIT_LEN], have: usize },
    /// In the payload of RESET, which has `len > bytes.len()` bytes.
    Reset { bytes: Vec<u8>, len: usize },
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Payload of DATA, all of them.
    Payload,
    /// The end of a control frame, or of the header of DATA.
    Frame(Frame),
    /// Part of a header or of a control frame.
    Part,
}

/// A frame, without the payload of DATA.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Data(u32),
    Credit(u32),
    Fin,
    FinAck,
    Ping,
    Pong,
    Reset(Box<Reset>),
}

const START: Parser = Parser::Header { bytes: [0; HEADER_LEN], have: 0 };

impl Default for Parser {
    fn default() -> Self {
        START
    }
}

impl Parser {
    /// Bytes of payload that are missing from the current DATA frame.
    pub(super) fn payload_left(&self) -> usize {
        match self {
            Self::Payload { left } => *left,
            _ => 0,
        }
    }

    /// Bytes behind the current frame's payload in which no payload can be, at most `MAX_LEAD`.
    pub(super) fn lead(&self) -> usize {
        match self {
            Self::Header { have, .. } => HEADER_LEN - have,
            Self::Payload { .. } => HEADER_LEN,
            Self::Credit { have, .. } => CREDIT_LEN - have + HEADER_LEN,
            Self::Reset { .. } => HEADER_LEN,
        }
    }

    /// Goes on by so many bytes of payload, at most those that are missing.
    pub(super) fn skip(&mut self, len: usize) {
        debug_assert!(len <= self.payload_left());
        if let Self::Payload { left } = self {
            *left = left.saturating_sub(len);
            if *left == 0 {
                *self = START;
            }
        }
    }

    /// Takes at least one byte of `input`, which is not empty: how many, and what they are.
    pub(super) fn next(&mut self, input: &[u8]) -> Result<(usize, Item), Violation> {
        let used = match self {
            Self::Payload { left } => {
                let used = input.len().min(*left);
                self.skip(used);
                return Ok((used, Item::Payload));
            }
            Self::Header { bytes, have } => collect(bytes, have, input),
            Self::Credit { bytes, have } => collect(bytes, have, input),
            Self::Reset { bytes, len } => {
                let used = input.len().min(*len - bytes.len());
                bytes.extend_from_slice(&input[..used]);
                used
            }
        };
        Ok((used, self.complete()?.map_or(Item::Part, Item::Frame)))
    }

    /// Goes on to what follows when a header or a control frame's payload is whole.
    fn complete(&mut self) -> Result<Option<Frame>, Violation> {
        let (next, frame) = match self {
            Self::Header { bytes, have } if *have == HEADER_LEN => after_header(*bytes)?,
            Self::Credit { bytes, have } if *have == CREDIT_LEN => {
                (START, Some(Frame::Credit(u32::from_be_bytes(*bytes))))
            }
            Self::Reset { bytes, len } if bytes.len() == *len => (START, Some(Frame::Reset(reset(bytes)))),
            _ => return Ok(None),
        };
        *self = next;
        Ok(frame)
    }
}

fn collect<const N: usize>(bytes: &mut [u8; N], have: &mut usize, input: &[u8]) -> usize {
    let used = input.len().min(N - *have);
    bytes[*have..*have + used].copy_from_slice(&input[..used]);
    *have += used;
    used
}

fn after_header(header: [u8; HEADER_LEN]) -> Result<(Parser, Option<Frame>), Violation> {
    let (number, len) = frame::parse_header(header);
    let kind = Kind::from_number(number).ok_or(Violation::UnknownFrame(number))?;
    if !kind.allows(len) {
        return Err(Violation::Length { kind, len });
    }
    Ok(match kind {
        Kind::Data if len == 0 => (START, Some(Frame::Data(0))),
        Kind::Data => (Parser::Payload { left: len }, Some(Frame::Data(len as u32))),
        Kind::Credit => (Parser::Credit { bytes: [0; CREDIT_LEN], have: 0 }, None),
        Kind::Fin => (START, Some(Frame::Fin)),
        Kind::FinAck => (START, Some(Frame::FinAck)),
        Kind::Ping => (START, Some(Frame::Ping)),
        Kind::Pong => (START, Some(Frame::Pong)),
        Kind::Reset => (Parser::Reset { bytes: Vec::with_capacity(len), len }, None),
        Kind::Open | Kind::Opened => return Err(Violation::OutOfPlace(kind)),
    })
}

/// The text is the peer's and only ever shown, so what is no UTF-8 in it is replaced.
fn reset(payload: &[u8]) -> Box<Reset> {
    let (errno, text) = payload.split_first_chunk::<ERRNO_LEN>().unwrap_or((&[0; ERRNO_LEN], &[]));
    Box::new(Reset { errno: i32::from_be_bytes(*errno), text: String::from_utf8_lossy(text).into_owned() })
}
