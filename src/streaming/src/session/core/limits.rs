//! Times, compared with their limits.

use tokio::time::Instant;

use super::{ClientSocket, Connection, Core, Ended, Forward, Side};
use crate::session::stall::stuck;

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

    fn end_stalled<S: Side<C>>(&mut self, side: &mut S) {
        let spent = std::mem::take(&mut self.was_spent) || self.is_spent();
        for index in stuck(&mut self.forwards, self.held, spent, self.now, &self.limits) {
            side.on_stuck(self, index);
        }
    }
}
