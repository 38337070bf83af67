//! Telling the host that the relay is there, without having been asked: some vsock devices do not live through a
//! connection from the host while their guest boots, so that the host must not try.
//!
//! The relay connects to the host at its own vsock port, says nothing, and waits for the host to close. Nobody need
//! listen there. It does so when it begins, and when its last connection was cut off: then the host may wait, as after a
//! snapshot was restored.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::listen::HOST_CID;

/// How long the host may take to close. The connection itself takes at most 2 s where nobody answers (vsock(7)).
const WAIT: Duration = Duration::from_secs(2);

/// Stack of the thread, in bytes.
const STACK: usize = 64 << 10;

/// Whether a thread is at it: one is enough.
static TELLING: AtomicBool = AtomicBool::new(false);

/// Tells it from a thread that then ends. What comes of it does not matter: a host that hears nothing asks at last.
pub(crate) fn announce(ports: Vec<u32>) {
    if ports.is_empty() || TELLING.swap(true, Relaxed) {
        return;
    }
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        for port in ports {
            let _ = tell(port);
        }
        TELLING.store(false, Relaxed);
    });
    if thread.is_err() {
        TELLING.store(false, Relaxed);
    }
}

fn tell(port: u32) -> io::Result<()> {
    let mut socket = Socket::new(Domain::VSOCK, Type::STREAM.cloexec(), None)?;
    socket.connect(&SockAddr::vsock(HOST_CID, port))?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.read(&mut [0]).map(drop)
}
