//! From the client to the pods.

use std::task::{Context, Poll};
use std::time::Duration;

use spdy::Event;

use super::{ClientSocket, Connection, Core, Ended, Phase, Side};
use crate::session::batch::Batch;
use crate::session::scratch::Scratch;

/// Answers that may wait for a client that does not read: more, and it is not read either.
const MAX_CONTROL: usize = 64 << 10;

/// How long a connection that did not take all of a read may keep its session from reading on. A pod that is
/// only a little slower than its client then catches up, and nothing is copied into a backlog; one that is stuck
/// delays the others by this much for every read that it fills.
const PATIENCE: Duration = Duration::from_millis(5);

impl<W: ClientSocket, C: Connection> Core<W, C> {
    pub(super) fn is_spent(&self) -> bool {
        self.held >= self.limits.session_budget
    }

    /// The socket must not be read now.
    pub(super) fn is_paused(&self) -> bool {
        self.is_spent() || (self.wire.is_blocked() && self.spdy.output().len() > MAX_CONTROL)
    }

    /// Reads the socket once and handles what came. Whether anything did.
    pub(in crate::session) fn recv<S: Side<C>>(
        &mut self,
        side: &mut S,
        cx: &mut Context<'_>,
    ) -> Result<bool, Ended> {
        self.patience.take_if(|until| *until <= self.now);
        if self.patience.is_some() {
            return Ok(false);
        }
        if self.is_paused() {
            self.was_spent |= self.is_spent();
            return Ok(false);
        }
        let mut buf = Scratch::take();
        let room = (self.limits.session_budget - self.held).min(buf.len());
        let n = match self.wire.poll_recv(cx, &mut buf[..room]) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err(Ended::ClientClosed),
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Err(Ended::ClientBroke(e)),
        };
        self.last_frame = self.now;
        let mut input = &buf[..n];
        let mut batch = Batch::new();
        while let Some(event) = self.spdy.recv(&mut input).map_err(Ended::Protocol)? {
            if let Event::Data { id, payload, fin } = event {
                if batch.is_in_the_way(id) {
                    self.deliver(side, &mut batch);
                }
                if !payload.is_empty() {
                    batch.push(id, payload);
                }
                if fin {
                    self.deliver(side, &mut batch);
                    self.on_fin(id);
                }
            } else {
                self.deliver(side, &mut batch);
                self.on_event(side, event)?;
            }
        }
        self.deliver(side, &mut batch);
        Ok(true)
    }

    /// Something was handed to a forward.
    fn after_push(&mut self, index: usize) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        if forward.lingers.is_some() {
            forward.lingers = Some(self.now);
        }
        if forward.is_open() && !forward.is_clear() {
            self.patience = Some(self.now + PATIENCE);
        }
        self.settle(index);
    }

    fn deliver<S: Side<C>>(&mut self, side: &mut S, batch: &mut Batch<'_>) {
        let id = batch.id();
        let slices = batch.take();
        let Some(index) = self.by_id.get(&id).copied() else { return };
        let Some(forward) = self.forwards.get_mut(index) else { return };
        if slices.is_empty() {
            return;
        }
        if forward.error == id {
            return side.on_error_text(forward.port, slices);
        }
        self.last_data = self.now;
        let before = forward.charge();
        forward.push(slices);
        self.held = self.held + forward.charge() - before;
        self.after_push(index);
    }

    fn on_fin(&mut self, id: u32) {
        if let Some(index) = self.by_data(id)
            && let Some(forward) = self.forwards.get_mut(index)
        {
            forward.finish();
            forward.slot.queue();
        }
    }

    fn on_event<S: Side<C>>(&mut self, side: &mut S, event: Event<'_>) -> Result<(), Ended> {
        match event {
            Event::Opened { id, headers, fin } => {
                side.on_opened(self, id, &headers);
                if fin {
                    self.on_fin(id);
                }
            }
            Event::Replied { id, fin } => self.on_replied(id, fin),
            Event::Reset { id, .. } => self.on_reset(side, id),
            Event::GoAway { .. } => return Err(Ended::ClientWentAway),
            Event::Pinged => self.pinged = true,
            Event::Ponged { .. } | Event::Data { .. } => {}
        }
        Ok(())
    }

    fn on_replied(&mut self, id: u32, fin: bool) {
        let Some(index) = self.by_data(id) else { return };
        let Some(forward) = self.forwards.get_mut(index) else { return };
        forward.phase = match std::mem::replace(&mut forward.phase, Phase::Waiting) {
            Phase::Offered(conn) => Phase::Open(conn),
            other => other,
        };
        forward.slot.queue();
        if fin {
            self.on_fin(id);
        }
    }

    /// Go clients answer our FIN by a RST, so that is an ordinary end when the pod has ended; before, it is not.
    fn on_reset<S: Side<C>>(&mut self, side: &mut S, id: u32) {
        let Some(index) = self.by_data(id) else {
            self.by_id.remove(&id);
            side.on_gone(id);
            return;
        };
        let Some(forward) = self.forwards.get_mut(index) else { return };
        match forward.phase {
            Phase::Open(_) if forward.down_over => {
                forward.finish();
                forward.slot.queue();
            }
            Phase::Open(_) => self.abort(index),
            Phase::Offered(_) => {
                side.on_refused(forward.port);
                self.abort(index);
            }
            Phase::Waiting | Phase::Dialing(_) => {
                side.on_gone(id);
                self.abort(index);
            }
        }
    }
}
