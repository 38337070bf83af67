//! Payload that the kernel moves from socket to socket: through a pipe, without a copy in this program.
//!
//! Costs some three system calls a chunk whatever its size, so it pays from some 16 KiB on, where copying would
//! cost more than that.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Least payload for which a pipe is worth its system calls.
pub(super) const WORTH: usize = 16 << 10;

/// Room of a pipe, and so the most that is moved at once.
const ROOM: usize = 256 << 10;

/// Empty pipes that a thread keeps, two descriptors each.
const KEPT: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe on loan, with `len` bytes in it. It goes back to the pool if it is empty when dropped.
pub(super) struct Pipe {
    ends: Option<Ends>,
    len: usize,
}

impl Pipe {
    /// An empty pipe; `None` where there are no descriptors left, or no such thing: then bytes are copied.
    pub(super) fn take() -> Option<Self> {
        let ends = POOL.with_borrow_mut(Vec::pop).or_else(new_pipe)?;
        Some(Self { ends: Some(ends), len: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Room that is left.
    pub(super) fn room(&self) -> usize {
        ROOM - self.len
    }

    /// Takes at most `most` bytes off a socket. `Ok(0)` is the socket's end. Pending from a pipe that is not
    /// empty means only that nothing more goes into it now: an empty socket can't be told from a full pipe, so
    /// nobody will be woken.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        let most = most.min(self.room());
        let fill = || Ok(splice(from, None, &ends.write, None, most, SpliceFlags::NONBLOCK)?);
        let moved = loop {
            let attempt = if self.len > 0 {
                fill()
            } else {
                ready!(from.poll_read_ready(cx))?;
                from.try_io(Interest::READABLE, fill)
            };
            match attempt {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.len > 0 => return Poll::Pending,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => break done?,
            }
        };
        self.len += moved;
        Poll::Ready(Ok(moved))
    }

    /// Gives what is in the pipe to a socket. Ready when it is empty.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(())) };
        while self.len > 0 {
            ready!(to.poll_write_ready(cx))?;
            let drain = || Ok(splice(&ends.read, None, to, None, self.len, SpliceFlags::NONBLOCK)?);
            match to.try_io(Interest::WRITABLE, drain) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                done => self.len -= done?,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let (Some(ends), 0) = (self.ends.take(), self.len) else { return };
        // The thread may be ending: then the pipe is simply closed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < KEPT {
                pool.push(ends);
            }
        });
    }
}

fn new_pipe() -> Option<Ends> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // A refusal (the user's limit on pipe pages) leaves the default room, which works too.
    let _ = fcntl_setpipe_size(&write, ROOM);
    Some(Ends { read, write })
}
