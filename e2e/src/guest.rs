//! A QEMU guest with a vsock device, which runs the relay and the pod's programs.
//!
//! The device is vhost-device-vsock, which shows the guest's vsock ports behind a Unix socket (hybrid vsock).
//! Two of its faults shape this file: a connection to that socket while the guest boots stops the device for
//! good, so nothing ever probes it and the guest announces itself; and when the guest ends, only EOF is seen.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::parts;
use crate::process::{LIMIT, Process};
use crate::services::{KILL_PORT, READY_PORT, RELAY_PORT};

/// Each guest has its own device, so all can have the same address.
const CID: u32 = 4;

/// A booted guest. Dropping it ends QEMU, then the device.
pub struct Guest {
    qemu: Process,
    device: Process,
    dir: PathBuf,
    image: Image,
    ready: UnixListener,
}

/// What a guest boots.
struct Image {
    kernel: PathBuf,
    initrd: PathBuf,
    /// Processor features, in addition to those that every guest has.
    processor: &'static str,
}

impl Guest {
    /// Boots a guest with its sockets and logs in the directory, and waits until its relay and ports are up.
    ///
    /// # Panics
    /// If a part is missing or the guest does not come up.
    pub fn boot(dir: &Path) -> Self {
        Self::boot_with(dir, &parts::cached("guest/initrd.img"))
    }

    /// The same with another initramfs.
    ///
    /// # Panics
    /// As [`boot`](Self::boot).
    pub fn boot_with(dir: &Path, initrd: &Path) -> Self {
        let kernel = parts::cached("guest/vmlinuz");
        Self::start(dir, Image { kernel, initrd: initrd.to_owned(), processor: "" })
    }

    /// The same with Linux 6.12, which passes packets over 32 KiB to the device in several pieces.
    ///
    /// # Panics
    /// As [`boot`](Self::boot).
    pub fn boot_newer(dir: &Path) -> Self {
        let [kernel, initrd] = ["vmlinuz", "initrd.img"].map(|name| parts::cached("guest-newer").join(name));
        // Under QEMU 7.2, this kernel crashes every fifth time, mostly at a cmpxchg16b.
        Self::start(dir, Image { kernel, initrd, processor: ",cx16=off" })
    }

    fn start(dir: &Path, image: Image) -> Self {
        let ready = UnixListener::bind(dir.join(format!("v.sock_{READY_PORT}"))).expect("a free socket path");
        let device = start_device(dir);
        let mut qemu = start_qemu(dir, &image);
        await_ready(&mut qemu, &ready);
        Self { qemu, device, dir: dir.to_owned(), image, ready }
    }

    /// The relay's endpoint, for the daemon's configuration.
    pub fn endpoint(&self) -> String {
        format!("hvsock://{}:{RELAY_PORT}", self.socket().display())
    }

    /// The device's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("v.sock")
    }

    /// Ends the guest like a power cut.
    pub fn kill(&mut self) {
        self.qemu.kill();
    }

    /// Ends the device. The guest's vsock does not survive that.
    pub fn kill_device(&mut self) {
        self.device.kill();
    }

    /// Boots it again, with a new device at the same path, and waits until it is up.
    ///
    /// # Panics
    /// As [`boot`](Self::boot).
    pub fn restart(&mut self) {
        self.qemu.kill();
        self.device.kill();
        self.device = start_device(&self.dir);
        self.qemu = start_qemu(&self.dir, &self.image);
        await_ready(&mut self.qemu, &self.ready);
    }

    /// Kills the relay in the guest; the guest's init starts it again.
    ///
    /// # Panics
    /// If the guest does not answer.
    pub fn kill_relay(&self) {
        // Wait until the guest closes: leaving before OK would kill the device.
        io::copy(&mut self.connect(KILL_PORT), &mut io::sink()).unwrap();
    }

    /// Connects to a vsock port of the guest, without a relay.
    ///
    /// # Panics
    /// If the guest does not take it.
    pub fn connect(&self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).expect("the device answers");
        // In one write, because the device takes its first read for the whole line.
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).expect("the guest takes the connection");
        }
        stream
    }

    /// Stops its processor. Nothing else shows that it is paused.
    pub fn pause(&self) {
        self.qemu.signal(Signal::STOP);
    }

    /// Resumes it.
    pub fn resume(&self) {
        self.qemu.signal(Signal::CONT);
    }

    /// Sends a command to QEMU's monitor, and returns the answer.
    ///
    /// # Panics
    /// If QEMU does not answer.
    pub fn order(&self, command: &str) -> String {
        let mut monitor = UnixStream::connect(self.dir.join("monitor.sock")).expect("QEMU's monitor answers");
        monitor.set_read_timeout(Some(LIMIT)).unwrap();
        read_to_prompt(&mut monitor);
        writeln!(monitor, "{command}").unwrap();
        read_to_prompt(&mut monitor)
    }

    /// The console's output, once it contains these words.
    ///
    /// # Panics
    /// If they do not appear.
    pub fn wait_for_console(&mut self, words: &str) -> String {
        let what = format!("the console says {words}");
        self.qemu.wait_until(&what, |output| output.contains(words).then(|| output.to_owned()))
    }

    /// Returns when the guest has ended.
    pub fn wait(&mut self) {
        self.qemu.wait_for_ever();
    }
}

fn read_to_prompt(monitor: &mut UnixStream) -> String {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"(qemu) ") {
        monitor.read_exact(&mut byte).expect("QEMU's monitor shows its prompt");
        said.push(byte[0]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn start_device(dir: &Path) -> Process {
    let [uds, vhost] = ["v.sock", "vhost.sock"].map(|name| dir.join(name));
    for stale in [&uds, &vhost] {
        // Left by a device that was killed.
        let _ = std::fs::remove_file(stale);
    }
    let program = parts::cached("bin/vhost-device-vsock");
    let mut device = Process::start("vhost-device-vsock", &program, dir, |command| {
        let [uds, vhost] = [&uds, &vhost].map(|path| path.display());
        command.arg("--vm").arg(format!("guest-cid={CID},uds-path={uds},socket={vhost}"));
    });
    device.wait_until("its socket exists", |_| vhost.exists().then_some(()));
    device
}

fn start_qemu(dir: &Path, image: &Image) -> Process {
    // From /usr/bin: QEMU is the only program that is used from an installed package.
    Process::start("qemu", Path::new("qemu-system-x86_64"), dir, |command| {
        // q35, as microvm hangs in TSC calibration without KVM; shared memory, which vhost-user needs; no ERMS, as the
        // kernel then copies by `rep movsb`, which TCG executes byte by byte, some ten times slower.
        command
            .args(["-accel", "tcg,thread=multi", "-smp", "1", "-m", "256", "-cpu"])
            .arg(format!("max,erms=off{}", image.processor))
            .args(["-M", "q35,smbus=off,sata=off,usb=off,vmport=off,memory-backend=mem0"])
            .args(["-object", "memory-backend-memfd,id=mem0,size=256M,share=on"])
            .args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"])
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", dir.join("monitor.sock").display()))
            // The guest's console goes to QEMU's output, and so to the log.
            .args(["-serial", "stdio"])
            .arg("-chardev")
            .arg(format!("socket,id=c0,path={}", dir.join("vhost.sock").display()))
            .args(["-device", "vhost-user-vsock-pci,chardev=c0"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            // no_timer_check: the emulated timer is late on a busy host, and the kernel would panic.
            .args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check nokaslr mitigations=off"]);
    })
}

/// Waits for the guest to connect to its ready port.
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
