//! A client of channel WebSockets that writes and reads frames itself.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::raw::{Answer, Raw};
use super::{Host, LONG, read_head};

pub const BINARY: &str = "v4.channel.k8s.io";
pub const BASE64: &str = "v4.base64.channel.k8s.io";

/// One frame of the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Binary(Vec<u8>),
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
    /// The server closed the connection.
    Over,
}

/// The head of a request for a WebSocket, with more headers at its end.
pub fn head(token: &str, more: &str) -> String {
    format!(
        "GET /portforward/{token} HTTP/1.1\r\nHost: 127.0.0.1:6443\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

pub fn offering(subprotocols: &str) -> String {
    format!("Sec-WebSocket-Protocol: {subprotocols}\r\n")
}

/// One masked frame.
pub fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Takes the first frame off, if it is whole.
pub fn take_message(bytes: &mut Vec<u8>) -> Option<Message> {
    let (len, start) = match (bytes.get(1)?, bytes.len()) {
        (126, 4..) => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
        (126, _) => return None,
        (127.., _) => panic!("the server sent a frame of 64 KiB or more, or masked: {:x?}", &bytes[..2]),
        (len, _) => (usize::from(*len), 2),
    };
    if bytes.len() < start + len {
        return None;
    }
    let payload = bytes[start..start + len].to_vec();
    let message = match bytes[0] {
        0x81 => Message::Text(String::from_utf8(payload).unwrap()),
        0x82 => Message::Binary(payload),
        0x88 => Message::Close(payload.first_chunk::<2>().map_or(0, |code| u16::from_be_bytes(*code))),
        0x89 => Message::Ping(payload),
        0x8a => Message::Pong(payload),
        other => panic!("the server sent a frame that begins with {other:x}"),
    };
    bytes.drain(..start + len);
    Some(message)
}

/// A session.
pub struct Ws<S> {
    pub socket: S,
    pub bytes: Vec<u8>,
}

impl Ws<TcpStream> {
    /// Opens a session that must be granted, and hears which ports it has.
    pub async fn connect<D: gangplank_streaming::Dial>(host: &Host<D>, ports: &[u16]) -> Self {
        let mut ws = Self::ask(host.address, &host.token_for(ports), &offering(BINARY)).await.0;
        ws.expect_ports(ports).await;
        ws
    }

    /// Sends a request; also the answer's head.
    pub async fn ask(address: SocketAddr, token: &str, more: &str) -> (Self, Answer) {
        let Raw { socket } = Raw::connect(address).await;
        let mut ws = Self { socket, bytes: Vec::new() };
        let answer = ws.upgrade(token, more).await;
        (ws, answer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Ws<S> {
    pub async fn upgrade(&mut self, token: &str, more: &str) -> Answer {
        self.socket.write_all(head(token, more).as_bytes()).await.unwrap();
        Answer::parse_head(&timeout(LONG, read_head(&mut self.socket)).await.expect("no answer came"))
    }

    pub async fn expect_ports(&mut self, ports: &[u16]) {
        for (index, port) in ports.iter().enumerate() {
            let [low, high] = port.to_le_bytes();
            for channel in [2 * index as u8, 2 * index as u8 + 1] {
                assert_eq!(self.next().await, Message::Binary(vec![channel, low, high]));
            }
        }
    }

    pub async fn send(&mut self, channel: u8, payload: &[u8]) {
        self.socket.write_all(&frame(true, 2, &[&[channel], payload].concat())).await.unwrap();
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.write_all(&frame(true, 1, text.as_bytes())).await.unwrap();
    }

    pub async fn ping(&mut self, payload: &[u8]) {
        self.socket.write_all(&frame(true, 9, payload)).await.unwrap();
    }

    pub async fn close(&mut self, code: u16) {
        self.socket.write_all(&frame(true, 8, &code.to_be_bytes())).await.unwrap();
    }

    pub async fn next(&mut self) -> Message {
        loop {
            if let Some(message) = take_message(&mut self.bytes) {
                return message;
            }
            let read = timeout(LONG, self.socket.read_buf(&mut self.bytes)).await.expect("nothing came");
            if read.unwrap_or(0) == 0 {
                assert!(self.bytes.is_empty(), "cut off within a frame");
                return Message::Over;
            }
        }
    }

    /// So many bytes of this channel; nothing else may come in between.
    pub async fn read(&mut self, channel: u8, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            match self.next().await {
                Message::Binary(bytes) if bytes[0] == channel => all.extend_from_slice(&bytes[1..]),
                other => panic!("waiting for data of channel {channel}: {other:?}"),
            }
        }
        assert_eq!(all.len(), len);
        all
    }

    /// The text of an error channel.
    pub async fn error(&mut self, channel: u8) -> String {
        match self.next().await {
            Message::Binary(bytes) if bytes[0] == channel => String::from_utf8(bytes[1..].to_vec()).unwrap(),
            other => panic!("waiting for a text on channel {channel}: {other:?}"),
        }
    }

    /// The server closes with this code, and, once that is answered, for good.
    pub async fn expect_close(&mut self, code: u16) {
        assert_eq!(self.next().await, Message::Close(code));
        self.close(code).await;
        assert_eq!(self.next().await, Message::Over);
    }

    /// Nothing comes for a while.
    pub async fn expect_silence(&mut self, time: Duration) {
        assert!(self.bytes.is_empty());
        let read = timeout(time, self.socket.read_buf(&mut self.bytes)).await;
        assert!(read.is_err(), "something came");
    }
}

impl Ws<TcpStream> {
    /// Drops at most so many bytes, as they are, without waiting for more.
    pub async fn read_some(&mut self, most: usize) {
        let mut buf = vec![0; most];
        timeout(LONG, self.socket.read(&mut buf)).await.expect("nothing came").unwrap();
    }
}
