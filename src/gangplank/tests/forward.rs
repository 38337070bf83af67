//! `gangplank forward`, through the daemon to real ports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use common::{
    Daemon, GANGPLANK, PodSection, Process, complaint, connect, echo, echoes, gangplank, here, not_running,
};

#[test]
fn several_ports_go_through_one_session() {
    let (first, second) = (echo(), echo());
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    let (one, two) = (format!(":{first}"), format!("0:{second}"));
    let client = Process::start(&["forward", "--cri", &daemon.cri_url(), "demo", &one, &two]);
    for port in [first, second] {
        let line = client.line_with("Forwarding from 127.0.0.1:");
        let (from, to) = line.split_once(" -> ").unwrap();
        assert_eq!(to, port.to_string());
        let address: SocketAddr = from.rsplit(' ').next().unwrap().parse().unwrap();
        echoes(&mut connect(address), "hello");
    }
}

#[test]
fn a_half_closed_connection_gets_its_whole_answer() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        stream.write_all(&request.repeat(1000)).unwrap();
    });
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    let (_client, address) = daemon.forward("demo", port);
    let mut stream = connect(address);
    stream.write_all(b"a request").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"a request".repeat(1000));
    answers.join().unwrap();
}

#[test]
fn a_refused_port_leaves_the_session_alive() {
    let good = echo();
    // Bound, so that nobody else gets it, and not listening.
    let bound = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    bound.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let refused = bound.local_addr().unwrap().as_socket().unwrap().port();

    let daemon = Daemon::start(&[here("abc", "demo")], "");
    let (bad, ok) = (format!(":{refused}"), format!(":{good}"));
    let client = Process::start(&["forward", "--cri", &daemon.cri_url(), "demo", &bad, &ok]);
    let address = |line: String| line.split(' ').nth(2).unwrap().parse::<SocketAddr>().unwrap();
    let to_refused = address(client.line_with("Forwarding from 127.0.0.1:"));
    let to_good = address(client.line_with("Forwarding from 127.0.0.1:"));
    assert!(!connect(to_refused).read(&mut [0]).is_ok_and(|read| read > 0));
    client.line_with(&format!("port {refused} of the pod"));
    let line = daemon.process.line_with("nothing listens on port");
    assert!(line.contains(&refused.to_string()), "{line}");
    echoes(&mut connect(to_good), "still here");
}

/// Namespaces other than ours can be entered with CAP_SYS_ADMIN only; without it, the log must say so.
#[test]
fn a_pod_in_another_namespace_is_reached_from_here() {
    let folder = tempfile::tempdir().unwrap();
    let mut pod = Command::new(GANGPLANK);
    pod.arg("demo-guest").arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut pod = pod.spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(pod.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.ends_with(":1024 80\n"), "{ready}");

    let endpoint = format!("netns:///proc/{}/ns/net", pod.id());
    let daemon = Daemon::start(&[PodSection { id: "abc", name: "demo", endpoint }], "");
    let (_client, address) = daemon.forward("demo", 80);
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    let answered = stream.read_to_string(&mut answer);
    if rustix::process::geteuid().is_root() {
        answered.unwrap();
        assert!(answer.contains("You are aboard"), "{answer}");
    } else {
        daemon.process.line_with("CAP_SYS_ADMIN");
    }
    drop(pod.stdin.take());
    pod.wait().unwrap();
}

#[test]
fn errors_are_one_sentence() {
    let daemon = Daemon::start(&[here("abc", "demo"), not_running("def", "off")], "");
    let cri = daemon.cri_url();
    for (arguments, sentence) in [
        (
            ["--cri", "unix:///nowhere/cri.sock", "demo", ":80"],
            "start gangplank, or name its socket with --cri",
        ),
        (["--cri", &cri, "nobody", ":80"], "no pod sandbox has the id or name \"nobody\""),
        (["--cri", &cri, "off", ":80"], "/nowhere/v.sock is not there"),
    ] {
        let output = gangplank(&[&["forward"][..], &arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        let complaint = complaint(&output);
        assert!(complaint.starts_with("gangplank: ") && complaint.contains(sentence), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    let output = gangplank(&["forward", "demo", "http"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).contains("[LOCAL:]REMOTE"), "{}", complaint(&output));
}
