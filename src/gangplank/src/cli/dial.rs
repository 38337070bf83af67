//! `gangplank dial`: standard input and output, and a port of a pod.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::rpc::client::{CallError, Client};
use crate::unix_url::UnixUrl;

/// Why it ended badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialCommandError {
    /// Datagrams, whose bounds standard input and output do not keep.
    #[error(
        "{address}: standard input and output are a stream of bytes and keep no bounds of datagrams; run \
         `gangplank forward {pod} :{port}/udp` and send them to the port that it names"
    )]
    Datagrams {
        /// What was asked for.
        address: String,
        /// Of which pod.
        pod: String,
        /// The address' last part.
        port: String,
    },
    /// There is no connection.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There was one.
    #[error("the connection to the pod failed: {0}; the daemon's log says why")]
    Broken(io::Error),
}

/// Goes on until the pod has ended its side.
///
/// # Errors
/// When the place is not reached, or the connection fails.
pub(crate) async fn run(rpc: &UnixUrl, pod: &str, address: &str) -> Result<(), DialCommandError> {
    if let Some(port) = udp_port(address) {
        let (address, pod, port) = (address.into(), pod.into(), port.into());
        return Err(DialCommandError::Datagrams { address, pod, port });
    }
    let (stream, early) = Client::connect(rpc).await?.dial(pod, None, address).await?;
    let mut out = tokio::io::stdout();
    out.write_all(&early).await.map_err(DialCommandError::Broken)?;
    both_ways(stream, tokio::io::stdin(), out).await.map_err(DialCommandError::Broken)
}

/// The port of an address that is written as `gangplank forward` has those of datagrams.
fn udp_port(address: &str) -> Option<&str> {
    let at = address.strip_suffix("/udp").filter(|at| !at.contains('/'))?;
    Some(at.rsplit(':').next().unwrap_or(at))
}

/// The end of `input` ends the direction towards the pod, and nothing else.
async fn both_ways(
    stream: UnixStream,
    mut input: impl AsyncRead + Unpin + Send + 'static,
    mut out: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut from_pod, mut to_pod) = stream.into_split();
    // A task of its own: input may never end, and what waits for it must not keep us.
    let sends = tokio::spawn(async move {
        match tokio::io::copy(&mut input, &mut to_pod).await {
            Ok(_) => to_pod.shutdown().await,
            // The pod may well have what it wants, and its answer still comes.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error),
        }
    });
    tokio::io::copy(&mut from_pod, &mut out).await?;
    out.flush().await?;
    sends.abort();
    Ok(())
}
