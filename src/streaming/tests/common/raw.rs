//! A client that sends bytes of its own choice and reads HTTP answers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::LONG;

/// A connection before it is anything.
pub struct Raw {
    pub socket: TcpStream,
}

/// An HTTP answer. Header names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub version: String,
    pub status: u16,
    pub reason: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn parse_head(head: &str) -> Self {
        let mut lines = head.trim_end().split("\r\n");
        let mut first = lines.next().unwrap().splitn(3, ' ').map(str::to_owned);
        let (version, status) = (first.next().unwrap(), first.next().unwrap().parse().unwrap());
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let reason = first.next().unwrap_or_default();
        Self { version, status, reason, headers: lines.map(header).collect(), body: String::new() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    pub fn length(&self) -> Option<usize> {
        self.header("content-length").map(|n| n.parse().unwrap())
    }

    /// What an answer says beyond its body: all headers but the date and the length, sorted.
    pub fn telling_headers(&self) -> Vec<(String, String)> {
        let tells = |(name, _): &&(String, String)| !["date", "content-length"].contains(&&**name);
        let mut headers: Vec<_> = self.headers.iter().filter(tells).cloned().collect();
        headers.sort();
        headers
    }
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket }
    }

    pub async fn say(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// The head of an answer alone.
    pub async fn head(&mut self) -> Answer {
        let head = timeout(LONG, super::read_head(&mut self.socket)).await.expect("no answer came");
        Answer::parse_head(&head)
    }

    /// A whole answer.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let mut body = vec![0; head.length().unwrap_or(0)];
        timeout(LONG, self.socket.read_exact(&mut body)).await.expect("no body came").unwrap();
        Answer { body: String::from_utf8(body).unwrap(), ..head }
    }

    /// The server keeps the connection, and says nothing.
    pub async fn expect_open(&mut self, what: &str) {
        let mut byte = [0];
        let read = timeout(Duration::from_millis(50), self.socket.read(&mut byte)).await;
        assert!(read.is_err(), "{what}: {read:?}");
    }

    /// What still comes until the server closes, however it does.
    pub async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match timeout(LONG, self.socket.read(&mut buf)).await.expect("the server did not close") {
                Ok(n) if n > 0 => all.extend_from_slice(&buf[..n]),
                _ => return String::from_utf8_lossy(&all).into_owned(),
            }
        }
    }
}

/// The head of a good request to open a session.
pub fn upgrade_head(token: &str) -> String {
    format!(
        "POST /portforward/{token} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The head of a good request to open a tunnelled session.
pub fn tunnel_head(token: &str) -> String {
    format!(
        "GET /portforward/{token} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n\r\n"
    )
}
