//! `gangplank forward`, through the daemon to real ports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
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
    // Bound, so that no other process gets it, but not listening.
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
        (["--rpc", &rpc, "off", ":80"], "hvsock:///nowhere/v.sock:1024 does not exist; start the pod"),
        (["--rpc", &rpc, "demo", "http"], "[[ADDRESS:]LOCAL:]REMOTE"),
        (["--cri", &cri, "demo", "53/udp"], "CRI carries TCP only"),
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

/// A UDP port that sends every datagram back, and says to whom it has done so.
fn udp_echo() -> (u16, Receiver<SocketAddr>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let (sender, seen) = mpsc::channel();
    std::thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let _ = sender.send(from);
            let _ = socket.send_to(&datagram[..len], from);
        }
    });
    (port, seen)
}

fn udp_client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(common::TEST_TIMEOUT)).unwrap();
    socket
}

fn hears_back(socket: &UdpSocket, datagram: &[u8]) {
    socket.send(datagram).unwrap();
    let mut back = vec![0; 65_536];
    let len = socket.recv(&mut back).unwrap();
    assert!(&back[..len] == datagram, "{len} bytes of {}", datagram.len());
}

#[test]
fn datagrams_are_forwarded_each_sender_by_itself() {
    let (port, seen) = udp_echo();
    let relay = RelayPod::start();
    let daemon = Daemon::start(&[here("abc", "direct"), relay.section("def", "relayed")], "");
    for pod in ["direct", "relayed"] {
        let words = ["forward", "--json", "--rpc", &daemon.rpc_url(), pod, &format!("127.0.0.1::{port}/udp")];
        let client = Process::start(&words);
        let listening: Value = serde_json::from_str(&client.line_with("listening")).unwrap();
        assert_eq!((&listening["network"], &listening["port"]), (&json!("udp"), &json!(port)));
        let local = listening["local"].as_str().unwrap().parse().unwrap();
        let (one, two) = (udp_client(local), udp_client(local));
        for len in [1, 0, 700, 9_000, 65_507] {
            hears_back(&one, &vec![7; len]);
            hears_back(&two, &vec![8; len]);
        }
        let senders: std::collections::BTreeSet<_> = seen.try_iter().collect();
        assert_eq!(senders.len(), 2, "each has an association of its own");
    }
}

/// More senders than are carried at once: each is answered, and of the early ones the longest silent is let go.
#[test]
fn many_senders_are_bounded() {
    let (port, _seen) = udp_echo();
    let daemon = Daemon::start(&[here("abc", "direct")], "");
    let words =
        ["forward", "--json", "--rpc", &daemon.rpc_url(), "direct", &format!("127.0.0.1::{port}/udp")];
    let client = Process::start(&words);
    let listening: Value = serde_json::from_str(&client.line_with("listening")).unwrap();
    let local = listening["local"].as_str().unwrap().parse().unwrap();
    let sockets: Vec<_> = (0..300).map(|_| udp_client(local)).collect();
    sockets.iter().for_each(|socket| hears_back(socket, b"question"));
    client.line_with("\"closed\"");
    let open = || {
        let table = gangplank(&["top", "--rpc", &daemon.rpc_url()]).stdout;
        let table = String::from_utf8(table).unwrap();
        let line =
            table.lines().find(|line| line.contains(" connections")).unwrap_or_else(|| panic!("{table}"));
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.iter().position(|word| word.starts_with("connections")).unwrap();
        words[at - 1].parse::<usize>().unwrap()
    };
    common::eventually("at most 256 are carried", || open() <= 256);
    hears_back(&sockets[0], b"again");
}

#[test]
fn an_idle_sender_is_let_go_and_comes_back_by_its_next_datagram() {
    let (port, _seen) = udp_echo();
    let idle = gangplank_relay::Config { idle: Duration::from_millis(300), ..Default::default() };
    let relay = RelayPod::start_with(idle);
    let daemon = Daemon::start(&[relay.section("def", "demo")], "");
    let words = ["forward", "--json", "--rpc", &daemon.rpc_url(), "demo", &format!("127.0.0.1::{port}/udp")];
    let client = Process::start(&words);
    let listening: Value = serde_json::from_str(&client.line_with("listening")).unwrap();
    let socket = udp_client(listening["local"].as_str().unwrap().parse().unwrap());
    for _ in 0..2 {
        hears_back(&socket, b"12345");
        let closed: Value = serde_json::from_str(&client.line_with("closed")).unwrap();
        assert_eq!((&closed["bytesToPod"], &closed["bytesFromPod"]), (&json!(5), &json!(5)));
    }
}
