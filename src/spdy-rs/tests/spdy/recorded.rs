//! Recorded sessions replayed: see `tests/vectors/README.md`.

use std::path::PathBuf;

use serde_json::Value;
use spdy::{Config, Connection, Role};

use crate::common::{Heard, add, hear, hear_in_pieces};

/// Sessions with `vectors.json`, which says what every frame means.
const SESSIONS: [&str; 9] = [
    "a-spdy-one-connection",
    "b-spdy-refused",
    "c-spdy-two-ports",
    "e-tunnel",
    "h-spdy-pairing-quirks",
    "i-spdy-server-closes-first",
    "j-spdy-ping",
    "k-spdy-idle-timeout",
    "kubelet-spdy",
];

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToServer,
    ToClient,
}

use Direction::{ToClient, ToServer};

impl Direction {
    fn file(self) -> &'static str {
        if self == ToServer { "c2s.hex" } else { "s2c.hex" }
    }

    fn label(self) -> &'static str {
        if self == ToServer { "C>S" } else { "S>C" }
    }
}

fn read(name: &str, file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

/// What came after the HTTP head, and how long that head was.
fn spdy_bytes(name: &str, direction: Direction) -> (Vec<u8>, usize) {
    let bytes = unhex(&read(name, direction.file()));
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    (bytes[head..].to_vec(), head)
}

/// Lengths of the pieces in which the bytes after the head were read from the socket.
fn recorded_pieces(name: &str, direction: Direction, mut head: usize) -> Vec<usize> {
    let mut pieces = Vec::new();
    for line in read(name, "events.jsonl").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["dir"] == direction.label() {
            let read = line["n"].as_u64().unwrap() as usize;
            let of_head = head.min(read);
            head -= of_head;
            pieces.extend((read > of_head).then_some(read - of_head));
        }
    }
    pieces
}

fn frames(name: &str, direction: Direction) -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(&read(name, "vectors.json")).unwrap();
    all.into_iter().filter(|f| f["dir"] == direction.label()).collect()
}

fn number(frame: &Value, field: &str) -> u32 {
    frame[field].as_u64().unwrap_or_else(|| panic!("{field} in {frame}")) as u32
}

/// What a connection should hear, by the independent decoder. No stream is over before its RST in these
/// sessions, seen from one side alone, but for a second RST.
fn expected(name: &str, direction: Direction) -> Vec<Heard> {
    let mut heard = Vec::new();
    let mut gone = Vec::new();
    for frame in frames(name, direction) {
        let fin = frame["flags"] == 1;
        let next = match frame["kind"].as_str().unwrap() {
            "SYN_STREAM" => Heard::Opened { id: number(&frame, "id"), headers: headers(&frame), fin },
            "SYN_REPLY" => Heard::Replied { id: number(&frame, "id"), fin },
            "DATA" => {
                let payload = unhex(frame["data"].as_str().unwrap());
                Heard::Data { id: number(&frame, "id"), payload, fin }
            }
            "RST_STREAM" => {
                let id = number(&frame, "id");
                assert!(!gone.contains(&id));
                gone.push(id);
                Heard::Reset { id, status: number(&frame, "status") }
            }
            "PING" if direction == ToServer => Heard::Pinged,
            "PING" => Heard::Ponged { id: number(&frame, "id") },
            "GOAWAY" => Heard::GoAway { last: number(&frame, "last"), status: number(&frame, "status") },
            other => panic!("{other}"),
        };
        add(&mut heard, next);
    }
    heard
}

fn headers(frame: &Value) -> Vec<(String, String)> {
    let pair = |p: &Value| (p[0].as_str().unwrap().to_owned(), p[1].as_str().unwrap().to_owned());
    frame["headers"].as_array().unwrap().iter().map(pair).collect()
}

fn server() -> Connection {
    Connection::new(Role::Server, Config::default())
}

/// A client that has opened streams 1, 3, … up to `last`.
fn client(last: u32) -> Connection {
    let mut client = Connection::new(Role::Client, Config::default());
    while client.open(&[], false).unwrap() < last {}
    client.clear_output();
    client
}

fn listener(name: &str, direction: Direction) -> Connection {
    match direction {
        ToServer => server(),
        ToClient => client(if name.starts_with("h2") { 101 } else { 21 }),
    }
}

/// Every way of cutting: whole, as recorded, byte by byte.
fn hear_every_way(name: &str, direction: Direction) -> Vec<Heard> {
    let (bytes, head) = spdy_bytes(name, direction);
    let recorded = recorded_pieces(name, direction, head);
    assert_eq!(recorded.iter().sum::<usize>(), bytes.len(), "{name}");
    let whole = hear(&mut listener(name, direction), &bytes);
    let bytewise = hear_in_pieces(&mut listener(name, direction), &bytes, std::iter::repeat(1));
    let as_recorded = hear_in_pieces(&mut listener(name, direction), &bytes, recorded);
    assert_eq!(whole, bytewise, "{name}");
    assert_eq!(whole, as_recorded, "{name}");
    assert_eq!(whole.1, None, "{name}");
    whole.0
}

#[test]
fn a_server_hears_each_client_however_its_bytes_are_cut() {
    for name in SESSIONS {
        assert_eq!(hear_every_way(name, ToServer), expected(name, ToServer), "{name}");
    }
}

#[test]
fn a_client_hears_each_server_however_its_bytes_are_cut() {
    for name in SESSIONS {
        assert_eq!(hear_every_way(name, ToClient), expected(name, ToClient), "{name}");
    }
}
