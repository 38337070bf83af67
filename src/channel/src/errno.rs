//! The guest's errors on the wire: Linux' numbers, whatever the host runs on.

use std::io::ErrorKind;

/// A message that breaks the protocol.
pub const EPROTO: i32 = 71;
/// A dial without an answer, and a connection whose peer is silent.
pub const ETIMEDOUT: i32 = 110;
/// A rule forbids it.
pub const EACCES: i32 = 13;
/// The side that sends this has given the connection up.
pub const ECONNABORTED: i32 = 103;
/// The other side has reset the connection.
pub const ECONNRESET: i32 = 104;
/// The relay is ending.
pub const ESHUTDOWN: i32 = 108;

/// What an error of the guest is on the host.
pub fn kind(errno: i32) -> ErrorKind {
    match errno {
        12 => ErrorKind::OutOfMemory,              // ENOMEM
        EACCES | 1 => ErrorKind::PermissionDenied, // EPERM
        32 => ErrorKind::BrokenPipe,               // EPIPE
        EPROTO => ErrorKind::InvalidData,
        98 => ErrorKind::AddrInUse,           // EADDRINUSE
        99 => ErrorKind::AddrNotAvailable,    // EADDRNOTAVAIL
        100 => ErrorKind::NetworkDown,        // ENETDOWN
        101 => ErrorKind::NetworkUnreachable, // ENETUNREACH
        ECONNABORTED | ESHUTDOWN => ErrorKind::ConnectionAborted,
        ECONNRESET => ErrorKind::ConnectionReset,
        ETIMEDOUT => ErrorKind::TimedOut,
        111 => ErrorKind::ConnectionRefused,     // ECONNREFUSED
        112 | 113 => ErrorKind::HostUnreachable, // EHOSTDOWN, EHOSTUNREACH
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn agrees_with_the_system() {
        for errno in [1, 12, 13, 32, 98, 99, 100, 101, 103, 104, 110, 111, 113] {
            assert_eq!(kind(errno), std::io::Error::from_raw_os_error(errno).kind(), "errno {errno}");
        }
    }
}
