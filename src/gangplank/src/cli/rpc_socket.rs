//! The argument that names the daemon's JSON-RPC socket.

use crate::unix_url::UnixUrl;

/// The socket that the commands use by default.
pub(crate) const RPC: &str = "unix:///run/gangplank/rpc.sock";

/// Where JSON-RPC is served.
#[derive(Debug, clap::Args)]
pub(crate) struct Rpc {
    /// The daemon's JSON-RPC socket
    #[arg(id = "rpc", long = "rpc", value_name = "URL", env = "GANGPLANK_RPC", default_value = RPC, value_parser = unix_url)]
    pub(crate) url: UnixUrl,
}

/// Parses an argument.
pub(crate) fn unix_url(url: &str) -> Result<UnixUrl, String> {
    UnixUrl::from_url(url).ok_or_else(|| {
        "expected the URL of a Unix socket with an absolute path, such as unix:///run/gangplank/cri.sock"
            .into()
    })
}
