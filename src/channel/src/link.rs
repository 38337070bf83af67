//! The protocol on an open channel, the same for both ends: what may be sent, what must be sent, what was
//! received, and what breaks the rules. No I/O and no payload in it: payload passes by, this counts it.
//!
//! ```text
//!   sending                                        receiving
//!
//!   Open ── finish() ──► FinDue                    Open ── FIN ──► Ended ── handed_on_end() ──► AckDue
//!                          │ control()                                                            │ control()
//!                          ▼                                                                      ▼
//!                        FinSent ── FIN_ACK ──► Done                                             Done
//!
//!   Both Done: the link is finished and the host closes the transport.
//!   reset(), a RESET from the peer: over. Nothing more is sent; what still comes is ignored.
//! ```
//!
//! Credit counts DATA frames with their headers, and small ones as larger than they are: some multiplexers stop a
//! connection for good once 256 KiB are outstanding one way, and to them a header is a byte like any other; and Linux
//! since 6.12.92 resets a vsock connection in which more than 454 packets wait, whatever their size.

mod parser;
mod violation;

use std::ops::Range;

use crate::frame::{self, HEADER_LEN, Kind, MAX_DATA};
use parser::{Frame, Item, Parser};
pub use violation::{Reset, Violation};

/// The credit of a direction, in bytes of DATA frames: three of the largest. Never more are outstanding.
///
/// At most 256 KiB may be outstanding on a hybrid vsock connection (vhost-device-vsock 0.3.0 stops it for good
/// beyond that), control frames included: at most four CREDITs, FIN, FIN_ACK, PING, PONG and one RESET, 1,080 bytes. Half of
/// it must hold the largest frame, or that frame could wait for ever. Whole frames, so that none is cut to fit.
pub const WINDOW: u32 = 3 * (HEADER_LEN + MAX_DATA) as u32;

/// What a DATA frame takes of the credit at least, so that at most 384 are outstanding and a packet each is not too many:
/// with the default buffer of 256 KiB, Linux resets a vsock connection at packet 455, as it counts 576 bytes for each
/// (`virtio_transport_inc_rx_pkt`; CVE-2026-23086).
const LEAST_CHARGE: u32 = 512;

/// What a DATA frame with so much payload takes of the credit.
pub(crate) const fn charge(len: u32) -> u32 {
    let whole = HEADER_LEN as u32 + len;
    if whole < LEAST_CHARGE { LEAST_CHARGE } else { whole }
}

/// No frame is begun with less credit than this, in bytes: where so little is left, more than half of the window
/// is outstanding and its return is certain, and small frames would cost more than they bring.
const LEAST_CREDIT: u32 = 16 << 10;

/// Credit is returned by a frame of its own once this much has been handed on, in bytes.
const RETURN_AT: u32 = WINDOW / 2;

/// Credit is returned together with DATA, which costs no system call, once this much has been handed on.
const RETURN_WITH_DATA_AT: u32 = WINDOW / 4;

const _: () = assert!(RETURN_AT as usize >= HEADER_LEN + MAX_DATA && LEAST_CREDIT <= WINDOW - RETURN_AT);

/// The most bytes of control frames that can be due at once: CREDIT, and FIN_ACK, FIN, PONG, PING without payload.
pub const MAX_CONTROL: usize = HEADER_LEN + frame::CREDIT_LEN + 4 * HEADER_LEN;

/// One end of an open channel.
///
/// Invariant: `granted + held + consumed == WINDOW`, where `held` is what was received and not handed on.
#[derive(Debug)]
pub struct Link {
    parser: Parser,
    sending: Sending,
    receiving: Receiving,
    /// What the peer still takes, in bytes of DATA frames.
    credit: u32,
    /// Payload of the DATA frame that was begun and must come before any other frame.
    frame_left: u32,
    /// What the peer may still send, in bytes of DATA frames.
    granted: u32,
    /// What was handed on and not yet granted anew.
    consumed: u32,
    /// Each DATA frame is a datagram, which may be empty.
    is_of_datagrams: bool,
    /// The peer waits for PONG; however often it has asked, one is the answer.
    is_pong_due: bool,
    pinging: Pinging,
    over: bool,
    reset: Option<Box<Reset>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    FinDue,
    FinSent,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Open,
    Ended,
    AckDue,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pinging {
    No,
    Due,
    Sent,
}

/// How the next read is best scattered, so that payload lands where it is wanted without being moved: `payload`
/// bytes of room, then `lead` bytes for the header behind them, then the rest of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scatter {
    /// Bytes that are payload for certain; at most the room there is.
    pub payload: usize,
    /// Bytes behind those in which no payload can be; 0 when the room may end before the frame does.
    pub lead: usize,
}

/// The most that [`Scatter::lead`] may be: what is left of a CREDIT, and a header.
pub const MAX_LEAD: usize = 2 * HEADER_LEN;

/// What comes first among some bytes of a link of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Bytes that are no payload.
    pub skip: usize,
    /// Bytes of payload behind those.
    pub payload: usize,
    /// Whether a datagram ends with them.
    pub ends: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// A link on which OPENED has just gone by.
    pub fn new() -> Self {
        Self {
            parser: Parser::default(),
            sending: Sending::Open,
            receiving: Receiving::Open,
            credit: WINDOW,
            frame_left: 0,
            granted: WINDOW,
            consumed: 0,
            is_of_datagrams: false,
            is_pong_due: false,
            pinging: Pinging::No,
            over: false,
            reset: None,
        }
    }

    /// A link of datagrams on which OPENED has just gone by.
    pub fn of_datagrams() -> Self {
        Self { is_of_datagrams: true, ..Self::new() }
    }

    // What is the case.

    /// How many bytes of payload the next DATA frame may have; 0 when none may be begun now.
    pub fn sendable(&self) -> usize {
        let may_begin = !self.over && self.sending == Sending::Open && self.frame_left == 0;
        if !may_begin || self.credit < LEAST_CREDIT {
            return 0;
        }
        (self.credit as usize - HEADER_LEN).min(MAX_DATA)
    }

    /// Whether the next datagram may be sent now, whatever its size. Credit for the largest comes back for certain:
    /// less than half of the window stays with a receiver that has handed everything on.
    pub fn takes_datagram(&self) -> bool {
        self.sendable() == MAX_DATA
    }

    /// Payload that is missing from the DATA frame that was begun. Nothing else may be sent before it.
    pub fn frame_left(&self) -> usize {
        self.frame_left as usize
    }

    /// Whether [`finish`](Self::finish) was called.
    pub fn is_finishing(&self) -> bool {
        self.sending != Sending::Open
    }

    /// Whether the peer has acknowledged our end.
    pub fn is_end_acknowledged(&self) -> bool {
        self.sending == Sending::Done
    }

    /// Whether the peer has sent its end. All its payload has come by then.
    pub fn has_peer_ended(&self) -> bool {
        self.receiving != Receiving::Open
    }

    /// Whether the peer's end waits for [`handed_on_end`](Self::handed_on_end).
    pub fn has_end_to_hand_on(&self) -> bool {
        self.receiving == Receiving::Ended
    }

    /// Whether both directions have ended and both ends are acknowledged.
    pub fn is_finished(&self) -> bool {
        self.sending == Sending::Done && self.receiving == Receiving::Done
    }

    /// Whether either side has reset the connection.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What the peer said with its RESET, if it sent one.
    pub fn peer_reset(&self) -> Option<&Reset> {
        self.reset.as_deref()
    }

    /// Whether [`control`](Self::control) would give frames now.
    pub fn is_control_due(&self) -> bool {
        self.frame_left == 0
            && !self.over
            && (self.receiving == Receiving::AckDue
                || self.sending == Sending::FinDue
                || self.is_pong_due
                || self.pinging == Pinging::Due
                || (self.consumed >= RETURN_AT && self.receiving == Receiving::Open))
    }

    // What came from the peer.

    /// How the next read into `room` bytes is best scattered.
    pub fn scatter(&self, room: usize) -> Scatter {
        let left = self.parser.payload_left();
        if left > room {
            return Scatter { payload: room, lead: 0 };
        }
        Scatter { payload: left, lead: self.parser.lead() }
    }

    /// Takes `len` bytes that were read in the order that [`scatter`](Self::scatter) gave for this room: into
    /// the front of `room`, into `lead`, into the rest of `room`. Leaves the payload among them, in order and
    /// without gaps, at the front of `room`, and gives its length.
    ///
    /// # Errors
    /// The peer's violation. The connection is then to be reset.
    pub fn receive(
        &mut self,
        room: &mut [u8],
        lead: &[u8; MAX_LEAD],
        scatter: Scatter,
        len: usize,
    ) -> Result<usize, Violation> {
        let first = len.min(scatter.payload);
        let in_lead = (len - first).min(scatter.lead);
        let end = len - in_lead;
        let payload = self.unframe(room, 0..first, 0)?;
        self.skim(&lead[..in_lead])?;
        self.unframe(room, first..end, payload)
    }

    /// Moves the payload among `room[raw]` to `room[to..]`, `to <= raw.start`; gives where it ends.
    fn unframe(&mut self, room: &mut [u8], raw: Range<usize>, mut to: usize) -> Result<usize, Violation> {
        let mut at = raw.start;
        while at < raw.end {
            let (skip, payload) = self.advance(&room[at..raw.end])?;
            at += skip;
            if at != to && payload > 0 {
                room.copy_within(at..at + payload, to);
            }
            at += payload;
            to += payload;
        }
        Ok(to)
    }

    /// Takes bytes that are no payload.
    fn skim(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            let (skip, payload) = self.advance(bytes)?;
            bytes = &bytes[skip + payload..];
        }
        Ok(())
    }

    /// Takes bytes up to the end of the first piece of payload among them: how many come before it, and how many
    /// it has.
    fn advance(&mut self, input: &[u8]) -> Result<(usize, usize), Violation> {
        let mut at = 0;
        while at < input.len() {
            if self.over {
                return Ok((input.len(), 0));
            }
            let (used, item) = self.parser.next(&input[at..])?;
            match item {
                Item::Payload => return Ok((at, used)),
                Item::Frame(frame) => self.apply(frame)?,
                Item::Part => {}
            }
            at += used;
        }
        Ok((at, 0))
    }

    /// Takes bytes from the peer, up to the end of the first piece of payload among them.
    ///
    /// # Errors
    /// The peer's violation. The connection is then to be reset.
    pub fn receive_datagram(&mut self, input: &[u8]) -> Result<Piece, Violation> {
        let mut skip = 0;
        while skip < input.len() && !self.over {
            let (used, item) = self.parser.next(&input[skip..])?;
            match item {
                Item::Payload => {
                    return Ok(Piece { skip, payload: used, ends: self.parser.payload_left() == 0 });
                }
                Item::Frame(frame) => {
                    skip += used;
                    let is_empty = frame == Frame::Data(0);
                    self.apply(frame)?;
                    if is_empty {
                        return Ok(Piece { skip, payload: 0, ends: true });
                    }
                }
                Item::Part => skip += used,
            }
        }
        Ok(Piece { skip: input.len(), payload: 0, ends: false })
    }

    fn apply(&mut self, frame: Frame) -> Result<(), Violation> {
        match frame {
            Frame::Data(len) if self.receiving == Receiving::Open => self.apply_data(len)?,
            Frame::Fin if self.receiving == Receiving::Open => self.receiving = Receiving::Ended,
            Frame::FinAck if self.sending == Sending::FinSent => self.sending = Sending::Done,
            Frame::Credit(more) => self.apply_credit(more)?,
            Frame::Ping => self.is_pong_due = true,
            Frame::Pong if self.pinging == Pinging::Sent => self.pinging = Pinging::No,
            Frame::Reset(reset) => {
                self.over = true;
                self.reset = Some(reset);
            }
            Frame::Data(_) => return Err(Violation::OutOfPlace(Kind::Data)),
            Frame::Fin => return Err(Violation::OutOfPlace(Kind::Fin)),
            Frame::FinAck => return Err(Violation::OutOfPlace(Kind::FinAck)),
            Frame::Pong => return Err(Violation::OutOfPlace(Kind::Pong)),
        }
        Ok(())
    }

    /// The payload is charged as soon as it is announced; what is charged beside it is gone at once and can be granted
    /// anew.
    fn apply_data(&mut self, len: u32) -> Result<(), Violation> {
        if len == 0 && !self.is_of_datagrams {
            return Err(Violation::Length { kind: Kind::Data, len: 0 });
        }
        let charge = charge(len);
        let left = self.granted.checked_sub(charge);
        self.granted = left.ok_or(Violation::BeyondCredit(charge.saturating_sub(self.granted)))?;
        self.consumed += charge - len;
        Ok(())
    }

    fn apply_credit(&mut self, more: u32) -> Result<(), Violation> {
        match self.credit.checked_add(more) {
            Some(credit) if credit <= WINDOW => self.credit = credit,
            _ => return Err(Violation::CreditBeyondWindow(more.saturating_sub(WINDOW - self.credit))),
        }
        Ok(())
    }

    // What this side does.

    /// A DATA frame of `len` bytes, at most [`sendable`](Self::sendable), was begun: at least one byte of its
    /// header is on the way.
    pub fn begin(&mut self, len: usize) {
        debug_assert!((len > 0 || self.is_of_datagrams) && len <= self.sendable());
        self.credit = self.credit.saturating_sub(charge(len as u32));
        self.frame_left = len as u32;
    }

    /// So much payload of the frame that was begun is on the way, at most [`frame_left`](Self::frame_left).
    pub fn sent(&mut self, len: usize) {
        debug_assert!(len <= self.frame_left());
        self.frame_left = self.frame_left.saturating_sub(len as u32);
    }

    /// So much of the received payload was handed on.
    pub fn handed_on(&mut self, len: usize) {
        self.consumed += len as u32;
        debug_assert!(self.granted + self.consumed <= WINDOW);
    }

    /// The peer's end was handed on, and all payload before it.
    pub fn handed_on_end(&mut self) {
        if self.receiving == Receiving::Ended {
            self.receiving = Receiving::AckDue;
        }
    }

    /// Ends the sending direction: FIN is due.
    pub fn finish(&mut self) {
        if self.sending == Sending::Open {
            self.sending = Sending::FinDue;
        }
    }

    /// Asks the peer for a sign of life, unless that was asked and not answered.
    pub fn ping(&mut self) {
        if self.pinging == Pinging::No {
            self.pinging = Pinging::Due;
        }
    }

    /// Ends both directions by force. Gives the RESET frame, where one can still be said: not in the middle of a
    /// frame, nor after the end.
    pub fn reset(&mut self, errno: i32, text: &str) -> Option<Vec<u8>> {
        let can_say = !self.over && self.frame_left == 0 && !self.is_finished();
        self.over = true;
        can_say.then(|| frame::reset(errno, text))
    }

    // What must be sent.

    /// The control frames that are due. They count as sent. `with_data` says that they go out together with a
    /// DATA frame, so that credit costs nothing and is returned earlier.
    pub fn control(&mut self, with_data: bool) -> Control {
        let mut control = Control::default();
        if self.over || self.frame_left > 0 {
            return control;
        }
        let return_at = if with_data { RETURN_WITH_DATA_AT } else { RETURN_AT };
        if self.consumed >= return_at && self.receiving == Receiving::Open {
            control.push(frame::header(Kind::Credit, frame::CREDIT_LEN));
            control.push(self.consumed.to_be_bytes());
            self.granted += self.consumed;
            self.consumed = 0;
        }
        if self.receiving == Receiving::AckDue {
            control.push(frame::header(Kind::FinAck, 0));
            self.receiving = Receiving::Done;
        }
        if self.sending == Sending::FinDue {
            control.push(frame::header(Kind::Fin, 0));
            self.sending = Sending::FinSent;
        }
        if std::mem::take(&mut self.is_pong_due) {
            control.push(frame::header(Kind::Pong, 0));
        }
        if self.pinging == Pinging::Due {
            control.push(frame::header(Kind::Ping, 0));
            self.pinging = Pinging::Sent;
        }
        control
    }
}

/// Control frames that are to be sent, none or more; dereferences to their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Control {
    bytes: [u8; MAX_CONTROL],
    len: usize,
}

impl Control {
    fn push(&mut self, word: [u8; HEADER_LEN]) {
        self.bytes[self.len..self.len + HEADER_LEN].copy_from_slice(&word);
        self.len += HEADER_LEN;
    }
}

impl std::ops::Deref for Control {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod datagram_tests;
#[cfg(test)]
mod tests;
