//! The argument that names the daemon's JSON-RPC socket.

use crate::unix_url::UnixUrl;

/// The commands' default socket.
pub(crate) const RPC: &str = "unix:///run/gangplank/rpc.sock";

/// Where the daemon serves JSON-RPC.
#[derive(Debug, clap::Args)]
pub(crate) struct RpcArgs {
    /// The daemon's JSON-RPC socket
    #[arg(id = "rpc", long = "rpc", value_name = "URL", env = "GANGPLANK_RPC", default_value = RPC, value_parser = unix_url)]
    pub(crate) url: UnixUrl,
}

/// Parses the URL of a socket.
pub(crate) fn unix_url(url: &str) -> Result<UnixUrl, String> {
    UnixUrl::from_url(url).ok_or_else(|| {
        "expected the URL of a Unix socket with an absolute path, such as unix:///run/gangplank/cri.sock"
            .into()
    })
}
