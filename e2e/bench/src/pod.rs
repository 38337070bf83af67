//! What listens in the pod: three TCP ports on loopback, served by blocking threads of the harness, so that
//! their CPU time is in no contender's account.
//!
//! Source and sink begin with a request of 8 bytes, a big-endian count N. The source then sends N bytes and
//! ends its direction; the sink takes N bytes, answers one byte and ends its direction. Both wait for the
//! other side's end before they close, as a careful server does. Echo sends back what it gets.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use crate::error::{Doing, Result};

/// The byte at offset i of every transfer is `i % PERIOD`.
const PERIOD: usize = 251;

/// A chunk that starts at a multiple of the period and ends at one, about 256 KiB, the size of one write.
const CHUNK: usize = PERIOD * 1024;

/// The sink compares transfers up to this size byte by byte, and only counts larger ones.
pub(crate) const CHECKED: u64 = 8 << 20;

/// The sink's answer when all it was to compare was right.
pub(crate) const RIGHT: u8 = 1;
const WRONG: u8 = 0;

/// A buffer for one read or write of a bulk transfer.
const BUFFER: usize = 256 << 10;

/// A thread of the pod needs little; a thousand of them wait in the memory measurement.
const STACK: usize = 64 << 10;

/// Which of the pod's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Source,
    Sink,
    Echo,
}

impl Port {
    pub(crate) const ALL: [Port; 3] = [Port::Source, Port::Sink, Port::Echo];
}

/// TCP ports on loopback by which the pod's three are reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports([u16; 3]);

impl Ports {
    /// In the order of [`Port::ALL`].
    pub(crate) fn new(ports: [u16; 3]) -> Self {
        Self(ports)
    }

    /// Reads three numbers apart by spaces, in the order of [`Port::ALL`].
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let ports: Vec<u16> =
            line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        Some(Self(ports.try_into().ok()?))
    }

    pub(crate) fn get(&self, port: Port) -> u16 {
        self.0[port as usize]
    }

    pub(crate) fn all(&self) -> [u16; 3] {
        self.0
    }
}

/// Starts the pod's servers. They live as long as the harness.
pub(crate) fn start() -> Result<Ports> {
    let mut ports = [0; 3];
    for port in Port::ALL {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing("listening on a free loopback port")?;
        ports[port as usize] = listener.local_addr().doing("asking for the port that was chosen")?.port();
        thread::spawn(move || accept(&listener, port));
    }
    Ok(Ports::new(ports))
}

/// The transfer's first `CHUNK` bytes, which repeat.
pub(crate) fn pattern() -> Vec<u8> {
    (0..CHUNK).map(|i| (i % PERIOD) as u8).collect()
}

/// Compares a piece of a transfer with what belongs at its offset.
pub(crate) fn is_right(offset: u64, piece: &[u8]) -> bool {
    let start = (offset % PERIOD as u64) as usize;
    piece.iter().enumerate().all(|(i, byte)| *byte == ((start + i) % PERIOD) as u8)
}

fn accept(listener: &TcpListener, port: Port) {
    for stream in listener.incoming().flatten() {
        // A failed spawn closes the connection, and the driver reports that.
        let _ = thread::Builder::new().stack_size(STACK).spawn(move || {
            // An error here is a connection that a contender cut; the driver sees it from its side.
            let _ = serve(stream, port);
        });
    }
}

fn serve(mut stream: TcpStream, port: Port) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match port {
        Port::Source => source(&mut stream)?,
        Port::Sink => sink(&mut stream)?,
        Port::Echo => return echo(&mut stream),
    }
    stream.shutdown(Shutdown::Write)?;
    while stream.read(&mut [0; 64])? > 0 {}
    Ok(())
}

fn source(stream: &mut TcpStream) -> io::Result<()> {
    let mut left = read_count(stream)?;
    if left == 1 {
        return stream.write_all(&[0]);
    }
    let pattern = pattern();
    while left > 0 {
        let piece = &pattern[..left.min(CHUNK as u64) as usize];
        stream.write_all(piece)?;
        left -= piece.len() as u64;
    }
    Ok(())
}

fn sink(stream: &mut TcpStream) -> io::Result<()> {
    let count = read_count(stream)?;
    let mut buffer = vec![0; BUFFER];
    let (mut done, mut right) = (0, true);
    while done < count {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        right &= count > CHECKED || is_right(done, &buffer[..n]);
        done += n as u64;
    }
    stream.write_all(&[if right && done == count { RIGHT } else { WRONG }])
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}

fn read_count(stream: &mut TcpStream) -> io::Result<u64> {
    let mut request = [0; 8];
    stream.read_exact(&mut request)?;
    Ok(u64::from_be_bytes(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(ports: Ports, port: Port) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, ports.get(port))).unwrap()
    }

    #[test]
    fn source_sends_the_pattern_and_ends() {
        let mut conn = connect(start().unwrap(), Port::Source);
        let count = 3 * CHUNK as u64 + 17;
        conn.write_all(&count.to_be_bytes()).unwrap();
        let mut got = Vec::new();
        conn.read_to_end(&mut got).unwrap();
        assert_eq!(got.len() as u64, count);
        assert!(is_right(0, &got));
        assert!(!is_right(1, &got));
    }

    #[test]
    fn sink_tells_right_from_wrong() {
        let ports = start().unwrap();
        for (byte, answer) in [(1, RIGHT), (7, WRONG)] {
            let mut conn = connect(ports, Port::Sink);
            conn.write_all(&2u64.to_be_bytes()).unwrap();
            conn.write_all(&[0, byte]).unwrap();
            let mut got = Vec::new();
            conn.read_to_end(&mut got).unwrap();
            assert_eq!(got, [answer]);
        }
    }

    #[test]
    fn ports_are_read_in_order() {
        let ports = Ports::parse("1 2 3\n").unwrap();
        assert_eq!(Port::ALL.map(|port| ports.get(port)), [1, 2, 3]);
        assert!(Ports::parse("1 2").is_none());
        assert!(Ports::parse("1 2 70000").is_none());
    }
}
