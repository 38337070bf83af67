//! The program itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers are no #[test] to the lint

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn relay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gangplank-relay"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(arguments: &[&str]) -> (Output, String) {
    let output = relay(arguments).output().unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    (output, String::from_utf8(text).unwrap())
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "this hangs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says something to which there is an answer, and waits for that: the relay runs by then.
fn is_answered(stream: &mut UnixStream) {
    stream.write_all(b"GPCH\x01\x00\x00\x00").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
}

fn terminate(child: &Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM)
        .unwrap();
}

#[test]
fn prints_its_help_and_version() {
    let (help, text) = output(&["--help"]);
    assert!(help.status.success() && text.contains("--listen vsock://PORT"));
    let (version, text) = output(&["--version"]);
    assert!(version.status.success());
    assert_eq!(text, format!("gangplank-relay {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_reported() {
    for (arguments, part) in [
        (&["--listen"][..], "--listen needs a value"),
        (&["--listen", "tcp://:80"], "write vsock://PORT or unix:///PATH"),
        (&["--allow", "80"], "--allow: `80` is not a pattern"),
        (&["--namespace", "/run/netns"], "not an absolute path that contains {id}"),
        (&["--token-file", "/nowhere/token"], "/nowhere/token: cannot read the token"),
        (&["--accept-cid=x"], "--accept-cid:"),
        (&["--port=80"], "`--port=80` is not an option"),
        (&["--listen=unix:///nowhere/relay.sock"], "cannot listen at unix:///nowhere/relay.sock"),
    ] {
        let (output, text) = output(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn listens_at_several_addresses_and_stops_at_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("a.sock"), folder.path().join("b.sock")];
    let listen: Vec<_> = paths.iter().map(|path| format!("--listen=unix://{}", path.display())).collect();
    let mut child = relay(&listen.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
    for path in &paths {
        wait_until(|| UnixStream::connect(path).is_ok());
        is_answered(&mut UnixStream::connect(path).unwrap());
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "no filter for system calls");
    for capabilities in ["CapEff:", "CapPrm:"] {
        assert_eq!(u64::from_str_radix(field(capabilities), 16).unwrap(), 0, "{capabilities}");
    }
    terminate(&child);
    assert!(child.wait().unwrap().success());
    assert!(paths.iter().all(|path| !path.exists()));
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("listening at unix://") && text.contains("stopping"), "{text}");
}

/// Processor time that a process has taken, in ticks of 10 ms.
fn ticks(child: &Child) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn without_descriptors_it_waits_quietly_and_continues_when_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let program = env!("CARGO_BIN_EXE_gangplank-relay");
    let command = format!("ulimit -n 24; exec {program} --listen unix://{}", path.display());
    let mut child = Command::new("sh").args(["-c", &command]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(|| UnixStream::connect(&path).is_ok());
    let mut waiting: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(300));
    let before = ticks(&child);
    std::thread::sleep(Duration::from_millis(700));
    assert!(ticks(&child) - before < 20, "the relay spins");

    // Those that are served close, then those that waited are: the last one gets an answer.
    let mut last = waiting.pop().unwrap();
    drop(waiting);
    is_answered(&mut last);

    terminate(&child);
    assert!(child.wait().unwrap().success());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("cannot accept").count(), 1, "{text}");
}
