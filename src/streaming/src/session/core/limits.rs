//! Times, compared with their limits.

use tokio::time::Instant;

use super::{ClientSocket, Connection, Core, Ended, Forward, Side};
use crate::session::forward::StallMark;

/// A stream that moves less than this in `stream_stall_timeout`, while it holds up its session, is stuck.
const STALL_PROGRESS: u64 = 64 << 10;

impl<W: ClientSocket, C: Connection> Core<W, C> {
    /// Something may pass its limit soon.
    pub(in crate::session) fn wants_ticks(&self) -> bool {
        self.lingering > 0 || self.wire.is_blocked() || self.was_spent || self.is_paused()
    }

    /// Until when the socket is left alone, if it is.
    pub(in crate::session) fn patience_until(&self) -> Option<Instant> {
        self.patience
    }

    /// When the session may be over if nothing happens.
    pub(in crate::session) fn quiet_until(&self) -> Instant {
        let idle = self.last_data + self.limits.idle_timeout;
        if self.pinged { idle.min(self.last_frame + self.limits.silence_timeout) } else { idle }
    }

    /// Compares everything with its limit.
    pub(in crate::session) fn on_tick<S: Side<C>>(&mut self, side: &mut S) -> Result<(), Ended> {
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
