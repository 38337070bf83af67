//! The bytes of an open connection: channel ⇄ TCP, or a Unix socket.
//!
//! ```text
//!   host ──readv──► scratch ──(frames off)──► send ──► pod        what the pod does not take: to_pod
//!   pod  ──recv───► scratch ──(frame on)────► send ──► host       what the host does not take: to_host
//! ```

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;

use channel::errno::{EPROTO, ESHUTDOWN, ETIMEDOUT};
use channel::frame::{self, HEADER_LEN, Kind, MAX_DATA};
use channel::link::{Link, MAX_CONTROL, MAX_LEAD, Violation};
use rustix::io::Errno;
use rustix::net::{Shutdown, sockopt};

use crate::leftover::Leftover;
use crate::packet::IN_ONE_PIECE;
use crate::side::Side;

/// Reads of each side before other connections have their turn: at most 1 MiB a direction.
pub(crate) const ROUNDS: usize = 8;

/// Room for what comes before the payload of a DATA frame.
const BEFORE: usize = MAX_CONTROL + HEADER_LEN;

/// What is read of the pod at once: with all that goes before it, one packet of AF_VSOCK, which has at most 64 KiB, or
/// two where those must be smaller. A frame of a few bytes more would be a packet more.
const READ: usize = 2 * IN_ONE_PIECE - BEFORE;

const _: () = assert!(READ + BEFORE <= 64 << 10 && READ <= MAX_DATA);

/// The scratch buffer that all connections share: one read of the host gives two of the largest frames.
pub(crate) const SCRATCH: usize = 128 << 10;

/// An open connection.
#[derive(Debug)]
pub(crate) struct Moving {
    link: Link,
    pod: Side,
    /// At most the window of the link.
    to_pod: Leftover,
    /// Why the pod takes no more bytes. What it has sent before is still moved.
    pod_failed: Option<Errno>,
    pod_ended: bool,
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
    /// The relay ends.
    Stopping,
}

impl End {
    /// What the host is told with RESET, if anything.
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
            Self::Stopping => (ESHUTDOWN, "the relay in the guest is ending".to_owned()),
        })
    }
}

impl Moving {
    pub(crate) fn new(pod: Side) -> Self {
        Self { link: Link::new(), pod, to_pod: Leftover::default(), pod_failed: None, pod_ended: false }
    }

    pub(crate) fn pod(&mut self) -> &mut Side {
        &mut self.pod
    }

    /// Moves what can be moved; whether more could be.
    pub(crate) fn proceed(
        &mut self,
        host: &mut Side,
        to_host: &mut Leftover,
        scratch: &mut [u8],
    ) -> Result<bool, End> {
        to_host.flush(host).map_err(|_| End::HostGone)?;
        self.flush_pod();
        let mut more = true;
        for _ in 0..ROUNDS {
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
        let mut lead = [0; MAX_LEAD];
        let scatter = self.link.scatter(scratch.len());
        let (front, back) = scratch.split_at_mut(scatter.payload);
        let mut parts =
            [IoSliceMut::new(front), IoSliceMut::new(&mut lead[..scatter.lead]), IoSliceMut::new(back)];
        let len = match host.readv(&mut parts) {
            Ok(None) => return Ok(false),
            Ok(Some(0)) | Err(_) => return Err(End::HostGone),
            Ok(Some(len)) => len,
        };
        let payload = self.link.receive(scratch, &lead, scatter, len).map_err(End::Violation)?;
        if self.link.is_over() {
            return Err(End::HostGone);
        }
        self.give_pod(&scratch[..payload]);
        Ok(true)
    }

    fn give_pod(&mut self, payload: &[u8]) {
        if self.pod_failed.is_some() {
            self.link.handed_on(payload.len());
        } else if !payload.is_empty() {
            match self.to_pod.send(&mut self.pod, payload) {
                Ok(sent) => self.link.handed_on(sent),
                Err(error) => {
                    self.link.handed_on(payload.len());
                    self.fail_pod(error);
                }
            }
        }
        self.end_pod();
    }

    fn flush_pod(&mut self) {
        match self.to_pod.flush(&mut self.pod) {
            Ok(sent) => self.link.handed_on(sent),
            Err(error) => self.fail_pod(error),
        }
        self.end_pod();
    }

    /// The pod takes nothing more: what it should have had is dropped.
    fn fail_pod(&mut self, error: Errno) {
        self.pod_failed = Some(error);
        self.link.handed_on(self.to_pod.len());
        self.to_pod = Leftover::default();
    }

    /// Hands the host's end on, once all before it is.
    fn end_pod(&mut self) {
        if self.link.has_end_to_hand_on() && self.to_pod.is_empty() {
            if self.pod_failed.is_none()
                && let Err(error) = rustix::net::shutdown(self.pod.fd(), Shutdown::Write)
            {
                self.pod_failed = Some(error);
            }
            self.link.handed_on_end();
        }
    }

    /// One read of the pod, on to the host; whether there was anything. Only with credit, and only while the
    /// host takes all.
    fn move_up(&mut self, host: &mut Side, to_host: &mut Leftover, scratch: &mut [u8]) -> Result<bool, End> {
        let most = self.link.sendable().min(READ);
        if self.pod_ended || most == 0 {
            return Ok(false);
        }
        let len = match self.pod.read(&mut scratch[BEFORE..BEFORE + most]) {
            Ok(None) => return Ok(false),
            Ok(Some(0)) => return self.pod_has_ended(),
            Ok(Some(len)) => len,
            Err(error) => return Err(End::Pod(error)),
        };
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

    fn pod_has_ended(&mut self) -> Result<bool, End> {
        if let Some(error) = self.pod_failed {
            return Err(End::Pod(error));
        }
        self.pod_ended = true;
        self.link.finish();
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

/// Closes with a RST, which tells a peer that this was no orderly end.
fn reset(pod: OwnedFd) {
    // Where this fails, the peer sees a FIN.
    let _ = sockopt::set_socket_linger(&pod, Some(std::time::Duration::ZERO));
}
