//! A byte stream between the host and a pod's TCP port or Unix socket.

use std::io::IoSliceMut;

use gangplank_channel::link::{Link, MAX_LEAD};
use rustix::io::Errno;
use rustix::net::Shutdown;

use super::{End, READ, Taken};
use crate::leftover::Leftover;
use crate::side::Side;

#[derive(Debug, Default)]
pub(super) struct StreamPayload {
    /// What the pod has not taken yet: at most the window of the link.
    to_pod: Leftover,
    /// Why the pod takes no more bytes. What it has sent before is still moved.
    pod_failed: Option<Errno>,
    pod_ended: bool,
}

impl StreamPayload {
    /// One read of the host, on to the pod; whether there was anything.
    pub(super) fn move_down(
        &mut self,
        link: &mut Link,
        host: &mut Side,
        pod: &mut Side,
        scratch: &mut [u8],
    ) -> Result<bool, End> {
        // The next header is read beside the payload, so that payload need not be moved to close the gap.
        let mut lead = [0; MAX_LEAD];
        let scatter = link.scatter(scratch.len());
        let (front, back) = scratch.split_at_mut(scatter.payload);
        let mut parts =
            [IoSliceMut::new(front), IoSliceMut::new(&mut lead[..scatter.lead]), IoSliceMut::new(back)];
        let len = match host.readv(&mut parts) {
            Ok(None) => return Ok(false),
            Ok(Some(0)) | Err(_) => return Err(End::HostGone),
            Ok(Some(len)) => len,
        };
        let payload = link.receive(scratch, &lead, scatter, len).map_err(End::Violation)?;
        // After a RESET nothing is handed on: the pod gets a RST.
        if !link.is_over() {
            self.give_pod(link, pod, &scratch[..payload]);
        }
        Ok(true)
    }

    fn give_pod(&mut self, link: &mut Link, pod: &mut Side, payload: &[u8]) {
        if self.pod_failed.is_some() {
            link.handed_on(payload.len());
        } else if !payload.is_empty() {
            match self.to_pod.send(pod, payload) {
                // Credit goes back for what the pod has taken, and not for what waits here: this bounds it.
                Ok(sent) => link.handed_on(sent),
                Err(error) => {
                    link.handed_on(payload.len());
                    self.fail_pod(link, error);
                }
            }
        }
        self.end_pod(link, pod);
    }

    /// Gives the pod what it has not taken yet.
    pub(super) fn flush_pod(&mut self, link: &mut Link, pod: &mut Side) {
        match self.to_pod.flush(pod) {
            Ok(sent) => link.handed_on(sent),
            Err(error) => self.fail_pod(link, error),
        }
        self.end_pod(link, pod);
    }

    /// The pod takes nothing more: what was meant for it is dropped.
    fn fail_pod(&mut self, link: &mut Link, error: Errno) {
        self.pod_failed = Some(error);
        link.handed_on(self.to_pod.len());
        self.to_pod = Leftover::default();
    }

    /// Hands the host's end on, once everything before it has been.
    fn end_pod(&mut self, link: &mut Link, pod: &Side) {
        if link.has_end_to_hand_on() && self.to_pod.is_empty() {
            if self.pod_failed.is_none()
                && let Err(error) = rustix::net::shutdown(pod.fd(), Shutdown::Write)
            {
                self.pod_failed = Some(error);
            }
            link.handed_on_end();
        }
    }

    /// Reads the pod once, as far as there is credit.
    pub(super) fn take_from_pod(
        &mut self,
        link: &Link,
        pod: &mut Side,
        room: &mut [u8],
    ) -> Result<Taken, End> {
        let most = link.sendable().min(READ);
        if self.pod_ended || most == 0 {
            return Ok(Taken::Nothing);
        }
        match pod.read(&mut room[..most]) {
            Ok(None) => Ok(Taken::Nothing),
            Ok(Some(0)) => match self.pod_failed {
                // It had stopped taking bytes before, so that this is no orderly end.
                Some(error) => Err(End::Pod(error)),
                None => {
                    self.pod_ended = true;
                    Ok(Taken::End)
                }
            },
            Ok(Some(len)) => Ok(Taken::Payload(len)),
            Err(error) => Err(End::Pod(error)),
        }
    }
}
