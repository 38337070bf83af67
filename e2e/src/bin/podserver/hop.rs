//! What TCP within the guest takes by itself. Any relay has that hop, so none can be faster.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use gangplank_e2e::bulk::{self, Port};
use gangplank_e2e::services::BULK_PORT;
use socket2::Socket;

const BYTES: u64 = 32 << 20;
const ROUND_TRIPS: usize = 1_000;

/// Measures for each connection, and tells it in a line: download and upload in MB/s, round trip in microseconds.
pub(crate) fn serve(listener: &Socket) {
    while let Ok((host, _)) = listener.accept() {
        // What fails here fails for the host, which tells of it.
        let _ = measure()
            .and_then(|[down, up, trip]| writeln!(&host, "{down} {up} {trip}"))
            // The host closes first, since some devices lose the tail of a guest that does.
            .and_then(|()| (&host).read(&mut [0]));
    }
}

fn measure() -> io::Result<[f64; 3]> {
    let rate = |took: Duration| BYTES as f64 / took.as_secs_f64() / 1e6;
    Ok([rate(download()?), rate(upload()?), round_trip()?])
}

fn connect(port: Port) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], BULK_PORT + port as u16)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn download() -> io::Result<Duration> {
    let (mut stream, mut buffer, mut left) = (connect(Port::Source)?, vec![0; 64 << 10], BYTES);
    let began = Instant::now();
    stream.write_all(&BYTES.to_be_bytes())?;
    while left > 0 {
        let len = stream.read(&mut buffer)?;
        left = left.checked_sub(len as u64).filter(|_| len > 0).ok_or(io::ErrorKind::UnexpectedEof)?;
    }
    Ok(began.elapsed())
}

fn upload() -> io::Result<Duration> {
    let (mut stream, pattern, mut left) = (connect(Port::Sink)?, bulk::pattern(), BYTES);
    let began = Instant::now();
    stream.write_all(&BYTES.to_be_bytes())?;
    while left > 0 {
        // As a relay has it: 64 KiB at once.
        let piece = &pattern[..left.min(64 << 10) as usize];
        stream.write_all(piece)?;
        left -= piece.len() as u64;
    }
    stream.read_exact(&mut [0])?;
    Ok(began.elapsed())
}

/// The median.
fn round_trip() -> io::Result<f64> {
    let mut stream = connect(Port::Echo)?;
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[ROUND_TRIPS / 2])
}
