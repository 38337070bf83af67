//! How a workload reaches the pod's ports, independent of the server in between.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::process::Process;
use gangplank_e2e::bulk::{Port, Ports};

/// The most that one read takes, here and in the SPDY client.
pub(crate) const READ: usize = 256 << 10;

/// The most that one write sends, and so the size of the fast client's SPDY data frames.
pub(crate) const WRITE: usize = 64 << 10;

/// A contender that is silent for this long has failed.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);

/// Connections to the pod, used one at a time; any number may stay open.
pub(crate) trait Session {
    /// Connects to a port of the pod and returns the number of the connection.
    fn open(&mut self, port: Port) -> Result<usize>;

    /// Sends at most [`WRITE`] bytes.
    fn send(&mut self, conn: usize, bytes: &[u8]) -> Result<()>;

    /// Returns the next bytes from the pod; empty if it has ended its direction.
    fn receive(&mut self, conn: usize) -> Result<&[u8]>;

    /// Ends the direction to the pod and waits for the end of the connection. Only for ports that end their direction
    /// by themselves, because the reference never passes our end on to the pod.
    fn finish(&mut self, conn: usize) -> Result<()>;
}

/// A TCP connection on loopback that sends small writes at once and fails after [`SILENCE`].
pub(crate) fn connect(port: u16) -> Result<TcpStream> {
    let about = || format!("connecting to 127.0.0.1:{port}");
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).doing(about())?;
    stream.set_nodelay(true).doing(about())?;
    stream.set_read_timeout(Some(SILENCE)).doing(about())?;
    stream.set_write_timeout(Some(SILENCE)).doing(about())?;
    Ok(stream)
}

/// TCP connections to the floor, or to the local ports of the Go client.
#[derive(Debug)]
pub(crate) struct TcpSession {
    ports: Ports,
    conns: Vec<Option<TcpStream>>,
    buffer: Vec<u8>,
    /// Ended when the session is dropped.
    _client: Option<Process>,
}

impl TcpSession {
    /// `client` is the program that serves these ports, if it lives only as long as this session.
    pub(crate) fn new(ports: Ports, client: Option<Process>) -> Self {
        Self { ports, conns: Vec::new(), buffer: vec![0; READ], _client: client }
    }

    fn conn(&mut self, conn: usize) -> Result<&mut TcpStream> {
        let stream = self.conns.get_mut(conn).and_then(Option::as_mut);
        stream.ok_or_else(|| Error::Contender(format!("connection {conn} has already ended")))
    }
}

impl Session for TcpSession {
    fn open(&mut self, port: Port) -> Result<usize> {
        self.conns.push(Some(connect(self.ports.get(port))?));
        Ok(self.conns.len() - 1)
    }

    fn send(&mut self, conn: usize, bytes: &[u8]) -> Result<()> {
        self.conn(conn)?.write_all(bytes).doing("sending to the pod")
    }

    fn receive(&mut self, conn: usize) -> Result<&[u8]> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.conn(conn).and_then(|c| c.read(&mut buffer).doing("receiving from the pod"));
        self.buffer = buffer;
        read.map(|n| &self.buffer[..n])
    }

    fn finish(&mut self, conn: usize) -> Result<()> {
        self.conn(conn)?.shutdown(Shutdown::Write).doing("ending the direction to the pod")?;
        while !self.receive(conn)?.is_empty() {}
        self.conns[conn] = None;
        Ok(())
    }
}
