//! kubelet 1.37.

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use super::runtime::Kind;
use super::{ADDRESS, folder};
use crate::parts;
use crate::process::Process;

/// Where a kubelet learns what to run.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// From the API server of this configuration.
    ApiServer(&'a Path),
    /// From the manifests in this folder; there is no API server.
    Folder(&'a Path),
}

/// A running kubelet. Dropping it kills it.
pub struct Kubelet {
    process: Process,
    kind: Kind,
    dir: PathBuf,
    port: u16,
    kubeconfig: Option<PathBuf>,
}

impl Kubelet {
    /// Starts it in this folder, on this CRI socket, and returns when it listens.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(kind: Kind, dir: &Path, cri: &Path, source: &Source<'_>) -> Self {
        let dir = folder(dir, "kubelet");
        let (kubeconfig, manifests, port) = match source {
            Source::ApiServer(config) => (Some(config.to_path_buf()), None, 10250 + kind as u16),
            Source::Folder(folder) => (None, Some(*folder), 10260 + kind as u16),
        };
        std::fs::write(dir.join("config.yaml"), configuration(&dir, port, cri, manifests)).unwrap();
        let process = run(kind, &dir, port, kubeconfig.as_deref());
        Self { process, kind, dir, port, kubeconfig }
    }

    /// Ends it like a service manager, and starts it again.
    ///
    /// # Panics
    /// If it does not end or does not come up again.
    pub fn restart(&mut self) {
        self.stop();
        self.process = run(self.kind, &self.dir, self.port, self.kubeconfig.as_deref());
    }

    /// Ends it like a service manager.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&mut self) {
        self.process.terminate();
        self.process.wait();
    }

    /// Its log since it was started.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

fn run(kind: Kind, dir: &Path, port: u16, kubeconfig: Option<&Path>) -> Process {
    let mut process = Process::start_shared("kubelet", &parts::cached("bin/kubelet"), dir, |command| {
        command.arg("--config").arg(dir.join("config.yaml"));
        if let Some(kubeconfig) = kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        command.args(["--node-ip", ADDRESS, "--hostname-override", kind.name()]);
        command.arg("--root-dir").arg(dir.join("root")).arg("--cert-dir").arg(dir.join("pki"));
    });
    process.wait_until("it listens", |_| TcpStream::connect((ADDRESS, port)).ok());
    process
}

/// These settings let a kubelet run beside others, on any machine: without cgroups for
/// each pod, without packet filters, without a certain amount of free disk.
fn configuration(dir: &Path, port: u16, cri: &Path, manifests: Option<&Path>) -> String {
    let static_pods =
        manifests.map(|folder| format!("staticPodPath: {}\n", folder.display())).unwrap_or_default();
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {ADDRESS}
port: {port}
healthzPort: 0
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
containerRuntimeEndpoint: unix://{cri}
podLogsDir: {logs}
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
evictionHard: {{memory.available: 1Mi, nodefs.available: 0%, imagefs.available: 0%}}
imageGCHighThresholdPercent: 100
fileCheckFrequency: 1s
{static_pods}",
        cri = cri.display(),
        logs = dir.join("logs").display(),
    )
}
