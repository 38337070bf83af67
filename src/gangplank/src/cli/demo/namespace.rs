//! Enters a new network namespace and brings up its loopback interface.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::UnshareFlags;

/// Why that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnterNamespaceError {
    /// This machine does not allow it.
    #[error("this machine does not let the demo create a network namespace ({0})")]
    Denied(io::Error),
    /// The loopback interface could not be brought up.
    #[error("the loopback interface of the demo's network namespace cannot be brought up ({0})")]
    Loopback(io::Error),
}

/// Moves this process into the namespace, and also into a user namespace if it lacks the privilege otherwise.
///
/// Must be called while the process has a single thread: a process with several cannot enter a user namespace.
pub(super) fn enter() -> Result<(), EnterNamespaceError> {
    unshare(UnshareFlags::NEWNET)
        .or_else(|_| unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET))
        .map_err(EnterNamespaceError::Denied)?;
    bring_up_loopback().map_err(EnterNamespaceError::Loopback)
}

#[allow(unsafe_code)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the function is unsafe because some flags stop sharing memory or descriptors with other threads. These
    // two do not.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// The index of the loopback interface, the first of every network namespace.
const LOOPBACK: i32 = 1;

/// Sends a request to rtnetlink(7) and waits for its acknowledgement.
fn bring_up_loopback() -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let family = AddressFamily::NETLINK;
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::send(&socket, &set_link_up(LOOPBACK), SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    parse_acknowledgement(&answer[..length])
}

/// An RTM_NEWLINK that sets IFF_UP and nothing else: `struct nlmsghdr`, then `struct ifinfomsg`.
fn set_link_up(index: i32) -> [u8; 32] {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    let mut message = [0; 32];
    message[0..4].copy_from_slice(&32u32.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    message[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    message[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());
    message
}

/// Parses the answer: an NLMSG_ERROR whose number is 0 on success.
fn parse_acknowledgement(answer: &[u8]) -> io::Result<()> {
    const NLMSG_ERROR: u16 = 2;
    let (Some(kind), Some(error)) = (answer.get(4..6), answer.get(16..20)) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let number = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).unwrap_or_default();
    if kind != NLMSG_ERROR.to_ne_bytes() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    match number(error) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, error: i32) -> Vec<u8> {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        answer[16..20].copy_from_slice(&error.to_ne_bytes());
        answer
    }

    #[test]
    fn acknowledgements_are_parsed() {
        assert!(parse_acknowledgement(&answer(2, 0)).is_ok());
        assert_eq!(parse_acknowledgement(&answer(2, -1)).unwrap_err().raw_os_error(), Some(1));
        assert!(parse_acknowledgement(&answer(3, 0)).is_err());
        assert!(parse_acknowledgement(&[0; 10]).is_err());
    }
}
