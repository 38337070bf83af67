//! The forwarded connections of a session, whatever the framing: budget, turns and deadlines.
//!
//! ```text
//!              ┌─ Framing ─┐      deliver      ┌──────────── Engine ────────────┐
//!   client ───►│   recv    │──────────────────►│ Forward: backlog ─► connection │───► pod
//!   socket ◄───│   send    │◄──────────────────│ Session::pull_down             │◄─── pod
//!              └───────────┘                   │ budget · ready queue · limits  │
//!                                              └────────────────────────────────┘
//! ```
//!
//! From the client: the framing reads the socket once and hands slices of that buffer to [`Engine::deliver`], which
//! gives them to the connection in one write. Back: [`Engine::read_pod`] reads the connection once, and the framing
//! writes its headers and that payload in one write.
//!
//! Back-pressure. Towards the client: a connection is read only while the client has taken everything, so at
//! most one chunk waits. Towards the pod: what a connection does not take is held, at most `session_budget`
//! bytes a session; then the client is not read until some connection has taken some.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::Ended;
use super::forward::{Forward, Phase};
use super::read_buffer::READ_BUFFER;
use super::ready::Ready;
use super::stall::stuck;
use crate::config::Limits;
use crate::dial::Connection;
use crate::stats::Counters;

/// Least that is read from a connection at once, when the client takes little.
const MIN_CHUNK: usize = 16 << 10;

/// What is read first, before it is known how much the client takes.
const FIRST_CHUNK: usize = 64 << 10;

/// How long a connection that did not take all of a read may keep its session from reading on. A pod that is
/// only a little slower than its client then catches up, and nothing is copied into a backlog; one that is stuck
/// delays the others by this much for every read that it fills.
const READ_PAUSE: Duration = Duration::from_millis(5);

/// The state that all framings share. `I` is what the framing calls a forward.
///
/// Invariants: `held` is the sum of the forwards' charges; `lingering` counts the forwards that linger; `parked`
/// names all forwards whose `parked` is set, and perhaps some that have gone.
pub(super) struct Engine<C, I> {
    forwards: Slab<Forward<C, I>>,
    ready: Arc<Ready>,
    /// Forwards whose turn it is; kept between turns for its room.
    turn: VecDeque<usize>,
    parked: Vec<usize>,
    held: usize,
    /// How much is read from a pod at once: doubled while the client takes all of it, halved when it does not.
    chunk: usize,
    lingering: usize,
    pub(super) limits: Arc<Limits>,
    /// One clock reading for a whole poll.
    pub(super) now: Instant,
    last_data: Instant,
    last_heard: Instant,
    /// The client has pinged, so silence means something.
    pinged: bool,
    /// Until when the client is not read because the last read was not taken, unless it is taken before.
    read_pause: Option<Instant>,
    /// The budget was spent at some time since the last tick.
    was_spent: bool,
    pub(super) counters: Arc<Counters>,
}

/// Getters.
impl<C: Connection, I> Engine<C, I> {
    pub(super) fn new(limits: Arc<Limits>, counters: Arc<Counters>) -> Self {
        let now = Instant::now();
        Self {
            forwards: Slab::new(),
            ready: Arc::default(),
            turn: VecDeque::new(),
            parked: Vec::new(),
            held: 0,
            chunk: FIRST_CHUNK,
            lingering: 0,
            limits,
            now,
            last_data: now,
            last_heard: now,
            pinged: false,
            read_pause: None,
            was_spent: false,
            counters,
        }
    }

    pub(super) fn forward(&self, index: usize) -> Option<&Forward<C, I>> {
        self.forwards.get(index)
    }

    pub(super) fn forward_mut(&mut self, index: usize) -> Option<&mut Forward<C, I>> {
        self.forwards.get_mut(index)
    }

    /// All forwards.
    pub(super) fn forwards(&self) -> impl Iterator<Item = &Forward<C, I>> {
        self.forwards.iter().map(|(_, forward)| forward)
    }

    /// The indices of all forwards, so that they can be taken out one by one.
    pub(super) fn indices(&self) -> Vec<usize> {
        self.forwards.iter().map(|(index, _)| index).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.forwards.is_empty()
    }

    /// Bytes that may still be held for pods. While it is 0 the client is not read.
    pub(super) fn room(&self) -> usize {
        self.limits.session_budget.saturating_sub(self.held)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.room() == 0
    }
}

/// Commands of a framing.
impl<C: Connection, I> Engine<C, I> {
    /// Takes in a forward, looks at it soon, and gives its index.
    pub(super) fn insert(&mut self, port: u16, id: I, phase: Phase<C>) -> usize {
        self.counters.opened();
        let entry = self.forwards.vacant_entry();
        let index = entry.key();
        let forward = entry.insert(Forward::new(port, id, phase, index, &self.ready, &self.counters));
        forward.slot.queue();
        index
    }

    /// Takes a forward out. The caller closes the client's side of it.
    pub(super) fn take(&mut self, index: usize) -> Option<Forward<C, I>> {
        let forward = self.forwards.try_remove(index)?;
        self.recharge(forward.charge(), 0);
        self.lingering -= usize::from(forward.lingers.is_some());
        self.counters.closed();
        Some(forward)
    }

    /// The client has sent something.
    pub(super) fn heard(&mut self) {
        self.last_heard = self.now;
    }

    /// The client has pinged: if it falls silent from now on, it has gone.
    pub(super) fn on_pinged(&mut self) {
        self.pinged = true;
    }

    /// Hands the client's payload to a forward, which keeps what its pod does not take.
    pub(super) fn deliver(&mut self, index: usize, slices: &mut [IoSlice<'_>]) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        self.last_data = self.now;
        let before = forward.charge();
        let is_accepted = forward.push(slices);
        if is_accepted && forward.lingers.is_some() {
            forward.lingers = Some(self.now);
        }
        // A dial that is under way is not a slow pod: it must not hold up the others.
        if forward.is_open() && !forward.is_clear() {
            self.read_pause = Some(self.now + READ_PAUSE);
        }
        let after = forward.charge();
        self.recharge(before, after);
    }

    /// The client sends nothing more to this forward.
    pub(super) fn finish(&mut self, index: usize) {
        if let Some(forward) = self.forwards.get_mut(index) {
            forward.finish();
            forward.slot.queue();
        }
    }

    /// The one place where what is held changes.
    fn recharge(&mut self, before: usize, after: usize) {
        self.held = self.held + after - before;
        if self.held == 0 {
            self.read_pause = None; // everything was taken: there is nothing to wait for
        }
    }
}

/// Commands of the session.
impl<C: Connection, I> Engine<C, I> {
    /// The task to wake when a connection is ready.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.ready.register(cx.waker());
    }

    /// Whether the client may be read. If the budget forbids it, the next tick looks for the culprit.
    pub(super) fn may_recv(&mut self) -> bool {
        self.read_pause.take_if(|until| *until <= self.now);
        self.was_spent |= self.is_spent();
        self.read_pause.is_none() && !self.is_spent()
    }

    /// The forwards that are ready, in the order in which they became so. The queue must be given back to
    /// [`Engine::end_turn`].
    pub(super) fn begin_turn(&mut self) -> VecDeque<usize> {
        let mut turn = std::mem::take(&mut self.turn);
        self.ready.take(&mut turn);
        turn
    }

    pub(super) fn end_turn(&mut self, turn: VecDeque<usize>) {
        self.turn = turn;
    }

    /// Moves what waits for a pod.
    pub(super) fn drive_up(&mut self, index: usize) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        let (before, sent) = (forward.charge(), forward.sent);
        forward.drive_up();
        // A pod that still takes what the client left behind is not overdue.
        if forward.sent > sent && forward.lingers.is_some() {
            forward.lingers = Some(self.now);
        }
        let after = forward.charge();
        self.recharge(before, after);
    }

    /// Whether this forward's pod should be read now. If only the client is in the way, the forward is parked
    /// until [`Engine::unpark`].
    pub(super) fn may_read_pod(&mut self, index: usize, is_blocked: bool) -> bool {
        let Some(forward) = self.forwards.get_mut(index) else { return false };
        if forward.down_over || !forward.is_open() {
            return false;
        }
        if is_blocked && !std::mem::replace(&mut forward.parked, true) {
            self.parked.push(index);
        }
        !is_blocked
    }

    /// Reads a pod once, at most a chunk. `Ok(0)` is its end.
    pub(super) fn read_pod(&mut self, index: usize, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(forward) = self.forwards.get_mut(index) else { return Poll::Pending };
        let most = self.chunk.min(buf.len());
        let read = forward.poll_read(&mut buf[..most]);
        if let Poll::Ready(Ok(n)) = read
            && n > 0
        {
            forward.slot.queue(); // others first, then there may be more
            self.last_data = self.now;
        }
        read
    }

    /// The client took all of the last chunk, or it did not.
    pub(super) fn adapt_chunk(&mut self, is_blocked: bool) {
        self.chunk = if is_blocked { self.chunk / 2 } else { self.chunk * 2 };
        self.chunk = self.chunk.clamp(MIN_CHUNK, READ_BUFFER);
    }

    /// Notes a pod's end. The client's must follow within [`Limits::linger`] if that is limited.
    pub(super) fn end_down(&mut self, index: usize, lingers: bool) {
        let Some(forward) = self.forwards.get_mut(index) else { return };
        forward.down_over = true;
        if lingers && !forward.up_is_over() {
            forward.lingers = Some(self.now);
            self.lingering += 1;
        }
    }

    /// The client has taken everything: the pods that waited for that are read again.
    pub(super) fn unpark(&mut self) {
        for index in self.parked.drain(..) {
            if let Some(forward) = self.forwards.get_mut(index) {
                forward.parked = false;
                forward.slot.queue();
            }
        }
    }

    /// Reports what is held, once for everything that happened in a poll.
    pub(super) fn report_held(&self) {
        self.counters.held(self.held);
    }
}

/// Times, compared with their limits.
impl<C: Connection, I> Engine<C, I> {
    /// A deadline may pass soon, besides the framing's own.
    pub(super) fn wants_ticks(&self) -> bool {
        self.lingering > 0 || self.was_spent || self.is_spent()
    }

    /// Until when the client is left alone, if it is.
    pub(super) fn read_pause(&self) -> Option<Instant> {
        self.read_pause
    }

    /// When the session may be over if nothing happens.
    pub(super) fn quiet_until(&self) -> Instant {
        let idle = self.last_data + self.limits.idle_timeout;
        if self.pinged { idle.min(self.last_heard + self.limits.silence_timeout) } else { idle }
    }

    /// An error if the client has been idle or silent for too long. While it is not read (`is_paused`), nothing
    /// can be heard of it, so silence does not count.
    pub(super) fn check_quiet(&mut self, is_paused: bool) -> Result<(), Ended> {
        if self.age(self.last_data) >= self.limits.idle_timeout {
            return Err(Ended::Idle);
        }
        if is_paused {
            self.last_heard = self.now;
        } else if self.pinged && self.age(self.last_heard) >= self.limits.silence_timeout {
            return Err(Ended::Silent);
        }
        Ok(())
    }

    /// The forwards whose pod has ended and whose client has not within the limit.
    pub(super) fn overdue(&self) -> Vec<usize> {
        if self.lingering == 0 {
            return Vec::new();
        }
        let is_overdue =
            |f: &Forward<C, I>| f.lingers.is_some_and(|since| self.age(since) >= self.limits.linger);
        self.forwards.iter().filter(|(_, f)| is_overdue(f)).map(|(index, _)| index).collect()
    }

    /// The forwards that have held up the session for too long.
    pub(super) fn stuck(&mut self) -> Vec<usize> {
        let spent = std::mem::take(&mut self.was_spent) || self.is_spent();
        stuck(&mut self.forwards, self.held, spent, self.now, &self.limits)
    }

    /// Time since then.
    pub(super) fn age(&self, since: Instant) -> Duration {
        self.now.saturating_duration_since(since)
    }
}
