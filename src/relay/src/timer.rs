//! Timers that epoll watches (timerfd). So epoll needs no timeout of its own, and no clock is read while bytes move: in
//! some guests reading the clock is a system call or worse.

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
    /// A timer that is not set.
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: time::timerfd_create(TimerfdClockId::Monotonic, flags)?, at: None })
    }

    /// Has it go off at this time, unless it is set to an earlier one.
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

    /// Notes that it went off.
    pub(crate) fn went_off(&mut self) {
        // The read itself makes the timer unreadable again; the value does not matter.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.at = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// At least a nanosecond, as zero would stop the timer, and at most a day, which fits any `time_t`.
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
