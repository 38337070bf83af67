//! A QEMU guest with a vsock device, and in it the relay and the pod's programs.
//!
//! The device is vhost-device-vsock, which shows the guest's vsock ports behind a Unix socket (hybrid vsock).
//! Two of its faults shape this file: a connection to that socket while the guest boots stops the device for
//! good, so nothing ever probes it and the guest announces itself; and the guest ends with a bare EOF.

use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::parts;
use crate::process::Process;
use crate::services::{READY_PORT, RELAY_PORT};

/// Every guest has a device of its own, so all may have the same address.
const CID: u32 = 4;

/// A booted guest. Dropping it ends QEMU, then the device.
pub struct Guest {
    qemu: Process,
    device: Process,
    socket: PathBuf,
    initrd: PathBuf,
}

impl Guest {
    /// Boots one whose sockets and logs lie in the directory, and waits until its relay and ports are up.
    ///
    /// # Panics
    /// Where a part is missing or the guest does not come up.
    pub fn boot(dir: &Path) -> Self {
        Self::boot_with(dir, &parts::cached("guest/initrd.img"))
    }

    /// The same with another initramfs.
    ///
    /// # Panics
    /// Where a part is missing or the guest does not come up.
    pub fn boot_with(dir: &Path, initrd: &Path) -> Self {
        let socket = dir.join("v.sock");
        let (device, qemu) = start(dir, &socket, initrd);
        Self { qemu, device, socket, initrd: initrd.into() }
    }

    /// Boots another one in its place, with a new device at the same path, as its VMM would.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn reboot(&mut self) {
        self.qemu.kill();
        self.device.kill();
        let dir = self.socket.parent().expect("a socket lies in a directory").to_owned();
        for left in ["v.sock".into(), "vhost.sock".into(), ready_socket()] {
            let _ = std::fs::remove_file(dir.join(left)); // the device may have removed it
        }
        (self.device, self.qemu) = start(&dir, &self.socket, &self.initrd);
    }

    /// The relay's endpoint, as the daemon's configuration has it.
    pub fn endpoint(&self) -> String {
        format!("hvsock://{}:{RELAY_PORT}", self.socket.display())
    }

    /// Ends the guest as a power cut does.
    pub fn kill(&mut self) {
        self.qemu.kill();
    }

    /// Returns when the guest has ended.
    pub fn wait(&mut self) {
        self.qemu.wait_for_ever();
    }
}

fn ready_socket() -> String {
    format!("v.sock_{READY_PORT}")
}

/// The device and QEMU, when the guest is ready.
fn start(dir: &Path, socket: &Path, initrd: &Path) -> (Process, Process) {
    let device_socket = dir.join("vhost.sock");
    let ready = UnixListener::bind(dir.join(ready_socket())).expect("a free socket path");

    let program = parts::cached("bin/vhost-device-vsock");
    let mut device = Process::start("vhost-device-vsock", &program, dir, |command| {
        let [uds, vhost] = [socket, &device_socket].map(|path| path.display());
        command.arg("--vm").arg(format!("guest-cid={CID},uds-path={uds},socket={vhost}"));
    });
    device.wait_until("its socket exists", |_| device_socket.exists().then_some(()));

    let mut qemu = start_qemu(dir, &device_socket, initrd);
    await_ready(&mut qemu, &ready);
    (device, qemu)
}

fn start_qemu(dir: &Path, device_socket: &Path, initrd: &Path) -> Process {
    let kernel = parts::cached("guest/vmlinuz");
    // From /usr/bin: the one package whose program is used where it is installed.
    Process::start("qemu", Path::new("qemu-system-x86_64"), dir, |command| {
        // q35, as microvm hangs in TSC calibration without KVM; memory shared, as vhost-user needs.
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "256"])
            .args(["-M", "q35,smbus=off,sata=off,usb=off,vmport=off,memory-backend=mem0"])
            .args(["-object", "memory-backend-memfd,id=mem0,size=256M,share=on"])
            .args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-monitor", "none"])
            // Its console is what QEMU writes: so it is in the log.
            .args(["-serial", "stdio"])
            .arg("-chardev")
            .arg(format!("socket,id=c0,path={}", device_socket.display()))
            .args(["-device", "vhost-user-vsock-pci,chardev=c0"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            // no_timer_check: the emulated timer is late on a busy host, and the kernel would panic.
            .args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check nokaslr mitigations=off"]);
    })
}

/// Waits for the guest's word on its ready port.
fn await_ready(qemu: &mut Process, ready: &UnixListener) {
    ready.set_nonblocking(true).unwrap();
    let mut stream: UnixStream = qemu.wait_until("the guest is ready", |_| match ready.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("cannot wait for the guest: {error}"),
    });
    stream.set_nonblocking(false).unwrap();
    let mut word = String::new();
    stream.read_to_string(&mut word).unwrap();
    assert_eq!(word, "READY", "the guest's console says:\n{}", qemu.output());
}
