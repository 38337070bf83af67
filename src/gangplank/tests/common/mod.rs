//! A daemon to test, as its user runs it: the built program, a configuration file, signals and its log.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod cri;
pub mod runtime;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a test waits for anything. Reached only if something is broken.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

pub const GANGPLANK: &str = env!("CARGO_BIN_EXE_gangplank");

/// Runs the program to its end.
pub fn gangplank(arguments: &[&str]) -> Output {
    Command::new(GANGPLANK).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What it said on standard error.
pub fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A process whose lines of output can be waited for. Dropping it kills it.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts the program; the lines are those of standard output and standard error.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(Command::new(GANGPLANK).args(arguments))
    }

    /// The same of a command that is ready but for its input and output.
    pub fn start_with(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let from_stdout = sender.clone();
        thread::spawn(move || {
            BufReader::new(stdout).lines().try_for_each(|line| from_stdout.send(line.unwrap()))
        });
        thread::spawn(move || BufReader::new(stderr).lines().try_for_each(|line| sender.send(line.unwrap())));
        Self { child, lines }
    }

    /// The next line that has this in it.
    pub fn line_with(&self, part: &str) -> String {
        let until = Instant::now() + TEST_TIMEOUT;
        let mut others = String::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => writeln!(others, "{line}").unwrap(),
                Err(error) => panic!("no line with {part:?} ({error}) but:\n{others}"),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn ends(mut self) -> ExitStatus {
        let until = Instant::now() + TEST_TIMEOUT;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A pod of the configuration.
pub struct PodSection {
    pub id: &'static str,
    pub name: &'static str,
    pub endpoint: String,
}

/// A pod that is this very machine.
pub fn here(id: &'static str, name: &'static str) -> PodSection {
    PodSection { id, name, endpoint: "netns:///proc/self/ns/net".into() }
}

/// A pod whose VM does not run.
pub fn not_running(id: &'static str, name: &'static str) -> PodSection {
    PodSection { id, name, endpoint: "hvsock:///nowhere/v.sock:1024".into() }
}

/// A pod on this machine behind a relay, which runs in this process.
pub struct RelayPod {
    folder: tempfile::TempDir,
    config: gangplank_relay::Config,
    running: Option<(gangplank_relay::Stopper, thread::JoinHandle<()>)>,
}

impl RelayPod {
    pub fn start() -> Self {
        Self::start_with(gangplank_relay::Config::default())
    }

    pub fn start_with(config: gangplank_relay::Config) -> Self {
        let mut pod = Self { folder: tempfile::tempdir().unwrap(), config, running: None };
        pod.run();
        pod
    }

    /// Starts the relay, as its guest does.
    pub fn run(&mut self) {
        let listen = gangplank_relay::Listen::Unix { path: self.folder.path().join("relay.sock") };
        let relay = gangplank_relay::Relay::bind(&[listen], self.config.clone()).unwrap();
        self.running = Some((relay.stopper(), thread::spawn(move || relay.run().unwrap())));
    }

    /// Ends it, with all its connections.
    pub fn stop(&mut self) {
        if let Some((stopper, running)) = self.running.take() {
            stopper.stop();
            running.join().unwrap();
        }
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}/relay.sock", self.folder.path().display())
    }

    pub fn section(&self, id: &'static str, name: &'static str) -> PodSection {
        PodSection { id, name, endpoint: self.endpoint() }
    }
}

impl Drop for RelayPod {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A running daemon with a folder of its own.
pub struct Daemon {
    pub process: Process,
    pub folder: tempfile::TempDir,
    pub streaming: SocketAddr,
    pub kube_api: SocketAddr,
    pub metrics: SocketAddr,
}

impl Daemon {
    /// With these pods and these further lines of configuration.
    pub fn start(pods: &[PodSection], more: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "", pods, more)
    }

    /// The same in this folder, with these further lines of `[cri]`.
    pub fn start_in(folder: tempfile::TempDir, cri: &str, pods: &[PodSection], more: &str) -> Self {
        let process = serve_with(folder.path(), cri, "", pods, more);
        Self::of(process, folder)
    }

    /// With these further lines of `[jsonrpc]`.
    pub fn start_with_rpc(pods: &[PodSection], rpc: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = serve_with(folder.path(), "", rpc, pods, "");
        Self::of(process, folder)
    }

    fn of(process: Process, folder: tempfile::TempDir) -> Self {
        let serving: Value = serde_json::from_str(&process.line_with("\"serving\"")).unwrap();
        let address = |key: &str| serving[key].as_str().unwrap().parse().unwrap();
        let [streaming, kube_api, metrics] = ["streaming", "kube_api", "metrics"].map(address);
        Self { process, streaming, kube_api, metrics, folder }
    }

    /// Another process in its place, with the same configuration.
    pub fn restart(&mut self) {
        // While it dies it may still answer at its sockets.
        self.process.kill();
        let file = self.folder.path().join("gangplank.toml");
        self.process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
        let serving: Value = serde_json::from_str(&self.process.line_with("\"serving\"")).unwrap();
        self.metrics = serving["metrics"].as_str().unwrap().parse().unwrap();
    }

    pub fn config(&self) -> String {
        self.folder.path().join("gangplank.toml").to_str().unwrap().into()
    }

    pub fn rpc_socket(&self) -> PathBuf {
        self.folder.path().join("rpc.sock")
    }

    pub fn rpc_url(&self) -> String {
        format!("unix://{}", self.rpc_socket().display())
    }

    pub fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    pub fn cri_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Our own client, when it listens; with the port here.
    pub fn forward(&self, pod: &str, port: u16) -> (Process, SocketAddr) {
        self.forward_by(&["--rpc", &self.rpc_url()], pod, port)
    }

    /// The same through a port-forward session.
    pub fn forward_by_cri(&self, pod: &str, port: u16) -> (Process, SocketAddr) {
        self.forward_by(&["--cri", &self.cri_url()], pod, port)
    }

    fn forward_by(&self, way: &[&str], pod: &str, port: u16) -> (Process, SocketAddr) {
        let port = format!(":{port}");
        let client = Process::start(&[&["forward"], way, &[pod, &port]].concat());
        let line = client.line_with("Forwarding from 127.0.0.1:");
        let address = line.split(' ').nth(2).unwrap().parse().unwrap();
        (client, address)
    }

    /// Whether anybody answers on its CRI socket.
    pub fn answers(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
    }
}

pub fn socket_in(folder: &Path) -> PathBuf {
    folder.join("cri.sock")
}

/// Starts a daemon whose socket and configuration are in this folder.
pub fn serve(folder: &Path, pods: &[PodSection], more: &str) -> Process {
    serve_with(folder, "", "", pods, more)
}

fn serve_with(folder: &Path, cri: &str, rpc: &str, pods: &[PodSection], more: &str) -> Process {
    let mut text = format!(
        "[cri]\nlisten = \"unix://{}\"\n{cri}\n[kube_api]\nlisten = \"127.0.0.1:0\"\n\
         [jsonrpc]\nlisten = \"unix://{}/rpc.sock\"\n{rpc}\n[metrics]\nlisten = \"127.0.0.1:0\"\n\
         [log]\nformat = \"json\"\n{more}\n",
        socket_in(folder).display(),
        folder.display()
    );
    for PodSection { id, name, endpoint } in pods {
        write!(
            text,
            "[[pod]]\nid = \"{id}\"\nname = \"{name}\"\nuid = \"uid-{id}\"\nendpoint = \"{endpoint}\"\n"
        )
        .unwrap();
    }
    let file = folder.join("gangplank.toml");
    std::fs::write(&file, text).unwrap();
    Process::start(&["serve", "--config", file.to_str().unwrap()])
}

/// Waits until this holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + TEST_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < until, "timed out waiting until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A port here that gives back whatever it is sent.
pub fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
        }
    });
    port
}

/// A connection that tells a hung server from a slow one.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream
}

/// Says this and hears it back.
pub fn echoes(stream: &mut TcpStream, words: &str) {
    use std::io::{Read, Write};
    stream.write_all(words.as_bytes()).unwrap();
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, words.as_bytes());
}
