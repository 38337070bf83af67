//! The floor: the least that it costs a program to move bytes by copying them. A plain TCP relay with tokio's
//! `copy_bidirectional_with_sizes` and nothing else: no sessions, no frames, no limits.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Doing, Error, Result};

/// The arguments of the relay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Buffer size for each direction of a connection, in bytes.
    #[arg(long)]
    buffer: usize,
    /// Ports on 127.0.0.1 to relay to. Each gets a free local port; these are printed on one line.
    targets: Vec<u16>,
}

/// Relays until standard input ends.
pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().doing("starting a runtime")?;
    let mut ports = Vec::new();
    for target in args.targets.iter().copied() {
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .doing("listening on a free loopback port")?;
        ports.push(listener.local_addr().doing("reading the chosen port")?.port().to_string());
        runtime.spawn(accept(listener, target, args.buffer));
    }
    writeln!(std::io::stdout(), "{}", ports.join(" ")).doing("printing the ports")?;
    match std::io::stdin().read_to_end(&mut Vec::new()) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::Io { what: "waiting for the end of standard input".into(), source }),
    }
}

async fn accept(listener: TcpListener, target: u16, buffer: usize) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A failed connection is closed on both sides; the benchmark's client reports the failure.
            let _ = relay(client, target, buffer).await;
        });
    }
}

async fn relay(mut client: TcpStream, target: u16, buffer: usize) -> std::io::Result<()> {
    let mut pod = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    client.set_nodelay(true)?;
    pod.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut pod, buffer, buffer).await?;
    Ok(())
}
