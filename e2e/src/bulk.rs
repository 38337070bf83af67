//! What a benchmark's pod serves: a source, a sink and an echo, by blocking threads. On the host they are the
//! harness's threads, so that their CPU time is not charged to any contender; in a guest they belong to podserver.
//!
//! Source and sink begin with a request of 8 bytes, a big-endian count N. The source then sends N bytes and
//! ends its direction; the sink takes N bytes, answers one byte and ends its direction. Both wait for the
//! other side's end before they close, as a careful server does. Echo sends back what it gets.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::thread;

use socket2::{Domain, SockAddr, Socket, Type};

/// The byte at offset i of every transfer is `i % PERIOD`.
const PERIOD: usize = 251;

/// A chunk that starts at a multiple of the period and ends at one, about 256 KiB, the size of one write.
const CHUNK: usize = PERIOD * 1024;

/// The sink compares transfers up to this size byte by byte, and only counts larger ones.
pub const CHECKED: u64 = 8 << 20;

/// The sink's answer if everything it compared was correct.
pub const RIGHT: u8 = 1;
const WRONG: u8 = 0;

/// A buffer for one read or write of a bulk transfer.
const BUFFER: usize = 256 << 10;

/// The pod's threads need little stack, and the memory measurement has a thousand of them waiting.
const STACK: usize = 64 << 10;

/// More than the 200 connections at once that tests open.
const BACKLOG: i32 = 1024;

/// One of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Sends as many bytes as the request says.
    Source,
    /// Takes as many bytes as the request says.
    Sink,
    /// Sends back what it receives.
    Echo,
}

impl Port {
    /// All of them, in the order of their numbers.
    pub const ALL: [Port; 3] = [Port::Source, Port::Sink, Port::Echo];
}

/// The TCP ports on loopback of the pod's three services.
#[derive(Debug, Clone, Copy)]
pub struct Ports([u16; 3]);

impl Ports {
    /// In the order of [`Port::ALL`].
    pub fn new(ports: [u16; 3]) -> Self {
        Self(ports)
    }

    /// Parses three numbers separated by spaces, in the order of [`Port::ALL`].
    pub fn parse(line: &str) -> Option<Self> {
        let ports: Vec<u16> =
            line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        Some(Self(ports.try_into().ok()?))
    }

    /// Where this one is.
    pub fn get(&self, port: Port) -> u16 {
        self.0[port as usize]
    }

    /// In the order of [`Port::ALL`].
    pub fn all(&self) -> [u16; 3] {
        self.0
    }
}

/// Starts all three on free loopback ports. They live as long as this program.
///
/// # Errors
/// If no port is available.
pub fn start() -> io::Result<Ports> {
    let mut ports = [0; 3];
    for port in Port::ALL {
        let socket = listen(Domain::IPV4, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        ports[port as usize] = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
        serve(socket, port);
    }
    Ok(Ports::new(ports))
}

/// A listening stream socket of any family, with room for more than the 200 connections that tests open at once.
///
/// # Errors
/// If the address is taken, or the system does not support its family.
pub fn listen(domain: Domain, address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if domain == Domain::IPV4 {
        socket.set_reuse_address(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Serves every connection to the listener in a thread of its own.
pub fn serve(listener: Socket, port: Port) {
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // A failed spawn closes the connection, and the driver reports that.
            let _ = thread::Builder::new().stack_size(STACK).spawn(move || {
                // An error here means that a contender cut the connection; the driver sees that from its side.
                let _ = answer(&stream, port);
            });
        }
    });
}

/// The transfer's first `CHUNK` bytes, which repeat.
pub fn pattern() -> Vec<u8> {
    (0..CHUNK).map(|i| (i % PERIOD) as u8).collect()
}

/// Compares a piece of a transfer with what is expected at its offset.
pub fn is_right(offset: u64, piece: &[u8]) -> bool {
    let start = (offset % PERIOD as u64) as usize;
    piece.iter().enumerate().all(|(i, byte)| *byte == ((start + i) % PERIOD) as u8)
}

fn answer(stream: &Socket, port: Port) -> io::Result<()> {
    // Only TCP has this option.
    let _ = stream.set_tcp_nodelay(true);
    match port {
        Port::Source => source(stream)?,
        Port::Sink => sink(stream)?,
        Port::Echo => return echo(stream),
    }
    stream.shutdown(Shutdown::Write)?;
    while (&*stream).read(&mut [0; 64])? > 0 {}
    Ok(())
}

fn source(mut stream: &Socket) -> io::Result<()> {
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

fn sink(mut stream: &Socket) -> io::Result<()> {
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

fn echo(mut stream: &Socket) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}

fn read_count(mut stream: &Socket) -> io::Result<u64> {
    let mut request = [0; 8];
    stream.read_exact(&mut request)?;
    Ok(u64::from_be_bytes(request))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

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
