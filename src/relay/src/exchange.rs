//! The datagrams of an open association: channel ⇄ UDP, each DATA frame one datagram.
//!
//! A datagram that the pod's socket has no room for is dropped, as a network would. The host's end ends both
//! directions, since nothing else does; so does a time without a datagram.

use channel::frame::{self, HEADER_LEN, Kind, MAX_DATA};
use channel::link::{Link, MAX_CONTROL};
use rustix::io::Errno;

use crate::leftover::Leftover;
use crate::moving::{End, ROUNDS};
use crate::side::Side;

/// Room for what comes before the payload of a DATA frame.
const BEFORE: usize = MAX_CONTROL + HEADER_LEN;

/// An open association.
#[derive(Debug)]
pub(crate) struct Exchange {
    link: Link,
    pod: Side,
    /// What has come of a datagram whose end has not; none is allocated while there is none.
    begun: Vec<u8>,
    /// Whether a datagram has passed since that was last asked.
    has_passed: bool,
}

impl Exchange {
    pub(crate) fn new(pod: Side) -> Self {
        Self { link: Link::of_datagrams(), pod, begun: Vec::new(), has_passed: true }
    }

    pub(crate) fn pod(&mut self) -> &mut Side {
        &mut self.pod
    }

    /// Whether a datagram has passed since the last call.
    pub(crate) fn take_passed(&mut self) -> bool {
        std::mem::take(&mut self.has_passed)
    }

    /// Moves what can be moved; whether more could be.
    pub(crate) fn proceed(
        &mut self,
        host: &mut Side,
        to_host: &mut Leftover,
        scratch: &mut [u8],
    ) -> Result<bool, End> {
        to_host.flush(host).map_err(|_| End::HostGone)?;
        let mut more = true;
        for _ in 0..ROUNDS {
            let down = self.move_down(host, scratch)?;
            let up = to_host.is_empty() && self.move_up(host, to_host, scratch)?;
            more = down || up;
            if !more || self.link.is_finished() {
                break;
            }
        }
        if self.link.has_end_to_hand_on() {
            self.link.handed_on_end();
            self.link.finish();
        }
        if to_host.is_empty() && self.link.is_control_due() {
            let control = self.link.control(false);
            to_host.send(host, &control).map_err(|_| End::HostGone)?;
        }
        if self.link.is_finished() && to_host.is_empty() { Err(End::Finished) } else { Ok(more) }
    }

    /// One read of the host, on to the pod; whether there was anything.
    fn move_down(&mut self, host: &mut Side, scratch: &mut [u8]) -> Result<bool, End> {
        let len = match host.read(scratch) {
            Ok(None) => return Ok(false),
            Ok(Some(0)) | Err(_) => return Err(End::HostGone),
            Ok(Some(len)) => len,
        };
        let mut bytes = &scratch[..len];
        while !bytes.is_empty() {
            let piece = self.link.receive_datagram(bytes).map_err(End::Violation)?;
            let (payload, rest) = bytes[piece.skip..].split_at(piece.payload);
            bytes = rest;
            match (piece.ends, self.begun.is_empty()) {
                (true, true) => self.give_pod(payload)?,
                (true, false) => {
                    self.begun.extend_from_slice(payload);
                    let whole = std::mem::take(&mut self.begun);
                    self.give_pod(&whole)?;
                }
                (false, _) => self.begun.extend_from_slice(payload),
            }
        }
        if self.link.is_over() { Err(End::HostGone) } else { Ok(true) }
    }

    fn give_pod(&mut self, datagram: &[u8]) -> Result<(), End> {
        self.has_passed = true;
        self.link.handed_on(datagram.len());
        match self.pod.send_datagram(datagram) {
            Ok(()) | Err(Errno::WOULDBLOCK | Errno::NOBUFS) => Ok(()),
            Err(error) => Err(End::Pod(error)),
        }
    }

    /// One datagram of the pod, on to the host; whether there was any.
    fn move_up(&mut self, host: &mut Side, to_host: &mut Leftover, scratch: &mut [u8]) -> Result<bool, End> {
        if !self.link.takes_datagram() {
            return Ok(false);
        }
        let Some(len) =
            self.pod.receive_datagram(&mut scratch[BEFORE..BEFORE + MAX_DATA]).map_err(End::Pod)?
        else {
            return Ok(false);
        };
        self.has_passed = true;
        let control = self.link.control(true);
        self.link.begin(len);
        self.link.sent(len);
        let header_at = BEFORE - HEADER_LEN;
        let from = header_at - control.len();
        scratch[from..header_at].copy_from_slice(&control);
        scratch[header_at..BEFORE].copy_from_slice(&frame::header(Kind::Data, len));
        to_host.send(host, &scratch[from..BEFORE + len]).map_err(|_| End::HostGone)?;
        Ok(true)
    }

    /// Ends the association by force: the host gets what is returned, after what waits for it.
    pub(crate) fn abort(mut self, end: &End) -> Option<Vec<u8>> {
        let (errno, text) = end.words()?;
        self.link.reset(errno, &text)
    }
}
