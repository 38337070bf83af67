//! `pod.portDial`: a byte stream to an address in a pod.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use bytes::Bytes;
use gangplank_dial::{DialTimeouts, Network, Request};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Done, JsonRpcFront, bridge};
use crate::daemon::connections::Caller;
use crate::daemon::dial::MeteredConn;
use crate::rpc::{Code, RpcError};

/// The default timeout of a dial.
const DEFAULT_TIMEOUT_MS: u64 = 10_000;

/// The longest timeout that a dial may have: the relay's own limit.
const MAX_TIMEOUT_MS: u64 = 60_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    handle: String,
    #[serde(default, rename = "containerID")]
    container_id: String,
    network: Option<String>,
    address: Option<String>,
    port: Option<i64>,
    #[serde(default = "default_timeout")]
    timeout_ms: u64,
    #[serde(default)]
    stream: StreamForm,
}

/// How the caller gets the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StreamForm {
    /// The connection that carried the call becomes the stream.
    #[default]
    Upgrade,
    /// A descriptor comes with the answer.
    Fd,
}

fn default_timeout() -> u64 {
    DEFAULT_TIMEOUT_MS
}

impl Params {
    fn request(&self) -> Result<Request, RpcError> {
        let invalid = |cause: String| RpcError::new(Code::InvalidParams, cause);
        let network = self.network.as_deref().map(str::parse::<Network>).transpose();
        let network = network.map_err(|error| invalid(format!("network: {error}")))?;
        let address = match (&self.address, self.port) {
            (Some(address), None) => address.clone(),
            (None, Some(port @ 1..=65_535)) => format!("localhost:{port}"),
            (None, Some(port)) => return Err(invalid(format!("port: {port} is not a port from 1 to 65535"))),
            _ => return Err(invalid("set either address or port".into())),
        };
        Request::new(&self.container_id, network, &address)
            .map_err(|error| invalid(format!("address: {error}")))
    }

    fn timeout(&self) -> Result<Duration, RpcError> {
        if (1..=MAX_TIMEOUT_MS).contains(&self.timeout_ms) {
            return Ok(Duration::from_millis(self.timeout_ms));
        }
        let cause = format!("timeoutMs: {} is not between 1 and {MAX_TIMEOUT_MS} ms", self.timeout_ms);
        Err(RpcError::new(Code::InvalidParams, cause))
    }
}

impl JsonRpcFront {
    pub(super) async fn port_dial(&self, params: Value, caller: Caller) -> Result<Done, RpcError> {
        let params: Params = super::params(params)?;
        let (request, timeout) = (params.request()?, params.timeout()?);
        let pod = self.pod(&params.handle)?;
        let conn = self.dialer.open(&pod, &request, DialTimeouts::in_pod(timeout), caller).await?;
        let answer = json!({
            "handle": &*pod.id,
            "network": request.destination.network().name(),
            "address": request.destination.address(),
        });
        match params.stream {
            StreamForm::Upgrade => Ok(Done::Upgraded(answer, Box::new(conn))),
            StreamForm::Fd => Ok(Done::Handed(answer, self.descriptor(conn)?)),
        }
    }

    /// A descriptor that is a plain byte stream: the socket in the pod's network namespace if there is one, or else one
    /// end of a socket pair whose other end is bridged to the pod.
    fn descriptor(&self, conn: MeteredConn) -> Result<OwnedFd, RpcError> {
        let failed = |error: std::io::Error| {
            let cause =
                format!("cannot create a descriptor: {error}; check the limits of the gangplank process");
            RpcError::new(Code::Internal, cause)
        };
        let conn = match conn.into_socket() {
            Ok(socket) => {
                let socket = socket.into_std().map_err(failed)?;
                socket.set_nonblocking(false).map_err(failed)?;
                return Ok(socket.into());
            }
            Err(conn) => *conn,
        };
        let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let ours = UnixStream::from_std(ours).map_err(failed)?;
        self.streams.spawn(bridge::run(ours, Bytes::new(), conn));
        Ok(theirs.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(json: Value) -> Params {
        super::super::params(json).unwrap()
    }

    fn refusal(json: Value) -> String {
        let params: Result<Params, _> = super::super::params(json);
        let error = match params {
            Ok(params) => params.request().err().or(params.timeout().err()).unwrap(),
            Err(error) => error,
        };
        assert_eq!(error.code, Code::InvalidParams);
        error.cause
    }

    #[test]
    fn a_port_means_a_loopback_address() {
        let params = params(json!({ "handle": "a", "port": 80 }));
        assert_eq!(params.request().unwrap(), Request::port(80));
        assert_eq!(params.timeout().unwrap(), Duration::from_secs(10));
        assert_eq!(params.stream, StreamForm::Upgrade);
        let params =
            super::super::params::<Params>(json!({ "handle": "a", "address": "unix:///run/x" })).unwrap();
        assert_eq!(params.request().unwrap().destination.network(), Network::Unix);
    }

    #[test]
    fn invalid_parameters_are_named() {
        for (wrong, part) in [
            (json!({ "port": 80 }), "handle"),
            (json!({ "handle": "a" }), "either address or port"),
            (json!({ "handle": "a", "port": 80, "address": ":80" }), "either address or port"),
            (json!({ "handle": "a", "port": 0 }), "port: 0"),
            (json!({ "handle": "a", "port": 65536 }), "port: 65536"),
            (json!({ "handle": "a", "port": -1 }), "port: -1"),
            (json!({ "handle": "a", "address": "80" }), "address: "),
            (json!({ "handle": "a", "port": 80, "network": "sctp" }), "network: \"sctp\""),
            (json!({ "handle": "a", "port": 80, "network": "unix" }), "address: "),
            (json!({ "handle": "a", "address": "unix:///x", "network": "tcp" }), "address: "),
            (json!({ "handle": "a", "port": 80, "timeoutMs": 0 }), "timeoutMs: 0"),
            (json!({ "handle": "a", "port": 80, "timeoutMs": 60001 }), "timeoutMs: 60001"),
            (json!({ "handle": "a", "port": 80, "stream": "pipe" }), "pipe"),
            (json!({ "handle": "a", "prot": 80 }), "prot"),
        ] {
            let cause = refusal(wrong.clone());
            assert!(cause.contains(part), "{wrong}: {cause}");
        }
    }
}
