//! Opens a byte stream to a port in a pod and sends an HTTP request over it:
//! `cargo run --example dial -- hvsock:///run/vm/demo/v.sock:1023 localhost:80`

use std::error::Error;

use gangplank_dial::{Network, PodDialer};
use tokio::io::{AsyncWriteExt, copy, split, stdout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let endpoint = arguments.next().ok_or("usage: dial ENDPOINT ADDRESS")?.parse()?;
    let address = arguments.next().ok_or("usage: dial ENDPOINT ADDRESS")?;
    let pod = PodDialer::new(endpoint)?;
    let stream = pod.dial("", Network::Tcp, &address).await?;
    let (mut from_pod, mut to_pod) = split(stream);
    to_pod.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    to_pod.shutdown().await?; // ends this direction only; the answer still comes
    copy(&mut from_pod, &mut stdout()).await?;
    Ok(())
}
