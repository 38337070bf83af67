//! `pod.portDial`: a byte stream to a place in a pod.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use bytes::Bytes;
use gangplank_dial::{DialTimeouts, Network, Request};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Done, Front, bridge};
use crate::daemon::connections::Caller;
use crate::daemon::dial::MeteredConn;
use crate::rpc::{Code, RpcError};

/// The time for a dial that does not say.
const TIMEOUT_MS: u64 = 10_000;

/// The longest time that a dial may ask for: a relay's own limit.
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
    stream: Form,
}

/// How the caller gets the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// The connection that carried the call becomes the stream.
    #[default]
    Upgrade,
    /// A descriptor comes with the answer.
    Fd,
}

fn default_timeout() -> u64 {
    TIMEOUT_MS
}

impl Params {
    fn request(&self) -> Result<Request, RpcError> {
        let invalid = |cause: String| RpcError::new(Code::InvalidParams, cause);
        let network = self.network.as_deref().map(str::parse::<Network>).transpose();
        let network = network.map_err(|error| invalid(format!("network: {error}")))?;
        let address = match (&self.address, self.port) {
            (Some(address), None) => address.clone(),
            (None, Some(port @ 1..=65_535)) => format!("localhost:{port}"),
            (None, Some(port)) => return Err(invalid(format!("port: {port} is no port from 1 to 65535"))),
            _ => return Err(invalid("write either address or port".into())),
        };
        Request::new(&self.container_id, network, &address)
            .map_err(|error| invalid(format!("address: {error}")))
    }

    fn timeout(&self) -> Result<Duration, RpcError> {
        if (1..=MAX_TIMEOUT_MS).contains(&self.timeout_ms) {
            return Ok(Duration::from_millis(self.timeout_ms));
        }
        let cause = format!("timeoutMs: {} is no time from 1 to {MAX_TIMEOUT_MS} ms", self.timeout_ms);
        Err(RpcError::new(Code::InvalidParams, cause))
    }
}

impl Front {
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
            Form::Upgrade => Ok(Done::Upgraded(answer, Box::new(conn))),
            Form::Fd => Ok(Done::Handed(answer, self.descriptor(conn)?)),
        }
    }

    /// A descriptor that is a plain byte stream: the pod's own socket where there is one on this machine, else
    /// one end of a pair whose other end is bridged.
    fn descriptor(&self, conn: MeteredConn) -> Result<OwnedFd, RpcError> {
        let failed = |error: std::io::Error| {
            let cause = format!("cannot make a descriptor: {error}; see the limits of the gangplank process");
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
    fn a_port_is_an_address_on_loopback() {
        let params = params(json!({ "handle": "a", "port": 80 }));
        assert_eq!(params.request().unwrap(), Request::port(80));
        assert_eq!(params.timeout().unwrap(), Duration::from_secs(10));
        assert_eq!(params.stream, Form::Upgrade);
        let params =
            super::super::params::<Params>(json!({ "handle": "a", "address": "unix:///run/x" })).unwrap();
        assert_eq!(params.request().unwrap().destination.network(), Network::Unix);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
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
