//! The servers under measurement, all started and reached in the same way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cri;
use crate::error::{Doing, Error, Result};
use crate::process::Process;
use crate::session::{Session, TcpSession};
use crate::spdy_session::SpdySession;
use gangplank_e2e::bulk::Ports;

/// How long a program may take to start listening.
const START: Duration = Duration::from_secs(10);

const SANDBOX: &str = "bench";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contender {
    /// A plain TCP relay with 64 KiB buffers
    #[value(name = "floor-64k")]
    Floor64,
    /// A plain TCP relay with 256 KiB buffers
    #[value(name = "floor-256k")]
    Floor256,
    /// The reference server
    Reference,
    /// The daemon, dialling the pod's port itself
    OursDirect,
    /// The daemon, reaching the port through the relay behind a Unix socket
    OursRelay,
    /// The reference server, with the Go client
    GoReference,
    /// Like ours-direct, with the Go client
    GoDirect,
    /// Like ours-relay, with the Go client
    GoRelay,
}

impl Contender {
    /// The same server with the fast client.
    pub(crate) fn server(self) -> Self {
        match self {
            Self::GoReference => Self::Reference,
            Self::GoDirect => Self::OursDirect,
            Self::GoRelay => Self::OursRelay,
            other => other,
        }
    }

    pub(crate) fn has_go_client(self) -> bool {
        self != self.server()
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }
}

/// The paths of the programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// `gangplank`.
    pub(crate) daemon: PathBuf,
    /// `gangplank-relay`.
    pub(crate) relay: PathBuf,
    /// The directory of `reference-server` and `reference-client`.
    pub(crate) reference: PathBuf,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    processes: Vec<Process>,
    access: Access,
    programs: Programs,
    pod: Ports,
    dir: PathBuf,
}

#[derive(Debug)]
enum Access {
    /// Plain ports (the floor).
    Ports(Ports),
    /// The first process answers a line with a streaming URL (the reference).
    Line,
    /// CRI on this socket (gangplank).
    Cri(PathBuf),
}

impl Server {
    /// Starts a server for the pod. Its sockets and logs go to a new directory below `dir`.
    pub(crate) fn start(contender: Contender, programs: &Programs, pod: Ports, dir: &Path) -> Result<Self> {
        let dir = fresh_dir(dir, &contender.name())?;
        let (processes, access) = match contender.server() {
            Contender::Floor64 => floor(64 << 10, pod, &dir)?,
            Contender::Floor256 => floor(256 << 10, pod, &dir)?,
            Contender::OursDirect => ours(programs, "netns:///proc/self/ns/net", Vec::new(), &dir)?,
            Contender::OursRelay => {
                let (relay, endpoint) = relay(programs, &dir)?;
                ours(programs, &endpoint, vec![relay], &dir)?
            }
            _ => {
                let mut command = Command::new(programs.reference.join("reference-server"));
                (vec![Process::start("reference", &dir, &mut command)?], Access::Line)
            }
        };
        Ok(Self { processes, access, programs: programs.clone(), pod, dir })
    }

    /// A new session, with the fast client or the Go client.
    pub(crate) fn session(&mut self, go_client: bool) -> Result<Box<dyn Session>> {
        if let Access::Ports(ports) = self.access {
            return Ok(Box::new(TcpSession::new(ports, None)));
        }
        let url = self.url()?;
        if go_client {
            return Ok(Box::new(start_go_client(&self.programs, &url, self.pod, &self.dir)?));
        }
        Ok(Box::new(SpdySession::connect(&url, self.pod)?))
    }

    /// The CPU time used so far by each of its processes.
    pub(crate) fn cpu(&self) -> Result<Vec<Duration>> {
        self.processes.iter().map(Process::cpu).collect()
    }

    /// The resident memory of each of its processes, in KiB.
    pub(crate) fn resident(&self) -> Result<Vec<u64>> {
        self.processes.iter().map(Process::resident).collect()
    }

    pub(crate) fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn url(&mut self) -> Result<String> {
        match &self.access {
            Access::Cri(socket) => cri::streaming_url(socket, SANDBOX),
            _ => self.processes[0].ask(),
        }
    }
}

fn start_go_client(programs: &Programs, url: &str, pod: Ports, dir: &Path) -> Result<TcpSession> {
    let mut command = Command::new(programs.reference.join("reference-client"));
    command.arg(url).args(pod.all().map(|port| port.to_string()));
    let mut client = Process::start("go-client", dir, &mut command)?;
    Ok(TcpSession::new(ports(&client.line()?, &client)?, Some(client)))
}

fn floor(buffer: usize, pod: Ports, dir: &Path) -> Result<(Vec<Process>, Access)> {
    let program = std::env::current_exe().doing("finding this program")?;
    let mut command = Command::new(program);
    command.args(["floor", "--buffer", &buffer.to_string()]).args(pod.all().map(|port| port.to_string()));
    let mut process = Process::start("floor", dir, &mut command)?;
    let ports = ports(&process.line()?, &process)?;
    Ok((vec![process], Access::Ports(ports)))
}

fn relay(programs: &Programs, dir: &Path) -> Result<(Process, String)> {
    let socket = dir.join("relay.sock");
    let endpoint = format!("unix://{}", socket.display());
    let mut command = Command::new(&programs.relay);
    let mut process = Process::start("relay", dir, command.args(["--listen", &endpoint]))?;
    wait_for(&socket, &mut process)?;
    Ok((process, endpoint))
}

/// The daemon comes first in the list of processes, before the ones that it needs.
fn ours(
    programs: &Programs,
    endpoint: &str,
    others: Vec<Process>,
    dir: &Path,
) -> Result<(Vec<Process>, Access)> {
    let socket = dir.join("cri.sock");
    let config = dir.join("gangplank.toml");
    let text = format!(
        "[cri]\nlisten = \"unix://{}\"\n\n[streaming]\nlisten = \"127.0.0.1:0\"\n\n[[pod]]\nid = \"{SANDBOX}\"\n\
         name = \"bench\"\nnamespace = \"default\"\nuid = \"bench\"\nendpoint = \"{endpoint}\"\n",
        socket.display()
    );
    fs::write(&config, text).doing(format!("writing {}", config.display()))?;
    let mut command = Command::new(&programs.daemon);
    let mut daemon = Process::start("daemon", dir, command.args(["serve", "--config"]).arg(&config))?;
    wait_for(&socket, &mut daemon)?;
    let mut processes = vec![daemon];
    processes.extend(others);
    Ok((processes, Access::Cri(socket)))
}

fn ports(line: &str, process: &Process) -> Result<Ports> {
    let wrong = || Error::Contender(format!("{} should print three ports, not {line:?}", process.name()));
    Ports::parse(line).ok_or_else(wrong)
}

/// Waits until the program's socket exists.
pub(crate) fn wait_for(socket: &Path, process: &mut Process) -> Result<()> {
    let until = Instant::now() + START;
    while !socket.exists() {
        process.must_live()?;
        if Instant::now() > until {
            return Err(Error::Contender(format!(
                "{} is not listening on {}",
                process.name(),
                socket.display()
            )));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Each start gets its own directory, so that the files of two servers cannot collide.
fn fresh_dir(below: &Path, name: &str) -> Result<PathBuf> {
    let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(below);
    Ok(dir.doing(format!("creating a directory in {}", below.display()))?.keep())
}
