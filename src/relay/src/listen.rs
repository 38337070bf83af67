//! Where the host reaches the relay.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// Connections that may wait to be accepted. A hybrid multiplexer answers one too many with a bare EOF, so this is the
/// largest burst that is served. The kernel takes at most net.core.somaxconn, which is 4,096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// Any of this machine's context ids, `VMADDR_CID_ANY`.
const ANY_CID: u32 = u32::MAX;

/// The host's context id, `VMADDR_CID_HOST`.
pub(crate) const HOST_CID: u32 = 2;

/// An address to listen at: `vsock://PORT` or `unix:///PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A port of AF_VSOCK. Only the host may connect.
    Vsock {
        /// The port.
        port: u32,
    },
    /// A Unix socket, which the relay creates. Only this user may connect.
    Unix {
        /// The socket's path.
        path: PathBuf,
    },
}

/// A text that is not a [`Listen`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address to listen at: write vsock://PORT or unix:///PATH")]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let vsock = text.strip_prefix("vsock://").and_then(|port| port.parse().ok());
        if let Some(port) = vsock.filter(|&port| port != 0 && port != u32::MAX) {
            return Ok(Self::Vsock { port });
        }
        match text.strip_prefix("unix://") {
            Some(path) if Path::new(path).is_absolute() => Ok(Self::Unix { path: path.into() }),
            _ => Err(ListenError(text.to_owned())),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { port } => write!(f, "vsock://{port}"),
            Self::Unix { path } => write!(f, "unix://{}", path.display()),
        }
    }
}

/// The outcome of an accept.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A connection from the host.
    Host(OwnedFd),
    /// A peer that is not the host. It was refused.
    Stranger,
    /// A peer that left while it waited.
    Gone,
    /// No one waits.
    Empty,
}

/// A listening socket. A Unix socket's path is removed with it.
///
/// It is never replaced, as that would cut off connections that wait to be accepted. Kernels without the fix for
/// CVE-2026-46214 lose a place in the backlog for each peer whose context id belongs to another transport than the one
/// it came by (`virtio_transport_recv_listen`). The host's id never does.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    listen: Listen,
    extra_cid: Option<u32>,
}

impl Listener {
    pub(crate) fn bind(listen: &Listen, extra_cid: Option<u32>) -> io::Result<Self> {
        let fd = match listen {
            Listen::Vsock { port } => bind_vsock(*port)?,
            Listen::Unix { path } => bind_unix(path)?,
        };
        Ok(Self { fd, listen: listen.clone(), extra_cid })
    }

    pub(crate) fn listen(&self) -> &Listen {
        &self.listen
    }

    /// Its vsock port, if it has one.
    pub(crate) fn vsock_port(&self) -> Option<u32> {
        match self.listen {
            Listen::Vsock { port } => Some(port),
            Listen::Unix { .. } => None,
        }
    }

    /// Accepts a connection, non-blocking.
    pub(crate) fn accept(&self) -> Result<Accepted, Errno> {
        let accepted = rustix::net::accept_with(&self.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC);
        match accepted {
            Ok(peer) if self.may_connect(&peer) => Ok(Accepted::Host(peer)),
            Ok(_) => Ok(Accepted::Stranger),
            Err(Errno::INTR | Errno::CONNABORTED) => Ok(Accepted::Gone),
            Err(Errno::WOULDBLOCK) => Ok(Accepted::Empty),
            Err(error) => Err(error),
        }
    }

    /// Any process in the guest can dial any vsock port. Only the address distinguishes the host from those.
    fn may_connect(&self, peer: &OwnedFd) -> bool {
        match self.listen {
            Listen::Unix { .. } => true,
            Listen::Vsock { .. } => {
                let address = SockRef::from(peer).peer_addr().ok();
                let peer = address.and_then(|address| address.as_vsock_address());
                peer.is_some_and(|(cid, _)| cid == HOST_CID || Some(cid) == self.extra_cid)
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listen::Unix { path } = &self.listen {
            // It does not matter if it is already gone.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_vsock(port: u32) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::vsock(ANY_CID, port))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    remove_stale(path, &address)?;
    let socket = unix_socket()?;
    rustix::net::bind(&socket, &address)?;
    // Before `listen`, so that no other user can connect in between.
    rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Removes a socket on which no process listens any more.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    match rustix::net::connect(unix_socket()?, address) {
        Err(Errno::CONNREFUSED) if is_socket(path)? => std::fs::remove_file(path),
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::WOULDBLOCK) => Err(Errno::ADDRINUSE.into()),
        Err(error) => Err(error.into()),
    }
}

fn is_socket(path: &Path) -> io::Result<bool> {
    Ok(std::fs::symlink_metadata(path)?.file_type().is_socket())
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_parse_and_display_the_same() {
        for text in ["vsock://1024", "unix:///run/relay.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write() {
        for text in [
            "",
            "vsock://",
            "vsock://0",
            "vsock://4294967295",
            "vsock://3:1024",
            "unix://relay.sock",
            "tcp://:1",
        ] {
            let error = text.parse::<Listen>().unwrap_err().to_string();
            assert!(error.contains("vsock://PORT") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.sock");
        let listen = Listen::Unix { path: path.clone() };
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&listen, None).unwrap();
        assert_eq!(Listener::bind(&listen, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        assert!(Listener::bind(&Listen::Unix { path: path.clone() }, None).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
