//! `[jsonrpc]` and `[metrics]`: for programs on this machine.

use std::net::SocketAddr;

use serde::Deserialize;

use super::value::{SocketMode, value};
use crate::unix_url::UnixUrl;

/// `[jsonrpc]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct JsonRpcSection {
    /// The socket.
    #[serde(deserialize_with = "value")]
    pub(crate) listen: UnixUrl,
    /// Its file mode.
    #[serde(default = "owner_only", deserialize_with = "value")]
    pub(crate) socket_mode: SocketMode,
    /// The users that may call, among those that the file mode admits. Empty: all of them.
    #[serde(default)]
    pub(crate) uids: Vec<u32>,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricsSection {
    /// Where they are served.
    #[serde(deserialize_with = "value")]
    pub(crate) listen: SocketAddr,
    /// Whether `listen` may be an address that other machines can reach.
    #[serde(default)]
    pub(crate) allow_non_loopback: bool,
}

fn owner_only() -> SocketMode {
    SocketMode(0o600)
}
