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

use std::collections::{HashMap, VecDeque};
use std::io;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use slab::Slab;
use spdy::{Event, Status};
use tokio::time::Instant;

use super::batch::Batch;
use super::forward::{Forward, Phase, StallMark};
use super::pipe::{Pipe, WORTH};
use super::ready::Ready;
use super::scratch::{SCRATCH, Scratch};
use super::wire::{ClientSocket, Wire};
use super::{Ended, Side};
use crate::config::Limits;
use crate::dial::Connection;

/// Payload of the frames that we send. Go's receiver queues frames and not bytes, so larger ones would let it
/// hold more.
const FRAME: usize = 64 << 10;

/// Frames of the largest chunk.
const FRAMES: usize = SCRATCH / FRAME;

/// Bytes of a frame's header.
const HEADER: usize = 8;

/// Least that is read from a connection at once, when the client takes little.
const MIN_CHUNK: usize = 16 << 10;

/// Answers that may wait for a client that does not read: more, and it is not read either.
const MAX_CONTROL: usize = 64 << 10;

/// A stream that moves less than this in `stream_stall_timeout`, while it holds up its session, is stuck.
const STALL_PROGRESS: u64 = 64 << 10;

/// How long a connection that did not take all of a read may keep its session from reading on. A pod that is
/// only a little slower than its client then catches up, and nothing is copied into a backlog; one that is stuck
/// delays the others by this much for every read that it fills.
const PATIENCE: Duration = Duration::from_millis(5);

/// Sums of a session, for its last log line.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) connections: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

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
    /// The last payload went through a pipe, so the next header is read alone.
    piping: bool,
    /// The budget was spent at some time since the last tick.
    was_spent: bool,
    pub(super) totals: Totals,
}

/// Commands of a session's side.
impl<W: ClientSocket, C: Connection> Core<W, C> {
    pub(super) fn new(wire: Wire<W>, spdy: spdy::Connection, limits: Arc<Limits>) -> Self {
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
            chunk: FRAME,
            lingering: 0,
            limits,
            now,
            last_data: now,
            last_frame: now,
            pinged: false,
            patience: None,
            piping: false,
            was_spent: false,
            totals: Totals::default(),
        }
    }

    /// Takes in a forward and looks at it soon.
    pub(super) fn insert(&mut self, port: u16, error: u32, data: u32, phase: Phase<C>) {
        let entry = self.forwards.vacant_entry();
        let index = entry.key();
        let forward = entry.insert(Forward::new(port, error, data, phase, index, &self.ready));
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
        self.totals.sent += forward.sent;
        self.totals.received += forward.received;
        Some(forward)
    }

    /// Ends a forward so that its pod sees a failure.
    pub(super) fn abort(&mut self, index: usize) {
        if let Some(forward) = self.remove(index) {
            forward.abort();
        }
    }
}

/// From the client.
impl<W: ClientSocket, C: Connection> Core<W, C> {
    fn is_spent(&self) -> bool {
        self.held >= self.limits.session_budget
    }

    /// The socket must not be read now.
    fn is_paused(&self) -> bool {
        self.is_spent() || (self.wire.is_blocked() && self.spdy.output().len() > MAX_CONTROL)
    }

    /// Reads the socket once and handles what came. Whether anything did.
    pub(super) fn recv<S: Side<C>>(&mut self, side: &mut S, cx: &mut Context<'_>) -> Result<bool, Ended> {
        self.patience.take_if(|until| *until <= self.now);
        if self.patience.is_some() {
            return Ok(false);
        }
        if self.is_paused() {
            self.was_spent |= self.is_spent();
            return Ok(false);
        }
        if let Some(moved) = self.recv_pipe(cx)? {
            return Ok(moved);
        }
        let mut buf = Scratch::take();
        let most = if std::mem::take(&mut self.piping) { HEADER } else { buf.len() };
        let room = (self.limits.session_budget - self.held).min(most);
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

    /// Moves payload from the client's socket to a connection's, if so much is left of the current frame that it
    /// pays. `None` where it does not or can't; else whether anything moved.
    fn recv_pipe(&mut self, cx: &mut Context<'_>) -> Result<Option<bool>, Ended> {
        let Some((id, left)) = self.spdy.payload_left() else { return Ok(None) };
        if (left < WORTH && !self.piping) || !self.wire.can_splice() {
            return Ok(None);
        }
        let Some(index) = self.by_data(id) else { return Ok(None) };
        let Some(forward) = self.forwards.get_mut(index).filter(|f| f.takes_pipe()) else { return Ok(None) };
        let Some(mut pipe) = Pipe::take() else { return Ok(None) };
        match self.wire.poll_fill(cx, &mut pipe, left) {
            Poll::Pending => return Ok(Some(false)),
            Poll::Ready(Ok(0)) => return Err(Ended::ClientClosed),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(e)) => return Err(Ended::ClientBroke(e)),
        }
        (self.last_frame, self.last_data, self.piping) = (self.now, self.now, true);
        let fin = self.spdy.skip_payload(pipe.len());
        forward.push_pipe(pipe);
        self.held += forward.charge();
        self.after_push(index);
        if fin {
            self.on_fin(id);
        }
        Ok(Some(true))
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
            slices.iter().for_each(|text| side.on_error_text(forward.port, text));
            return;
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
                self.totals.connections += 1;
            }
        }
        self.drive_up(index);
        self.pull_down(side, cx, index)?;
        self.settle(index);
        Ok(())
    }

    fn drive_up(&mut self, index: usize) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        let before = forward.charge();
        forward.drive_up();
        self.held = self.held + forward.charge() - before;
        if self.held == 0 {
            self.patience = None;
        }
    }

    fn pull_down<S: Side<C>>(
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
        if forward.bulk
            && forward.socket().is_some()
            && self.wire.can_splice()
            && let Some(pipe) = Pipe::take()
        {
            return self.pull_pipe(side, cx, index, pipe);
        }
        let mut buf = Scratch::take();
        match forward.poll_read(&mut buf[..self.chunk]) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => self.on_pod_end::<S>(index),
            Poll::Ready(Ok(n)) => {
                forward.slot.queue(); // others first, then there may be more
                let id = forward.data;
                forward.bulk = n >= WORTH;
                self.send_down(cx, id, &buf[..n]).map_err(Ended::ClientBroke)?;
            }
            Poll::Ready(Err(e)) => side.on_conn_failed(self, index, e),
        }
        Ok(())
    }

    /// Moves payload from a connection's socket to the client's, as one frame.
    fn pull_pipe<S: Side<C>>(
        &mut self,
        side: &mut S,
        cx: &mut Context<'_>,
        index: usize,
        mut pipe: Pipe,
    ) -> Result<(), Ended> {
        let Some(forward) = self.forwards.get_mut(index) else { return Ok(()) };
        match forward.poll_fill(&mut pipe) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => self.on_pod_end::<S>(index),
            Poll::Ready(Ok(n)) => {
                forward.slot.queue();
                forward.bulk = n >= WORTH;
                self.last_data = self.now;
                let Ok(header) = self.spdy.data_header(forward.data, n, false) else { return Ok(()) };
                let sent = if self.spdy.output().is_empty() {
                    self.wire.send_pipe(cx, &header, pipe, self.now)
                } else {
                    let head = [self.spdy.output(), &header].concat();
                    self.spdy.clear_output();
                    self.wire.send_pipe(cx, &head, pipe, self.now)
                };
                sent.map_err(Ended::ClientBroke)?;
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

    fn settle(&mut self, index: usize) {
        if self.forwards.get(index).is_some_and(Forward::is_done) {
            self.remove(index);
        }
    }

    /// Sends what waits. Whether that unblocked the wire.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
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

/// Time.
impl<W: ClientSocket, C: Connection> Core<W, C> {
    /// Something may pass its limit soon.
    pub(super) fn wants_ticks(&self) -> bool {
        self.lingering > 0 || self.wire.is_blocked() || self.was_spent || self.is_paused()
    }

    /// Until when the socket is left alone, if it is.
    pub(super) fn patience_until(&self) -> Option<Instant> {
        self.patience
    }

    /// When the session may be over if nothing happens.
    pub(super) fn quiet_until(&self) -> Instant {
        let idle = self.last_data + self.limits.idle_timeout;
        if self.pinged { idle.min(self.last_frame + self.limits.silence_timeout) } else { idle }
    }

    /// Compares everything with its limit.
    pub(super) fn on_tick<S: Side<C>>(&mut self, side: &mut S) -> Result<(), Ended> {
        let age = |since: Instant| self.now.saturating_duration_since(since);
        if self.wire.blocked_since().is_some_and(|since| age(since) >= self.limits.write_stall_timeout) {
            return Err(Ended::WriteStalled);
        }
        if age(self.last_data) >= self.limits.idle_timeout {
            return Err(Ended::Idle);
        }
        if self.is_paused() {
            self.last_frame = self.now; // silence can't be told while the socket is not read
        } else if self.pinged && age(self.last_frame) >= self.limits.silence_timeout {
            return Err(Ended::Silent);
        }
        self.end_lingering();
        self.end_stalled(side);
        Ok(())
    }

    fn end_lingering(&mut self) {
        if self.lingering == 0 {
            return;
        }
        let (now, limit) = (self.now, self.limits.linger);
        let overdue =
            |f: &Forward<C>| f.lingers.is_some_and(|since| now.saturating_duration_since(since) >= limit);
        let indices: Vec<_> = self.forwards.iter().filter(|(_, f)| overdue(f)).map(|(i, _)| i).collect();
        for index in indices {
            self.abort(index);
        }
    }

    /// While the budget is spent, every stream that holds at least an equal share of it must move or go.
    fn end_stalled<S: Side<C>>(&mut self, side: &mut S) {
        let spent = std::mem::take(&mut self.was_spent) || self.is_spent();
        let holders = self.forwards().filter(|f| !f.is_clear()).count().max(1);
        let share = self.held / holders;
        let (now, limit) = (self.now, self.limits.stream_stall_timeout);
        let mut stuck = Vec::new();
        for (index, forward) in &mut self.forwards {
            if !spent || forward.is_clear() || forward.charge() < share {
                forward.stall = None;
                continue;
            }
            let fresh = StallMark { since: now, sent: forward.sent };
            let mark = forward.stall.get_or_insert(fresh);
            if forward.sent - mark.sent >= STALL_PROGRESS {
                *mark = fresh;
            } else if now.saturating_duration_since(mark.since) >= limit {
                stuck.push(index);
            }
        }
        for index in stuck {
            side.on_stuck(self, index);
        }
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
