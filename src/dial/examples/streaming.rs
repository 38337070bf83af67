//! Port-forward for a CRI runtime in twenty lines: the streaming server with the pod dialler behind it. It reads a
//! sandbox id from each line of standard input and prints the URL for CRI's PortForwardResponse:
//! `cargo run --features streaming --example streaming -- hvsock:///run/vm/demo/v.sock:1023`

use std::error::Error;

use gangplank_dial::{Network, PodConn, PodDialer};
use gangplank_streaming::{Config, Dial, DialError, Server, Target};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Uses one VM for every sandbox; a real runtime looks up the sandbox's VM.
struct Runtime(PodDialer);

impl Dial for Runtime {
    type Conn = PodConn;

    async fn dial(&self, target: Target) -> Result<PodConn, DialError> {
        Ok(self.0.dial("", Network::Tcp, &format!("localhost:{}", target.port)).await?)
    }
}

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::args().nth(1).ok_or("usage: streaming ENDPOINT")?.parse()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let server = Server::new(Config::default(), Runtime(PodDialer::new(endpoint)?));
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, CancellationToken::new()).await });
    tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lines() {
            println!("{}", server.url(&base, &line?, &[]).map_err(std::io::Error::other)?);
        }
        Ok::<_, std::io::Error>(())
    })
    .await??;
    Ok(())
}
