//! Runs the examples, and checks the promises to programs that link the dialler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use gangplank_dial::{Network, PodDialErrorKind, PodDialer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A relay in this process.
struct RelayPod {
    folder: tempfile::TempDir,
    running: Option<(gangplank_relay::Stopper, thread::JoinHandle<()>)>,
}

impl RelayPod {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = gangplank_relay::Listen::Unix { path: folder.path().join("relay.sock") };
        let relay = gangplank_relay::Relay::bind(&[listen], gangplank_relay::Config::default()).unwrap();
        let running = Some((relay.stopper(), thread::spawn(move || relay.run().unwrap())));
        Self { folder, running }
    }

    fn endpoint(&self) -> String {
        format!("unix://{}/relay.sock", self.folder.path().display())
    }
}

impl Drop for RelayPod {
    fn drop(&mut self) {
        if let Some((stopper, running)) = self.running.take() {
            stopper.stop();
            running.join().unwrap();
        }
    }
}

/// A port that echoes what it receives.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
        }
    });
    port
}

/// An example program. Cargo builds examples together with a package's tests, in a neighbouring directory.
fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(program.exists(), "{} does not exist: `cargo build --examples` builds it", program.display());
    Command::new(program)
}

/// A port that serves a page once the request has ended.
fn page() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            write!(stream, "HTTP/1.0 200 OK\r\n\r\nfrom the pod\n").unwrap();
        }
    });
    port
}

#[test]
fn the_dial_example_prints_a_page_from_the_pod() {
    let relay = RelayPod::start();
    for endpoint in [relay.endpoint(), "netns:///proc/self/ns/net".into()] {
        let output = example("dial").arg(endpoint).arg(format!("localhost:{}", page())).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.ends_with("\r\n\r\nfrom the pod\n"), "{text}");
    }
}

#[tokio::test]
async fn the_streaming_example_serves_sessions() {
    let relay = RelayPod::start();
    let mut runtime = example("streaming");
    let mut runtime =
        runtime.arg(relay.endpoint()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    runtime.stdin.as_mut().unwrap().write_all(b"abc\n").unwrap();
    let mut url = String::new();
    BufReader::new(runtime.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let client = gangplank_streaming::Client::connect(url.trim_end()).await.unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let local = listener.local_addr().unwrap();
    let conversation = thread::spawn(move || {
        let mut stream = TcpStream::connect(local).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"hello");
    });
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    client.forward(echo(), tokio::net::TcpStream::from_std(accepted).unwrap());
    tokio::task::spawn_blocking(move || conversation.join().unwrap()).await.unwrap();
    drop(runtime.stdin.take());
    assert!(runtime.wait().unwrap().success());
}

#[tokio::test]
async fn a_dial_returns_a_duplex_stream_or_an_error_kind_and_a_sentence() {
    let relay = RelayPod::start();
    for endpoint in [relay.endpoint(), "netns:///proc/self/ns/net".into()] {
        let pod = PodDialer::new(endpoint.parse().unwrap()).unwrap();
        let mut stream = pod.dial("", Network::Tcp, &format!(":{}", page())).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("from the pod"));
        for (container, network, address, kind) in [
            ("", Network::Tcp, "localhost", PodDialErrorKind::Unsupported),
            ("no-such-container", Network::Tcp, ":80", PodDialErrorKind::Unsupported),
            ("", Network::Udp, "192.0.2.1:80", PodDialErrorKind::Denied),
        ] {
            let error = pod.dial(container, network, address).await.err().unwrap();
            assert_eq!(error.kind, kind, "{error}");
        }
        let port = echo();
        let restricted = pod.clone().with_rules(vec![format!("deny tcp:*:{port}").parse().unwrap()]);
        let error = restricted.dial("", Network::Tcp, &format!(":{port}")).await.err().unwrap();
        assert!(error.cause.contains(&format!("rule `deny tcp:*:{port}`")), "{error}");
        let listening = pod.ports("").await.unwrap();
        assert!(listening.is_cut || listening.listening.iter().any(|at| at.address.port() == port));
    }
}

#[tokio::test]
async fn a_datagram_has_its_length_before_it() {
    let relay = RelayPod::start();
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for endpoint in [relay.endpoint(), "netns:///proc/self/ns/net".into()] {
        let pod = PodDialer::new(endpoint.parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let mut stream = pod.dial("", Network::Udp, &address).await.unwrap();
        stream.write_all(b"\0\x05hello").await.unwrap();
        let mut datagram = [0; 16];
        let (len, from) = socket.recv_from(&mut datagram).await.unwrap();
        assert_eq!(datagram[..len], *b"hello");
        socket.send_to(b"hi", from).await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, *b"\0\x02hi");
    }
}
