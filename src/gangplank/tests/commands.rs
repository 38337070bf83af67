//! The smaller commands, as a person runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use common::{
    Daemon, GANGPLANK, PodSection, RelayPod, complaint, connect, echo, echoes, gangplank, here, not_running,
};
use gangplank_channel::open::{Listening, Opened, Opens};
use serde_json::Value;

/// What it said on standard output, with success.
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", complaint(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A port that reads to the end before it answers.
fn answers_late() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            write!(stream, "{} bytes, thank you", request.len()).unwrap();
        }
    });
    port
}

fn dial(daemon: &Daemon, address: &str, input: &[u8]) -> Output {
    let mut command = Command::new(GANGPLANK);
    command.args(["dial", "--rpc", &daemon.rpc_url(), "demo", address]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    thread::spawn(move || stdin.write_all(&input)); // its end is the end of the request
    child.wait_with_output().unwrap()
}

#[test]
fn dial_ends_one_direction_and_waits_for_the_other() {
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    let port = answers_late();
    let output = dial(&daemon, &format!("localhost:{port}"), &[b'x'; 200_000]);
    assert_eq!(said(&output), "200000 bytes, thank you");
}

#[test]
fn dial_says_why_it_cannot() {
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    let output = dial(&daemon, "192.0.2.1:80", b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint(&output).contains("192.0.2.1:80 is not allowed by the daemon's rule `loopback only`"),
        "{}",
        complaint(&output)
    );
    let output = dial(&daemon, "80", b"");
    assert!(complaint(&output).contains("write HOST:PORT"), "{}", complaint(&output));
}

/// A server of git's in the pod; ended when dropped.
struct GitDaemon(Child);

impl Drop for GitDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// git itself, which has a program of ours carry its protocol: `core.gitProxy` is to git what ProxyCommand is to ssh.
#[test]
fn git_clones_through_dial() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]);
        command.env("HOME", folder.path()).env("GIT_CONFIG_NOSYSTEM", "1").args(arguments);
        let output = command.output().expect("git is installed");
        assert!(output.status.success(), "git {arguments:?}: {}", complaint(&output));
    };
    let content: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    git(&["init", "-q", &path("there")]);
    std::fs::write(path("there/file"), &content).unwrap();
    git(&["-C", &path("there"), "add", "file"]);
    git(&["-C", &path("there"), "commit", "-qm", "all of it"]);

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Not `git daemon`, which runs it as a child that would outlive a kill.
    let found = Command::new("git").arg("--exec-path").output().expect("git is installed").stdout;
    let program = format!("{}/git-daemon", String::from_utf8_lossy(&found).trim());
    let mut server = Command::new(program);
    server.args(["--export-all", "--listen=127.0.0.1", &format!("--port={port}")]);
    server.arg(format!("--base-path={}", folder.path().display())).env("HOME", folder.path());
    let _server = GitDaemon(server.stderr(Stdio::null()).spawn().unwrap());
    common::eventually("git listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());

    let relay = RelayPod::start();
    let daemon = Daemon::start(&[relay.section("abc", "demo")], "");
    let proxy = path("proxy");
    let script =
        format!("#!/bin/sh\nexec {GANGPLANK} dial --rpc {} \"$1\" localhost:\"$2\"\n", daemon.rpc_url());
    std::fs::write(&proxy, script).unwrap();
    std::fs::set_permissions(&proxy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let url = format!("git://demo:{port}/there");
    git(&["-c", &format!("core.gitProxy={proxy}"), "clone", "-q", &url, &path("here")]);
    assert!(std::fs::read(path("here/file")).unwrap() == content);
    daemon.process.line_with("\"bytes_from_pod\"");
}

#[test]
fn dial_says_where_datagrams_go() {
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    for address in [":53/udp", "127.0.0.1:53/udp", "53/udp"] {
        let output = dial(&daemon, address, b"");
        let complaint = complaint(&output);
        assert!(!output.status.success() && complaint.contains("forward demo :53/udp"), "{complaint}");
    }
    // The path of a socket may end that way.
    let output = dial(&daemon, "unix:///nowhere/udp", b"");
    assert!(complaint(&output).contains("/nowhere/udp"), "{}", complaint(&output));
    assert!(!complaint(&output).contains("forward"), "{}", complaint(&output));
}

#[test]
fn pods_are_listed_with_a_sign_of_life() {
    let relay = RelayPod::start();
    let daemon = Daemon::start(
        &[here("abc", "direct"), relay.section("def", "relayed"), not_running("ghi", "off")],
        "",
    );
    let table = said(&gangplank(&["pods", "--rpc", &daemon.rpc_url()]));
    let row = |name: &str| table.lines().find(|line| line.starts_with(&format!("default/{name} "))).unwrap();
    assert!(row("direct").contains("none needed"), "{table}");
    assert!(row("relayed").contains("answers") && row("relayed").contains(&relay.endpoint()), "{table}");
    assert!(row("off").contains("/nowhere/v.sock is not there"), "{table}");
    let table = said(&gangplank(&["pods", "--no-probe", "--rpc", &daemon.rpc_url()]));
    assert!(table.contains("not probed") && table.contains("endpoint does not exist"), "{table}");
    let listed: Value =
        serde_json::from_str(&said(&gangplank(&["pods", "--json", "--rpc", &daemon.rpc_url()]))).unwrap();
    assert_eq!(listed["pods"].as_array().unwrap().len(), 3);
}

#[test]
fn ports_lists_what_listens_in_a_pod_and_in_its_containers() {
    let path = Some("/proc/{id}/ns/net".to_owned());
    let containers = gangplank_relay::Containers { path, by_cgroup: false };
    let relay = RelayPod::start_with(gangplank_relay::Config { containers, ..Default::default() });
    let daemon = Daemon::start(&[here("abc", "direct"), relay.section("def", "relayed")], "");
    let port = echo();
    let ports =
        |more: &[&str]| said(&gangplank(&[&["ports", "--rpc", &daemon.rpc_url()][..], more].concat()));
    let table = ports(&["direct"]);
    assert!(table.starts_with("PORT "), "{table}");
    let row = table.lines().find(|line| line.starts_with(&format!("{port}/tcp "))).unwrap();
    let ourselves = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert!(row.contains("127.0.0.1") && row.ends_with(ourselves.trim_end()), "{row}");
    let listed: Value = serde_json::from_str(&ports(&["relayed", "--container", "self", "--json"])).unwrap();
    assert_eq!(listed["more"], false);
    let listed = listed["ports"].as_array().unwrap();
    assert!(!listed.is_empty() && listed.iter().all(|port| port["containerID"] == "self"), "{listed:?}");

    let output = gangplank(&["ports", "--rpc", &daemon.rpc_url(), "direct", "--container", "c"]);
    assert!(complaint(&output).contains("omit the container"), "{}", complaint(&output));
}

/// A relay that answers every request with the same two ports, and says that there are more: one that does not know
/// how to go on.
fn begins_again(listener: UnixListener) {
    let port = |port| Listening { network: 1, host: "::1".to_owned(), port, process: String::new() };
    let answer = Opened { listening: vec![port(80), port(443)], is_cut: true, ..Opened::default() };
    for mut stream in listener.incoming().map_while(Result::ok) {
        let _ = stream.read(&mut [0; 256]).unwrap();
        stream.write_all(&answer.opening()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn ports_says_where_more_listen_than_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || begins_again(listener));
    let daemon = Daemon::start(
        &[PodSection { id: "abc", name: "old", endpoint: format!("unix://{}", path.display()) }],
        "",
    );
    let output = gangplank(&["ports", "--rpc", &daemon.rpc_url(), "old"]);
    assert_eq!(said(&output).lines().count(), 3);
    assert!(complaint(&output).contains("more ports are listening"), "{}", complaint(&output));
    let output = gangplank(&["ports", "--rpc", &daemon.rpc_url(), "old", "--json"]);
    let listed: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!((&listed["more"], listed["ports"].as_array().unwrap().len()), (&true.into(), 2));
}

#[test]
fn top_is_printed_once_where_nobody_watches() {
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    let port = echo();
    let (_client, address) = daemon.forward_by_cri("demo", port);
    let mut stream = connect(address);
    echoes(&mut stream, "12345");
    let table = said(&gangplank(&["top", "--rpc", &daemon.rpc_url()]));
    assert!(table.contains("1 sessions, 1 connections"), "{table}");
    assert!(
        table.contains("default/demo") && table.contains("5B") && table.contains("client 127.0.0.1:"),
        "{table}"
    );
}

#[test]
fn check_finds_nothing_wrong_with_a_running_daemon() {
    let relay = RelayPod::start();
    let daemon = Daemon::start(&[relay.section("def", "relayed")], "");
    let report = said(&gangplank(&["check", "--config", &daemon.config()]));
    assert!(report.lines().all(|line| line.starts_with("ok ")), "{report}");
    assert!(report.contains("pod default/relayed: the relay at unix:"), "{report}");
}

#[test]
fn check_says_what_to_do_about_each_thing() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken: SocketAddr = taken.local_addr().map(|address| (std::mem::forget(taken), address).1).unwrap();
    let file = folder.path().join("gangplank.toml");
    let text = format!(
        "[cri]\nlisten = \"unix://{0}/cri.sock\"\nupstream = \"unix://{0}/up.sock\"\n[jsonrpc]\nlisten = \"unix://{0}/rpc.sock\"\n\
         [metrics]\nlisten = \"{taken}\"\n\
         [[pod]]\nid = \"a\"\nname = \"off\"\nuid = \"a\"\nendpoint = \"hvsock:///nowhere/v.sock:1024\"\n\
         [[pod]]\nid = \"b\"\nname = \"vsock\"\nuid = \"b\"\nendpoint = \"vsock://4000000000:1024\"\n",
        folder.path().display()
    );
    std::fs::write(&file, text).unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("rpc.sock")).unwrap());
    let output = gangplank(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let report = String::from_utf8(output.stdout.clone()).unwrap();
    let found = |what: &str, part: &str| {
        let line =
            report.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {report}"));
        assert!(line.starts_with("WRONG") && line.contains(part), "{line}");
    };
    found("CRI socket", "start \"gangplank serve\"");
    found("JSON-RPC socket", "nothing listens on it");
    found("container runtime", "correct cri.upstream");
    found("metrics", "stop the program that uses it");
    found("pod default/off", "/nowhere/v.sock is not there; start the pod");
    found("pod default/vsock", "vsock://4000000000:1024");
    assert!(report.contains("vhost_vsock: "), "{report}");
    assert!(complaint(&output).contains("checks failed"), "{}", complaint(&output));

    let output = gangplank(&["check", "--config", "/nowhere/x.toml"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("cannot read the configuration file"));
}

#[test]
fn completions_are_such_as_the_shell_takes() {
    let script = said(&gangplank(&["completions", "bash"]));
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
    for command in ["forward", "dial", "pods", "check", "top"] {
        assert!(script.contains(command), "{command}");
    }
    for shell in ["zsh", "fish"] {
        assert!(said(&gangplank(&["completions", shell])).contains("gangplank"));
    }
}

#[test]
fn every_command_has_a_manual_page_and_help_with_examples() {
    let folder = tempfile::tempdir().unwrap();
    said(&gangplank(&["man", folder.path().to_str().unwrap()]));
    for command in ["serve", "forward", "dial", "pods", "ports", "top", "check", "completions", "man"] {
        let page = std::fs::read_to_string(folder.path().join(format!("gangplank-{command}.1"))).unwrap();
        assert!(page.contains(&format!(".TH gangplank-{command}")), "{page}");
        let help = said(&gangplank(&[command, "--help"]));
        assert!(help.contains("Example"), "{help}");
    }
    assert!(folder.path().join("gangplank.1").exists());
    assert!(!folder.path().join("gangplank-demo-guest.1").exists(), "hidden");
    let output = gangplank(&["man", "/nowhere"]);
    assert!(complaint(&output).contains("/nowhere/gangplank.1"), "{}", complaint(&output));
}
