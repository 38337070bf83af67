//! kubectl 1.37 with the cluster's configuration.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::client::Forward;
use crate::parts;
use crate::process::Process;

/// How kubectl speaks to the API server when it forwards ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// SPDY in a WebSocket tunnel: the default.
    WebSocket,
    /// SPDY.
    Spdy,
}

/// kubectl.
pub struct Kubectl {
    config: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// With this configuration, and a folder for its cache and its logs.
    pub fn new(config: &Path, home: &Path) -> Self {
        Self { config: config.into(), home: home.into() }
    }

    /// Its configuration file, which other clients can use too.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs it and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|output| panic!("kubectl {arguments:?} failed: {output}"))
    }

    /// Runs it and returns its output.
    ///
    /// # Errors
    /// Its output if it fails.
    ///
    /// # Panics
    /// If it is missing.
    pub fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program());
        self.prepare(&mut command);
        let output = command.args(arguments).output().expect("kubectl starts");
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// Creates an object from a JSON manifest.
    ///
    /// # Panics
    /// If it cannot.
    pub fn create(&self, manifest: &str) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let file = self.home.join(format!("{}.json", COUNT.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&file, manifest).unwrap();
        self.run(&["create", "--validate=false", "-f", &file.display().to_string()]);
    }

    /// Starts one process that forwards free local ports to these ports of the pod.
    ///
    /// # Panics
    /// If it ends before it listens.
    pub fn forward(&self, transport: Transport, pod: &str, ports: &[u16]) -> Forward {
        let name = format!("kubectl-{pod}-{transport:?}");
        let process = Process::start(&name, &program(), &self.home, |command| {
            self.prepare(command);
            if transport == Transport::Spdy {
                command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
            }
            command.arg("port-forward").arg(format!("pod/{pod}"));
            command.args(ports.iter().map(|port| format!(":{port}")));
        });
        Forward::by(process, ports)
    }

    fn prepare(&self, command: &mut Command) {
        command.env_clear().env("HOME", &self.home).env("PATH", "/usr/bin:/bin");
        command.arg("--kubeconfig").arg(&self.config);
    }
}

fn program() -> PathBuf {
    parts::cached("bin/kubectl-1.37")
}
