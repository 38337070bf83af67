//! The commands and JSON-RPC, with a real guest, a real terminal, and a caller in Go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing helper is a failing test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gangplank_e2e::daemon::{Daemon, name, sandbox_id};
use gangplank_e2e::parts::{self, cached};
use gangplank_e2e::pattern::{Pattern, summary};
use gangplank_e2e::pod::{Place, Pod};
use gangplank_e2e::process::{LIMIT, Process};
use gangplank_e2e::services::{PAGE, Service};
use gangplank_e2e::talk;
use gangplank_e2e::terminal::Terminal;

const MIB: u64 = 1 << 20;

/// A CRI layer in Go that hands each connection of its PortForward to pod.portDial, and crictl in front of it.
struct GoLayer {
    crictl: Process,
    _layer: Process,
    port: u16,
}

impl GoLayer {
    fn forwards(daemon: &Daemon, port: u16) -> Self {
        // A killed layer leaves its socket's file, so each has one of its own.
        let socket = daemon.dir().join(format!("go-{port}.sock"));
        let mut layer = Process::start("portdial", &cached("bin/portdial"), daemon.dir(), |command| {
            command.arg(&socket).arg(daemon.rpc());
        });
        layer.wait_until("its CRI socket takes connections", |_| UnixStream::connect(&socket).ok());
        let mut crictl = Process::start("crictl", &cached("bin/crictl"), daemon.dir(), |command| {
            command.arg("--runtime-endpoint").arg(format!("unix://{}", socket.display()));
            command.args(["--timeout", "10s", "port-forward", "-r", "spdy"]);
            command.arg(sandbox_id(0)).arg(format!(":{port}"));
            command.env_clear().env("HOME", daemon.dir()).env("PATH", "/usr/bin:/bin");
        });
        let end = format!(" -> {port}");
        let port = crictl.wait_until("it forwards the port", |output| {
            let mut lines = output.lines();
            lines.find_map(|line| {
                line.strip_prefix("Forwarding from 127.0.0.1:")?.strip_suffix(&end)?.parse().ok()
            })
        });
        Self { crictl, _layer: layer, port }
    }

    fn connect(&self) -> TcpStream {
        connect(self.port)
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

#[test]
fn a_cri_layer_in_go_forwards_by_port_dial_into_a_guest() {
    let pod = Pod::run(Place::Guest);
    let daemon = Daemon::serve(&[&pod]);
    let mut pages = GoLayer::forwards(&daemon, pod.port(Service::Http));
    for _ in 0..3 {
        assert_eq!(String::from_utf8_lossy(&talk::fetch(pages.connect(), "/").unwrap()), PAGE);
    }
    let sum = summary(Pattern::new(8 * MIB)).unwrap();
    assert_eq!(talk::download(pages.connect(), 8 * MIB).unwrap(), sum);
    assert!(pages.crictl.is_alive());
    drop(pages);
    let sinks = GoLayer::forwards(&daemon, pod.port(Service::Sink));
    assert_eq!(talk::upload(sinks.connect(), 8 * MIB).unwrap(), sum, "its end reaches the pod");
}

fn gangplank(daemon: &Daemon, command: &str) -> String {
    format!("{} {command} --rpc unix://{}", parts::daemon().display(), daemon.rpc().display())
}

/// One of the program's commands into a guest, as `nc` would be used.
#[test]
fn dial_speaks_with_a_guest_over_standard_input_and_output() {
    let pod = Pod::run(Place::Guest);
    let daemon = Daemon::serve(&[&pod]);
    let mut command = Command::new(parts::daemon());
    command.arg("dial").arg("--rpc").arg(format!("unix://{}", daemon.rpc().display()));
    command.arg(name(0)).arg(format!(":{}", pod.port(Service::Sink)));
    let mut dial = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = dial.stdin.take().unwrap();
    std::io::copy(&mut Pattern::new(4 * MIB), &mut input).unwrap();
    drop(input);
    let mut answer = String::new();
    dial.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, summary(Pattern::new(4 * MIB)).unwrap());
    assert!(dial.wait().unwrap().success());
}

#[test]
fn forward_draws_a_live_line_and_comes_back_with_its_daemon() {
    let pod = Pod::run(Place::Relay);
    let mut daemon = Daemon::serve(&[&pod]);
    let (dir, port) = (daemon.dir().to_owned(), pod.port(Service::Echo));
    let terminal =
        Terminal::run(&dir, &format!("{} {} 127.0.0.1::{port}", gangplank(&daemon, "forward"), name(0)));
    let row = format!("{}:{port}", name(0));
    let screen = terminal.shows("a line for the forward", |screen| screen.contains(&row));
    let line = screen.lines().find(|line| line.contains(&row)).unwrap();
    let local: u16 = line.split_whitespace().next().unwrap().rsplit(':').next().unwrap().parse().unwrap();

    let mut stream = connect(local);
    talk::echo(&mut stream, &[7; 2048]).unwrap();
    terminal.shows("the bytes of its connection", |screen| {
        screen.lines().any(|line| line.contains(&row) && line.matches("2.0KiB").count() == 2)
    });
    drop(stream);

    daemon.restart();
    let restarted = Instant::now();
    terminal.shows("that it lost the daemon", |screen| screen.contains("lost demo-0"));
    terminal.shows("that it is back", |screen| screen.contains("demo-0 is back"));
    assert!(restarted.elapsed() < Duration::from_secs(2), "{:?}", restarted.elapsed());
    talk::echo(&mut connect(local), b"again").unwrap();

    terminal.press("C-c");
    terminal.shows("its end", |screen| screen.contains("status 0"));
}

#[test]
fn top_is_a_live_table_until_q() {
    let pod = Pod::run(Place::Relay);
    let daemon = Daemon::serve(&[&pod]);
    let (dir, port) = (daemon.dir().to_owned(), pod.port(Service::Echo));
    let terminal = Terminal::run(&dir, &gangplank(&daemon, "top"));
    terminal.shows("that nothing is open", |screen| screen.contains("0 sessions, 0 connections"));

    let mut stream = UnixStream::connect(daemon.rpc()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let call = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"pod.portDial\",\"params\":{{\"handle\":\"{}\",\"port\":{port}}}}}\n",
        name(0)
    );
    stream.write_all(call.as_bytes()).unwrap();
    stream.write_all(&[7; 4096]).unwrap();
    terminal.shows("the connection and its bytes", |screen| {
        screen.contains("1 connections")
            && screen
                .lines()
                .any(|line| line.contains("default/demo-0") && line.matches("4.0KiB").count() == 2)
    });
    drop(stream);
    terminal.shows("that it has ended", |screen| screen.contains("0 connections"));
    terminal.press("q");
    terminal.shows("its end", |screen| screen.contains("status 0"));
}

/// A guest that is cut off is heard of without another connection, where one was open.
#[test]
fn forward_says_that_its_guest_is_gone() {
    let mut pod = Pod::run(Place::Guest);
    let daemon = Daemon::serve(&[&pod]);
    let port = pod.port(Service::Echo);
    let mut forward = Process::start("forward", &parts::daemon(), daemon.dir(), |command| {
        command.arg("forward").arg("--rpc").arg(format!("unix://{}", daemon.rpc().display()));
        command.arg(name(0)).arg(format!(":{port}"));
    });
    let local = forward.wait_until("it listens", |output| {
        let mut lines = output.lines();
        lines
            .find_map(|line| line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok())
    });
    let mut stream = connect(local);
    talk::echo(&mut stream, b"before").unwrap();
    pod.kill_guest();
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "its connection has ended");
    forward.wait_until("it tells of the loss", |output| output.contains("lost demo-0").then_some(()));
}
