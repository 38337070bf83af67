//! How many connections a hybrid vsock device has from this process, so that its limits are met by a refusal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that Firecracker and Cloud Hypervisor allow a device; one more is not answered or ends another.
const MAX_CONNECTIONS: usize = 1_023;

/// Handshakes whose callers have left and which wait for OK all the same. A client that comes and goes in a loop
/// while the device is silent costs as many descriptors and no more.
const MAX_ABANDONED: usize = 256;

/// Devices in use, by the path of their socket.
static DEVICES: Mutex<Option<HashMap<PathBuf, Arc<Device>>>> = Mutex::new(None);

#[derive(Debug, Default)]
struct Device {
    connections: AtomicUsize,
    abandoned: AtomicUsize,
}

/// A connection's place at its device; free again when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    device: Arc<Device>,
    is_abandoned: bool,
}

impl Seat {
    /// Takes a place.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn take(path: &Path) -> Result<Self, String> {
        let device = device(path);
        let abandoned = device.abandoned.load(SeqCst);
        if abandoned >= MAX_ABANDONED {
            return Err(format!(
                "{abandoned} requests still wait for the multiplexer's answer, as many as may; the guest may be paused"
            ));
        }
        // Counts before it looks, so that two cannot take the last one.
        if device.connections.fetch_add(1, SeqCst) >= MAX_CONNECTIONS {
            device.connections.fetch_sub(1, SeqCst);
            return Err(format!(
                "{MAX_CONNECTIONS} connections are open, as many as its device takes; close some and try again"
            ));
        }
        Ok(Self { device, is_abandoned: false })
    }

    /// Whoever asked for the connection has left.
    pub(super) fn abandon(&mut self) {
        if !std::mem::replace(&mut self.is_abandoned, true) {
            self.device.abandoned.fetch_add(1, SeqCst);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.device.connections.fetch_sub(1, SeqCst);
        if self.is_abandoned {
            self.device.abandoned.fetch_sub(1, SeqCst);
        }
    }
}

fn device(path: &Path) -> Arc<Device> {
    // Nothing in there can be left half-done by a panic.
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let devices = devices.get_or_insert_default();
    if let Some(device) = devices.get(path) {
        return device.clone();
    }
    devices.retain(|_, device| Arc::strong_count(device) > 1);
    devices.entry(path.to_owned()).or_default().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_takes_so_many_and_no_more() {
        let path = Path::new("/test/a.sock");
        let mut seats: Vec<_> = (0..MAX_CONNECTIONS).map(|_| Seat::take(path).unwrap()).collect();
        assert!(Seat::take(path).unwrap_err().contains("1023 connections"));
        Seat::take(Path::new("/test/b.sock")).unwrap();
        seats.pop();
        let _one = Seat::take(path).unwrap();
        assert!(Seat::take(path).is_err());
    }

    #[test]
    fn abandoned_handshakes_are_few() {
        let path = Path::new("/test/c.sock");
        let abandon = |_| {
            let mut seat = Seat::take(path).unwrap();
            seat.abandon();
            seat
        };
        let mut seats: Vec<_> = (0..MAX_ABANDONED).map(abandon).collect();
        assert!(Seat::take(path).unwrap_err().contains("256 requests still wait"));
        seats.pop();
        Seat::take(path).unwrap();
    }
}
