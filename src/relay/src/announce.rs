//! Telling the host unasked that the relay is there. Some vsock devices do not survive a connection from the host while
//! their guest boots, so that the host must wait instead of trying.
//!
//! The relay connects to the host at its own vsock port, sends nothing, and waits for the host to close. It does not
//! matter whether anything listens there. It does so when it starts, and when its last connection was cut off: the host
//! may be waiting then, as after a snapshot is restored.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::listen::HOST_CID;

/// How long the host may take to close. The connect itself gives up after 2 s without an answer (vsock(7)).
const WAIT: Duration = Duration::from_secs(2);

/// Stack of the thread, in bytes.
const STACK: usize = 64 << 10;

/// Whether a thread is already announcing: one is enough.
static ANNOUNCING: AtomicBool = AtomicBool::new(false);

/// Announces the relay from a thread of its own, so that the loop does not wait. A failure does not matter: a host that
/// hears nothing tries in the end.
pub(crate) fn announce(ports: Vec<u32>) {
    if ports.is_empty() || ANNOUNCING.swap(true, Relaxed) {
        return;
    }
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        for port in ports {
            let _ = announce_at(port);
        }
        ANNOUNCING.store(false, Relaxed);
    });
    if thread.is_err() {
        ANNOUNCING.store(false, Relaxed);
    }
}

fn announce_at(port: u32) -> io::Result<()> {
    let mut socket = Socket::new(Domain::VSOCK, Type::STREAM.cloexec(), None)?;
    socket.connect(&SockAddr::vsock(HOST_CID, port))?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.read(&mut [0]).map(drop)
}
