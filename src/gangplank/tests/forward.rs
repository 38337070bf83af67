//! `gangplank forward`, through the daemon to real ports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{
    Daemon, GANGPLANK, PodSection, Process, RelayPod, complaint, connect, echo, echoes, gangplank, here,
    not_running,
};
use rustix::process::Signal;
use serde_json::{Value, json};

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
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).unwrap();
            stream.write_all(&request.repeat(1000)).unwrap();
        }
    });
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    for (_client, address) in [daemon.forward("demo", port), daemon.forward_by_cri("demo", port)] {
        let mut stream = connect(address);
        stream.write_all(b"a request").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"a request".repeat(1000));
    }
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
    let (cri, rpc) = (daemon.cri_url(), daemon.rpc_url());
    for (arguments, sentence) in [
        (
            ["--cri", "unix:///nowhere/cri.sock", "demo", ":80"],
            "start gangplank, or name its socket with --cri",
        ),
        (["--cri", &cri, "nobody", ":80"], "no pod sandbox has the id or name \"nobody\""),
        (["--cri", &cri, "off", ":80"], "/nowhere/v.sock is not there"),
        (["--rpc", "unix:///nowhere/rpc.sock", "demo", ":80"], "or name its socket with --rpc"),
        (["--rpc", &rpc, "nobody", ":80"], "no pod sandbox has the id or name \"nobody\""),
        (["--rpc", &rpc, "off", ":80"], "hvsock:///nowhere/v.sock:1024; start the pod"),
        (["--rpc", &rpc, "demo", "http"], "[[ADDRESS:]LOCAL:]REMOTE"),
        (["--rpc", &rpc, "demo", "53/udp"], "only TCP is forwarded"),
    ] {
        let output = gangplank(&[&["forward"][..], &arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        let complaint = complaint(&output);
        assert!(complaint.starts_with("gangplank: ") && complaint.contains(sentence), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
}

/// The address in the client's next line about listening.
fn listening(client: &Process) -> SocketAddr {
    client.line_with("Forwarding from 127.0.0.").split(' ').nth(2).unwrap().parse().unwrap()
}

#[test]
fn several_pods_and_addresses_are_forwarded_at_once() {
    let (first, second) = (echo(), echo());
    let relay = RelayPod::start();
    let daemon = Daemon::start(&[here("abc", "demo"), relay.section("def", "other")], "");
    for way in [["--rpc", &daemon.rpc_url()], ["--cri", &daemon.cri_url()]] {
        let (one, two) = (format!(":{first}"), format!("127.0.0.2:0:{second}"));
        let words = ["forward", way[0], way[1], "demo", &one, "default/other", &one, &two];
        let client = Process::start(&words);
        let line = client.line_with("Forwarding from 127.0.0.1:");
        assert!(line.ends_with(&format!("-> demo:{first}")), "{line}");
        let [to_relay, elsewhere] = [listening(&client), listening(&client)];
        assert!(elsewhere.to_string().starts_with("127.0.0.2:"));
        for address in [to_relay, elsewhere] {
            echoes(&mut connect(address), "hello");
        }
    }
}

#[test]
fn a_forward_comes_back_with_its_daemon() {
    let port = echo();
    let mut daemon = Daemon::start(&[here("abc", "demo")], "");
    let by_rpc = daemon.forward("demo", port);
    let by_cri = daemon.forward_by_cri("demo", port);
    daemon.process.signal(Signal::KILL);
    for (client, _) in [&by_rpc, &by_cri] {
        let line = client.line_with("lost demo");
        assert!(line.starts_with("gangplank: "), "{line}");
    }
    assert!(!connect(by_rpc.1).read(&mut [0]).is_ok_and(|read| read > 0), "sent away meanwhile");
    daemon.restart();
    let back = Instant::now();
    for (client, address) in [&by_rpc, &by_cri] {
        client.line_with("demo is back");
        assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
        echoes(&mut connect(*address), "hello again");
    }
}

#[test]
fn a_forward_comes_back_with_its_guest() {
    let port = echo();
    let mut relay = RelayPod::start();
    let daemon = Daemon::start(&[relay.section("def", "demo")], "");
    let (client, address) = daemon.forward("demo", port);
    let mut open = connect(address);
    echoes(&mut open, "hello");
    relay.stop();
    assert!(!open.read(&mut [0]).is_ok_and(|read| read > 0), "its connection has ended");
    client.line_with("lost demo");
    relay.run();
    let back = Instant::now();
    client.line_with("demo is back");
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    echoes(&mut connect(address), "hello again");
}

#[test]
fn once_is_one_connection() {
    let port = echo();
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    for way in [["--rpc", &daemon.rpc_url()], ["--cri", &daemon.cri_url()]] {
        let client = Process::start(&["forward", "--once", way[0], way[1], "demo", &format!(":{port}")]);
        let mut stream = connect(listening(&client));
        echoes(&mut stream, "once");
        drop(stream);
        assert!(client.ends().success());
    }
    let closed = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    closed.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let closed = closed.local_addr().unwrap().as_socket().unwrap().port();
    let words = ["forward", "--once", "--rpc", &daemon.rpc_url(), "demo", &format!(":{closed}")];
    let client = Process::start(&words);
    let _ = connect(listening(&client)).read(&mut [0]);
    client.line_with("the connection failed: ");
    assert_eq!(client.ends().code(), Some(1));
}

#[test]
fn programs_read_what_happens_as_json() {
    let port = echo();
    let daemon = Daemon::start(&[here("abc", "demo")], "");
    let words = ["forward", "--json", "--rpc", &daemon.rpc_url(), "demo", &format!("127.0.0.1::{port}")];
    let client = Process::start(&words);
    let event = |name: &str| -> Value { serde_json::from_str(&client.line_with(name)).unwrap() };
    let listening = event("listening");
    assert_eq!((&listening["pod"], &listening["port"]), (&json!("demo"), &json!(port)));
    let mut stream = connect(listening["local"].as_str().unwrap().parse().unwrap());
    echoes(&mut stream, "12345");
    drop(stream);
    let closed = event("closed");
    assert_eq!((&closed["bytesToPod"], &closed["bytesFromPod"]), (&json!(5), &json!(5)));
    drop(daemon);
    assert_eq!(event("lost")["pod"], "demo");
}
