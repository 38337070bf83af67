//! What moves on an open connection: channel ⇄ TCP, UDP or a Unix socket.
//!
//! ```text
//!   host ──read──► scratch ──(frames off)──► send ──► pod        what the pod does not take: to_pod
//!   pod  ──recv──► scratch ──(frame on)────► send ──► host       what the host does not take: to_host
//! ```
//!
//! A stream and datagrams differ in how payload is read and handed on, which is in the files below. All else is here.

mod datagrams;
mod stream;

use std::os::fd::OwnedFd;

use gangplank_channel::errno::{EPROTO, ESHUTDOWN, ETIMEDOUT};
use gangplank_channel::frame::{self, HEADER_LEN, Kind, MAX_DATA};
use gangplank_channel::link::{Link, MAX_CONTROL, Violation};
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::leftover::Leftover;
use crate::packet::IN_ONE_PIECE;
use crate::side::Side;
use datagrams::DatagramPayload;
use stream::StreamPayload;

/// Reads of each side before other connections have their turn: at most 1 MiB a direction.
const ROUNDS: usize = 8;

/// Room for what comes before the payload of a DATA frame.
const BEFORE: usize = MAX_CONTROL + HEADER_LEN;

/// How much of a pod's stream is read at once: with everything that goes before it, one packet of AF_VSOCK, which has at
/// most 64 KiB, or two where packets must be smaller. A few bytes more would take another packet.
const READ: usize = 2 * IN_ONE_PIECE - BEFORE;

const _: () = assert!(READ + BEFORE <= 64 << 10 && READ <= MAX_DATA);

/// The scratch buffer that all connections share: one read of the host fits two of the largest frames.
pub(crate) const SCRATCH: usize = 128 << 10;

const _: () = assert!(BEFORE + MAX_DATA <= SCRATCH);

/// An open connection.
#[derive(Debug)]
pub(crate) struct Moving {
    link: Link,
    pod: Side,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    Stream(StreamPayload),
    Datagrams(DatagramPayload),
}

/// What a look at the pod has found.
enum Taken {
    /// Nothing for now, or no credit to send it with.
    Nothing,
    /// So many bytes, which may be none where they are a datagram.
    Payload(usize),
    /// The pod's end.
    End,
}

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum End {
    /// Both directions have ended in order.
    Finished,
    /// The host's side of the transport has gone, or the host has reset the connection.
    HostGone,
    /// The pod's socket failed.
    Pod(Errno),
    /// The host broke the protocol.
    Violation(Violation),
    /// No datagram has passed for too long.
    Idle,
    /// The relay is stopping.
    Stopping,
}

impl End {
    /// What the RESET to the host says, if it gets one.
    pub(crate) fn words(&self) -> Option<(i32, String)> {
        Some(match self {
            Self::Finished | Self::HostGone => return None,
            Self::Pod(error) => {
                (error.raw_os_error(), format!("the pod's connection failed ({})", error.kind()))
            }
            Self::Violation(violation) => {
                (EPROTO, format!("the host broke the channel's protocol: it sent {violation}"))
            }
            Self::Idle => (ETIMEDOUT, "no datagram has passed for too long".to_owned()),
            Self::Stopping => (ESHUTDOWN, "the relay in the guest is stopping".to_owned()),
        })
    }
}

impl Moving {
    /// A connection that carries a byte stream.
    pub(crate) fn stream(pod: Side) -> Self {
        Self { link: Link::new(), pod, payload: Payload::Stream(StreamPayload::default()) }
    }

    /// A connection that carries datagrams.
    pub(crate) fn datagrams(pod: Side) -> Self {
        Self { link: Link::of_datagrams(), pod, payload: Payload::Datagrams(DatagramPayload::default()) }
    }

    pub(crate) fn pod(&mut self) -> &mut Side {
        &mut self.pod
    }

    /// Whether a datagram has passed since the last call; always false for a stream.
    pub(crate) fn take_passed(&mut self) -> bool {
        match &mut self.payload {
            Payload::Stream(_) => false,
            Payload::Datagrams(datagrams) => datagrams.take_passed(),
        }
    }

    /// Moves what can be moved; whether more could be.
    pub(crate) fn proceed(
        &mut self,
        host: &mut Side,
        to_host: &mut Leftover,
        scratch: &mut [u8],
    ) -> Result<bool, End> {
        to_host.flush(host).map_err(|_| End::HostGone)?;
        if let Payload::Stream(stream) = &mut self.payload {
            stream.flush_pod(&mut self.link, &mut self.pod);
        }
        let mut more = true;
        for _ in 0..ROUNDS {
            // The host is always read, so that credit and PING behind DATA are found; the pod only while the host takes
            // everything, so that at most one frame waits for it.
            let down = self.move_down(host, scratch)?;
            let up = to_host.is_empty() && self.move_up(host, to_host, scratch)?;
            more = down || up;
            if !more || self.link.is_finished() {
                break;
            }
        }
        if to_host.is_empty() && self.link.is_control_due() {
            let control = self.link.control(false);
            to_host.send(host, &control).map_err(|_| End::HostGone)?;
        }
        if self.link.is_finished() && to_host.is_empty() { Err(End::Finished) } else { Ok(more) }
    }

    /// One read of the host, on to the pod; whether there was anything.
    fn move_down(&mut self, host: &mut Side, scratch: &mut [u8]) -> Result<bool, End> {
        let (link, pod) = (&mut self.link, &mut self.pod);
        let moved = match &mut self.payload {
            Payload::Stream(stream) => stream.move_down(link, host, pod, scratch)?,
            Payload::Datagrams(datagrams) => datagrams.move_down(link, host, pod, scratch)?,
        };
        if link.is_over() { Err(End::HostGone) } else { Ok(moved) }
    }

    /// One read of the pod, on to the host; whether there was anything.
    fn move_up(&mut self, host: &mut Side, to_host: &mut Leftover, scratch: &mut [u8]) -> Result<bool, End> {
        let room = &mut scratch[BEFORE..];
        let taken = match &mut self.payload {
            Payload::Stream(stream) => stream.take_from_pod(&self.link, &mut self.pod, room)?,
            Payload::Datagrams(datagrams) => datagrams.take_from_pod(&self.link, &mut self.pod, room)?,
        };
        let len = match taken {
            Taken::Nothing => return Ok(false),
            Taken::End => {
                self.link.finish();
                return Ok(true);
            }
            Taken::Payload(len) => len,
        };
        // Control frames and the header go right before the payload, so that one write takes all of it.
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

    /// Ends the connection by force: the pod gets a RST, the host what is returned, after what waits for it.
    pub(crate) fn abort(mut self, end: &End) -> Option<Vec<u8>> {
        if !matches!(end, End::Finished) {
            reset(self.pod.into_fd());
        }
        let (errno, text) = end.words()?;
        self.link.reset(errno, &text)
    }
}

/// Closes with a RST, which tells a peer that this was no orderly end. Means nothing to datagrams.
fn reset(pod: OwnedFd) {
    // Where this fails, the peer sees a FIN.
    let _ = sockopt::set_socket_linger(&pod, Some(std::time::Duration::ZERO));
}
