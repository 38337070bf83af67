//! What tests say over a forwarded connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::pattern::{Pattern, summary};

/// Requests a page and returns its body.
///
/// # Errors
/// Errors of the connection, or an answer that is not a page.
pub fn fetch(mut stream: TcpStream, path: &str) -> io::Result<Vec<u8>> {
    ask(&mut stream, path)?;
    let mut body = Vec::new();
    skip_head(&mut stream)?;
    stream.read_to_end(&mut body)?;
    Ok(body)
}

/// Downloads `size` bytes of the pattern and returns their summary.
///
/// # Errors
/// Errors of the connection, or an answer that is not a page.
pub fn download(mut stream: TcpStream, size: u64) -> io::Result<String> {
    ask(&mut stream, &format!("/bytes/{size}"))?;
    skip_head(&mut stream)?;
    summary(stream)
}

/// Checks that a read found the connection's end, orderly or by a reset.
///
/// # Panics
/// If it did not.
pub fn assert_ended(read: io::Result<usize>) {
    match read {
        Ok(0) => {}
        Err(error)
            if [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe]
                .contains(&error.kind()) => {}
        other => panic!("the connection should have ended, but gave {other:?}"),
    }
}

/// Starts a download of `size` bytes and leaves after the first `part` of them.
///
/// # Errors
/// Errors of the connection up to there.
pub fn abort_download(mut stream: TcpStream, size: u64, part: u64) -> io::Result<()> {
    ask(&mut stream, &format!("/bytes/{size}"))?;
    skip_head(&mut stream)?;
    io::copy(&mut stream.take(part), &mut io::sink()).map(drop)
}

/// Sends `size` bytes of the pattern, ends its side, and returns the answer.
///
/// # Errors
/// Errors of the connection.
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
/// Errors of the connection, including an early end.
pub fn echo(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

/// Sends a request.
///
/// # Errors
/// Errors of the connection.
pub fn ask(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
}

/// Reads exactly the answer's head, byte by byte, because the body follows.
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
