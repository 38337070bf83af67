//! The client of the daemon's JSON-RPC socket, for this program's own commands.

use std::io;
use std::path::PathBuf;

use bytes::{Buf, Bytes, BytesMut};
use gangplank_dial::Network;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::message::{RpcError, result_of};
use crate::unix_url::UnixUrl;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing listens on the socket.
    #[error(
        "cannot reach gangplank at {}: {source}; start it with [jsonrpc] in its configuration, or name its socket \
         with --rpc",
        socket.display()
    )]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The daemon closed the connection, or the peer is not the daemon.
    #[error("lost the connection to gangplank at {} during a call: {source}; see its log", socket.display())]
    Lost {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The daemon returned an error.
    #[error("{0}")]
    Refused(#[from] RpcError),
}

/// A connection for calls, one at a time.
pub(crate) struct RpcClient {
    socket: PathBuf,
    stream: UnixStream,
    buffer: BytesMut,
    calls: u64,
}

impl RpcClient {
    /// Connects.
    ///
    /// # Errors
    /// If nothing listens on the socket.
    pub(crate) async fn connect(rpc: &UnixUrl) -> Result<Self, CallError> {
        let socket = rpc.path().to_path_buf();
        match UnixStream::connect(&socket).await {
            Ok(stream) => Ok(Self { socket, stream, buffer: BytesMut::new(), calls: 0 }),
            Err(source) => Err(CallError::Connect { socket, source }),
        }
    }

    /// Makes a call and waits for its result.
    ///
    /// # Errors
    /// If the daemon returns an error or goes away.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Result<Value, CallError> {
        self.calls += 1;
        let call = json!({ "jsonrpc": "2.0", "id": self.calls, "method": method, "params": params });
        let answer = async {
            self.stream.write_all(format!("{call}\n").as_bytes()).await?;
            self.line().await
        };
        let line = answer.await.map_err(|source| CallError::Lost { socket: self.socket.clone(), source })?;
        let answer = serde_json::from_slice(&line)
            .map_err(|error| CallError::Lost { socket: self.socket.clone(), source: error.into() })?;
        Ok(result_of(answer)?)
    }

    /// Dials. This connection then becomes the stream; the second value is the part of it that was read already. Without a
    /// network, the address decides.
    ///
    /// # Errors
    /// As for [`RpcClient::call`].
    pub(crate) async fn dial(
        mut self,
        handle: &str,
        network: Option<Network>,
        address: &str,
    ) -> Result<(UnixStream, Bytes), CallError> {
        let mut params = json!({ "handle": handle, "address": address });
        if let Some(network) = network {
            params["network"] = network.name().into();
        }
        self.call("pod.portDial", params).await?;
        Ok((self.stream, self.buffer.freeze()))
    }

    /// Waits until the daemon closes the connection.
    pub(crate) async fn ended(&mut self) {
        // The daemon sends nothing without a call, so any result means that it is gone.
        let _ = self.stream.read(&mut [0]).await;
    }

    async fn line(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                return Ok(line);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
