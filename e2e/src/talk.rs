//! What tests say over a forwarded connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::pattern::{Pattern, summary};

/// Asks for a page and gives its body.
///
/// # Errors
/// What the connection gives, or an answer that is no page.
pub fn fetch(mut stream: TcpStream, path: &str) -> io::Result<Vec<u8>> {
    ask(&mut stream, path)?;
    let mut body = Vec::new();
    skip_head(&mut stream)?;
    stream.read_to_end(&mut body)?;
    Ok(body)
}

/// Downloads `size` bytes of the pattern and gives their summary.
///
/// # Errors
/// What the connection gives, or an answer that is no page.
pub fn download(mut stream: TcpStream, size: u64) -> io::Result<String> {
    ask(&mut stream, &format!("/bytes/{size}"))?;
    skip_head(&mut stream)?;
    summary(stream)
}

/// Checks that a read found the connection's end, orderly or by a reset.
///
/// # Panics
/// Where it did not.
pub fn assert_ended(read: io::Result<usize>) {
    match read {
        Ok(0) => {}
        Err(error)
            if [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe]
                .contains(&error.kind()) => {}
        other => panic!("the connection should have ended, but gave {other:?}"),
    }
}

/// Begins the download of `size` bytes and leaves after the first `part` of them.
///
/// # Errors
/// What the connection gives up to there.
pub fn abort_download(mut stream: TcpStream, size: u64, part: u64) -> io::Result<()> {
    ask(&mut stream, &format!("/bytes/{size}"))?;
    skip_head(&mut stream)?;
    io::copy(&mut stream.take(part), &mut io::sink()).map(drop)
}

/// Sends `size` bytes of the pattern, ends its side, and gives the answer.
///
/// # Errors
/// What the connection gives.
pub fn upload(mut stream: TcpStream, size: u64) -> io::Result<String> {
    io::copy(&mut Pattern::new(size), &mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends the bytes and reads as many back.
///
/// # Errors
/// What the connection gives, its early end included.
pub fn echo(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

/// Sends a request.
///
/// # Errors
/// What the connection gives.
pub fn ask(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
}

/// Reads the answer's head, byte by byte as the body follows, and nothing after it.
fn skip_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(io::Error::other(format!("no page: {}", String::from_utf8_lossy(&head))))
}
