//! Recorded channel WebSockets, byte for byte, against a live server: the answers are as recorded or differ for a
//! reason.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::raw::{Answer, Raw};
use common::ws::{Message, Ws, take_message};
use common::*;
use tokio::io::AsyncWriteExt;

/// What came, channel by channel, payload joined; pongs and the close code beside them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Heard {
    /// The first message of each channel.
    announced: Vec<String>,
    channels: BTreeMap<u8, Vec<u8>>,
    pongs: Vec<Vec<u8>>,
    close: Option<u16>,
}

impl Heard {
    /// Takes in a message. The first `announced` ones say which ports there are.
    fn note(&mut self, message: Message, announced: usize) {
        let (channel, payload, shown) = match message {
            Message::Binary(bytes) => (bytes[0], bytes[1..].to_vec(), format!("{bytes:02x?}")),
            Message::Text(text) => {
                let payload = data_encoding::BASE64.decode(&text.as_bytes()[1..]).unwrap();
                (text.as_bytes()[0], payload, text)
            }
            Message::Pong(payload) => return self.pongs.push(payload),
            Message::Close(code) => return self.close = Some(code),
            other => panic!("{other:?}"),
        };
        if self.announced.len() < announced {
            self.announced.push(shown);
        } else {
            self.channels.entry(channel).or_default().extend(payload);
        }
    }

    fn len(&self) -> usize {
        self.announced.len() + self.channels.values().map(Vec::len).sum::<usize>() + self.pongs.len()
    }
}

struct Recording {
    request: String,
    /// The client's frames; its close frame, if there was one, is apart.
    sent: Vec<u8>,
    close: Vec<u8>,
    answer: Answer,
    heard: Heard,
}

fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.replace('\n', "").as_bytes()).unwrap()
}

impl Recording {
    /// Loads a recording of a session with so many ports.
    fn load(name: &str, ports: usize) -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
        let read = |file| {
            let bytes = unhex(&std::fs::read_to_string(dir.join(file)).unwrap());
            let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            (String::from_utf8(bytes[..head].to_vec()).unwrap(), bytes[head..].to_vec())
        };
        let (request, mut sent) = read("c2s.hex");
        let (answer, mut answers) = read("s2c.hex");
        let has_close = sent.len() >= 8 && sent[sent.len() - 8..][..2] == [0x88, 0x82];
        let close = sent.split_off(sent.len() - if has_close { 8 } else { 0 });
        let mut heard = Heard::default();
        while let Some(message) = take_message(&mut answers) {
            heard.note(message, 2 * ports);
        }
        Self { request, sent, close, answer: Answer::parse_head(&answer), heard }
    }

    /// Puts our ports in the place of the recorded ones.
    fn expect_ports(&mut self, ports: &[u16], announce: fn(u8, [u8; 2]) -> String) {
        let channels = ports.iter().flat_map(|port| [*port; 2]).enumerate();
        let ours = channels.map(|(channel, port)| announce(channel as u8, port.to_le_bytes()));
        self.heard.announced = ours.collect();
    }

    /// Sends it in pieces of so many bytes, and gives what came.
    async fn play(&self, host: &Host, ports: &[u16], piece: usize) -> (Answer, Heard) {
        let Raw { mut socket } = Raw::connect(host.address).await;
        let (_, rest) = self.request.split_once(" /portforward/").unwrap();
        let (_, rest) = rest.split_once(' ').unwrap();
        let request = format!("GET /portforward/{} {rest}", host.token_for(ports));
        socket.write_all(request.as_bytes()).await.unwrap();
        let answer = Answer::parse_head(&read_head(&mut socket).await);
        let mut heard = Heard::default();
        let mut ws = Ws { socket, bytes: Vec::new() };
        for piece in self.sent.chunks(piece) {
            ws.socket.write_all(piece).await.unwrap();
        }
        while heard.len() < self.heard.len() {
            heard.note(ws.next().await, 2 * ports.len());
        }
        if self.close.is_empty() && self.heard.close.is_none() {
            return (answer, heard);
        }
        ws.socket.write_all(&self.close).await.unwrap();
        heard.note(ws.next().await, 2 * ports.len());
        (answer, heard)
    }

    async fn expect(&self, host: &Host, ports: &[u16]) {
        for piece in [1, 5, usize::MAX] {
            let (answer, heard) = self.play(host, ports, piece).await;
            assert_eq!(answer.status, 101);
            let accept = |answer: &Answer| {
                let mut headers = answer.telling_headers();
                headers.retain(|(_, value)| !value.is_empty()); // ours is not answered without being asked for
                headers
            };
            assert_eq!(accept(&answer), accept(&self.answer));
            assert_eq!(heard, self.heard, "in pieces of {piece}");
        }
    }
}

fn in_hex(channel: u8, [low, high]: [u8; 2]) -> String {
    format!("{:02x?}", [channel, low, high])
}

fn in_base64(channel: u8, port: [u8; 2]) -> String {
    format!("{channel}{}", data_encoding::BASE64.encode(&port))
}

#[tokio::test]
async fn two_ports_of_which_one_is_refused() {
    let host = Host::start().await;
    let ports = [echo_pod().await, closed_port().await];
    let mut recording = Recording::load("d-websocket-v4-channel", 2);
    recording.expect_ports(&ports, in_hex);
    // The cause in the text is ours.
    let text = recording.heard.channels.get_mut(&3).unwrap();
    assert!(text.starts_with(b"error forwarding port 41891 to pod sandbox0123, uid : failed to connect"));
    let refused = tokio::net::TcpStream::connect(("127.0.0.1", ports[1])).await.unwrap_err();
    let port = ports[1];
    *text =
        format!("error forwarding port {port} to pod sandbox0123, uid : connect to port {port}: {refused}")
            .into();
    assert_eq!(recording.heard.pongs, [b"pp"]);
    assert_eq!(recording.heard.close, Some(1000));
    recording.expect(&host, &ports).await;
}

#[tokio::test]
async fn base64_with_a_message_that_is_none() {
    let host = Host::start().await;
    let ports = [echo_pod().await];
    let mut recording = Recording::load("d2-websocket-v4-base64", 1);
    recording.expect_ports(&ports, in_base64);
    // The client had gone without a close frame; who is not there is not told.
    assert_eq!(recording.heard.close.take(), Some(1000));
    assert_eq!(recording.heard.channels[&b'0'], b"hello\n");
    recording.expect(&host, &ports).await;
}

#[tokio::test]
async fn no_subprotocol_and_a_pod_that_ends_first() {
    let host = Host::start().await;
    let ports = [pod(async |mut socket| socket.write_all(b"bye\n").await.unwrap()).await];
    let mut recording = Recording::load("d3-websocket-no-subprotocol", 1);
    recording.expect_ports(&ports, in_hex);
    assert_eq!(recording.heard.close, Some(1000));
    recording.expect(&host, &ports).await;
}

#[tokio::test]
async fn a_fragmented_message_is_not_cut_as_the_reference_cuts_it() {
    let host = Host::start().await;
    let ports = [echo_pod().await];
    let mut recording = Recording::load("d4-websocket-fragmented", 1);
    recording.expect_ports(&ports, in_hex);
    assert_eq!(recording.heard.channels.insert(0, b"frag1-frag2\n".to_vec()).unwrap(), b"frag1-");
    assert_eq!(recording.heard.close.take(), Some(1000)); // as in base64_with_a_message_that_is_none
    recording.expect(&host, &ports).await;
}

#[tokio::test]
async fn no_ports_are_an_end_at_once() {
    let host = Host::start().await;
    let recording = Recording::load("d5-websocket-no-ports", 0);
    assert_eq!((recording.heard.len(), recording.heard.close), (0, Some(1000)));
    recording.expect(&host, &[]).await;
    host.expect_no_session().await;
}
