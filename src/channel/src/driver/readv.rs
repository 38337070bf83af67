//! `readv(2)` into memory that need not be initialised.

#![allow(unsafe_code)] // the one place; std's IoSliceMut cannot say that memory is uninitialised

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use tokio::io::ReadBuf;

/// Reads once: into the first `split` unfilled bytes of `into`, then into `lead`, then into the rest of `into`.
/// Gives the number of bytes read. Those in `into` count as initialised, and not as filled.
///
/// `split` is at most the room in `into`.
pub(super) fn readv(
    fd: BorrowedFd<'_>,
    into: &mut ReadBuf<'_>,
    split: usize,
    lead: &mut [u8],
) -> io::Result<usize> {
    // SAFETY: nothing is de-initialised: the kernel only writes.
    let unfilled = unsafe { into.unfilled_mut() };
    let (front, back) = unfilled.split_at_mut(split);
    let back = if lead.is_empty() { &mut [] } else { back };
    let parts = [
        libc::iovec { iov_base: front.as_mut_ptr().cast(), iov_len: front.len() },
        libc::iovec { iov_base: lead.as_mut_ptr().cast(), iov_len: lead.len() },
        libc::iovec { iov_base: back.as_mut_ptr().cast(), iov_len: back.len() },
    ];
    // SAFETY: the three parts are distinct and borrowed mutably for the call.
    let read = unsafe { libc::readv(fd.as_raw_fd(), parts.as_ptr(), parts.len() as libc::c_int) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let in_lead = read.saturating_sub(split).min(lead.len());
    // SAFETY: the kernel has filled the parts in order, so all but the bytes in `lead` lie without a gap at the
    // front of what was unfilled.
    unsafe { into.assume_init(read - in_lead) };
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn read(wire: &[u8], room: usize, split: usize, lead: &mut [u8]) -> (usize, Vec<u8>) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(wire).unwrap();
        let mut memory = vec![MaybeUninit::uninit(); room];
        let mut into = ReadBuf::uninit(&mut memory);
        let read = readv(theirs.as_fd(), &mut into, split, lead).unwrap();
        (read, into.initialized().to_vec())
    }

    #[test]
    fn scatters_around_the_lead() {
        let mut lead = [0; 4];
        assert_eq!(read(b"frontLEADback", 100, 5, &mut lead), (13, b"frontback".to_vec()));
        assert_eq!(lead, *b"LEAD");
    }

    #[test]
    fn a_short_read_may_end_anywhere() {
        for len in 1..13 {
            let mut lead = [0; 4];
            let (got, room) = read(&b"frontLEADback"[..len], 9, 5, &mut lead);
            assert_eq!(got, len);
            assert_eq!(room, b"frontback"[..len.min(5) + len.saturating_sub(9)]);
        }
    }

    #[test]
    fn without_a_lead_only_the_front_is_filled() {
        assert_eq!(read(b"frontback", 9, 5, &mut []), (5, b"front".to_vec()));
    }
}
