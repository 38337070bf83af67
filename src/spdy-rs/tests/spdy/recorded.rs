//! Replays recorded sessions: see `tests/vectors/README.md`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;
use spdy_rs::{Config, Connection, Role};

use crate::common::{Heard, add, hear, hear_in_pieces};
use crate::peer::{Frame, FrameReader};
use crate::reference::{Pod, Reference};

/// Sessions with a `vectors.json`, which describes every frame.
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

/// The bytes after the HTTP head, and the length of that head.
fn spdy_bytes(name: &str, direction: Direction) -> (Vec<u8>, usize) {
    let bytes = unhex(&read(name, direction.file()));
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    (bytes[head..].to_vec(), head)
}

/// The socket reads that delivered the bytes after the head: milliseconds and lengths.
fn recorded_reads(name: &str, direction: Direction) -> Vec<(u64, usize)> {
    let (_, mut head) = spdy_bytes(name, direction);
    let mut reads = Vec::new();
    for line in read(name, "events.jsonl").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["dir"] == direction.label() {
            let read = line["n"].as_u64().unwrap() as usize;
            let of_head = head.min(read);
            head -= of_head;
            let ms = line["t_us"].as_u64().unwrap() / 1_000;
            reads.extend((read > of_head).then_some((ms, read - of_head)));
        }
    }
    reads
}

fn frames(name: &str, direction: Direction) -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(&read(name, "vectors.json")).unwrap();
    all.into_iter().filter(|f| f["dir"] == direction.label()).collect()
}

fn number(frame: &Value, field: &str) -> u32 {
    frame[field].as_u64().unwrap_or_else(|| panic!("{field} in {frame}")) as u32
}

/// The events that a connection should produce, according to the independent decoder. Seen from one side, no stream in
/// these sessions is over before its RST, except where a second RST follows.
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

/// Feeds the session whole, cut as recorded, and byte by byte: the events must be the same.
fn hear_every_way(name: &str, direction: Direction) -> Vec<Heard> {
    let (bytes, _) = spdy_bytes(name, direction);
    let recorded: Vec<usize> = recorded_reads(name, direction).into_iter().map(|(_, len)| len).collect();
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_cuts_change_nothing(
        session in 0..SESSIONS.len(),
        to_server: bool,
        cuts in prop::collection::vec(1usize..40, 0..60),
    ) {
        let (name, direction) = (SESSIONS[session], if to_server { ToServer } else { ToClient });
        let (bytes, _) = spdy_bytes(name, direction);
        let (heard, error) = hear_in_pieces(&mut listener(name, direction), &bytes, cuts);
        prop_assert_eq!(error, None);
        prop_assert_eq!(heard, expected(name, direction));
    }
}

// The server's answers.

/// The kinds of frames on each stream, or on the session (id 0). Consecutive data frames count as one.
type Said = BTreeMap<u32, Vec<String>>;

fn kinds(frames: Vec<Frame>) -> Said {
    let mut said = Said::new();
    let mut push = |id, kind: &str| {
        let kinds: &mut Vec<String> = said.entry(id).or_default();
        if kind != "DATA" || kinds.last().is_none_or(|last| last != "DATA") {
            kinds.push(kind.to_owned());
        }
    };
    for frame in frames {
        match frame {
            Frame::SynStream { id, .. } => push(id, "SYN_STREAM"),
            Frame::SynReply { id } => push(id, "SYN_REPLY"),
            Frame::Rst { id, status } => push(id, &format!("RST {status}")),
            Frame::Ping(id) => push(0, &format!("PING {id}")),
            Frame::GoAway { last, status } => push(0, &format!("GOAWAY {last} {status}")),
            Frame::Data { id, payload, fin } => {
                (!payload.is_empty()).then(|| push(id, "DATA"));
                fin.then(|| push(id, "FIN"));
            }
        }
    }
    said
}

/// Replays the recorded client, with its pauses, to a server that uses our connection.
fn answer(name: &str, mut server: Reference) -> Said {
    let (bytes, _) = spdy_bytes(name, ToServer);
    let mut rest = &bytes[..];
    let mut last = None;
    for (ms, len) in recorded_reads(name, ToServer) {
        server.waits(ms - last.replace(ms).unwrap_or(ms));
        server.reads(&rest[..len]);
        rest = &rest[len..];
    }
    kinds(FrameReader::default().read(server.connection.output()))
}

#[test]
fn a_server_answers_each_client_as_the_reference_did() {
    let four_hours = 4 * 3_600_000;
    for (name, pod, idle_ms) in [
        ("a-spdy-one-connection", Pod::Echoes, four_hours),
        ("b-spdy-refused", Pod::Refuses, four_hours),
        ("c-spdy-two-ports", Pod::Echoes, four_hours),
        ("e-tunnel", Pod::Echoes, four_hours),
        ("h-spdy-pairing-quirks", Pod::Echoes, four_hours),
        ("i-spdy-server-closes-first", Pod::SaysByeAndCloses, four_hours),
        ("j-spdy-ping", Pod::Echoes, four_hours),
        ("k-spdy-idle-timeout", Pod::Echoes, 2_000),
        ("kubelet-spdy", Pod::Echoes, four_hours),
    ] {
        let (bytes, _) = spdy_bytes(name, ToClient);
        let mut reference = kinds(FrameReader::default().read(&bytes));
        differ(name, &mut reference);
        assert_eq!(answer(name, Reference::new(pod, idle_ms)), reference, "{name}");
    }
}

/// How our answers differ from the recorded ones, apart from the bytes of a SYN_REPLY's block (stored, not compressed)
/// and the wording of error texts.
fn differ(name: &str, reference: &mut Said) {
    let last = match name {
        // The reference answers a GOAWAY with one of its own. In these sessions the client had already closed its
        // socket, so the answer was lost; in j it was not.
        "j-spdy-ping" | "k-spdy-idle-timeout" => None,
        "c-spdy-two-ports" => Some(7),
        "h-spdy-pairing-quirks" => Some(21),
        _ => Some(3),
    };
    if let Some(last) = last {
        reference.entry(0).or_default().push(format!("GOAWAY {last} 0"));
    }
    if name == "h-spdy-pairing-quirks" {
        // Two workers of the reference raced, and served stream 5 before stream 3. We keep the order.
        let (three, five) = (reference.remove(&3).unwrap(), reference.remove(&5).unwrap());
        reference.extend([(3, five), (5, three)]);
    }
}

// Single odd frames.

/// A probe, the events in it, and our answer if it differs from that of the reference.
type Probe = (&'static str, Vec<Heard>, Option<Vec<Frame>>);

fn opened(id: u32, fin: bool) -> Heard {
    let headers = [("port", "80"), ("requestid", "0"), ("streamtype", "error")];
    Heard::Opened { id, headers: owned(headers), fin }
}

fn owned(headers: [(&str, &str); 3]) -> Vec<(String, String)> {
    headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn probes() -> Vec<Probe> {
    use Heard::{GoAway, Pinged, Ponged, Reset};
    let rst = |id| Frame::Rst { id, status: 1 };
    let headers = [("host", "x"), ("port", "80"), ("streamtype", "error")];
    let host = Heard::Opened { id: 1, headers: owned(headers), fin: false };
    vec![
        ("ping-odd", vec![Pinged], None),
        ("ping-even", vec![Ponged { id: 2 }, Pinged], None),
        ("settings-then-ping", vec![Pinged], None),
        ("window-update-then-ping", vec![Pinged], None),
        // The reference closes the connection on an unknown type; we skip the frame.
        ("noop-type5-then-ping", vec![Pinged], Some(vec![Frame::Ping(1)])),
        ("credential-type10-then-ping", vec![Pinged], Some(vec![Frame::Ping(1)])),
        ("version2-ping", vec![Pinged], None),
        ("rst-stream-id0-then-ping", vec![], None),
        ("rst-unknown-then-ping", vec![Pinged], None),
        ("data-unknown-then-ping", vec![Pinged], None),
        ("data-id0-then-ping", vec![], None),
        ("goaway-then-ping", vec![GoAway { last: 0, status: 0 }, Pinged], None),
        ("syn-even-id", vec![opened(2, false), Pinged], None),
        ("syn-id-jump-101", vec![opened(101, false), Pinged], None),
        ("syn-fin", vec![opened(1, true), Pinged], None),
        ("syn-unidirectional", vec![opened(1, false), Pinged], None),
        // The reference ends the session on an HTTP/1 header; for us it is a header like any other.
        ("syn-host-header", vec![host, Pinged], Some(vec![Frame::SynReply { id: 1 }, Frame::Ping(1)])),
        // Two workers of the reference raced, so it reset 5 and then answered it. We keep the order.
        (
            "syn-id-decreasing-and-reused",
            vec![opened(5, false), Reset { id: 5, status: 1 }, Pinged],
            Some(vec![Frame::SynReply { id: 5 }, rst(3), rst(5), Frame::Ping(1)]),
        ),
        // An HTTP request: the start of a data frame for a stream that is not there.
        ("garbage", vec![], None),
    ]
}

fn sort_headers(mut heard: Vec<Heard>) -> Vec<Heard> {
    for one in &mut heard {
        if let Heard::Opened { headers, .. } = one {
            headers.sort();
        }
    }
    heard
}

/// The answer in the probe's line of `SUMMARY.txt`.
fn summary(probe: &str) -> Vec<u8> {
    let all = read("h2-frame-probes", "SUMMARY.txt");
    let line = all.lines().find(|line| line.split_whitespace().next() == Some(probe)).unwrap();
    let (_, answer) = line.split_once("->").unwrap();
    unhex(answer.split_once("err=").unwrap().0)
}

#[test]
fn every_recorded_probe_is_listed() {
    let all = read("h2-frame-probes", "SUMMARY.txt");
    let recorded: Vec<_> = all.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(probes().into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), recorded);
}

#[test]
fn probes_are_heard_however_they_are_cut() {
    for (probe, heard, _) in probes() {
        let name = format!("h2-frame-probes/{probe}");
        if probe.contains("id0") {
            let (bytes, _) = spdy_bytes(&name, ToServer);
            for lengths in [vec![], vec![1; bytes.len()]] {
                let (heard, error) = hear_in_pieces(&mut server(), &bytes, lengths);
                assert!(heard.is_empty() && error.is_some_and(|e| e.says_goaway()), "{probe}");
            }
        } else {
            assert_eq!(sort_headers(hear_every_way(&name, ToServer)), heard, "{probe}");
        }
    }
}

#[test]
fn probes_are_answered_as_the_reference_did() {
    for (probe, _, different) in probes() {
        let reference = FrameReader::default().read(&summary(probe));
        let mut server = Reference::new(Pod::Echoes, 60_000);
        server.reads(&spdy_bytes(&format!("h2-frame-probes/{probe}"), ToServer).0);
        let answered = FrameReader::default().read(server.connection.output());
        if let Some(ours) = different {
            assert_ne!(ours, reference, "{probe}: there is no difference");
            assert_eq!(answered, ours, "{probe}");
        } else {
            assert_eq!(answered, reference, "{probe}");
        }
    }
}
