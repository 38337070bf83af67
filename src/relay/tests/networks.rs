//! What can be dialled besides loopback TCP: rules, Unix sockets, datagrams, containers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers are no #[test] to the lint

mod common;

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;
use gangplank_channel::{Open, OpenErrorKind, Ports, dial, dial_datagrams, ports};
use gangplank_relay::{Config, Containers, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UdpSocket, UnixListener};

const LIMIT: Duration = Duration::from_secs(10);

fn allowing(pattern: &str) -> Config {
    Config { rules: vec![Rule::allow(pattern.parse().unwrap())], ..Config::default() }
}

#[tokio::test]
async fn a_rule_decides_and_a_denial_names_it() {
    let port = pod(echo).await;
    let pattern = format!("tcp:127.0.0.0/8:{port}");
    let rules = vec![Rule::deny(pattern.parse().unwrap())];
    let guest = Guest::start_with(Config { rules, ..Config::default() });
    let error = guest.try_dial(&format!("127.0.0.1:{port}")).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Denied);
    assert!(error.cause.contains(&format!("rule `deny {pattern}`")), "{error}");
    let other = pod(echo).await;
    guest.dial(other).await;
}

#[tokio::test]
async fn a_unix_socket_is_dialled_where_a_rule_allows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut app, _) = listener.accept().await.unwrap();
        expect_pattern(&mut app, 1, 1 << 20).await;
        send_pattern(&mut app, 2, 1 << 20).await;
    });
    let guest = Guest::start_with(allowing(&format!("unix:{}/*", folder.path().display())));
    let open = Open::unix(path.to_str().unwrap(), LIMIT);
    let mut channel = dial(&guest.endpoint(), open).await.unwrap();
    soon(async {
        send_pattern(&mut channel, 1, 1 << 20).await;
        channel.shutdown().await.unwrap();
        expect_pattern(&mut channel, 2, 1 << 20).await;
    })
    .await;

    let open = Open::unix(folder.path().join("other.sock").to_str().unwrap(), LIMIT);
    let error = dial(&guest.endpoint(), open).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Refused, "{error}");
    let error = dial(&guest.endpoint(), Open::unix("/run/secret.sock", LIMIT)).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Denied, "{error}");
}

/// A UDP port that sends every datagram back.
async fn udp_echo() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut datagram = vec![0; 65_536];
        loop {
            let (len, from) = socket.recv_from(&mut datagram).await.unwrap();
            socket.send_to(&datagram[..len], from).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn a_thousand_datagrams_of_all_sizes_are_neither_merged_nor_split() {
    let guest = Guest::start();
    let port = udp_echo().await;
    let open = Open::udp(format!(":{port}"), LIMIT);
    let mut channel = dial_datagrams(&guest.endpoint(), open).await.unwrap();
    let sent: Vec<_> = pattern(7, 9_000).flatten().collect();
    soon(async {
        for count in 0..1_000 {
            let len = 1 + count * 8_999 / 999;
            channel.send(&sent[..len]).await.unwrap();
            // As a resolver does: the next question after the answer. UDP may lose more than one at a time.
            assert!(channel.receive().await.unwrap().unwrap() == sent[..len], "datagram of {len} bytes");
        }
        for len in [0, 65_507, 0, 1] {
            channel.send(&vec![9; len]).await.unwrap();
            assert!(channel.receive().await.unwrap().unwrap() == vec![9; len], "datagram of {len} bytes");
        }
    })
    .await;
    assert_eq!(channel.send(&[0; 65_508]).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_burst_of_datagrams_keeps_its_bounds_and_order() {
    let guest = Guest::start();
    let pod = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let open = Open::udp(pod.local_addr().unwrap().to_string(), LIMIT);
    let mut channel = dial_datagrams(&guest.endpoint(), open).await.unwrap();
    soon(async {
        channel.send(b"hello").await.unwrap();
        let (_, relay) = pod.recv_from(&mut [0; 10]).await.unwrap();
        for count in 1..=20 {
            pod.send_to(&vec![count; usize::from(count) * 100], relay).await.unwrap();
        }
        for count in 1..=20 {
            let datagram = channel.receive().await.unwrap().unwrap();
            assert!(datagram == vec![count; usize::from(count) * 100], "datagram {count}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_association_ends_with_a_cause() {
    let guest = Guest::start_with(Config { idle: Duration::from_millis(200), ..Config::default() });
    let port = udp_echo().await;
    let open = Open::udp(format!(":{port}"), LIMIT);
    let mut channel = dial_datagrams(&guest.endpoint(), open).await.unwrap();
    let error = soon(channel.receive()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("no datagram has passed"), "{error}");
}

#[tokio::test]
async fn a_udp_port_that_refuses_is_reported() {
    let guest = Guest::start();
    let port = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let open = Open::udp(format!("127.0.0.1:{port}"), LIMIT);
    let mut channel = dial_datagrams(&guest.endpoint(), open).await.unwrap();
    channel.send(b"anybody?").await.unwrap();
    let error = soon(channel.receive()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

/// A process with a network namespace of its own, in which a port says hello. Ends with this value.
struct Container {
    child: Child,
}

impl Container {
    /// Serves once per connection, until the end of its standard input.
    fn start(word: &str, port: u16) -> Self {
        let script = "\
            import os, socket, sys, threading
os.system('ip link set lo up')
server = socket.create_server(('127.0.0.1', int(sys.argv[2])))
print('up', flush=True)
def serve():
    while True:
        connection, _ = server.accept()
        connection.sendall(sys.argv[1].encode())
        connection.close()
threading.Thread(target=serve, daemon=True).start()
sys.stdin.read()";
        let mut child = Command::new("unshare")
            .args(["-n", "python3", "-c", script, word, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, python3");
        let mut up = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut up).expect("a network namespace needs root");
        Self { child }
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.child.id())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn own_namespace() -> std::path::PathBuf {
    std::fs::read_link("/proc/self/ns/net").unwrap()
}

async fn greeting(guest: &Guest, container: &str, port: u16) -> String {
    let open = Open::tcp(format!("localhost:{port}"), LIMIT).in_container(container);
    let mut channel = dial(&guest.endpoint(), open).await.unwrap();
    let mut word = String::new();
    soon(channel.read_to_string(&mut word)).await.unwrap();
    word
}

#[tokio::test]
async fn containers_with_the_same_port_are_each_reached_by_id() {
    let port = unused_port().await;
    let (one, two) = (Container::start("one", port), Container::start("two", port));
    let folder = tempfile::tempdir().unwrap();
    for (id, container) in [("c1", &one), ("c-2.x", &two)] {
        std::os::unix::fs::symlink(container.namespace(), folder.path().join(id)).unwrap();
    }
    let path = Some(format!("{}/{{id}}", folder.path().display()));
    let containers = Containers { path, by_cgroup: false };
    let before = own_namespace();
    let guest = Guest::start_with(Config { containers, ..Config::default() });
    assert_eq!(greeting(&guest, "c1", port).await, "one");
    assert_eq!(greeting(&guest, "c-2.x", port).await, "two");
    assert_eq!(greeting(&guest, "c1", port).await, "one");
    // The relay's own namespace is still this one, where nothing listens.
    let error = guest.try_dial(&format!(":{port}")).await.unwrap_err();
    assert_eq!(error.kind, OpenErrorKind::Refused);
    assert_eq!(own_namespace(), before);

    for (id, kind) in [("c3", OpenErrorKind::Unreachable), ("../c1", OpenErrorKind::BadEndpoint)] {
        let open = Open::tcp(":80", LIMIT).in_container(id);
        let error = dial(&guest.endpoint(), open).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.cause.contains(id), "{error}");
    }
}

/// Puts a process into a cgroup of this name. None: this system has no writable cgroups.
fn put_into_cgroup(name: &str, process: u32) -> Option<std::path::PathBuf> {
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory"] {
        let cgroup = Path::new(root).join(name);
        if std::fs::create_dir(&cgroup).is_ok() {
            let processes = cgroup.join("cgroup.procs");
            // With cgroup version 1, /sys/fs/cgroup itself is a plain directory.
            if processes.exists() && std::fs::write(processes, process.to_string()).is_ok() {
                return Some(cgroup);
            }
            let _ = std::fs::remove_dir(&cgroup);
        }
    }
    None
}

#[tokio::test]
async fn a_container_is_found_by_the_cgroup_of_its_process() {
    let port = unused_port().await;
    let container = Container::start("by cgroup", port);
    let id = format!("gangplank-test-{}", std::process::id());
    let cgroup = put_into_cgroup(&id, container.child.id())
        .expect("no cgroup can be made here: run as root, with a writable /sys/fs/cgroup");
    let containers = Containers { path: None, by_cgroup: true };
    let guest =
        Guest::start_with(Config { containers, rules: allowing("unix:/*").rules, ..Config::default() });
    assert_eq!(greeting(&guest, &id, port).await, "by cgroup");

    // Its root is the same as ours here.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let open = Open::unix(path.to_str().unwrap(), LIMIT).in_container(&id);
    let _channel = dial(&guest.endpoint(), open).await.unwrap();
    soon(listener.accept()).await.unwrap();

    drop(container);
    // The kernel removes the process a little later.
    soon(async {
        while std::fs::remove_dir(&cgroup).is_err() {
            tokio::task::yield_now().await
        }
    })
    .await;
}

fn all_of(ports: &Ports) -> Vec<String> {
    ports.listening.iter().map(|port| port.position().to_string()).collect()
}

#[tokio::test]
async fn ports_that_do_not_fit_into_one_answer_come_in_several() {
    let mut listeners = Vec::new();
    for _ in 0..300 {
        // An address of its own, since other tests need free ports.
        listeners.push(tokio::net::TcpListener::bind("127.0.0.77:0").await.unwrap());
    }
    let guest = Guest::start();
    let told = ports(&guest.endpoint(), "").await.unwrap();
    assert!(!told.is_cut);
    let all = all_of(&told);
    for listener in &listeners {
        let expected = format!("tcp:{}", listener.local_addr().unwrap());
        assert_eq!(all.iter().filter(|&at| *at == expected).count(), 1, "{expected} in {all:?}");
    }
}

#[tokio::test]
async fn the_relay_lists_what_listens_in_each_namespace() {
    let (port, udp) = (pod(echo).await, udp_echo().await);
    let inside = unused_port().await;
    let container = Container::start("one", inside);
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(container.namespace(), folder.path().join("c1")).unwrap();
    let path = Some(format!("{}/{{id}}", folder.path().display()));
    let containers = Containers { path, by_cgroup: false };
    let guest = Guest::start_with(Config { containers, ..Config::default() });

    let here = all_of(&ports(&guest.endpoint(), "").await.unwrap());
    for expected in [format!("tcp:127.0.0.1:{port}"), format!("udp:127.0.0.1:{udp}")] {
        assert!(here.contains(&expected), "{expected} is not among {here:?}");
    }
    let there = all_of(&ports(&guest.endpoint(), "c1").await.unwrap());
    assert_eq!(there, [format!("tcp:127.0.0.1:{inside}")]);
    // As root with all capabilities, this process sees whose port it is.
    let named = ports(&guest.endpoint(), "c1").await.unwrap();
    assert_eq!(named.listening[0].process, "python3");

    let error = ports(&guest.endpoint(), "c2").await.unwrap_err();
    assert!(error.cause.contains("could not list what listens") && error.cause.contains("`c2`"), "{error}");
}
