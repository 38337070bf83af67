//! Datagrams between the host and a pod's UDP port: each DATA frame is one.
//!
//! A datagram that the pod's socket has no room for is dropped, as in any network. The host's end ends both directions,
//! since nothing else does; so does a time without a datagram.

use gangplank_channel::frame::MAX_DATA;
use gangplank_channel::link::Link;
use rustix::io::Errno;

use super::{End, Taken};
use crate::side::Side;

#[derive(Debug, Default)]
pub(super) struct DatagramPayload {
    /// What has come of a datagram whose end has not; nothing is allocated while there is none.
    begun: Vec<u8>,
    /// Whether a datagram has passed since that was last asked.
    has_passed: bool,
}

impl DatagramPayload {
    /// Whether a datagram has passed since the last call.
    pub(super) fn take_passed(&mut self) -> bool {
        std::mem::take(&mut self.has_passed)
    }

    /// One read of the host, on to the pod; whether there was anything.
    pub(super) fn move_down(
        &mut self,
        link: &mut Link,
        host: &mut Side,
        pod: &Side,
        scratch: &mut [u8],
    ) -> Result<bool, End> {
        let len = match host.read(scratch) {
            Ok(None) => return Ok(false),
            Ok(Some(0)) | Err(_) => return Err(End::HostGone),
            Ok(Some(len)) => len,
        };
        let mut bytes = &scratch[..len];
        while !bytes.is_empty() {
            let piece = link.receive_datagram(bytes).map_err(End::Violation)?;
            let (payload, rest) = bytes[piece.skip..].split_at(piece.payload);
            bytes = rest;
            match (piece.ends, self.begun.is_empty()) {
                // The usual case: the whole datagram is in the scratch buffer and need not be copied.
                (true, true) => self.give_pod(link, pod, payload)?,
                (true, false) => {
                    self.begun.extend_from_slice(payload);
                    let whole = std::mem::take(&mut self.begun);
                    self.give_pod(link, pod, &whole)?;
                }
                (false, _) => self.begun.extend_from_slice(payload),
            }
        }
        if link.has_end_to_hand_on() {
            link.handed_on_end();
            link.finish();
        }
        Ok(true)
    }

    fn give_pod(&mut self, link: &mut Link, pod: &Side, datagram: &[u8]) -> Result<(), End> {
        self.has_passed = true;
        link.handed_on(datagram.len());
        match pod.send_datagram(datagram) {
            Ok(()) | Err(Errno::WOULDBLOCK | Errno::NOBUFS) => Ok(()),
            Err(error) => Err(End::Pod(error)),
        }
    }

    /// Takes one datagram of the pod's.
    pub(super) fn take_from_pod(
        &mut self,
        link: &Link,
        pod: &mut Side,
        room: &mut [u8],
    ) -> Result<Taken, End> {
        // A datagram cannot be cut to fit, and its size is not known before it is read.
        if !link.takes_datagram() {
            return Ok(Taken::Nothing);
        }
        let taken = pod.receive_datagram(&mut room[..MAX_DATA]).map_err(End::Pod)?;
        self.has_passed |= taken.is_some();
        Ok(taken.map_or(Taken::Nothing, Taken::Payload))
    }
}
