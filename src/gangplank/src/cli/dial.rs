//! `gangplank dial`: connects standard input and output to a port or socket of a pod.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::rpc::client::{CallError, RpcClient};
use crate::unix_url::UnixUrl;

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialCommandError {
    /// Datagrams, whose boundaries standard input and output do not preserve.
    #[error(
        "{address}: standard input and output are byte streams and do not preserve datagram boundaries; run \
         `gangplank forward {pod} :{port}/udp` and send them to the port that it prints"
    )]
    Datagrams {
        /// The requested address.
        address: String,
        /// The requested pod.
        pod: String,
        /// The port in the address.
        port: String,
    },
    /// The dial failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The connection broke.
    #[error("the connection to the pod failed: {0}; the daemon's log says why")]
    Broken(io::Error),
}

/// Runs until the pod ends its direction.
///
/// # Errors
/// If the address cannot be reached or the connection breaks.
pub(crate) async fn run(rpc: &UnixUrl, pod: &str, address: &str) -> Result<(), DialCommandError> {
    if let Some(port) = udp_port(address) {
        let (address, pod, port) = (address.into(), pod.into(), port.into());
        return Err(DialCommandError::Datagrams { address, pod, port });
    }
    let (stream, early) = RpcClient::connect(rpc).await?.dial(pod, None, address).await?;
    let mut out = tokio::io::stdout();
    out.write_all(&early).await.map_err(DialCommandError::Broken)?;
    both_ways(stream, tokio::io::stdin(), out).await.map_err(DialCommandError::Broken)
}

/// The port of an address written as `gangplank forward` writes UDP ports: `:53/udp`.
fn udp_port(address: &str) -> Option<&str> {
    let at = address.strip_suffix("/udp").filter(|at| !at.contains('/'))?;
    Some(at.rsplit(':').next().unwrap_or(at))
}

/// Copies in both directions. The end of `input` ends only the direction towards the pod.
async fn both_ways(
    stream: UnixStream,
    mut input: impl AsyncRead + Unpin + Send + 'static,
    mut out: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut from_pod, mut to_pod) = stream.into_split();
    // In its own task: standard input may never end, and must not delay our exit.
    let sends = tokio::spawn(async move {
        match tokio::io::copy(&mut input, &mut to_pod).await {
            Ok(_) => to_pod.shutdown().await,
            // The pod may have stopped reading on purpose; its answer still arrives.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error),
        }
    });
    tokio::io::copy(&mut from_pod, &mut out).await?;
    out.flush().await?;
    sends.abort();
    Ok(())
}
