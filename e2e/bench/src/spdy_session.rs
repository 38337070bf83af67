//! The fast client: SPDY over one blocking socket, so that the server is the bottleneck and not the client.
//!
//! It opens connections in the same order as Go's clients: error stream, reply, data stream, reply, data. Reads take up to
//! 256 KiB; data frames carry up to 64 KiB and are sent in one vectored write.

use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use spdy_rs::{Config, Connection, Event, Role};

use crate::error::{Doing, Error, Result};
use crate::session::{READ, Session, connect};
use gangplank_e2e::bulk::{Port, Ports};

/// A port-forward session.
///
/// Invariants: `unread` lies within `buffer`; connection k has error stream 4k + 1 and data stream 4k + 3.
pub(crate) struct SpdySession {
    socket: TcpStream,
    spdy: Connection,
    ports: Ports,
    conns: Vec<Conn>,
    buffer: Vec<u8>,
    unread: Range<usize>,
}

/// The state of a connection's two streams.
#[derive(Debug, Default)]
struct Conn {
    error: Side,
    data: Side,
}

#[derive(Debug, Default)]
struct Side {
    replied: bool,
    ended: bool,
}

/// A piece of one data stream's payload, as a range of the buffer.
struct Piece {
    conn: usize,
    payload: Range<usize>,
}

impl SpdySession {
    /// Connects to a streaming URL and upgrades the connection. The ports are those of the pod.
    pub(crate) fn connect(url: &str, ports: Ports) -> Result<Self> {
        let (port, path) = parse(url)?;
        let mut socket = connect(port)?;
        upgrade(&mut socket, port, path)?;
        let spdy = Connection::new(Role::Client, Config::default());
        Ok(Self { socket, spdy, ports, conns: Vec::new(), buffer: vec![0; READ], unread: 0..0 })
    }

    fn open_stream(&mut self, kind: &str, port: &str, request: &str) -> Result<u32> {
        let headers = [("streamtype", kind), ("port", port), ("requestid", request)];
        self.spdy.open(&headers, false).ok_or_else(|| wrong("stream ids have run out"))
    }

    fn flush(&mut self) -> Result<()> {
        if !self.spdy.output().is_empty() {
            self.socket.write_all(self.spdy.output()).doing("sending to the streaming server")?;
            self.spdy.clear_output();
        }
        Ok(())
    }

    /// Handles events until the condition holds. No payload may arrive meanwhile.
    fn wait(&mut self, conn: usize, holds: impl Fn(&Conn) -> bool) -> Result<()> {
        while !holds(&self.conns[conn]) {
            if self.event()?.is_some_and(|piece| !piece.payload.is_empty()) {
                return Err(wrong("the server sent unexpected payload"));
            }
        }
        Ok(())
    }

    /// Handles one event, reading from the socket if needed.
    fn event(&mut self) -> Result<Option<Piece>> {
        if self.unread.is_empty() {
            let n = self.socket.read(&mut self.buffer).doing("receiving from the streaming server")?;
            if n == 0 {
                return Err(wrong("the server closed the session"));
            }
            self.unread = 0..n;
        }
        let mut input = &self.buffer[self.unread.clone()];
        let event = self.spdy.recv(&mut input).map_err(|e| wrong(&format!("SPDY: {e}")))?;
        self.unread.start = self.unread.end - input.len();
        let piece = match event {
            Some(Event::Data { id, payload, fin }) => {
                // The payload is the last part that was taken from the input.
                let range = self.unread.start - payload.len()..self.unread.start;
                take_data(&mut self.conns, id, payload, fin)?.map(|conn| Piece { conn, payload: range })
            }
            Some(Event::Replied { id, fin }) => {
                let side = side(&mut self.conns, id)?;
                side.replied = true;
                side.ended |= fin;
                None
            }
            Some(Event::Pinged | Event::Ponged { .. }) | None => None,
            Some(other) => return Err(wrong(&format!("the server sent {other:?}"))),
        };
        self.flush()?;
        Ok(piece)
    }
}

impl Session for SpdySession {
    fn open(&mut self, port: Port) -> Result<usize> {
        let conn = self.conns.len();
        let (port, request) = (self.ports.get(port).to_string(), conn.to_string());
        self.conns.push(Conn::default());
        let error = self.open_stream("error", &port, &request)?;
        self.flush()?;
        self.wait(conn, |c| c.error.replied)?;
        self.spdy.finish(error).map_err(|e| wrong(&e.to_string()))?;
        self.open_stream("data", &port, &request)?;
        self.flush()?;
        self.wait(conn, |c| c.data.replied)?;
        Ok(conn)
    }

    fn send(&mut self, conn: usize, bytes: &[u8]) -> Result<()> {
        let header = self.spdy.data_header(data_id(conn), bytes.len(), false);
        let header = header.map_err(|e| wrong(&e.to_string()))?;
        let mut parts = [IoSlice::new(&header), IoSlice::new(bytes)];
        let mut parts = &mut parts[..];
        while !parts.is_empty() {
            let n = self.socket.write_vectored(parts).doing("sending to the streaming server")?;
            IoSlice::advance_slices(&mut parts, n);
        }
        Ok(())
    }

    fn receive(&mut self, conn: usize) -> Result<&[u8]> {
        loop {
            if self.unread.is_empty() && self.conns[conn].data.ended {
                return Ok(&[]);
            }
            match self.event()? {
                Some(piece) if piece.conn != conn => return Err(wrong("the server mixed up two streams")),
                Some(piece) if !piece.payload.is_empty() => return Ok(&self.buffer[piece.payload]),
                Some(_) => return Ok(&[]),
                None => {}
            }
        }
    }

    fn finish(&mut self, conn: usize) -> Result<()> {
        self.spdy.finish(data_id(conn)).map_err(|e| wrong(&e.to_string()))?;
        self.flush()?;
        self.wait(conn, |c| c.data.ended && c.error.ended)
    }
}

/// Records a data frame, and returns the connection that its payload belongs to.
fn take_data(conns: &mut [Conn], id: u32, payload: &[u8], fin: bool) -> Result<Option<usize>> {
    side(conns, id)?.ended |= fin;
    if id % 4 == 3 {
        return Ok(Some(id as usize / 4));
    }
    match payload {
        [] => Ok(None),
        text => Err(wrong(&format!("error stream: {}", String::from_utf8_lossy(text)))),
    }
}

fn side(conns: &mut [Conn], id: u32) -> Result<&mut Side> {
    match (conns.get_mut(id as usize / 4), id % 4) {
        (Some(conn), 1) => Ok(&mut conn.error),
        (Some(conn), 3) => Ok(&mut conn.data),
        _ => Err(wrong(&format!("the server sent a frame for stream {id}, which was never opened"))),
    }
}

fn data_id(conn: usize) -> u32 {
    conn as u32 * 4 + 3
}

fn parse(url: &str) -> Result<(u16, &str)> {
    let rest = url.strip_prefix("http://127.0.0.1:");
    let (port, path) = rest.and_then(|rest| rest.split_once('/')).unwrap_or_default();
    match port.parse() {
        Ok(port) => Ok((port, path)),
        Err(_) => Err(wrong(&format!("{url:?} is not of the form http://127.0.0.1:PORT/PATH"))),
    }
}

fn upgrade(socket: &mut TcpStream, port: u16, path: &str) -> Result<()> {
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).doing("asking for the upgrade")?;
    let mut head = Vec::new();
    let mut byte = [0];
    // Byte by byte, because the bytes after the head belong to SPDY.
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read(&mut byte).doing("waiting for the upgrade")? == 0 {
            return Err(wrong("the server closed the connection instead of upgrading it"));
        }
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        return Ok(());
    }
    Err(wrong(&format!("the server did not upgrade: {}", String::from_utf8_lossy(&head))))
}

fn wrong(what: &str) -> Error {
    Error::Contender(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(parse("http://127.0.0.1:80/portforward/abc").unwrap(), (80, "portforward/abc"));
        assert!(parse("http://[::]:80/portforward/abc").is_err());
        assert!(parse("http://127.0.0.1:80").is_err());
    }

    #[test]
    fn text_on_an_error_stream_is_a_failure() {
        let mut conns = vec![Conn::default()];
        assert_eq!(take_data(&mut conns, 3, b"x", false).unwrap(), Some(0));
        assert_eq!(take_data(&mut conns, 1, b"", true).unwrap(), None);
        assert!(conns[0].error.ended && !conns[0].data.ended);
        let failure = take_data(&mut conns, 1, b"no such port", false).unwrap_err();
        assert!(failure.to_string().contains("no such port"));
        assert!(take_data(&mut conns, 7, b"x", false).is_err());
    }
}
