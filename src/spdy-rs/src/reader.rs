//! Cuts incoming bytes into frames, however the bytes were split on the way.
//!
//! ```text
//!   header ─┬─ control we read ─► payload ── complete ──► header
//!           ├─ data ────────────► data ───── all of it ─► header      (pieces are passed on as they come)
//!           └─ anything else ───► skip ───── all of it ─► header
//! ```
//!
//! Only a header or a control frame that arrives in parts is copied; data never is. Invariant: `partial` is empty
//! whenever a frame lies whole in the input.

use crate::error::Error;
use crate::frame::{FLAG_FIN, FrameHeader, HEADER_LEN, ID, SYN_STREAM_FIXED, kind};

/// A control frame, or a piece of a data frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'r, 'a> {
    /// A whole control frame of a type that we handle.
    Control { kind: u16, flags: u8, payload: &'r [u8] },
    /// Payload of a data frame. `fin` is set on the last piece, if the frame has the flag.
    Data { id: u32, payload: &'a [u8], fin: bool },
}

/// Capacity that `partial` keeps: ordinary control frames take some 70 bytes.
const KEPT_PARTIAL: usize = 128;

#[derive(Debug)]
enum State {
    Header,
    Payload { kind: u16, flags: u8, len: usize },
    Data { id: u32, fin: bool, left: usize },
    Skip { left: usize },
}

#[derive(Debug)]
pub(crate) struct Reader {
    state: State,
    /// The first part of a header or of a control frame's payload.
    partial: Vec<u8>,
    /// `partial` has been lent to the caller and must be cleared before it is used again.
    spent: bool,
    /// The longest packed header block that is accepted.
    max_block: usize,
}

impl Reader {
    pub(crate) fn new(max_block: usize) -> Self {
        Self { state: State::Header, partial: Vec::new(), spent: false, max_block }
    }

    /// Consumes input up to the next piece. Returns `None` when the input is used up.
    pub(crate) fn next<'r, 'a: 'r>(
        &'r mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Piece<'r, 'a>>, Error> {
        if std::mem::take(&mut self.spent) {
            self.partial.clear();
            self.partial.shrink_to(KEPT_PARTIAL);
        }
        loop {
            match self.state {
                State::Header => {
                    let Some(header) = take_array(&mut self.partial, input) else { return Ok(None) };
                    self.begin(FrameHeader::parse(header))?;
                    // No payload will come that could carry the FIN, so it is passed on by itself.
                    if let State::Data { id, fin: true, left: 0 } = self.state {
                        self.state = State::Header;
                        return Ok(Some(Piece::Data { id, payload: &[], fin: true }));
                    }
                }
                State::Skip { left } => match skip(input, left) {
                    0 => self.state = State::Header,
                    left => {
                        self.state = State::Skip { left };
                        return Ok(None);
                    }
                },
                State::Data { left: 0, .. } => self.state = State::Header,
                State::Data { id, fin, left } => return Ok(self.data(id, fin, left, input)),
                State::Payload { kind, flags, len } => {
                    if !self.gather(len, input) {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    // The usual case borrows from the input; `partial` is only for frames that a read cut.
                    let payload = if self.partial.is_empty() {
                        take(input, len)
                    } else {
                        self.spent = true;
                        &self.partial[..]
                    };
                    return Ok(Some(Piece::Control { kind, flags, payload }));
                }
            }
        }
    }

    fn data<'a>(
        &mut self,
        id: u32,
        fin: bool,
        left: usize,
        input: &mut &'a [u8],
    ) -> Option<Piece<'static, 'a>> {
        if input.is_empty() {
            return None;
        }
        let payload = take(input, left.min(input.len()));
        let left = left - payload.len();
        self.state = State::Data { id, fin, left };
        Some(Piece::Data { id, payload, fin: fin && left == 0 })
    }

    /// Whether a payload of `len` bytes is complete: in the input, or gathered in `partial`.
    fn gather(&mut self, len: usize, input: &mut &[u8]) -> bool {
        if self.partial.is_empty() && input.len() >= len {
            return true;
        }
        // Grows with what comes, not with what is announced: an announcement costs nothing.
        let missing = len - self.partial.len();
        self.partial.extend_from_slice(take(input, missing.min(input.len())));
        self.partial.len() == len
    }

    fn begin(&mut self, header: FrameHeader) -> Result<(), Error> {
        self.state = match header {
            FrameHeader::Data { id: 0, .. } => return Err(Error::StreamZero { frame: "DATA" }),
            FrameHeader::Data { id, flags, len } => {
                State::Data { id, fin: flags & FLAG_FIN != 0, left: len as usize }
            }
            FrameHeader::Control { kind, flags, len } => self.begin_control(kind, flags, len)?,
        };
        Ok(())
    }

    /// Lengths are checked as soon as they are announced. Frames of any other type, known (SETTINGS) or not, are skipped.
    fn begin_control(&self, kind: u16, flags: u8, len: u32) -> Result<State, Error> {
        let length = len as usize;
        match kind {
            kind::SYN_STREAM => self.check_block("SYN_STREAM", SYN_STREAM_FIXED, len)?,
            kind::SYN_REPLY => self.check_block("SYN_REPLY", ID, len)?,
            kind::HEADERS => self.check_block("HEADERS", ID, len)?,
            kind::RST_STREAM if length != 8 => return Err(Error::BadLength { frame: "RST_STREAM", len }),
            kind::PING if length != 4 => return Err(Error::BadLength { frame: "PING", len }),
            kind::GOAWAY if length != 8 => return Err(Error::BadLength { frame: "GOAWAY", len }),
            kind::RST_STREAM | kind::PING | kind::GOAWAY => {}
            _ => return Ok(State::Skip { left: length }),
        }
        Ok(State::Payload { kind, flags, len: length })
    }

    /// Checks the length of a frame that consists of `fixed` bytes and a header block.
    fn check_block(&self, frame: &'static str, fixed: usize, len: u32) -> Result<(), Error> {
        match (len as usize).checked_sub(fixed) {
            None => Err(Error::BadLength { frame, len }),
            Some(block) if block > self.max_block => {
                Err(Error::HeaderBlockTooLarge { limit: self.max_block, unit: "compressed bytes" })
            }
            Some(_) => Ok(()),
        }
    }
}

fn take<'a>(input: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(n);
    *input = rest;
    taken
}

/// Drops up to `left` bytes of the input. Returns how many are still to be dropped.
fn skip(input: &mut &[u8], left: usize) -> usize {
    left - take(input, left.min(input.len())).len()
}

/// The next frame header, from the input or completed in `partial`.
fn take_array(partial: &mut Vec<u8>, input: &mut &[u8]) -> Option<[u8; HEADER_LEN]> {
    if partial.is_empty()
        && let Some((header, rest)) = input.split_first_chunk()
    {
        *input = rest;
        return Some(*header);
    }
    let missing = HEADER_LEN - partial.len();
    partial.extend_from_slice(take(input, missing.min(input.len())));
    let header = partial.first_chunk().copied()?;
    partial.clear();
    Some(header)
}
