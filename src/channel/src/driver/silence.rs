//! Noticing a guest that has fallen silent: paused, or hung.
//!
//! ```text
//!              something was sent             QUIET without a word          QUIET without a word
//!   not owed ──────────────────────► owed ──────────────────────► asked ──────────────────────► dead
//!      ▲                              │                             │
//!      └────────── a word ────────────┴─────────────────────────────┘
//! ```
//!
//! A guest owes a word when something was sent after its last one, or a writer waits for it. It is asked with PING
//! if it says nothing by itself, and a live relay answers at once. On an idle channel nothing is owed, so that it has no
//! timer and costs the guest nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::socket::{Role, Waiting};

/// How long a guest may owe a word before it is asked, and again before it is given up. One that is only copied
/// by a snapshot is paused for seconds. Since the time is looked at once in as long, a guest is given up after two
/// to three times this.
pub(crate) const QUIET: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Silence {
    is_owed: bool,
    /// Whether there was a word since the timer was set.
    was_heard: bool,
    is_asked: bool,
    /// None while nothing is owed, or no caller has waited since.
    timer: Option<Box<Timer>>,
}

/// Boxed, so that an idle channel is small.
#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    waiting: Waiting,
}

/// What to do about a silent guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ask,
    GiveUp,
}

impl Silence {
    /// Something was sent, or a caller waits for the guest.
    pub(super) fn owe(&mut self) {
        self.is_owed = true;
    }

    /// There was a word.
    pub(super) fn hear(&mut self) {
        self.is_owed = false;
        self.is_asked = false;
        self.was_heard = true;
    }

    /// Checks the time for a caller that waits for the guest, and wakes it when there is something to do.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, role: Role) -> Poll<Verdict> {
        loop {
            if self.timer.is_none() {
                if !self.is_owed {
                    return Poll::Pending;
                }
                self.was_heard = false;
                let sleep = Box::pin(sleep(QUIET));
                self.timer = Some(Box::new(Timer { sleep, waiting: Waiting::default() }));
            }
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            let Timer { sleep, waiting } = &mut **timer;
            if waiting.poll(role, cx, |cx| sleep.as_mut().poll(cx)).is_pending() {
                return Poll::Pending;
            }
            if !self.is_owed {
                self.timer = None;
                return Poll::Pending;
            }
            sleep.as_mut().reset(Instant::now() + QUIET);
            if std::mem::take(&mut self.was_heard) {
                continue;
            }
            return Poll::Ready(if self.is_asked { Verdict::GiveUp } else { Verdict::Ask });
        }
    }

    /// The guest was asked.
    pub(super) fn ask(&mut self) {
        self.is_asked = true;
    }
}
