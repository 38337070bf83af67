//! Permits for the connections of a hybrid vsock device: a device takes so many, and one more must not be tried.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that a device of Firecracker or Cloud Hypervisor takes; one more gets no answer, or ends another.
const MAX_CONNECTIONS: usize = 1_023;

/// Handshakes that still wait for OK although their callers have left. This bounds the descriptors that a client costs
/// which comes and goes while the device is silent.
const MAX_ABANDONED: usize = 256;

/// Devices in use, by the path of their socket.
static DEVICES: Mutex<Option<HashMap<PathBuf, Arc<Device>>>> = Mutex::new(None);

#[derive(Debug, Default)]
struct Device {
    connections: AtomicUsize,
    abandoned: AtomicUsize,
}

/// Leave to have one connection with a device. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Permit {
    device: Arc<Device>,
    is_abandoned: bool,
}

impl Permit {
    /// Takes a permit for the device with this socket.
    ///
    /// # Errors
    /// Why there is none left.
    pub(crate) fn take(path: &Path) -> Result<Self, String> {
        let device = device(path);
        let abandoned = device.abandoned.load(SeqCst);
        if abandoned >= MAX_ABANDONED {
            return Err(format!(
                "{abandoned} abandoned requests still wait for the multiplexer, which is the limit; the guest may be paused"
            ));
        }
        // Count first and look then, so that two callers cannot both take the last permit.
        if device.connections.fetch_add(1, SeqCst) >= MAX_CONNECTIONS {
            device.connections.fetch_sub(1, SeqCst);
            return Err(format!(
                "{MAX_CONNECTIONS} connections are open, which is its device's limit; close some and try again"
            ));
        }
        Ok(Self { device, is_abandoned: false })
    }

    /// The caller has left before the handshake was over.
    pub(crate) fn abandon(&mut self) {
        if !std::mem::replace(&mut self.is_abandoned, true) {
            self.device.abandoned.fetch_add(1, SeqCst);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.device.connections.fetch_sub(1, SeqCst);
        if self.is_abandoned {
            self.device.abandoned.fetch_sub(1, SeqCst);
        }
    }
}

fn device(path: &Path) -> Arc<Device> {
    // No code that holds this lock can panic half-way through a change.
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
    fn a_device_has_a_limited_number_of_permits() {
        let path = Path::new("/test/a.sock");
        let mut permits: Vec<_> = (0..MAX_CONNECTIONS).map(|_| Permit::take(path).unwrap()).collect();
        assert!(Permit::take(path).unwrap_err().contains("1023 connections"));
        Permit::take(Path::new("/test/b.sock")).unwrap();
        permits.pop();
        let _one = Permit::take(path).unwrap();
        assert!(Permit::take(path).is_err());
    }

    #[test]
    fn abandoned_handshakes_are_limited() {
        let path = Path::new("/test/c.sock");
        let abandon = |_| {
            let mut permit = Permit::take(path).unwrap();
            permit.abandon();
            permit
        };
        let mut permits: Vec<_> = (0..MAX_ABANDONED).map(abandon).collect();
        assert!(Permit::take(path).unwrap_err().contains("256 abandoned requests"));
        permits.pop();
        Permit::take(path).unwrap();
    }
}
