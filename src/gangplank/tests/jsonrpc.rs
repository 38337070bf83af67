//! JSON-RPC, as a program on this machine speaks it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use common::{Daemon, PodSection, RelayPod, TEST_TIMEOUT, echo, eventually, here, not_running};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A caller that reads no byte beyond the answer.
struct RpcCaller(UnixStream);

impl RpcCaller {
    fn of(daemon: &Daemon) -> Self {
        let stream = UnixStream::connect(daemon.rpc_socket()).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        Self(stream)
    }

    fn says(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn hears(&mut self) -> Value {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        serde_json::from_slice(&line).unwrap()
    }

    fn calls(&mut self, method: &str, params: Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": "x", "method": method, "params": params });
        self.says(&format!("{call}\n"));
        let answer = self.hears();
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!("x")), "{answer}");
        answer
    }

    /// The result of a call that must have one.
    fn gets(&mut self, method: &str, params: Value) -> Value {
        let mut answer = self.calls(method, params);
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].take()
    }

    /// The code, kind and cause of a call that must fail.
    fn is_refused(&mut self, method: &str, params: Value) -> (i64, String, String) {
        let answer = self.calls(method, params);
        let error = &answer["error"];
        assert_eq!(error["message"], error["data"]["cause"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (error["code"].as_i64().unwrap(), text(&error["data"]["kind"]), text(&error["data"]["cause"]))
    }

    fn dials(mut self, params: Value) -> UnixStream {
        self.gets("pod.portDial", params);
        self.0
    }

    /// Dials, and takes the descriptor that comes with the answer.
    fn is_handed(&mut self, params: Value) -> OwnedFd {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "pod.portDial", "params": params });
        self.says(&format!("{call}\n"));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut slices = [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(&self.0, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        assert_eq!(byte, *b"{");
        let mut rest = String::new();
        BufReader::new(&self.0).read_line(&mut rest).unwrap();
        assert!(rest.contains("\"result\""), "{rest}");
        descriptor.expect("a descriptor with the first byte")
    }
}

fn daemon(pods: &[PodSection]) -> Daemon {
    Daemon::start(pods, "")
}

/// A port that reads to the end and then gives back all of it, several times.
fn sink(times: usize) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all.repeat(times)).unwrap();
            });
        }
    });
    port
}

/// A request, its end, and the whole answer: over a stream of either kind.
fn half_closes(mut stream: UnixStream, first: &[u8]) {
    let request = vec![7; 300_000];
    stream.write_all(&request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer == [first, &request].concat().repeat(3), "{} bytes", answer.len());
}

#[test]
fn the_connection_becomes_the_stream_through_a_relay_and_without() {
    let relay = RelayPod::start();
    let daemon = daemon(&[here("abc", "direct"), relay.section("def", "relayed")]);
    let port = sink(3);
    for handle in ["direct", "relayed"] {
        let stream = RpcCaller::of(&daemon).dials(json!({ "handle": handle, "port": port }));
        half_closes(stream, b"");
    }
}

#[test]
fn bytes_behind_the_call_are_the_streams_first() {
    let relay = RelayPod::start();
    let daemon = daemon(&[here("abc", "direct"), relay.section("def", "relayed")]);
    let port = sink(3);
    for handle in ["direct", "relayed"] {
        let mut caller = RpcCaller::of(&daemon);
        let params = json!({ "handle": handle, "network": "tcp", "address": format!("127.0.0.1:{port}") });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "pod.portDial", "params": params });
        caller.says(&format!("{call}\nearly bytes\nof two lines\n"));
        assert!(caller.hears()["result"].is_object());
        half_closes(caller.0, b"early bytes\nof two lines\n");
    }
}

#[test]
fn a_descriptor_is_a_plain_stream_and_calls_go_on() {
    let relay = RelayPod::start();
    let daemon = daemon(&[here("abc", "direct"), relay.section("def", "relayed")]);
    let port = sink(3);
    let mut caller = RpcCaller::of(&daemon);
    for handle in ["direct", "relayed", "relayed"] {
        let descriptor = caller.is_handed(json!({ "handle": handle, "port": port, "stream": "fd" }));
        if handle == "direct" {
            let socket = TcpStream::from(descriptor.try_clone().unwrap());
            assert_eq!(socket.peer_addr().unwrap().port(), port, "it is the pod's own socket");
        }
        // Reads and writes are the same for either kind of socket.
        half_closes(UnixStream::from(descriptor), b"");
    }
    assert_eq!(caller.gets("pod.list", json!({}))["pods"].as_array().unwrap().len(), 2);
}

#[test]
fn errors_have_the_codes_of_the_contract() {
    let relay = RelayPod::start();
    let daemon = daemon(&[here("abc", "direct"), relay.section("def", "relayed"), not_running("ghi", "off")]);
    let mut caller = RpcCaller::of(&daemon);
    // Bound, so that no other process gets it, but not listening.
    let bound = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    bound.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let closed = bound.local_addr().unwrap().as_socket().unwrap().port();
    for (params, code, kind, part) in [
        (json!({ "handle": "nobody", "port": 80 }), -32001, "unknown_pod", "\"nobody\""),
        (json!({ "handle": "direct", "port": closed }), -32002, "refused", "nothing listens"),
        (json!({ "handle": "relayed", "port": closed }), -32002, "refused", "nothing listens"),
        (json!({ "handle": "direct", "address": "192.0.2.1:80" }), -32004, "denied", "192.0.2.1"),
        (json!({ "handle": "relayed", "address": "192.0.2.1:80" }), -32004, "denied", "loopback only"),
        (json!({ "handle": "off", "port": 80 }), -32005, "guest_unreachable", "/nowhere/v.sock is not there"),
        (json!({ "handle": "relayed", "address": "unix:///x" }), -32004, "denied", "loopback only"),
        (json!({ "handle": "direct", "containerID": "c", "port": 80 }), -32601, "unsupported", "container"),
        (json!({ "handle": "direct", "port": 65536 }), -32602, "invalid_params", "65536"),
        (json!({ "handle": "direct", "network": "sctp", "port": 80 }), -32602, "invalid_params", "sctp"),
    ] {
        let (got, name, cause) = caller.is_refused("pod.portDial", params.clone());
        assert_eq!((got, name.as_str()), (code, kind), "{params}: {cause}");
        assert!(cause.contains(part), "{params}: {cause}");
    }
    let unix = json!({ "handle": "relayed", "containerID": "c", "port": 80 });
    assert_eq!(caller.is_refused("pod.portDial", unix).0, -32601, "this relay serves no containers");
    let container = json!({ "handle": "direct", "containerID": "c" });
    assert_eq!(caller.is_refused("pod.ports", container).0, -32601);
    assert_eq!(caller.is_refused("pod.ports", json!({ "handle": "off" })).0, -32005);
    assert_eq!(caller.is_refused("pod.exec", json!({})).0, -32601);
    // And the same connection still dials.
    half_closes(caller.dials(json!({ "handle": "direct", "port": sink(3) })), b"");
}

/// A UDP port that sends every datagram back.
fn udp_echo() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..len], from);
        }
    });
    port
}

/// Sends datagrams of many sizes over a stream and hears each of them back, whole.
fn echoes_datagrams(mut stream: UnixStream) {
    for len in (0..1_000).map(|n| n * 9).chain([65_507, 0, 1]) {
        let datagram: Vec<u8> = (0..len).map(|at| at as u8).collect();
        stream.write_all(&[&(len as u16).to_be_bytes(), &datagram[..]].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        assert_eq!(usize::from(u16::from_be_bytes(length)), len);
        let mut back = vec![0; len];
        stream.read_exact(&mut back).unwrap();
        assert!(back == datagram, "datagram of {len} bytes");
    }
}

#[test]
fn datagrams_keep_their_bounds_on_either_stream() {
    let relay = RelayPod::start();
    let daemon = daemon(&[here("abc", "direct"), relay.section("def", "relayed")]);
    let port = udp_echo();
    for handle in ["direct", "relayed"] {
        let params = json!({ "handle": handle, "network": "udp", "port": port });
        echoes_datagrams(RpcCaller::of(&daemon).dials(params.clone()));
        let mut params = params;
        params["stream"] = "fd".into();
        echoes_datagrams(UnixStream::from(RpcCaller::of(&daemon).is_handed(params)));
    }
    let line: Value = serde_json::from_str(&daemon.process.line_with("\"audit\"")).unwrap();
    assert_eq!(line["address"], format!("localhost:{port}/udp"));
}

#[test]
fn an_association_ends_when_the_port_refuses_or_the_relay_has_heard_nothing_for_long() {
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let idle = gangplank_relay::Config { idle: Duration::from_millis(300), ..Default::default() };
    let relay = RelayPod::start_with(idle);
    let daemon = daemon(&[here("abc", "direct"), relay.section("def", "relayed")]);
    for handle in ["direct", "relayed"] {
        let params = json!({ "handle": handle, "network": "udp", "port": closed });
        let mut stream = RpcCaller::of(&daemon).dials(params);
        stream.write_all(&[0, 1, 7]).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "{handle}");
        let line: Value = serde_json::from_str(&daemon.process.line_with("\"audit\"")).unwrap();
        assert_eq!(line["result"], "failed", "{line}");
    }
    let params = json!({ "handle": "relayed", "network": "udp", "port": udp_echo() });
    let mut stream = RpcCaller::of(&daemon).dials(params);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(stream);
    let line: Value = serde_json::from_str(&daemon.process.line_with("\"audit\"")).unwrap();
    assert_eq!(line["result"], "ok", "{line}");
}

#[test]
fn what_listens_is_told_with_the_names_of_processes() {
    let relay = RelayPod::start();
    let daemon = daemon(&[here("abc", "direct"), relay.section("def", "relayed")]);
    let (tcp, udp) = (echo(), udp_echo());
    let ourselves = std::fs::read_to_string("/proc/self/comm").unwrap();
    for handle in ["direct", "relayed"] {
        let told = RpcCaller::of(&daemon).gets("pod.ports", json!({ "handle": handle }));
        let ports = told["ports"].as_array().unwrap();
        assert_eq!(told["more"], false);
        for (network, port) in [("tcp", tcp), ("udp", udp)] {
            let is_it = |at: &&Value| at["network"] == network && at["port"] == port;
            let at = ports.iter().find(is_it).unwrap();
            assert_eq!(at["address"], "127.0.0.1");
            assert_eq!(at["process"], ourselves.trim_end());
        }
    }
}

/// A relay that allows what is asked of it here, of which the daemon then forbids some.
#[test]
fn rules_of_both_sides_decide_and_a_denial_names_the_rule() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (open, secret) = (path("open.sock"), path("secret.sock"));
    for socket in [&open, &secret] {
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            for mut app in listener.incoming().map_while(Result::ok) {
                let _ = app.write_all(b"hello");
            }
        });
    }
    let allow = format!("allow unix:{}/*", folder.path().display()).parse().unwrap();
    let relay = RelayPod::start_with(gangplank_relay::Config { rules: vec![allow], ..Default::default() });
    let (allowed, denied) = (sink(3), sink(3));
    let rules = format!("[dial]\nrules = [\"deny *:*:{denied}\", \"allow unix:{open}\"]\n");
    let daemon = Daemon::start(&[here("abc", "direct"), relay.section("def", "relayed")], &rules);
    let dial = |params: Value| RpcCaller::of(&daemon).dials(params);
    for handle in ["direct", "relayed"] {
        half_closes(dial(json!({ "handle": handle, "port": allowed })), b"");
        let mut caller = RpcCaller::of(&daemon);
        let (code, _, cause) = caller.is_refused("pod.portDial", json!({ "handle": handle, "port": denied }));
        assert_eq!(code, -32004);
        assert!(cause.contains(&format!("the daemon's rule `deny *:*:{denied}`")), "{cause}");
    }
    for params in [
        json!({ "handle": "relayed", "address": format!("unix://{open}") }),
        json!({ "handle": "relayed", "network": "unix", "address": open }),
    ] {
        let mut word = String::new();
        dial(params).read_to_string(&mut word).unwrap();
        assert_eq!(word, "hello");
    }
    for (handle, address, code, part) in [
        ("relayed", format!("unix://{secret}"), -32004, "the daemon's rule `loopback only`"),
        ("direct", format!("unix://{open}"), -32601, "has no relay"),
    ] {
        let params = json!({ "handle": handle, "address": address });
        let (got, _, cause) = RpcCaller::of(&daemon).is_refused("pod.portDial", params);
        assert_eq!(got, code, "{cause}");
        assert!(cause.contains(part), "{cause}");
    }
}

#[test]
fn a_token_is_proved_to_a_relay_that_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "correct horse battery"), file("wrong", "incorrect horse battery"));
    let token = gangplank_channel::Token::read(right.as_ref()).unwrap();
    let relay = RelayPod::start_with(gangplank_relay::Config { token: Some(token), ..Default::default() });
    let open = RelayPod::start();
    let sections = [("a", &relay, &right), ("b", &relay, &wrong), ("c", &open, &right)].map(|(name, pod, file)| {
        format!(
            "[[pod]]\nid = \"{name}\"\nname = \"{name}\"\nuid = \"{name}\"\nendpoint = \"{}\"\ntoken_file = \"{file}\"\n",
            pod.endpoint()
        )
    });
    let daemon = Daemon::start(&[relay.section("def", "without")], &sections.concat());
    let port = sink(3);
    half_closes(RpcCaller::of(&daemon).dials(json!({ "handle": "a", "port": port })), b"");
    let mut caller = RpcCaller::of(&daemon);
    for (handle, code, part) in [
        ("b", -32004, "token"),
        ("c", -32005, "start it with --token-file"),
        ("without", -32004, "none is configured for it"),
    ] {
        let (got, _, cause) = caller.is_refused("pod.portDial", json!({ "handle": handle, "port": port }));
        assert_eq!(got, code, "{handle}: {cause}");
        assert!(cause.contains(part), "{handle}: {cause}");
    }
    assert!(!caller.gets("pod.ports", json!({ "handle": "a" }))["ports"].as_array().unwrap().is_empty());
    let probed = caller.gets("pod.list", json!({ "handle": "a", "probe": true }));
    assert_eq!(probed["pods"][0]["relay"]["answers"], true);
    let pod = json!({ "handle": "vm", "endpoint": relay.endpoint(), "tokenFile": right });
    caller.gets("pod.register", pod);
    half_closes(RpcCaller::of(&daemon).dials(json!({ "handle": "vm", "port": port })), b"");
    std::fs::write(&wrong, "correct horse battery").unwrap();
    half_closes(RpcCaller::of(&daemon).dials(json!({ "handle": "b", "port": port })), b"");
}

#[test]
fn containers_are_dialled_by_their_ids() {
    let path = Some("/proc/{id}/ns/net".to_owned());
    let containers = gangplank_relay::Containers { path, by_cgroup: false };
    let relay = RelayPod::start_with(gangplank_relay::Config { containers, ..Default::default() });
    let daemon = daemon(&[relay.section("def", "relayed")]);
    let port = sink(3);
    let params = |id: &str| json!({ "handle": "relayed", "containerID": id, "port": port });
    half_closes(RpcCaller::of(&daemon).dials(params("self")), b"");
    let mut caller = RpcCaller::of(&daemon);
    let (code, _, cause) = caller.is_refused("pod.portDial", params("nobody"));
    assert_eq!(code, -32006, "{cause}");
    assert!(cause.contains("container `nobody` is not in the guest"), "{cause}");
    let told = caller.gets("pod.ports", json!({ "handle": "relayed", "containerID": "self" }));
    assert!(!told["ports"].as_array().unwrap().is_empty());
}

/// The answer comes at once, and then the log says what listens instead.
#[test]
fn a_refusal_is_logged_with_what_listens_instead() {
    let relay = RelayPod::start();
    let daemon = daemon(&[relay.section("def", "relayed")]);
    let _open = echo();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let refused = json!({ "handle": "relayed", "port": closed });
    let (_, kind, _) = RpcCaller::of(&daemon).is_refused("pod.portDial", refused);
    assert_eq!(kind, "refused");
    let line = daemon.process.line_with(&format!("nothing listens on {closed}; listening: "));
    assert!(line.contains("\"pod\":\"relayed\""), "{line}");
}

#[test]
fn a_port_that_never_answers_is_timed_out() {
    // A listener whose queue is full drops what else comes.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _waiting = TcpStream::connect(address).unwrap();
    let daemon = daemon(&[here("abc", "direct")]);
    let params = json!({ "handle": "direct", "address": address.to_string(), "timeoutMs": 200 });
    let (code, kind, cause) = RpcCaller::of(&daemon).is_refused("pod.portDial", params);
    assert_eq!((code, kind.as_str()), (-32003, "timed_out"), "{cause}");
}

#[test]
fn what_is_no_call_is_told_and_the_connection_lives() {
    let daemon = daemon(&[]);
    let mut caller = RpcCaller::of(&daemon);
    for (line, code) in [("{", -32700), ("[]", -32600), ("{\"id\":1}", -32600)] {
        caller.says(&format!("{line}\n"));
        assert_eq!(caller.hears()["error"]["code"], code, "{line}");
    }
    caller.says("{\"jsonrpc\":\"2.0\",\"method\":\"pod.list\"}\n"); // a notification: no answer
    assert_eq!(caller.gets("rpc.discover", json!({}))["openrpc"], "1.3.2");
    caller.says(&"x".repeat(70_000));
    assert_eq!(caller.hears()["error"]["code"], -32600);
    assert!(matches!(caller.0.read(&mut [0]), Ok(0) | Err(_)), "it is over");
}

#[test]
fn pods_can_be_registered_and_taken_away() {
    let relay = RelayPod::start();
    let daemon = daemon(&[here("abc", "direct")]);
    let mut caller = RpcCaller::of(&daemon);
    let pod = json!({ "handle": "vm-1", "endpoint": relay.endpoint(), "labels": { "app": "web" } });
    assert_eq!(caller.gets("pod.register", pod.clone()), json!({ "handle": "vm-1" }));
    assert_eq!(caller.is_refused("pod.register", pod).0, -32602);
    assert_eq!(
        caller.is_refused("pod.register", json!({ "handle": "a b", "endpoint": "unix:///x" })).0,
        -32602
    );
    assert_eq!(caller.is_refused("pod.register", json!({ "handle": "a", "endpoint": "tcp://x" })).0, -32602);

    let listed = caller.gets("pod.list", json!({ "handle": "vm", "probe": true }));
    let listed = &listed["pods"][0];
    assert_eq!(listed["name"], "vm-1");
    assert_eq!((&listed["registered"], &listed["connections"]), (&json!(true), &json!(0)));
    assert_eq!(listed["relay"], json!({ "answers": true, "protocol": 2 }));
    half_closes(RpcCaller::of(&daemon).dials(json!({ "handle": "vm-1", "port": sink(3) })), b"");

    assert_eq!(caller.gets("pod.unregister", json!({ "handle": "vm-1" })), json!({ "handle": "vm-1" }));
    assert_eq!(caller.is_refused("pod.unregister", json!({ "handle": "vm-1" })).0, -32001);
    assert_eq!(caller.is_refused("pod.unregister", json!({ "handle": "direct" })).0, -32602);
}

#[test]
fn a_relay_that_is_not_there_is_seen() {
    let daemon = daemon(&[not_running("ghi", "off"), here("abc", "direct")]);
    let listed = RpcCaller::of(&daemon).gets("pod.list", json!({ "probe": true }));
    assert_eq!(listed["pods"][0]["relay"], json!({ "answers": true }), "a namespace is there");
    let off = &listed["pods"][1]["relay"];
    assert_eq!((&off["answers"], &off["kind"]), (&json!(false), &json!("sandbox_gone")));
}

#[test]
fn sessions_and_connections_are_listed_while_they_live() {
    let daemon = daemon(&[here("abc", "demo")]);
    let port = echo();
    let mut caller = RpcCaller::of(&daemon);
    let mut dialled = RpcCaller::of(&daemon).dials(json!({ "handle": "demo", "port": port }));
    dialled.write_all(b"12345").unwrap();
    dialled.read_exact(&mut [0; 5]).unwrap();
    let (_client, address) = daemon.forward_by_cri("demo", port);
    let mut forwarded = common::connect(address);
    common::echoes(&mut forwarded, "123");

    let listed = caller.gets("session.list", json!({}));
    let session = &listed["sessions"][0];
    assert_eq!((&session["handle"], &session["protocol"]), (&json!("abc"), &json!("spdy")));
    assert_eq!((&session["bytesToPod"], &session["bytesFromPod"]), (&json!(3), &json!(3)));
    let connections = listed["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 2);
    assert_eq!(connections[0]["bytesToPod"], 5);
    let uid = rustix::process::getuid().as_raw();
    assert!(connections[0]["caller"].as_str().unwrap().starts_with(&format!("uid {uid} pid ")));
    assert_eq!(connections[1]["address"], format!("localhost:{port}"));

    drop((dialled, forwarded));
    eventually("both connections have left the list", || {
        caller.gets("session.list", json!({}))["connections"].as_array().unwrap().is_empty()
    });
}

#[test]
fn a_caller_that_leaves_has_its_connection_reset() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = daemon(&[here("abc", "demo")]);
    let stream = RpcCaller::of(&daemon).dials(json!({ "handle": "demo", "port": port }));
    let (mut pod, _) = listener.accept().unwrap();
    pod.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    drop(stream);
    // First its end, which the pod does not answer, then the reset.
    let mut reads = || pod.read(&mut [0]);
    assert!(matches!(reads(), Ok(0) | Err(_)));
    eventually("the pod's connection fails", || pod_writes(&mut listener_of(&pod)).is_err());
}

fn listener_of(pod: &TcpStream) -> TcpStream {
    pod.try_clone().unwrap()
}

fn pod_writes(pod: &mut TcpStream) -> std::io::Result<()> {
    pod.write_all(b"x")
}

#[test]
fn the_sockets_mode_and_the_callers_user_decide() {
    let uid = rustix::process::getuid().as_raw();
    let open = Daemon::start_with_rpc(&[], &format!("uids = [{uid}]\nsocket_mode = \"0660\""));
    let mode = std::fs::metadata(open.rpc_socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    RpcCaller::of(&open).gets("pod.list", json!({}));

    let closed = Daemon::start_with_rpc(&[], &format!("uids = [{}]", uid + 1));
    let mut caller = RpcCaller::of(&closed);
    let refusal = caller.hears();
    assert_eq!(refusal["error"]["code"], -32004);
    assert!(refusal["error"]["message"].as_str().unwrap().contains("jsonrpc.uids"), "{refusal}");
    closed.process.line_with("not in jsonrpc.uids");
}

#[test]
fn streams_go_on_while_the_daemon_drains() {
    let daemon = daemon(&[here("abc", "demo")]);
    let port = echo();
    let mut stream = RpcCaller::of(&daemon).dials(json!({ "handle": "demo", "port": port }));
    daemon.process.signal(Signal::TERM);
    daemon.process.line_with("shutting down");
    eventually("the socket is gone", || !daemon.rpc_socket().exists());
    stream.write_all(b"still").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    drop(stream);
    assert!(daemon.process.ends().success());
}

/// As a Go program does: it closes when the pod has ended, without having ended its own direction before.
#[test]
fn a_caller_that_closes_after_the_pods_end_has_aborted_nothing() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let pod = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"a page").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"a request");
        }
    });
    let relay = RelayPod::start();
    let daemon = daemon(&[here("abc", "direct"), relay.section("def", "relayed")]);
    for handle in ["direct", "relayed"] {
        let mut stream = RpcCaller::of(&daemon).dials(json!({ "handle": handle, "port": port }));
        stream.write_all(b"a request").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        assert_eq!(page, "a page");
        drop(stream);
        let line: Value = serde_json::from_str(&daemon.process.line_with("\"audit\"")).unwrap();
        assert_eq!((&line["result"], &line["bytes_to_pod"]), (&json!("ok"), &json!(9)), "{line}");
    }
    pod.join().unwrap();
}

#[test]
fn every_connection_gets_a_line_for_the_audit() {
    let daemon = daemon(&[here("abc", "demo")]);
    let port = sink(2);
    let mut stream = RpcCaller::of(&daemon).dials(json!({ "handle": "demo", "port": port }));
    stream.write_all(b"12345").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    drop(stream);
    let line: Value = serde_json::from_str(&daemon.process.line_with("\"audit\"")).unwrap();
    assert_eq!(
        (&line["pod"], &line["sandbox"], &line["result"]),
        (&json!("default/demo"), &json!("abc"), &json!("ok"))
    );
    assert_eq!((&line["bytes_to_pod"], &line["bytes_from_pod"]), (&json!(5), &json!(10)));
    assert_eq!(line["address"], format!("localhost:{port}"));
    assert!(line["who"].as_str().unwrap().starts_with("uid "), "{line}");

    RpcCaller::of(&daemon).is_refused("pod.portDial", json!({ "handle": "demo", "address": "192.0.2.1:1" }));
    let line: Value = serde_json::from_str(&daemon.process.line_with("\"audit\"")).unwrap();
    assert_eq!((&line["result"], &line["bytes_to_pod"]), (&json!("denied"), &json!(0)));
}
