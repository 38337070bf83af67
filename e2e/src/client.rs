//! Real kubectl and crictl in several versions, and our own client.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use crate::daemon::{self, Daemon};
use crate::parts;
use crate::process::{LIMIT, Process};
use crate::tls;

/// A client program that forwards ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// crictl 1.37: SPDY straight to the streaming server.
    Crictl,
    /// crictl 1.37 with SPDY in a WebSocket tunnel.
    CrictlWebSocket,
    /// crictl 1.37: SPDY over TLS, with a client certificate.
    CrictlTls,
    /// crictl 1.37 with SPDY in a WebSocket tunnel over TLS, with a client certificate.
    CrictlWebSocketTls,
    /// kubectl 1.37: SPDY in a WebSocket tunnel.
    Kubectl137,
    /// kubectl 1.28: SPDY.
    Kubectl128,
    /// kubectl 1.20: SPDY without pings; the oldest that Debian still ships.
    Kubectl120,
    /// kubectl 1.`minor`, with or without a WebSocket tunnel around SPDY if it supports both (since 1.30).
    Kubectl {
        /// 28 to 37.
        minor: u8,
        /// The default since 1.31.
        websocket: bool,
    },
    /// `gangplank forward`.
    Own,
}

impl Client {
    /// Whether it needs a daemon from [`Daemon::serve_tls`].
    pub fn uses_tls(self) -> bool {
        matches!(self, Self::CrictlTls | Self::CrictlWebSocketTls)
    }

    fn program(self) -> PathBuf {
        match self {
            Self::Crictl | Self::CrictlWebSocket | Self::CrictlTls | Self::CrictlWebSocketTls => {
                parts::cached("bin/crictl")
            }
            Self::Kubectl137 => parts::cached("bin/kubectl-1.37"),
            Self::Kubectl128 => parts::cached("bin/kubectl-1.28"),
            Self::Kubectl120 => parts::cached("bin/kubectl-1.20"),
            Self::Kubectl { minor, .. } => parts::cached(&format!("bin/kubectl-1.{minor}")),
            Self::Own => parts::daemon(),
        }
    }

    /// Starts one client process that forwards free local ports to these ports of the daemon's first pod.
    ///
    /// # Panics
    /// If the client is missing, or ends before it listens.
    pub fn forward(self, daemon: &Daemon, ports: &[u16]) -> Forward {
        let name = format!("{self:?}");
        let process = Process::start(&name, &self.program(), daemon.dir(), |command| {
            // Ignore the user's configuration, and keep caches in the test's directory.
            command.env_clear().env("HOME", daemon.dir()).env("PATH", "/usr/bin:/bin");
            self.arguments(command, daemon);
            command.args(ports.iter().map(|port| format!(":{port}")));
        });
        Forward::by(process, ports)
    }

    fn arguments(self, command: &mut Command, daemon: &Daemon) {
        let cri = format!("unix://{}", daemon.cri().display());
        // The short form of an id, as `crictl pods` prints it.
        let short_id = &daemon::sandbox_id(0)[..13];
        let pod = daemon::name(0);
        let tls = if self.uses_tls() { tls::crictl_arguments(daemon.dir()) } else { Vec::new() };
        match self {
            Self::Crictl | Self::CrictlTls => crictl(command, &cri, "spdy").args(tls).arg(short_id),
            Self::CrictlWebSocket | Self::CrictlWebSocketTls => {
                crictl(command, &cri, "websocket").args(tls).arg(short_id)
            }
            Self::Kubectl137 | Self::Kubectl128 | Self::Kubectl120 => kubectl(command, daemon),
            Self::Kubectl { websocket, .. } => {
                kubectl(command, daemon).env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket.to_string())
            }
            Self::Own => command.args(["forward", "--cri", &cri, &pod]),
        };
    }
}

fn kubectl<'a>(command: &'a mut Command, daemon: &Daemon) -> &'a mut Command {
    command.args(["--server", &format!("http://{}", daemon.kube_api())]);
    command.args(["--namespace", "default", "port-forward", &format!("pod/{}", daemon::name(0))])
}

fn crictl<'a>(command: &'a mut Command, cri: &str, transport: &str) -> &'a mut Command {
    command.args(["--runtime-endpoint", cri, "--timeout", "10s", "port-forward", "-r", transport])
}

/// A running port-forward. Dropping it kills the client.
pub struct Forward {
    process: Process,
    /// (port in the pod, local port).
    ports: Vec<(u16, u16)>,
}

impl Forward {
    /// Wraps a client that has just been started for these ports; returns once it listens for all of them.
    ///
    /// # Panics
    /// If it ends before.
    pub(crate) fn by(process: Process, ports: &[u16]) -> Self {
        let mut forward = Self { process, ports: Vec::new() };
        forward.ports = ports.iter().map(|&port| (port, forward.await_listener(port))).collect();
        forward
    }

    /// Waits for `Forwarding from 127.0.0.1:LOCAL -> PORT`, which all versions print.
    fn await_listener(&mut self, port: u16) -> u16 {
        let end = format!(" -> {port}");
        self.process.wait_until("it forwards the port", |output| {
            let mut lines = output.lines();
            lines.find_map(|line| {
                line.strip_prefix("Forwarding from 127.0.0.1:")?.strip_suffix(&end)?.parse().ok()
            })
        })
    }

    /// Connects to the local port that is forwarded to this port of the pod.
    ///
    /// # Panics
    /// If the client does not listen any more.
    pub fn connect(&self, port: u16) -> TcpStream {
        let (_, local) = self.ports.iter().find(|(remote, _)| *remote == port).expect("a forwarded port");
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, *local)))
            .unwrap_or_else(|error| panic!("the client does not listen on {local}: {error}"));
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Waits for the client to end, and returns all its output.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(mut self) -> String {
        self.process.wait();
        self.process.output()
    }

    /// Fails the test if the client has ended, and shows its output.
    ///
    /// # Panics
    /// If it has ended.
    pub fn must_be_alive(&mut self) {
        assert!(self.process.is_alive(), "the client ended; it wrote:\n{}", self.process.output());
    }
}
