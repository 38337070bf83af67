//! From the pods to the client.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use super::{ClientSocket, Connection, Core, Ended, Side};
use crate::session::scratch::{SCRATCH, Scratch};

/// Payload of the frames that we send. Go's receiver queues frames and not bytes, so larger ones would let it
/// hold more.
pub(super) const FRAME: usize = 64 << 10;

/// Frames of the largest chunk.
const FRAMES: usize = SCRATCH / FRAME;

/// Least that is read from a connection at once, when the client takes little.
const MIN_CHUNK: usize = 16 << 10;

impl<W: ClientSocket, C: Connection> Core<W, C> {
    pub(super) fn drive_up(&mut self, index: usize) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        let before = forward.charge();
        forward.drive_up();
        self.held = self.held + forward.charge() - before;
        if self.held == 0 {
            self.patience = None;
        }
    }

    pub(super) fn pull_down<S: Side<C>>(
        &mut self,
        side: &mut S,
        cx: &mut Context<'_>,
        index: usize,
    ) -> Result<(), Ended> {
        let Some(forward) = self.forwards.get_mut(index) else { return Ok(()) };
        if forward.down_over || !forward.is_open() {
            return Ok(());
        }
        if self.wire.is_blocked() {
            if !std::mem::replace(&mut forward.parked, true) {
                self.parked.push(index);
            }
            return Ok(());
        }
        let mut buf = Scratch::take();
        match forward.poll_read(&mut buf[..self.chunk]) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => self.on_pod_end::<S>(index),
            Poll::Ready(Ok(n)) => {
                forward.slot.queue(); // others first, then there may be more
                let id = forward.data;
                self.send_down(cx, id, &buf[..n]).map_err(Ended::ClientBroke)?;
            }
            Poll::Ready(Err(e)) => side.on_conn_failed(self, index, e),
        }
        Ok(())
    }

    /// The frames' headers and the payload in one write, after whatever waits in the output.
    fn send_down(&mut self, cx: &mut Context<'_>, id: u32, payload: &[u8]) -> io::Result<()> {
        self.last_data = self.now;
        let mut headers = [[0; 8]; FRAMES];
        let mut slices = [IoSlice::new(&[]); 1 + 2 * FRAMES];
        let mut used = 1;
        for (header, frame) in headers.iter_mut().zip(payload.chunks(FRAME)) {
            let Ok(made) = self.spdy.data_header(id, frame.len(), false) else { return Ok(()) };
            *header = made;
            slices[used] = IoSlice::new(header);
            slices[used + 1] = IoSlice::new(frame);
            used += 2;
        }
        slices[0] = IoSlice::new(self.spdy.output());
        self.wire.send(cx, &mut slices[..used], self.now)?;
        self.spdy.clear_output();
        self.chunk = if self.wire.is_blocked() { self.chunk / 2 } else { self.chunk * 2 };
        self.chunk = self.chunk.clamp(MIN_CHUNK, SCRATCH);
        Ok(())
    }

    fn on_pod_end<S: Side<C>>(&mut self, index: usize) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        forward.down_over = true;
        let _ = self.spdy.finish(forward.data);
        if S::ENDS_ERROR_STREAM {
            let _ = self.spdy.finish(forward.error);
        }
        if S::LINGERS && !forward.up_is_over() {
            forward.lingers = Some(self.now);
            self.lingering += 1;
        }
    }

    /// Sends what waits. Whether that unblocked the wire.
    pub(in crate::session) fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let was_blocked = self.wire.is_blocked();
        if self.wire.poll_flush(cx, self.now).map_err(Ended::ClientBroke)?.is_pending() {
            return Ok(false);
        }
        if !self.spdy.output().is_empty() {
            let mut slices = [IoSlice::new(self.spdy.output())];
            self.wire.send(cx, &mut slices, self.now).map_err(Ended::ClientBroke)?;
            self.spdy.clear_output();
            let _ = self.wire.poll_flush(cx, self.now).map_err(Ended::ClientBroke)?;
        }
        if self.wire.is_blocked() {
            return Ok(false);
        }
        for index in self.parked.drain(..) {
            if let Some(forward) = self.forwards.get_mut(index) {
                forward.parked = false;
                forward.slot.queue();
            }
        }
        Ok(was_blocked)
    }
}
