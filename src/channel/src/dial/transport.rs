//! Connecting to an endpoint's socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio_vsock::{VsockAddr, VsockStream};

use super::error::{OpenError, OpenErrorKind};
use crate::descriptor::{Descriptor, watch_reading};
use crate::endpoint::Endpoint;

/// Time between two tries while a Unix socket's backlog is full, which the system does not let one wait for.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// Connects; nothing was sent or read yet.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Descriptor, OpenError> {
    let connected = match endpoint {
        Endpoint::Hybrid { path, .. } | Endpoint::Unix { path } => connect_unix(path).await,
        Endpoint::Vsock { cid, port } => connect_vsock(*cid, *port).await,
    };
    connected.map_err(|error| {
        let (kind, hint) = explain(&error);
        OpenError::new(kind, format!("{endpoint}: cannot connect ({error}); {hint}"))
    })
}

fn explain(error: &io::Error) -> (OpenErrorKind, &'static str) {
    use io::ErrorKind as Io;
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    match (error.kind(), error.raw_os_error()) {
        (Io::NotFound, _) => (OpenErrorKind::RelayNotReady, "the socket is not there: is the VM running?"),
        (Io::ConnectionRefused, _) => {
            (OpenErrorKind::RelayNotReady, "nobody listens there: is the VM running?")
        }
        (Io::ConnectionReset, _) => (OpenErrorKind::RelayNotReady, "is the relay running in the guest?"),
        (Io::PermissionDenied, _) => (OpenErrorKind::Internal, "this program may not use the socket"),
        (Io::OutOfMemory, _) | (_, Some(EMFILE | ENFILE)) => {
            (OpenErrorKind::Internal, "raise this program's limits")
        }
        (Io::Unsupported, _) => {
            (OpenErrorKind::Internal, "this machine has no vsock: load its kernel module")
        }
        _ => (OpenErrorKind::RelayNotReady, "are VM and relay running?"),
    }
}

async fn connect_unix(path: &Path) -> io::Result<Descriptor> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            // Nothing is awaited from here to the first word (see `hybrid`).
            Ok(()) => return watch_reading(socket),
            Err(Errno::AGAIN) => tokio::time::sleep(BACKLOG_PAUSE).await,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Only the connection is made by tokio-vsock: its stream has no vectored write, and cannot be read around a frame
/// header, so that the channel goes on with the descriptor alone.
async fn connect_vsock(cid: u32, port: u32) -> io::Result<Descriptor> {
    let stream = VsockStream::connect(VsockAddr::new(cid, port)).await?;
    watch_reading(stream.into())
}
