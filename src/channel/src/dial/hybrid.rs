//! The handshake of hybrid vsock: `CONNECT PORT\n` out, `OK NUMBER\n` back, then the connection is the guest's.
//!
//! What its implementations do not forgive, and what is done about it:
//!
//! - Leaving between CONNECT and OK kills vhost-device-vsock 0.3.0 for all connections: the descriptor is kept
//!   until the answer or the end, even when the caller has gone.
//! - Connecting and leaving without a word spins a core there and has crashed Cloud Hypervisor: CONNECT follows
//!   the connect without a chance to be cancelled between.
//! - Firecracker reads the line at once and drops what follows it: CONNECT is one write, and nothing more is
//!   sent before OK.
//! - Bytes of the guest may follow OK in the same segment: nothing behind its newline is read here.
//! - A refusal is a bare EOF.

use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::error::{OpenError, OpenErrorKind};
use super::raw::{read, write};
use crate::descriptor::Descriptor;
use crate::endpoint::Endpoint;
use crate::permit::Permit;

/// How long a connection is kept whose caller has left before OK. A multiplexer answers or refuses within 2 s
/// where the guest lives; a guest that is paused or dead this long costs a descriptor until then.
const KEEP: Duration = Duration::from_secs(60);

/// The longest answer, in bytes, newline included. `OK 4294967295\n` has 14.
const MAX_LINE: usize = 64;

/// Asks for the guest's port, on a connection on which nothing was said yet.
pub(super) async fn handshake(
    descriptor: Descriptor,
    endpoint: &Endpoint,
    port: u32,
    permit: Permit,
) -> Result<(Descriptor, Permit), OpenError> {
    let not_ready = |cause| OpenError::new(OpenErrorKind::RelayNotReady, format!("{endpoint}: {cause}"));
    let line = format!("CONNECT {port}\n");
    // The socket is fresh, so that the line fits; not awaiting is what makes it one write, at once.
    match write(&descriptor, line.as_bytes()) {
        Ok(sent) if sent == line.len() => {}
        Ok(_) => return Err(not_ready("the multiplexer's socket took only a part of CONNECT".to_owned())),
        Err(error) => return Err(not_ready(format!("CONNECT could not be sent ({error})"))),
    }
    let kept = Kept { connection: Some((descriptor, permit)), runtime: Handle::current() };
    let (answer, connection) = kept.answer().await;
    match (answer, connection) {
        (Ok(line), Some(connection)) if line.starts_with(b"OK") => Ok(connection),
        (Ok(line), _) if line.is_empty() => Err(not_ready(format!(
            "nothing listens on vsock port {port} in the guest, says the multiplexer; is the relay running?"
        ))),
        (Ok(line), _) => {
            let cause = format!(
                "{endpoint}: no hybrid vsock socket: it answers {:?}",
                String::from_utf8_lossy(&line)
            );
            Err(OpenError::new(OpenErrorKind::RelayUnusable, cause))
        }
        (Err(error), _) => Err(not_ready(format!("the multiplexer left instead of an answer ({error})"))),
    }
}

/// A connection between CONNECT and the answer. Dropped in that time, it lives on until then.
struct Kept {
    connection: Option<(Descriptor, Permit)>,
    runtime: Handle,
}

impl Kept {
    /// Waits for the answer, a line; gives the connection back.
    async fn answer(mut self) -> (std::io::Result<Vec<u8>>, Option<(Descriptor, Permit)>) {
        let answer = match &self.connection {
            Some((descriptor, _)) => read_line(descriptor).await,
            None => Ok(Vec::new()),
        };
        (answer, self.connection.take())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some((descriptor, mut permit)) = self.connection.take() {
            permit.abandon();
            self.runtime.spawn(async move {
                let _ = timeout(KEEP, read_line(&descriptor)).await;
                drop((descriptor, permit));
            });
        }
    }
}

/// Reads up to the newline, looking before taking so that nothing behind it is taken. Empty: the end came first.
/// A line that is too long is given as far as it was read.
async fn read_line(descriptor: &Descriptor) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = [0; MAX_LINE];
    while line.len() < MAX_LINE && !line.ends_with(b"\n") {
        let room = &mut buffer[..MAX_LINE - line.len()];
        let seen = read(descriptor, room, RecvFlags::PEEK).await?;
        if seen == 0 {
            line.clear();
            break;
        }
        let end = room[..seen].iter().position(|&byte| byte == b'\n').map_or(seen, |at| at + 1);
        let taken = read(descriptor, &mut room[..end], RecvFlags::empty()).await?;
        line.extend_from_slice(&room[..taken]);
    }
    Ok(line)
}
