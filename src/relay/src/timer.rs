//! Timers that epoll watches (timerfd). While bytes move, neither is a clock read for them nor has a wait an end of its
//! own: in some guests, either is a system call or worse.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::time::{self, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

const NEVER: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A timer that goes off once for each time that it is set.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
    /// When it will go off; `None` if it has not been set since it last did.
    at: Option<Instant>,
}

impl Timer {
    /// One that waits to be set.
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: time::timerfd_create(TimerfdClockId::Monotonic, flags)?, at: None })
    }

    /// Has it go off at this time, or earlier if that was asked for.
    pub(crate) fn expect(&mut self, at: Instant) {
        if self.at.is_some_and(|set| set <= at) {
            return;
        }
        let wait = timespec(at.saturating_duration_since(Instant::now()));
        let once = Itimerspec { it_interval: NEVER, it_value: wait };
        // The descriptor and the time are valid, so this cannot fail.
        if time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once).is_ok() {
            self.at = Some(at);
        }
    }

    /// Takes note that it went off.
    pub(crate) fn went_off(&mut self) {
        // What is read does not matter: that it is, silences the timer.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.at = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// At least a nanosecond, as none would stop the timer, and at most a day, which surely fits.
fn timespec(wait: Duration) -> Timespec {
    let wait = wait.clamp(Duration::from_nanos(1), Duration::from_secs(86_400));
    Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn wait(timer: &Timer, limit: Duration) -> bool {
        let mut fds = [PollFd::new(timer, PollFlags::IN)];
        poll(&mut fds, Some(&timespec(limit))).unwrap() == 1
    }

    #[test]
    fn the_earliest_time_counts_until_it_has_come() {
        let start = Instant::now();
        let mut timer = Timer::new().unwrap();
        timer.expect(start + Duration::from_secs(3_600));
        timer.expect(start + Duration::from_millis(20));
        timer.expect(start + Duration::from_secs(3_600));
        assert!(wait(&timer, Duration::from_secs(30)));
        assert!(start.elapsed() >= Duration::from_millis(20));
        timer.went_off();
        assert!(!wait(&timer, Duration::from_nanos(1)));
        // A time that has passed is as good as now.
        timer.expect(start);
        assert!(wait(&timer, Duration::from_secs(30)));
    }
}
