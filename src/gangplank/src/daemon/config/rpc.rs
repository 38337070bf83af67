//! `[jsonrpc]` and `[metrics]`: for programs on this machine.

use std::net::SocketAddr;

use serde::Deserialize;

use super::value::{SocketMode, value};
use crate::unix_url::UnixUrl;

/// `[jsonrpc]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct JsonRpc {
    /// The socket.
    #[serde(deserialize_with = "value")]
    pub(crate) listen: UnixUrl,
    /// Its file mode.
    #[serde(default = "owner_only", deserialize_with = "value")]
    pub(crate) socket_mode: SocketMode,
    /// The users that may call, of those whom the mode lets in; all of these if there are none.
    #[serde(default)]
    pub(crate) uids: Vec<u32>,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Where they are shown.
    #[serde(deserialize_with = "value")]
    pub(crate) listen: SocketAddr,
    /// Whether `listen` may be an address that others can reach.
    #[serde(default)]
    pub(crate) allow_non_loopback: bool,
}

fn owner_only() -> SocketMode {
    SocketMode(0o600)
}
