//! Recorded clients, byte for byte, against a live server: the answers are as recorded or differ for a reason.
//!
//! A recording is sent in single bytes, in the pieces in which it was read, and whole. Only the client's last
//! words (its first RST_STREAM or GOAWAY, and all after it) wait for the answers, as they did when recorded.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use common::frames::{Frame, Heard, note, take_frames};
use common::raw::{Raw, tunnel_head, upgrade_head};
use common::*;
use gangplank_streaming::{Config, Dial, DialError, DialErrorKind, ErrorStyle, Limits, Target};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A recorded session.
struct Recording {
    /// The client's bytes after the request's head.
    sent: Vec<u8>,
    /// Lengths of the pieces in which they were read.
    pieces: Vec<usize>,
    /// Where the client's last words begin.
    last_words: usize,
    /// The bytes are WebSocket frames.
    is_tunnel: bool,
    /// Ports, in the order of their first use.
    ports: Vec<u16>,
    /// The reference's answers.
    heard: Heard,
}

/// In which pieces a recording is sent.
#[derive(Debug, Clone, Copy)]
enum Pieces {
    Bytes,
    Recorded,
    Whole,
}

/// Our answers where they are meant to differ.
struct Difference {
    stream: u32,
    ours: Vec<Frame>,
    reason: &'static str,
}

fn differs(stream: u32, ours: &[Frame], reason: &'static str) -> Difference {
    Difference { stream, ours: ours.to_vec(), reason }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

impl Recording {
    fn load(name: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let own = dir.join("tests/vectors").join(name);
        let dir = if own.exists() { own.clone() } else { dir.join("../spdy-rs/tests/vectors").join(name) };
        let read = |file| std::fs::read_to_string(dir.join(file)).unwrap();
        let all = unhex(&read("c2s.hex"));
        let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let frames: Vec<Value> = serde_json::from_str(&read("vectors.json")).unwrap();
        let mine: Vec<&Value> = frames.iter().filter(|f| f["dir"] == "C>S").collect();
        let is_last = |f: &&&Value| f["kind"] == "RST_STREAM" || f["kind"] == "GOAWAY";
        let last_words = mine.iter().find(is_last).unwrap()["off"].as_u64().unwrap() as usize;
        let (sent, is_tunnel) = (all[head..].to_vec(), own.exists());
        Self {
            last_words: if is_tunnel { in_messages(&sent, last_words) } else { last_words },
            is_tunnel,
            sent,
            pieces: pieces(&read("events.jsonl"), head),
            ports: ports(&mine),
            heard: answers(frames.iter().filter(|f| f["dir"] == "S>C")),
        }
    }

    /// What we should answer.
    fn expected(&self, differences: &[Difference]) -> Heard {
        let mut expected = self.heard.clone();
        for Difference { stream, ours, reason } in differences {
            let theirs = expected.insert(*stream, ours.clone());
            assert_ne!(theirs.as_ref(), Some(ours), "{reason}: it does not differ any more");
        }
        // The reference's own GOAWAY races with the client's leaving; ours always comes, and last.
        let session = expected.entry(0).or_default();
        session.retain(|frame| *frame != Frame::GoAway);
        session.push(Frame::GoAway);
        expected
    }

    fn cuts(&self, pieces: Pieces) -> Vec<usize> {
        match pieces {
            Pieces::Bytes => vec![1; self.sent.len()],
            Pieces::Recorded => self.pieces.clone(),
            Pieces::Whole => vec![self.sent.len()],
        }
    }
}

/// Where in a stream of messages the payload's byte `at` is.
fn in_messages(bytes: &[u8], at: usize) -> usize {
    let (mut wire, mut payload) = (0, 0);
    for (len, message) in take_messages(&mut bytes.to_vec()) {
        if payload == at {
            return wire;
        }
        wire += len;
        if let Message::Binary(bytes) = message {
            payload += bytes.len();
        }
    }
    panic!("no message begins at {at}")
}

fn pieces(events: &str, mut head: usize) -> Vec<usize> {
    let mut pieces = Vec::new();
    for line in events.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["dir"] == "C>S" {
            let n = line["n"].as_u64().unwrap_or(0) as usize;
            let of_head = head.min(n);
            head -= of_head;
            pieces.extend((n > of_head).then_some(n - of_head));
        }
    }
    pieces
}

fn ports(mine: &[&Value]) -> Vec<u16> {
    let headers = mine.iter().filter_map(|f| f["headers"].as_array()).flatten();
    let named = headers.filter(|h| h[0] == "port").filter_map(|h| h[1].as_str().unwrap().parse().ok());
    let mut ports: Vec<u16> = named.collect();
    let mut seen = Vec::new();
    ports.retain(|port| {
        !seen.contains(port) && {
            seen.push(*port);
            true
        }
    });
    ports
}

fn answers<'a>(frames: impl Iterator<Item = &'a Value>) -> Heard {
    let mut heard = Heard::new();
    for frame in frames {
        let number = |field: &str| frame[field].as_u64().unwrap() as u32;
        match frame["kind"].as_str().unwrap() {
            "SYN_REPLY" => note(&mut heard, number("id"), Frame::Reply),
            "RST_STREAM" => note(&mut heard, number("id"), Frame::Reset(number("status"))),
            "PING" => note(&mut heard, 0, Frame::Ping(number("id"))),
            "GOAWAY" => note(&mut heard, 0, Frame::GoAway),
            "DATA" => {
                let payload = unhex(frame["data"].as_str().unwrap());
                if !payload.is_empty() {
                    note(&mut heard, number("id"), Frame::Data(payload));
                }
                if number("flags") == 1 {
                    note(&mut heard, number("id"), Frame::Fin);
                }
            }
            other => panic!("{other}"),
        }
    }
    heard
}

/// Dials the pods that stand for the recorded ports.
struct Ports(HashMap<u16, Pod>);

#[derive(Clone, Copy)]
enum Pod {
    At(u16),
    Refuses(&'static str),
}

impl Dial for Ports {
    type Conn = TcpStream;

    async fn dial(&self, target: Target) -> Result<TcpStream, DialError> {
        match self.0[&target.port] {
            Pod::At(port) => Ok(TcpStream::connect(("127.0.0.1", port)).await.unwrap()),
            Pod::Refuses(cause) => Err(DialError::new(DialErrorKind::Refused, cause)),
        }
    }
}

/// Replays a recording in all three ways, each in a session of its own.
async fn replay(name: &str, config: Config, pods: &[Pod], differences: &[Difference]) {
    let recording = Recording::load(name);
    let dial = Ports(recording.ports.iter().copied().zip(pods.iter().copied().cycle()).collect());
    let host = Host::dialling(config, dial).await;
    let expected = recording.expected(differences);
    let play = async |pieces| {
        let mut raw = Raw::connect(host.address).await;
        let token = host.token();
        let head = if recording.is_tunnel { tunnel_head(&token) } else { upgrade_head(&token) };
        raw.say(&head).await;
        assert_eq!(raw.head().await.status, 101);
        let listener = play(&mut raw.socket, &recording, recording.cuts(pieces), &expected).await;
        assert_eq!(listener.heard, expected, "{name} in {pieces:?}");
        assert_eq!(listener.close, recording.is_tunnel.then(|| 1_000u16.to_be_bytes().to_vec()));
    };
    tokio::join!(play(Pieces::Bytes), play(Pieces::Recorded), play(Pieces::Whole));
}

async fn play(socket: &mut TcpStream, recording: &Recording, cuts: Vec<usize>, expected: &Heard) -> Listener {
    let (before, after) = recording.sent.split_at(recording.last_words);
    send_in_pieces(socket, before, cuts).await;
    let mut listener = Listener { is_tunnel: recording.is_tunnel, ..Listener::default() };
    while !has_all(&listener.heard, expected) && listener.listen(socket).await {}
    let _ = socket.write_all(after).await; // a server that ended first may have closed
    while listener.listen(socket).await {}
    assert!(listener.raw.is_empty() && listener.spdy.is_empty(), "half a frame came: {listener:x?}");
    listener
}

/// Hears what the server says.
#[derive(Debug, Default)]
struct Listener {
    is_tunnel: bool,
    raw: Vec<u8>,
    spdy: Vec<u8>,
    heard: Heard,
    /// Payload of a WebSocket's close frame.
    close: Option<Vec<u8>>,
}

impl Listener {
    /// Reads once. False at the end.
    async fn listen(&mut self, socket: &mut TcpStream) -> bool {
        let read = tokio::time::timeout(LONG, socket.read_buf(&mut self.raw)).await;
        if !read.unwrap_or_else(|_| panic!("nothing more came after {:?}", self.heard)).is_ok_and(|n| n > 0) {
            return false;
        }
        if self.is_tunnel {
            for (_, message) in take_messages(&mut self.raw) {
                match message {
                    Message::Binary(payload) => self.spdy.extend(payload),
                    Message::Close(payload) => assert_eq!(self.close.replace(payload), None),
                }
            }
        } else {
            self.spdy.append(&mut self.raw);
        }
        take_frames(&mut self.spdy, &mut self.heard);
        true
    }
}

enum Message {
    Binary(Vec<u8>),
    Close(Vec<u8>),
}

/// Takes all whole WebSocket messages off the front of `bytes`, each with its length on the wire. Those of the
/// recorded sessions are short and in one frame each.
fn take_messages(bytes: &mut Vec<u8>) -> Vec<(usize, Message)> {
    let mut messages = Vec::new();
    while bytes.len() >= 2 {
        let (masked, len) = (bytes[1] & 0x80 != 0, (bytes[1] & 0x7f) as usize);
        assert!(len < 126, "a long message");
        let start = if masked { 6 } else { 2 };
        if bytes.len() < start + len {
            break;
        }
        let frame: Vec<u8> = bytes.drain(..start + len).collect();
        let unmasked = |(i, byte): (usize, &u8)| if masked { byte ^ frame[2 + i % 4] } else { *byte };
        let payload = frame[start..].iter().enumerate().map(unmasked).collect();
        let message = match frame[0] {
            0x82 => Message::Binary(payload),
            0x88 => Message::Close(payload),
            other => panic!("a frame {other:x}"),
        };
        messages.push((frame.len(), message));
    }
    messages
}

async fn send_in_pieces(socket: &mut TcpStream, mut bytes: &[u8], cuts: Vec<usize>) {
    for cut in cuts {
        let (now, later) = bytes.split_at(cut.min(bytes.len()));
        socket.write_all(now).await.unwrap();
        tokio::task::yield_now().await;
        bytes = later;
    }
    assert!(bytes.is_empty());
}

/// Everything came that should, but for the GOAWAY at the end.
fn has_all(heard: &Heard, expected: &Heard) -> bool {
    let frames = |of: &Heard| -> Heard {
        let mut of = of.clone();
        of.values_mut().for_each(|stream| stream.retain(|frame| *frame != Frame::GoAway));
        of.retain(|_, stream| !stream.is_empty());
        of
    };
    frames(heard) == frames(expected)
}

async fn bye_pod() -> u16 {
    pod(async |mut socket| {
        socket.write_all(b"bye\n").await.unwrap();
        socket.shutdown().await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await
}

#[tokio::test]
async fn one_connection() {
    let pods = [Pod::At(echo_pod().await)];
    replay("a-spdy-one-connection", Config::default(), &pods, &[]).await;
}

/// The reference ends a connection a second after its client has; these clients left before.
const ENDS_AT_ONCE: &str = "the pod's end reaches the client at once";

#[tokio::test]
async fn two_ports() {
    let echoed = |text: &[u8]| [Frame::Reply, Frame::Data(text.to_vec()), Frame::Fin];
    let differences = [
        differs(1, &[Frame::Reply, Frame::Fin], ENDS_AT_ONCE),
        differs(3, &[Frame::Reply, Frame::Fin], ENDS_AT_ONCE),
        differs(5, &echoed(b"one\nONE\n"), ENDS_AT_ONCE),
        differs(7, &echoed(b"two\nTWO\n"), ENDS_AT_ONCE),
    ];
    replay("c-spdy-two-ports", Config::default(), &[Pod::At(echo_pod().await)], &differences).await;
}

#[tokio::test]
async fn through_the_kubelet() {
    let echoed = [Frame::Reply, Frame::Data(b"hello\n".to_vec()), Frame::Fin];
    let differences =
        [differs(1, &[Frame::Reply, Frame::Fin], ENDS_AT_ONCE), differs(3, &echoed, ENDS_AT_ONCE)];
    replay("kubelet-spdy", Config::default(), &[Pod::At(echo_pod().await)], &differences).await;
}

#[tokio::test]
async fn a_tunnel_that_ended_before_us() {
    replay("e-tunnel", Config::default(), &[Pod::At(echo_pod().await)], &[]).await;
}

#[tokio::test]
async fn a_tunnel_that_ends_here() {
    replay("e-tunnel-client", Config::default(), &[Pod::At(echo_pod().await)], &[]).await;
}

#[tokio::test]
async fn a_pod_that_closes_first() {
    replay("i-spdy-server-closes-first", Config::default(), &[Pod::At(bye_pod().await)], &[]).await;
}

#[tokio::test]
async fn pings() {
    replay("j-spdy-ping", Config::default(), &[], &[]).await;
}

/// What the reference's dial said.
const REFUSED: &str =
    "failed to connect to 127.0.0.1:44179: dial tcp4 127.0.0.1:44179: connect: connection refused";

#[tokio::test]
async fn a_refused_port() {
    let reason = "text on the error stream would end the client's whole session";
    let differences =
        [differs(1, &[Frame::Reply, Frame::Fin], reason), differs(3, &[Frame::Reset(3)], reason)];
    replay("b-spdy-refused", Config::default(), &[Pod::Refuses(REFUSED)], &differences).await;
}

#[tokio::test]
async fn a_refused_port_in_text() {
    let config = Config { errors: ErrorStyle::Text, ..Config::default() };
    let text = Recording::load("b-spdy-refused").heard[&1][1].clone();
    let differences = [
        differs(1, &[Frame::Reply, text, Frame::Fin], "the client has ended its side: a FIN is enough"),
        differs(3, &[Frame::Reply, Frame::Fin, Frame::Reset(5)], "a stream is never left half open"),
    ];
    replay("b-spdy-refused", config, &[Pod::Refuses(REFUSED)], &differences).await;
}

#[tokio::test]
async fn an_idle_session() {
    let limits = Limits { idle_timeout: Duration::from_secs(2), ..Limits::default() };
    let reason = "old clients close a connection only after the error stream's FIN, which needs no RST then";
    let ended = [Frame::Reply, Frame::Fin];
    let config = Config { limits, ..Config::default() };
    replay("k-spdy-idle-timeout", config, &[Pod::At(echo_pod().await)], &[differs(1, &ended, reason)]).await;
}

#[tokio::test]
async fn strange_pairs() {
    let limits = Limits { pair_timeout: Duration::from_secs(2), ..Limits::default() };
    let lone = "a stream without a partner is closed, and without a text";
    let closed = [Frame::Reply, Frame::Fin, Frame::Reset(5)];
    let differences = [
        differs(1, &closed, lone),
        differs(3, &closed, lone),
        differs(5, &[Frame::Reset(1)], "a second stream of a kind is refused, and always the second"),
        differs(7, &[Frame::Reply, Frame::Fin, Frame::Reset(5)], "a stream is never left half open"),
        differs(21, &[Frame::Reset(5)], "a data stream is answered when its pod is there"),
    ];
    let config = Config { limits, ..Config::default() };
    replay("h-spdy-pairing-quirks", config, &[Pod::At(echo_pod().await)], &differences).await;
}
