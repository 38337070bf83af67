//! Timers that epoll watches (timerfd). While bytes move, neither is a clock read for them nor has a wait an end of its
//! own: in some guests, either is a system call or worse.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::time::{self, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

const NEVER: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A timer that is set again and again, or not at all.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
    /// When it will go off; `None` where it was not set since it last did, or goes off by itself.
    at: Option<Instant>,
}

impl Timer {
    /// One that waits to be set.
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: time::timerfd_create(TimerfdClockId::Monotonic, flags)?, at: None })
    }

    /// One that goes off again and again.
    pub(crate) fn every(every: Duration) -> Result<Self, Errno> {
        let timer = Self::new()?;
        let every = timespec(every);
        timer.set(&Itimerspec { it_interval: every, it_value: every })?;
        Ok(timer)
    }

    /// Has it go off at this time, or earlier if that was asked for.
    pub(crate) fn expect(&mut self, at: Instant) {
        if self.at.is_some_and(|set| set <= at) {
            return;
        }
        let wait = timespec(at.saturating_duration_since(Instant::now()));
        // It is there and the time is valid, so this cannot fail.
        if self.set(&Itimerspec { it_interval: NEVER, it_value: wait }).is_ok() {
            self.at = Some(at);
        }
    }

    /// Takes note that it went off.
    pub(crate) fn went_off(&mut self) {
        // What is read does not matter: that it is, silences the timer.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        self.at = None;
    }

    fn set(&self, times: &Itimerspec) -> Result<(), Errno> {
        time::timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), times).map(drop)
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

    #[test]
    fn one_that_goes_on_does_so() {
        let mut timer = Timer::every(Duration::from_millis(1)).unwrap();
        for _ in 0..3 {
            assert!(wait(&timer, Duration::from_secs(30)));
            timer.went_off();
        }
    }
}
