//! A whole embedder: a streaming server for the host's own loopback. Every line on standard input is answered
//! with a URL that is good for one session.

use std::io;

use gangplank_streaming::{Config, Dial, DialError, DialErrorKind, Server, Target};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

struct Loopback;

impl Dial for Loopback {
    type Conn = TcpStream;

    async fn dial(&self, target: Target) -> Result<TcpStream, DialError> {
        let connected = TcpStream::connect(("127.0.0.1", target.port)).await;
        connected.map_err(|e| {
            DialError::new(DialErrorKind::Refused, format!("connect to port {}: {e}", target.port))
        })
    }
}

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let server = Server::new(Config::default(), Loopback);
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, CancellationToken::new()).await });
    tokio::task::spawn_blocking(move || {
        for line in io::stdin().lines() {
            line?;
            println!("{}", server.url(&base, "loopback", &[]).map_err(io::Error::other)?);
        }
        Ok(())
    })
    .await?
}
