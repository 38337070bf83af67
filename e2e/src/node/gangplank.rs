//! `gangplank serve` in front of a node's runtime.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::runtime::Kind;
use super::{GUEST_CLASS, folder};
use crate::parts;
use crate::process::Process;
use crate::services::RELAY_PORT;

/// A running daemon. Dropping it kills it.
pub struct Gangplank {
    process: Process,
    dir: PathBuf,
    socket: PathBuf,
}

impl Gangplank {
    /// Starts it in this folder in front of the runtime on this socket, and returns once its own accepts connections.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(kind: Kind, dir: &Path, upstream: &Path) -> Self {
        let way = match kind {
            Kind::Containers => "netns = true\n".to_owned(),
            Kind::Guests => format!(
                "\n[[runtime]]\nhandler = \"{GUEST_CLASS}\"\nendpoint = \"hvsock://{}/{{sandbox}}/v.sock:{RELAY_PORT}\"\n",
                kind.sandboxes(dir).display()
            ),
        };
        let dir = folder(dir, "gangplank");
        let socket = dir.join("cri.sock");
        let (listen, upstream) = (socket.display(), upstream.display());
        let cri = format!("[cri]\nlisten = \"unix://{listen}\"\nupstream = \"unix://{upstream}\"\n");
        // The sections that follow end [cri], so its last key comes first.
        let rest = "[streaming]\nlisten = \"127.0.0.1:0\"\n\n[log]\nlevel = \"debug\"\n";
        std::fs::write(dir.join("gangplank.toml"), format!("{cri}{way}\n{rest}")).unwrap();
        let process = run(&dir, &socket);
        Self { process, dir, socket }
    }

    /// Its CRI socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Kills it like a crash, and starts it again.
    ///
    /// # Panics
    /// If it does not come up again.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = run(&self.dir, &self.socket);
    }

    /// Its log since it was started.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

fn run(dir: &Path, socket: &Path) -> Process {
    let mut process = Process::start_shared("gangplank", &parts::daemon(), dir, |command| {
        command.arg("serve").arg("--config").arg(dir.join("gangplank.toml"));
    });
    process.wait_until("its CRI socket takes connections", |_| UnixStream::connect(socket).ok());
    process
}
