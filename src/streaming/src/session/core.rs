//! What both ends of a port-forward session share: moving bytes between one client socket and many connections.
//!
//! The way of a byte from the client: [`Core::recv`] reads the socket once, the SPDY connection cuts the frames'
//! payload out of that buffer, [`Core::deliver`] hands the slices to the connection in one write. The way back:
//! [`Core::pull_down`] reads the connection once, and [`Core::send_down`] writes the frames' headers and payload
//! in one write.
//!
//! Back-pressure. Towards the client: a connection is read only while the client's socket has taken everything,
//! so at most one chunk waits. Towards the pod: what a connection does not take is held, at most
//! `session_budget` bytes a session; then the socket is not read until some connection has taken some.

mod down;
mod limits;
mod up;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use slab::Slab;
use spdy::Status;
use tokio::time::Instant;

use super::forward::{Forward, Phase};
use super::ready::Ready;
use super::scratch::Scratch;
use super::wire::{ClientSocket, Wire};
use super::{Ended, Side};
use crate::config::Limits;
use crate::dial::Connection;
use crate::stats::Counters;

/// Invariants: every forward's data stream, and its error stream unless that has been reset, is in `by_id`;
/// `held` is the sum of the backlogs' charges; `lingering` counts the forwards that linger.
pub(super) struct Core<W, C> {
    wire: Wire<W>,
    pub(super) spdy: spdy::Connection,
    forwards: Slab<Forward<C>>,
    by_id: HashMap<u32, usize>,
    ready: Arc<Ready>,
    turn: VecDeque<usize>,
    parked: Vec<usize>,
    held: usize,
    chunk: usize,
    lingering: usize,
    pub(super) limits: Arc<Limits>,
    pub(super) now: Instant,
    last_data: Instant,
    last_frame: Instant,
    pinged: bool,
    /// Until when the socket is not read because the last read was not taken, unless it is taken before.
    patience: Option<Instant>,
    /// The budget was spent at some time since the last tick.
    was_spent: bool,
    counters: Arc<Counters>,
}

/// Commands of a session's side.
impl<W: ClientSocket, C: Connection> Core<W, C> {
    pub(super) fn new(
        wire: Wire<W>,
        spdy: spdy::Connection,
        limits: Arc<Limits>,
        counters: Arc<Counters>,
    ) -> Self {
        let now = Instant::now();
        Self {
            wire,
            spdy,
            forwards: Slab::new(),
            by_id: HashMap::new(),
            ready: Arc::default(),
            turn: VecDeque::new(),
            parked: Vec::new(),
            held: 0,
            chunk: down::FRAME,
            lingering: 0,
            limits,
            now,
            last_data: now,
            last_frame: now,
            pinged: false,
            patience: None,
            was_spent: false,
            counters,
        }
    }

    /// Takes in a forward and looks at it soon.
    pub(super) fn insert(&mut self, port: u16, error: u32, data: u32, phase: Phase<C>) {
        self.counters.opened();
        let entry = self.forwards.vacant_entry();
        let index = entry.key();
        let forward =
            entry.insert(Forward::new(port, error, data, phase, index, &self.ready, &self.counters));
        forward.slot.queue();
        self.by_id.insert(data, index);
        if error != 0 {
            self.by_id.insert(error, index);
        }
    }

    /// Gives the forward of this data stream, which was waiting, its error stream and its dial.
    pub(super) fn complete(&mut self, error: u32, data: u32, phase: Phase<C>) {
        if let Some(index) = self.by_id.get(&data).copied()
            && let Some(forward) = self.forwards.get_mut(index)
        {
            forward.error = error;
            forward.phase = phase;
            forward.slot.queue();
            self.by_id.insert(error, index);
        }
    }

    /// The forward of this stream, if it is its data stream.
    pub(super) fn by_data(&mut self, id: u32) -> Option<usize> {
        let index = self.by_id.get(&id).copied()?;
        (self.forwards.get(index)?.data == id).then_some(index)
    }

    pub(super) fn forward(&self, index: usize) -> Option<&Forward<C>> {
        self.forwards.get(index)
    }

    pub(super) fn forwards(&self) -> impl Iterator<Item = &Forward<C>> {
        self.forwards.iter().map(|(_, forward)| forward)
    }

    /// Takes a forward out, closing what is left of its streams.
    pub(super) fn remove(&mut self, index: usize) -> Option<Forward<C>> {
        let forward = self.forwards.try_remove(index)?;
        self.by_id.remove(&forward.data);
        self.by_id.remove(&forward.error);
        self.spdy.reset(forward.data, Status::Cancel);
        // The error stream needs its FIN first: old clients close a connection only after that.
        self.spdy.end(forward.error);
        self.held -= forward.charge();
        self.lingering -= usize::from(forward.lingers.is_some());
        self.counters.closed();
        Some(forward)
    }

    /// Says what is held, once for all that happened since it was said last.
    pub(super) fn say_held(&self) {
        self.counters.held(self.held);
    }

    fn settle(&mut self, index: usize) {
        if self.forwards.get(index).is_some_and(Forward::is_done) {
            self.remove(index);
        }
    }

    /// Ends a forward so that its pod sees a failure.
    pub(super) fn abort(&mut self, index: usize) {
        if let Some(forward) = self.remove(index) {
            forward.abort();
        }
    }
}

/// From the pods.
impl<W: ClientSocket, C: Connection> Core<W, C> {
    /// The task to wake when a connection is ready.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.ready.register(cx.waker());
    }

    /// Looks at every forward that is ready, once, in the order in which they became so. Whether any was.
    pub(super) fn serve<S: Side<C>>(&mut self, side: &mut S, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut turn = std::mem::take(&mut self.turn);
        self.ready.take(&mut turn);
        let any = !turn.is_empty();
        for index in turn.drain(..) {
            self.drive(side, cx, index)?;
        }
        self.turn = turn;
        Ok(any)
    }

    fn drive<S: Side<C>>(&mut self, side: &mut S, cx: &mut Context<'_>, index: usize) -> Result<(), Ended> {
        let Some(forward) = self.forwards.get_mut(index) else { return Ok(()) };
        forward.slot.taken();
        match forward.poll_dial() {
            Poll::Pending => {}
            Poll::Ready(Err(e)) => {
                side.on_dial_failed(self, index, e);
                return Ok(());
            }
            Poll::Ready(Ok(conn)) => {
                forward.phase = Phase::Open(conn);
                let _ = self.spdy.reply(forward.data); // a stream that was reset has taken its forward with it
                self.counters.dialled();
            }
        }
        self.drive_up(index);
        self.pull_down(side, cx, index)?;
        self.settle(index);
        Ok(())
    }
}

/// The end.
impl<W: ClientSocket, C: Connection> Core<W, C> {
    /// Ends all forwards.
    pub(super) fn abort_all(&mut self) {
        let indices: Vec<_> = self.forwards.iter().map(|(index, _)| index).collect();
        for index in indices {
            self.abort(index);
        }
    }

    /// Sends what is left, says goodbye, and drops what still comes, until the client closes too.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.now = Instant::now();
            if self.flush(cx).is_err() {
                return Poll::Ready(());
            }
            if self.wire.is_blocked() || self.wire.poll_goodbye(cx).is_pending() {
                return Poll::Pending;
            }
            let mut buf = Scratch::take();
            match self.wire.poll_recv(cx, &mut buf) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
