//! From the client to the pods: frames off, payload in batches.

use std::task::{Context, Poll};

use spdy_rs::Event;

use super::batch::Batch;
use super::{ClientSocket, Forwards, SpdyFraming, StreamHandler};
use crate::session::Ended;
use crate::session::forward::Phase;
use crate::session::framing::Framing;
use crate::session::read_buffer::ReadBuffer;

impl<W: ClientSocket, H: StreamHandler> SpdyFraming<W, H> {
    /// Reads the socket once and handles what came. Whether anything did.
    pub(super) fn recv_once(
        &mut self,
        forwards: &mut Forwards<H::Conn>,
        cx: &mut Context<'_>,
    ) -> Result<bool, Ended> {
        let mut buf = ReadBuffer::take();
        // No more than what may be held, should no pod take anything.
        let room = forwards.room().min(buf.len());
        let n = match self.wire.poll_recv(cx, &mut buf[..room]) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err(Ended::ClientClosed),
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Err(Ended::ClientBroke(e)),
        };
        forwards.heard();
        let mut input = &buf[..n];
        // Frames of one stream that follow each other go to its connection in one write. Anything else in
        // between must find them delivered: the order of events is the order on the wire.
        let mut batch = Batch::new();
        while let Some(event) = self.streams.spdy.recv(&mut input).map_err(Ended::Protocol)? {
            if let Event::Data { id, payload, fin } = event {
                if batch.is_in_the_way(id) {
                    self.deliver(forwards, &mut batch);
                }
                if !payload.is_empty() {
                    batch.push(id, payload);
                }
                if fin {
                    self.deliver(forwards, &mut batch);
                    self.on_fin(forwards, id);
                }
            } else {
                self.deliver(forwards, &mut batch);
                self.on_event(forwards, event)?;
            }
        }
        self.deliver(forwards, &mut batch);
        Ok(true)
    }

    fn deliver(&mut self, forwards: &mut Forwards<H::Conn>, batch: &mut Batch<'_>) {
        let id = batch.id();
        let slices = batch.take();
        let Some(index) = self.streams.by_id.get(&id).copied() else { return };
        let Some(forward) = forwards.forward(index) else { return };
        if slices.is_empty() {
            return;
        }
        if forward.id.error == id {
            return self.handler.on_error_text(forward.port, slices);
        }
        forwards.deliver(index, slices);
        self.remove_if_done(forwards, index);
    }

    fn on_fin(&mut self, forwards: &mut Forwards<H::Conn>, id: u32) {
        if let Some(index) = self.streams.by_data(forwards, id) {
            forwards.finish(index);
        }
    }

    fn on_event(&mut self, forwards: &mut Forwards<H::Conn>, event: Event<'_>) -> Result<(), Ended> {
        match event {
            Event::Opened { id, headers, fin } => {
                self.handler.on_opened(&mut self.streams, forwards, id, &headers);
                if fin {
                    self.on_fin(forwards, id);
                }
            }
            Event::Replied { id, fin } => self.on_replied(forwards, id, fin),
            Event::Reset { id, .. } => self.on_reset(forwards, id),
            Event::GoAway { .. } => return Err(Ended::ClientWentAway),
            Event::Pinged => forwards.on_pinged(),
            Event::Ponged { .. } | Event::Data { .. } => {}
        }
        Ok(())
    }

    fn on_replied(&mut self, forwards: &mut Forwards<H::Conn>, id: u32, fin: bool) {
        let Some(index) = self.streams.by_data(forwards, id) else { return };
        let Some(forward) = forwards.forward_mut(index) else { return };
        forward.phase = match std::mem::replace(&mut forward.phase, Phase::Waiting) {
            Phase::Offered(conn) => Phase::Open(conn),
            other => other,
        };
        forward.slot.queue();
        if fin {
            forwards.finish(index);
        }
    }

    /// Go clients answer our FIN by a RST, so that is an ordinary end when the pod has ended; before, it is not.
    fn on_reset(&mut self, forwards: &mut Forwards<H::Conn>, id: u32) {
        let found = self.streams.by_data(forwards, id);
        let Some((index, forward)) = found.and_then(|index| Some((index, forwards.forward(index)?))) else {
            self.streams.by_id.remove(&id);
            return self.handler.on_gone(id);
        };
        match forward.phase {
            Phase::Open(_) if forward.down_over => return forwards.finish(index),
            Phase::Open(_) => {}
            Phase::Offered(_) => self.handler.on_refused(forward.port),
            Phase::Waiting | Phase::Dialing(_) => self.handler.on_gone(id),
        }
        self.abort(forwards, index);
    }
}
