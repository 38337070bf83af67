//! The JSON-RPC front: JSON-RPC 2.0 on a Unix socket, one object per line, for programs that want a plain socket into a
//! pod. docs/jsonrpc.md is the contract.
//!
//! ```text
//!   line ──► call ──► answer ──► line …
//!              └─ pod.portDial ─┬─► answer, then the connection is the stream      ("upgrade")
//!                               └─► answer with a descriptor of the stream ──► line …   ("fd")
//! ```

mod bridge;
mod descriptor;
mod lines;
mod list;
mod port_dial;
mod register;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use gangplank_streaming::Server;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::lines::{LineError, Lines};
use self::list::params;
use crate::daemon::connections::{Accounts, Caller};
use crate::daemon::dial::{Dialer, MeteredConn};
use crate::daemon::pods::Registry;
use crate::listen::UnixSocket;
use crate::rpc::{Answer, Call, Code, RpcError};

/// Concurrent connections, including those that have become streams: as many as a relay takes.
const MAX_CONNECTIONS: usize = 4096;

/// The result of `rpc.discover`: an OpenRPC document.
const SCHEMA: &str = include_str!("jsonrpc/openrpc.json");

/// All methods. Calls of others are counted under one name, so that no caller can make the metrics grow.
const METHODS: [&str; 7] = [
    "pod.portDial",
    "pod.list",
    "pod.ports",
    "pod.register",
    "pod.unregister",
    "session.list",
    "rpc.discover",
];

/// Answers calls.
#[derive(Clone)]
pub(crate) struct JsonRpcFront {
    pods: Arc<Registry>,
    dialer: Dialer,
    streaming: Server<Dialer>,
    accounts: Accounts,
    /// The users that may call; if empty, every user that the socket's mode admits.
    uids: Arc<[u32]>,
    permits: Arc<Semaphore>,
    /// The streams that calls have opened, which go on while the daemon drains.
    streams: TaskTracker,
}

/// What becomes of a connection after a call.
enum Done {
    /// Only the answer is sent.
    Answered(Result<Value, RpcError>),
    /// After the answer, the connection becomes this stream.
    Upgraded(Value, Box<MeteredConn>),
    /// A descriptor is sent with the answer.
    Handed(Value, OwnedFd),
}

impl JsonRpcFront {
    /// A front that dials with `dialer`. `uids` may call; if empty, every user that the socket's mode admits.
    pub(crate) fn new(
        pods: Arc<Registry>,
        dialer: Dialer,
        streaming: Server<Dialer>,
        accounts: Accounts,
        uids: &[u32],
    ) -> Self {
        Self {
            pods,
            dialer,
            streaming,
            accounts,
            uids: uids.into(),
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            streams: TaskTracker::new(),
        }
    }

    /// The streams that calls have opened. Closed once the front has ended.
    pub(crate) fn streams(&self) -> TaskTracker {
        self.streams.clone()
    }

    /// Serves until `stop`. Then the socket's file is removed at once, and this returns when the last pending call has
    /// ended.
    pub(crate) async fn serve(self, socket: UnixSocket, stop: CancellationToken) {
        socket.serve(&stop, |stream| self.clone().connection(stream, stop.clone())).await;
        self.streams.close();
    }

    async fn connection(self, stream: UnixStream, stop: CancellationToken) {
        let mut lines = Lines::new(stream);
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let ended =
            match self.admit(lines.stream()).and_then(|caller| Ok((caller, permit.map_err(|_| busy())?))) {
                Ok((caller, permit)) => self.calls(lines, caller, permit, &stop).await,
                Err(refusal) => lines.write(&Answer::refused(&refusal)).await,
            };
        if let Err(error) = ended {
            tracing::debug!(%error, "a JSON-RPC connection failed");
        }
    }

    /// The caller, if it may call.
    fn admit(&self, stream: &UnixStream) -> Result<Caller, RpcError> {
        let unknown =
            |error: io::Error| RpcError::new(Code::Denied, format!("cannot tell which user calls: {error}"));
        let peer = stream.peer_cred().map_err(unknown)?;
        let uid = peer.uid();
        if self.uids.is_empty() || self.uids.contains(&uid) {
            return Ok(Caller::Process { uid, pid: peer.pid().filter(|pid| *pid != 0) });
        }
        tracing::warn!(uid, "refused a JSON-RPC connection from a user that is not in jsonrpc.uids");
        let cause =
            format!("user {uid} may not call: jsonrpc.uids in the daemon's configuration does not name it");
        Err(RpcError::new(Code::Denied, cause))
    }

    /// Answers calls until the caller closes the connection, or a call turns it into a stream.
    async fn calls(
        self,
        mut lines: Lines,
        caller: Caller,
        permit: OwnedSemaphorePermit,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = stop.cancelled() => return Ok(()),
            };
            let line = match line {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(LineError::Io(error)) => return Err(error),
                Err(error @ LineError::TooLong) => {
                    let refusal = RpcError::new(Code::InvalidRequest, error.to_string());
                    return lines.write(&Answer::refused(&refusal)).await;
                }
            };
            let call = match Call::parse(&line) {
                Ok(Some(call)) => call,
                Ok(None) => continue,
                Err((id, error)) => {
                    lines.write(&Answer::new(id, Err(&error))).await?;
                    continue;
                }
            };
            if let Some(conn) = self.answer(&mut lines, call, caller).await? {
                let (stream, early) = lines.into_parts();
                self.streams.spawn(async move {
                    bridge::run(stream, early, *conn).await;
                    drop(permit);
                });
                return Ok(());
            }
        }
    }

    /// Answers one call. Returns the stream that the connection becomes, if the call asked for that.
    async fn answer(
        &self,
        lines: &mut Lines,
        call: Call,
        caller: Caller,
    ) -> io::Result<Option<Box<MeteredConn>>> {
        let Call { id, method, params } = call;
        let done = self.call(&method, params, caller).await;
        self.count(&method, &done);
        match done {
            Done::Answered(result) => lines.write(&Answer::new(id, result.as_ref())).await?,
            Done::Handed(result, descriptor) => {
                lines.write_with(&Answer::new(id, Ok(&result)), descriptor).await?;
            }
            Done::Upgraded(result, conn) => {
                lines.write(&Answer::new(id, Ok(&result))).await?;
                return Ok(Some(conn));
            }
        }
        Ok(None)
    }

    async fn call(&self, method: &str, params: Value, caller: Caller) -> Done {
        tracing::debug!(method, %caller, "JSON-RPC call");
        Done::Answered(match method {
            "pod.portDial" => {
                return self
                    .port_dial(params, caller)
                    .await
                    .unwrap_or_else(|error| Done::Answered(Err(error)));
            }
            "pod.list" => self.list_pods(params).await,
            "pod.ports" => self.list_ports(params).await,
            "pod.register" => self.register(params),
            "pod.unregister" => self.unregister(params),
            "session.list" => self.list_sessions(params),
            "rpc.discover" => serde_json::from_str(SCHEMA)
                .map_err(|error| RpcError::new(Code::Internal, format!("the schema is not JSON: {error}"))),
            other => Err(RpcError::new(
                Code::Unsupported,
                format!("there is no method {other:?}; rpc.discover lists the methods"),
            )),
        })
    }

    fn count(&self, method: &str, done: &Done) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("unknown");
        let result = match done {
            Done::Answered(Err(error)) => error.code.name(),
            _ => "ok",
        };
        self.accounts.metrics.called(method, result);
    }
}

fn busy() -> RpcError {
    let cause = format!("all {MAX_CONNECTIONS} connections are in use; close some or try again later");
    RpcError::new(Code::Busy, cause)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    fn front() -> JsonRpcFront {
        let (pods, accounts) = (Arc::<Registry>::default(), Accounts::default());
        let limit = std::time::Duration::from_secs(10);
        let dialer = Dialer::new(Arc::clone(&pods), accounts.clone(), limit).unwrap();
        let streaming = Server::new(gangplank_streaming::Config::default(), dialer.clone());
        JsonRpcFront::new(pods, dialer, streaming, accounts, &[])
    }

    /// Connects and calls; returns the answer, and the connection so that it stays open.
    async fn calls(front: &JsonRpcFront) -> (Value, UnixStream) {
        let (mut caller, served) = UnixStream::pair().unwrap();
        tokio::spawn(front.clone().connection(served, CancellationToken::new()));
        // A refused connection may be closed already.
        let _ = caller.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"pod.list\"}\n").await;
        let mut line = String::new();
        BufReader::new(&mut caller).read_line(&mut line).await.unwrap();
        (serde_json::from_str(&line).unwrap(), caller)
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_refused() {
        let front = front();
        assert_eq!(front.permits.available_permits(), MAX_CONNECTIONS);
        let others = front.permits.clone().acquire_many_owned(MAX_CONNECTIONS as u32 - 1).await.unwrap();
        let (answer, last) = calls(&front).await;
        assert!(answer["result"].is_object(), "{answer}");
        let (answer, _refused) = calls(&front).await;
        assert_eq!(answer["error"]["code"], Code::Busy.number(), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("4096 connections"), "{answer}");
        drop(last);
        // The permit is released once the server has seen the end.
        let back = front.permits.clone().acquire_owned().await.unwrap();
        drop((back, others));
        let (answer, _) = calls(&front).await;
        assert!(answer["result"].is_object(), "{answer}");
    }

    #[test]
    fn the_schema_and_the_documentation_list_every_method() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let named: Vec<_> =
            schema["methods"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
        assert_eq!(named, METHODS);
        let docs = include_str!("../../../../docs/jsonrpc.md");
        for method in METHODS {
            assert!(docs.contains(&format!("`{method}`")), "{method}");
        }
        for code in Code::ALL {
            let row = format!("| {} | `{}` |", code.number(), code.name());
            assert!(docs.contains(&row), "{row}");
        }
    }
}
