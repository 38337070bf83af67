//! The JSON-RPC front: JSON-RPC 2.0 on a Unix socket, one object a line, for programs that want a socket inside
//! a pod and nothing around it. docs/jsonrpc.md is its contract.
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

/// Connections at once, those that have become streams included: as many as a relay takes.
const CONNECTIONS: usize = 4096;

/// What `rpc.discover` gives: an OpenRPC document.
const SCHEMA: &str = include_str!("jsonrpc/openrpc.json");

/// All methods, so that what is counted by method has an end.
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
pub(crate) struct Front {
    pods: Arc<Registry>,
    dialer: Dialer,
    streaming: Server<Dialer>,
    accounts: Accounts,
    /// Users that may call; none: whoever the socket's mode lets in.
    uids: Arc<[u32]>,
    places: Arc<Semaphore>,
    /// Streams that calls have given, which go on while the daemon drains.
    streams: TaskTracker,
}

/// What is to be done with an answered call.
enum Done {
    /// The answer is all.
    Answered(Result<Value, RpcError>),
    /// After the answer the connection is this stream.
    Upgraded(Value, Box<MeteredConn>),
    /// A descriptor goes with the answer.
    Handed(Value, OwnedFd),
}

impl Front {
    /// Dials by `dialer`; `uids` may call, or everybody whom the socket's mode lets in if there are none.
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
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            streams: TaskTracker::new(),
        }
    }

    /// The streams that calls have given. Closed when the front has ended.
    pub(crate) fn streams(&self) -> TaskTracker {
        self.streams.clone()
    }

    /// Serves until `stop`; then the socket's file goes at once, and this ends with the last call under way.
    pub(crate) async fn serve(self, socket: UnixSocket, stop: CancellationToken) {
        socket.serve(&stop, |stream| self.clone().connection(stream, stop.clone())).await;
        self.streams.close();
    }

    async fn connection(self, stream: UnixStream, stop: CancellationToken) {
        let mut lines = Lines::new(stream);
        let place = Arc::clone(&self.places).try_acquire_owned();
        let ended =
            match self.admit(lines.stream()).and_then(|caller| Ok((caller, place.map_err(|_| busy())?))) {
                Ok((caller, place)) => self.calls(lines, caller, place, &stop).await,
                Err(refusal) => lines.write(&Answer::refused(&refusal)).await,
            };
        if let Err(error) = ended {
            tracing::debug!(%error, "a JSON-RPC connection ended badly");
        }
    }

    /// Who calls, if they may.
    fn admit(&self, stream: &UnixStream) -> Result<Caller, RpcError> {
        let unknown =
            |error: io::Error| RpcError::new(Code::Denied, format!("who calls is not known: {error}"));
        let peer = stream.peer_cred().map_err(unknown)?;
        let uid = peer.uid();
        if self.uids.is_empty() || self.uids.contains(&uid) {
            return Ok(Caller::Process { uid, pid: peer.pid().filter(|pid| *pid != 0) });
        }
        tracing::warn!(uid, "refused a JSON-RPC connection of a user that is not in jsonrpc.uids");
        let cause =
            format!("user {uid} may not call: jsonrpc.uids in the daemon's configuration does not name it");
        Err(RpcError::new(Code::Denied, cause))
    }

    /// Answers call after call until the caller ends, or its connection becomes a stream.
    async fn calls(
        self,
        mut lines: Lines,
        caller: Caller,
        place: OwnedSemaphorePermit,
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
                    drop(place);
                });
                return Ok(());
            }
        }
    }

    /// Answers one call. Gives what the connection becomes, if it becomes something else.
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
                .map_err(|error| RpcError::new(Code::Internal, format!("the schema is no JSON: {error}"))),
            other => Err(RpcError::new(
                Code::Unsupported,
                format!("there is no method {other:?}; rpc.discover tells what there is"),
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
    let cause = format!("all {CONNECTIONS} connections are in use; end some or try later");
    RpcError::new(Code::Busy, cause)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    fn front() -> Front {
        let (pods, accounts) = (Arc::<Registry>::default(), Accounts::default());
        let limit = std::time::Duration::from_secs(10);
        let dialer = Dialer::new(Arc::clone(&pods), accounts.clone(), limit).unwrap();
        let streaming = Server::new(gangplank_streaming::Config::default(), dialer.clone());
        Front::new(pods, dialer, streaming, accounts, &[])
    }

    /// What a caller hears that connects and calls; the connection stays open with what is given.
    async fn calls(front: &Front) -> (Value, UnixStream) {
        let (mut caller, served) = UnixStream::pair().unwrap();
        tokio::spawn(front.clone().connection(served, CancellationToken::new()));
        // One that is refused may be closed already.
        let _ = caller.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"pod.list\"}\n").await;
        let mut line = String::new();
        BufReader::new(&mut caller).read_line(&mut line).await.unwrap();
        (serde_json::from_str(&line).unwrap(), caller)
    }

    #[tokio::test]
    async fn as_many_connections_are_served_as_there_are_places() {
        let front = front();
        assert_eq!(front.places.available_permits(), CONNECTIONS);
        let others = front.places.clone().acquire_many_owned(CONNECTIONS as u32 - 1).await.unwrap();
        let (answer, last) = calls(&front).await;
        assert!(answer["result"].is_object(), "{answer}");
        let (answer, _refused) = calls(&front).await;
        assert_eq!(answer["error"]["code"], Code::Busy.number(), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("4096 connections"), "{answer}");
        drop(last);
        // Its place comes back when its end has been seen.
        let back = front.places.clone().acquire_owned().await.unwrap();
        drop((back, others));
        let (answer, _) = calls(&front).await;
        assert!(answer["result"].is_object(), "{answer}");
    }

    #[test]
    fn the_schema_and_the_documentation_name_every_method() {
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
