//! `gangplank serve` with the test's own configuration.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::parts::{self, Scratch};
use crate::pod::Pod;
use crate::ports::fixed_port;
use crate::process::Process;
use crate::tls;

/// A running daemon that serves the given pods. Dropping it kills it.
pub struct Daemon {
    process: Process,
    config: PathBuf,
    cri: PathBuf,
    rpc: PathBuf,
    kube_api: SocketAddr,
    metrics: SocketAddr,
    scratch: Scratch,
}

impl Daemon {
    /// Starts it with `pods[i]` as [`name`]`(i)`, and waits until it serves both CRI and the Kubernetes API.
    ///
    /// # Panics
    /// If it is missing or does not come up.
    pub fn serve(pods: &[&Pod]) -> Self {
        Self::start(pods, false, "")
    }

    /// The same, with TLS on the streaming server and a required client certificate.
    ///
    /// # Panics
    /// If it is missing or does not come up.
    pub fn serve_tls(pods: &[&Pod]) -> Self {
        Self::start(pods, true, "")
    }

    /// The same, with additional configuration.
    ///
    /// # Panics
    /// If it is missing or does not come up.
    pub fn serve_with(pods: &[&Pod], more: &str) -> Self {
        Self::start(pods, false, more)
    }

    fn start(pods: &[&Pod], use_tls: bool, more: &str) -> Self {
        let scratch = Scratch::new();
        let [cri, rpc] = ["cri.sock", "rpc.sock"].map(|name| scratch.path().join(name));
        let [kube_api, metrics] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, fixed_port())));
        let config = scratch.path().join("gangplank.toml");
        let mut text = configuration(&cri, &rpc, kube_api, metrics, pods) + more;
        if use_tls {
            tls::write_files(scratch.path());
            text += &tls::configuration(scratch.path());
        }
        std::fs::write(&config, text).unwrap();
        let process = run(&config, &scratch, &cri, kube_api);
        Self { process, config, cri, rpc, kube_api, metrics, scratch }
    }

    /// Kills it, and starts it again as it was.
    ///
    /// # Panics
    /// If it does not come up again.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = run(&self.config, &self.scratch, &self.cri, self.kube_api);
    }

    /// Its JSON-RPC socket.
    pub fn rpc(&self) -> &Path {
        &self.rpc
    }

    /// Its CRI socket.
    pub fn cri(&self) -> &Path {
        &self.cri
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The address of its metrics page.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// The address of its small Kubernetes API.
    pub fn kube_api(&self) -> SocketAddr {
        self.kube_api
    }

    /// Writes a kubeconfig for its small Kubernetes API. (The JavaScript client needs an option to accept plain
    /// HTTP.)
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_kubeconfig(&self) -> PathBuf {
        let path = self.dir().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: daemon\n\
             clusters: [{{name: daemon, cluster: {{server: \"http://{}\", insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: nobody, user: {{}}}}]\n\
             contexts: [{{name: daemon, context: {{cluster: daemon, user: nobody}}}}]\n",
            self.kube_api
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A directory for this daemon's clients.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// The number of its open sockets. (It also keeps a few pipes for later use.)
    ///
    /// # Panics
    /// If it has ended.
    pub fn sockets(&self) -> usize {
        let descriptors =
            std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("the daemon runs");
        let targets = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// Sends SIGTERM and waits for it to end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn shut_down(&mut self) -> ExitStatus {
        self.process.terminate();
        self.process.wait()
    }
}

fn run(config: &Path, scratch: &Scratch, cri: &Path, kube_api: SocketAddr) -> Process {
    let mut process = Process::start("gangplank", &parts::daemon(), scratch.path(), |command| {
        command.arg("serve").arg("--config").arg(config);
    });
    process.wait_until("its CRI socket takes connections", |_| UnixStream::connect(cri).ok());
    process.wait_until("its Kubernetes API takes connections", |_| TcpStream::connect(kube_api).ok());
    process
}

/// The name of the daemon's pod with this number.
pub fn name(pod: usize) -> String {
    format!("demo-{pod}")
}

/// The sandbox id of the daemon's pod with this number: 64 hex digits, as runtimes use.
pub fn sandbox_id(pod: usize) -> String {
    format!("{pod:02x}").repeat(32)
}
fn configuration(cri: &Path, rpc: &Path, kube_api: SocketAddr, metrics: SocketAddr, pods: &[&Pod]) -> String {
    let mut text = format!(
        "[cri]\nlisten = \"unix://{}\"\n\n[streaming]\nlisten = \"127.0.0.1:0\"\n\n[kube_api]\nlisten = \"{kube_api}\"\n\n[jsonrpc]\nlisten = \"unix://{}\"\n\n[metrics]\nlisten = \"{metrics}\"\n",
        cri.display(),
        rpc.display()
    );
    for (number, pod) in pods.iter().enumerate() {
        let (name, id, reached) = (name(number), sandbox_id(number), pod.configuration());
        write!(
            text,
            "\n[[pod]]\nid = \"{id}\"\nname = \"{name}\"\nnamespace = \"default\"\nuid = \"uid-{number}\"\n{reached}"
        )
        .unwrap();
    }
    text
}
