//! How a pod is reached, parsed from its text in a configuration.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How a pod is reached. Parsed from and displayed as one of:
///
/// | text | meaning |
/// |---|---|
/// | `netns:///PATH` | an ordinary pod, dialled from the host in that network namespace |
/// | `kata:///PATH:PORT` | the relay on that port in a VM of Kata Containers, whose `persist.json` is at the path |
/// | `hvsock:///PATH:PORT`, `vsock://CID:PORT`, `unix:///PATH` | a relay: see [`gangplank_channel::Endpoint`] |
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PodEndpoint {
    /// `netns:///PATH`: a network namespace on this machine, dialled from the host.
    Netns(PathBuf),
    /// `kata:///PATH:PORT`: a relay inside a VM of Kata Containers, found through Kata's record of its agent.
    Kata {
        /// Kata's state of the sandbox, `persist.json`.
        state: PathBuf,
        /// The relay's vsock port.
        port: u32,
    },
    /// A relay inside the pod.
    Relay(gangplank_channel::Endpoint),
}

impl PodEndpoint {
    /// The accepted forms, for error messages.
    pub const EXPECTED: &'static str = "an endpoint: hvsock:///PATH:PORT, vsock://CID:PORT, unix:///PATH, kata:///PATH:PORT or netns:///PATH";

    /// The scheme of its URL. It is one of five, so it suits a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Netns(_) => "netns",
            Self::Kata { .. } => "kata",
            Self::Relay(gangplank_channel::Endpoint::Vsock { .. }) => "vsock",
            Self::Relay(gangplank_channel::Endpoint::Hybrid { .. }) => "hvsock",
            Self::Relay(gangplank_channel::Endpoint::Unix { .. }) => "unix",
        }
    }

    /// The endpoint's file, if it has one. If the file is missing, so is the endpoint. Checking that is safer than
    /// connecting: some VMMs break on a connection that sends nothing.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Netns(path) | Self::Kata { state: path, .. } => Some(path),
            Self::Relay(
                gangplank_channel::Endpoint::Hybrid { path, .. } | gangplank_channel::Endpoint::Unix { path },
            ) => Some(path),
            Self::Relay(gangplank_channel::Endpoint::Vsock { .. }) => None,
        }
    }

    /// The same endpoint at another path. `None` if it has no path that can change, or a socket cannot have that path.
    pub fn at(&self, path: PathBuf) -> Option<Self> {
        let text = match self {
            Self::Netns(_) => return Some(Self::Netns(path)),
            Self::Relay(gangplank_channel::Endpoint::Hybrid { port, .. }) => {
                format!("hvsock://{}:{port}", path.to_str()?)
            }
            Self::Relay(gangplank_channel::Endpoint::Unix { .. }) => format!("unix://{}", path.to_str()?),
            Self::Kata { .. } | Self::Relay(gangplank_channel::Endpoint::Vsock { .. }) => return None,
        };
        text.parse().ok()
    }

    /// The endpoint's file, if it does not exist.
    pub fn missing(&self) -> Option<&Path> {
        self.file().filter(|file| !file.exists())
    }
}

/// Why text is not a [`PodEndpoint`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodEndpointError {
    /// The path is not absolute.
    #[error("`{0}` has no absolute path: write three slashes, as in netns:///run/netns/web")]
    Path(String),
    /// The port is missing or out of range.
    #[error("`{0}` does not end in a vsock port: write a colon and a number above 0")]
    Port(String),
    /// The endpoint of a relay is malformed, or the scheme is unknown.
    #[error(transparent)]
    Relay(#[from] gangplank_channel::EndpointError),
}

impl FromStr for PodEndpoint {
    type Err = PodEndpointError;

    fn from_str(text: &str) -> Result<Self, PodEndpointError> {
        let absolute = |path: &str| {
            let path = Path::new(path);
            path.is_absolute().then(|| path.into()).ok_or_else(|| PodEndpointError::Path(text.into()))
        };
        if let Some(path) = text.strip_prefix("netns://") {
            return Ok(Self::Netns(absolute(path)?));
        }
        let Some(rest) = text.strip_prefix("kata://") else { return Ok(Self::Relay(text.parse()?)) };
        let (path, port) = rest.rsplit_once(':').ok_or_else(|| PodEndpointError::Port(text.into()))?;
        // 0 and u32::MAX (VMADDR_PORT_ANY) are not ports that a relay can have.
        let port = port.parse().ok().filter(|port| (1..u32::MAX).contains(port));
        Ok(Self::Kata {
            state: absolute(path)?,
            port: port.ok_or_else(|| PodEndpointError::Port(text.into()))?,
        })
    }
}

impl fmt::Display for PodEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(path) => write!(f, "netns://{}", path.display()),
            Self::Kata { state, port } => write!(f, "kata://{}:{port}", state.display()),
            Self::Relay(endpoint) => endpoint.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses_and_displays_the_same() {
        for text in [
            "netns:///run/netns/a",
            "vsock://3:1024",
            "hvsock:///run/v.sock:1024",
            "unix:///run/r.sock",
            "kata:///p.json:7",
        ] {
            assert_eq!(text.parse::<PodEndpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_endpoints_are_rejected_with_the_expected_form() {
        let error = |text: &str| text.parse::<PodEndpoint>().unwrap_err().to_string();
        assert!(error("netns://run/netns/a").contains("three slashes"));
        assert!(error("kata://p.json:7").contains("three slashes"));
        assert!(
            error("kata:///p.json").contains("vsock port")
                && error("kata:///p.json:0").contains("vsock port")
        );
        assert!(error("tcp://127.0.0.1:80").contains("hvsock:///PATH:PORT"));
    }

    #[test]
    fn a_missing_file_is_named_and_vsock_has_none() {
        let missing = |text: &str| text.parse::<PodEndpoint>().unwrap().missing().map(Path::to_path_buf);
        assert_eq!(missing("unix:///nowhere/r.sock"), Some("/nowhere/r.sock".into()));
        assert_eq!(missing("hvsock:///nowhere/v.sock:7"), Some("/nowhere/v.sock".into()));
        assert_eq!(missing("netns:///proc/self/ns/net"), None);
        assert_eq!(missing("vsock://3:1024"), None);
    }
}
