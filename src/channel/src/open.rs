//! The messages that open a channel: `Open` from the host, `Opened` from the guest (proto/channel.proto).

use std::time::Duration;

#[rustfmt::skip]
#[allow(unreachable_pub)] // generated
#[path = "open/generated.rs"]
mod generated;

pub use generated::opened::Kind;
pub use generated::{Network, Open, Opened};

impl Open {
    /// Asks for a TCP connection to `address` (`127.0.0.1:80`, `[::1]:80`, `localhost:80`, or `:80` for the
    /// loopback addresses of both families) in the pod's own namespace, tried for at most `timeout`.
    pub fn tcp(address: impl Into<String>, timeout: Duration) -> Self {
        Self {
            container: String::new(),
            network: Network::Tcp.into(),
            address: address.into(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/channel.proto");
    const GENERATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/open/generated.rs");

    /// The checked-in code is what the specification gives. `UPDATE_GENERATED=1 cargo test` writes it anew.
    #[test]
    fn generated_code_matches_the_specification() {
        let folder = tempfile::tempdir().unwrap();
        let include = std::path::Path::new(PROTO).parent().unwrap();
        let files = protox::compile([PROTO], [include]).unwrap();
        prost_build::Config::new().out_dir(folder.path()).compile_fds(files).unwrap();
        let fresh = std::fs::read_to_string(folder.path().join("gangplank.channel.v1.rs")).unwrap();
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(GENERATED, &fresh).unwrap();
        }
        assert!(
            std::fs::read_to_string(GENERATED).unwrap() == fresh,
            "{GENERATED} is not what {PROTO} gives: run UPDATE_GENERATED=1 cargo test -p gangplank-channel generated",
        );
    }
}
