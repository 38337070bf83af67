//! Payload that the kernel moves between the client's socket and connections: through a pipe, without a copy in
//! this program.
//!
//! Costs some three system calls a chunk whatever its size, so it pays from some 16 KiB on, where copying would
//! cost more than that.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::dial::Connection;

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
        let most = most.min(self.room());
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        let moved = if self.len == 0 {
            ready!(poll_splice_in(from, cx, ends.write.as_fd(), most))?
        } else {
            match splice(from, None, &ends.write, None, most, SpliceFlags::NONBLOCK) {
                Err(Errno::WOULDBLOCK) => return Poll::Pending,
                moved => moved?,
            }
        };
        self.len += moved;
        Poll::Ready(Ok(moved))
    }

    /// Takes as much off a connection as there is; the pipe is empty. `Ok(0)` is the connection's end.
    pub(super) fn poll_fill_from<C: Connection>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut C,
    ) -> Poll<io::Result<usize>> {
        let room = self.room();
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        let moved = ready!(from.poll_splice_in(cx, ends.write.as_fd(), room))?;
        self.len += moved;
        Poll::Ready(Ok(moved))
    }

    /// Gives what is in the pipe to a socket. Ready when it is empty.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        self.poll_empty(|pipe, len| poll_splice_out(to, cx, pipe, len))
    }

    /// Gives what is in the pipe to a connection. Ready when it is empty.
    pub(super) fn poll_drain_to<C: Connection>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut C,
    ) -> Poll<io::Result<()>> {
        self.poll_empty(|pipe, len| to.poll_splice_out(cx, pipe, len))
    }

    fn poll_empty(
        &mut self,
        mut give: impl FnMut(BorrowedFd<'_>, usize) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(())) };
        while self.len > 0 {
            match ready!(give(ends.read.as_fd(), self.len))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                moved => self.len -= moved,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Moves at most `most` bytes from a socket into an empty pipe. `Ok(0)` is the socket's end.
pub(crate) fn poll_splice_in(
    from: &TcpStream,
    cx: &mut Context<'_>,
    pipe: BorrowedFd<'_>,
    most: usize,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        let fill = || Ok(splice(from, None, pipe, None, most, SpliceFlags::NONBLOCK)?);
        match from.try_io(Interest::READABLE, fill) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            moved => return Poll::Ready(moved),
        }
    }
}

/// Moves at most `len` bytes, which are in the pipe, to a socket.
pub(crate) fn poll_splice_out(
    to: &TcpStream,
    cx: &mut Context<'_>,
    pipe: BorrowedFd<'_>,
    len: usize,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        let drain = || Ok(splice(pipe, None, to, None, len, SpliceFlags::NONBLOCK)?);
        match to.try_io(Interest::WRITABLE, drain) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            moved => return Poll::Ready(moved),
        }
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
