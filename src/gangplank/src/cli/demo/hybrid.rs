//! Hybrid vsock, as a VMM's multiplexer speaks it on a Unix socket: `CONNECT PORT`, `OK NUMBER`, then bytes.
//!
//! Like a real multiplexer, it just closes the connection if nothing listens on the port.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};

use crate::listen::accept;

/// The longest request, in bytes, including the newline: Firecracker's limit.
const LONGEST: usize = 32;

/// Forwards connections for `port` to the Unix socket `to`, forever.
pub(super) async fn serve(listener: UnixListener, port: u32, to: PathBuf) {
    loop {
        let stream = accept(&listener).await;
        let to = to.clone();
        tokio::spawn(async move {
            // Both peers see the connection close and report it themselves.
            let _ = connection(stream, port, &to).await;
        });
    }
}

async fn connection(mut host: UnixStream, port: u32, to: &Path) -> io::Result<()> {
    let request = request(&mut host).await?;
    if request != format!("CONNECT {port}\n").into_bytes() {
        return Ok(());
    }
    let mut guest = UnixStream::connect(to).await?;
    // The number is the connection's port on the host's side. No client uses it.
    host.write_all(b"OK 1073741824\n").await?;
    copy_bidirectional(&mut host, &mut guest).await?;
    Ok(())
}

/// Reads the first line, byte by byte so that it takes nothing beyond the newline.
async fn request(host: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(LONGEST);
    while line.len() < LONGEST && !line.ends_with(b"\n") {
        line.push(host.read_u8().await?);
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn host_sends(words: &[u8]) -> (UnixStream, Option<UnixStream>) {
        let folder = tempfile::tempdir().unwrap();
        let guest = UnixListener::bind(folder.path().join("guest")).unwrap();
        let multiplexer = UnixListener::bind(folder.path().join("host")).unwrap();
        tokio::spawn(serve(multiplexer, 1024, folder.path().join("guest")));
        let mut host = UnixStream::connect(folder.path().join("host")).await.unwrap();
        host.write_all(words).await.unwrap();
        tokio::select! {
            stream = guest.accept() => (host, Some(stream.unwrap().0)),
            _ = host.readable() => (host, None),
        }
    }

    #[tokio::test]
    async fn a_connect_leads_to_the_guest() {
        let (mut host, guest) = host_sends(b"CONNECT 1024\n").await;
        let mut guest = guest.unwrap();
        let mut answer = [0; 14];
        host.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"OK 1073741824\n");
        host.write_all(b"ping").await.unwrap();
        let mut ping = [0; 4];
        guest.read_exact(&mut ping).await.unwrap();
        guest.write_all(b"pong").await.unwrap();
        drop(guest);
        let mut rest = String::new();
        host.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "pong");
    }

    #[tokio::test]
    async fn other_requests_close_the_connection_without_an_answer() {
        for words in [&b"CONNECT 1025\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[b'x'; 32]] {
            let (mut host, guest) = host_sends(words).await;
            assert!(guest.is_none());
            let mut answer = Vec::new();
            // A reset is fine too: some of the request may be unread.
            let _ = host.read_to_end(&mut answer).await;
            assert!(answer.is_empty());
        }
    }
}
