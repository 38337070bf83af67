//! The two runtimes: Debian's containerd, and our own, whose sandboxes are guests.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{IMAGE, folder};
use crate::parts;
use crate::process::Process;

/// What kind of pods a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Containers of containerd, whose ports gangplank dials in their network namespace.
    Containers = 0,
    /// QEMU guests, whose ports gangplank reaches through their relay.
    Guests = 1,
}

impl Kind {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Containers, Self::Guests];

    /// The name of its node, and of the pod that always runs there.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containers => "container",
            Self::Guests => "guest",
        }
    }

    /// The parent folder of its sandboxes. Its path is short, because sockets are in there.
    pub(super) fn sandboxes(self, dir: &Path) -> PathBuf {
        dir.join("vm")
    }
}

/// A running runtime. Dropping it kills it, but not its pods.
pub struct Runtime {
    process: Process,
    kind: Kind,
    dir: PathBuf,
    socket: PathBuf,
}

impl Runtime {
    /// Starts it in this folder and returns once it accepts calls and has its image.
    ///
    /// # Panics
    /// If a part is missing or it does not come up.
    pub fn start(kind: Kind, dir: &Path) -> Self {
        let socket = dir.join("runtime.sock");
        if kind == Kind::Containers {
            prepare_containerd(dir, &socket);
        }
        let process = run(kind, dir, &socket);
        if kind == Kind::Containers {
            import_image(&socket);
        }
        Self { process, kind, dir: dir.into(), socket }
    }

    /// Its CRI socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Kills it like a crash, and starts it again. Its pods keep running.
    ///
    /// # Panics
    /// If it does not come up again.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = run(self.kind, &self.dir, &self.socket);
    }

    /// Its log since it was started.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

fn run(kind: Kind, dir: &Path, socket: &Path) -> Process {
    let mut process = match kind {
        Kind::Containers => {
            let program = parts::cached("containerd/usr/bin/containerd");
            Process::start_shared("containerd", &program, dir, |command| {
                // It looks for its shim there.
                let shim = program.parent().expect("a folder").display();
                command.env("PATH", format!("{shim}:/usr/sbin:/usr/bin:/sbin:/bin"));
                command.arg("--config").arg(dir.join("containerd.toml"));
            })
        }
        Kind::Guests => {
            Process::start_shared("guest-runtime", &parts::program("guest-runtime"), dir, |command| {
                command.arg(socket).arg(kind.sandboxes(dir)).arg(parts::program("run-guest"));
            })
        }
    };
    process.wait_until("it takes connections", |_| UnixStream::connect(socket).ok());
    process
}

/// Each sandbox gets an address on its own link.
const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "node", "plugins": [
    {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.88.1.0/24"}}]}
"#;

fn prepare_containerd(dir: &Path, socket: &Path) {
    std::fs::write(folder(dir, "cni.d").join("node.conflist"), NETWORK).unwrap();
    std::fs::write(dir.join("containerd.toml"), configuration(dir, socket)).unwrap();
}

fn configuration(dir: &Path, socket: &Path) -> String {
    let [runc, cni] = ["runc/usr/sbin/runc", "cni/usr/lib/cni"].map(parts::cached);
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
# Where the machine does not let anybody lower it.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{dir}/cni.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
"#,
        dir = dir.display(),
        socket = socket.display(),
        cni = cni.display(),
        runc = runc.display(),
    )
}

fn import_image(socket: &Path) {
    let mut command = Command::new(parts::cached("containerd/usr/bin/ctr"));
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]);
    let output = command.arg(parts::cached("node-image.tar")).output().expect("ctr starts");
    assert!(
        output.status.success(),
        "ctr cannot import the image: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
