//! Which forwarded connections of a session have something to do.
//!
//! Each has a waker of its own, so that a session with a thousand connections looks only at those whose sockets
//! moved. A slot is in the queue at most once: `queued` is set when it goes in and cleared just before it is
//! looked at.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// The queue of a session.
#[derive(Default)]
pub(super) struct Ready {
    slots: Mutex<VecDeque<usize>>,
    session: AtomicWaker,
}

/// One connection's place in the queue.
pub(super) struct Slot {
    index: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Ready {
    /// The task to wake when a slot becomes ready.
    pub(super) fn register(&self, session: &Waker) {
        self.session.register(session);
    }

    /// Moves all ready slots to the end of `into`.
    pub(super) fn take(&self, into: &mut VecDeque<usize>) {
        into.append(&mut self.slots());
    }

    fn slots(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn new(index: usize, ready: &Arc<Ready>) -> Arc<Self> {
        Arc::new(Self { index, queued: AtomicBool::new(false), ready: ready.clone() })
    }

    /// Puts the slot at the end of the queue, without waking the session: for the session itself.
    pub(super) fn queue(&self) -> bool {
        let fresh = !self.queued.swap(true, Ordering::AcqRel);
        if fresh {
            self.ready.slots().push_back(self.index);
        }
        fresh
    }

    /// To be called before the connection is looked at: what happens from now on queues it again.
    pub(super) fn taken(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queue() {
            self.ready.session.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ready: &Ready) -> Vec<usize> {
        let mut slots = VecDeque::new();
        ready.take(&mut slots);
        slots.into()
    }

    #[test]
    fn a_slot_waits_once_until_it_is_taken() {
        let ready = Arc::new(Ready::default());
        let (a, b) = (Slot::new(7, &ready), Slot::new(9, &ready));
        let waker = Waker::from(a.clone());
        waker.wake_by_ref();
        b.queue();
        waker.wake_by_ref();
        assert_eq!(taken(&ready), [7, 9]);
        waker.wake_by_ref();
        assert_eq!(taken(&ready), [0; 0], "still marked as queued");
        a.taken();
        waker.wake();
        assert_eq!(taken(&ready), [7]);
    }
}
