//! Where a guest's relay is reached: the string of a configuration, parsed.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path of a Unix socket, in bytes: `sun_path` has 108 and needs a NUL.
const MAX_SOCKET_PATH: usize = 107;

/// A relay's address, as seen from the host.
///
/// Parsed from and displayed as one of:
///
/// | text | meaning |
/// |---|---|
/// | `vsock://CID:PORT` | AF_VSOCK |
/// | `hvsock:///PATH:PORT` | hybrid vsock: a Unix socket that speaks `CONNECT PORT` (Firecracker, Cloud Hypervisor, vhost-device-vsock) |
/// | `unix:///PATH` | a Unix socket that leads straight to the relay (vfkit, Apple, a relay on this machine) |
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// AF_VSOCK.
    Vsock {
        /// The guest's context id.
        cid: u32,
        /// The relay's port.
        port: u32,
    },
    /// Hybrid vsock.
    Hybrid {
        /// The multiplexer's Unix socket; absolute.
        path: PathBuf,
        /// The relay's vsock port in the guest.
        port: u32,
    },
    /// A Unix socket that is the relay's.
    Unix {
        /// The socket; absolute.
        path: PathBuf,
    },
}

/// Why a text is no [`Endpoint`]. The text's author is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No scheme, or one that is not known here.
    #[error("`{0}` is no endpoint: write vsock://CID:PORT, hvsock:///PATH:PORT or unix:///PATH")]
    Scheme(String),
    /// The path is empty or relative.
    #[error("`{0}` has no absolute path: write three slashes, as in unix:///run/pod.sock")]
    Path(String),
    /// The path does not fit into a socket address.
    #[error(
        "the path in `{0}` is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's path may have"
    )]
    PathTooLong(String),
    /// The vsock port is missing or no number.
    #[error("`{0}` does not end in a vsock port: write a colon and a number from 1 to 4294967294")]
    Port(String),
    /// The context id is no number, or one that no guest has.
    #[error(
        "`{0}` has no context id that a relay can have: write 1 (this machine) or a number from 3 to 4294967294"
    )]
    Cid(String),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(rest) = text.strip_prefix("unix://") {
            return Ok(Self::Unix { path: socket_path(text, rest)? });
        }
        let vsock = text.strip_prefix("vsock://");
        let Some(rest) = vsock.or_else(|| text.strip_prefix("hvsock://")) else {
            return Err(EndpointError::Scheme(text.to_owned()));
        };
        let (place, port) = rest.rsplit_once(':').ok_or_else(|| EndpointError::Port(text.to_owned()))?;
        let port = vsock_port(port).ok_or_else(|| EndpointError::Port(text.to_owned()))?;
        if vsock.is_none() {
            return Ok(Self::Hybrid { path: socket_path(text, place)?, port });
        }
        match place.parse() {
            Ok(cid) if cid == 1 || (3..u32::MAX).contains(&cid) => Ok(Self::Vsock { cid, port }),
            _ => Err(EndpointError::Cid(text.to_owned())),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Hybrid { path, port } => write!(f, "hvsock://{}:{port}", path.display()),
            Self::Unix { path } => write!(f, "unix://{}", path.display()),
        }
    }
}

/// All 32-bit numbers are ports, save the wildcard; 0 would be one, but no relay listens there.
fn vsock_port(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&port| port != 0 && port != u32::MAX)
}

fn socket_path(text: &str, path: &str) -> Result<PathBuf, EndpointError> {
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err(EndpointError::Path(text.to_owned()));
    }
    if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        return Err(EndpointError::PathTooLong(text.to_owned()));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        text.parse()
    }

    fn is_refused(text: &str, part: &str) {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
        assert!(error.contains(text), "{error}");
    }

    #[test]
    fn every_form_parses_and_displays_the_same() {
        for text in [
            "vsock://3:1024",
            "vsock://1:1",
            "hvsock:///run/v.sock:1024",
            "hvsock:///a:b:9",
            "unix:///run/pod.sock",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn hybrid_splits_at_the_last_colon() {
        let endpoint = parse("hvsock:///run/a:1/v.sock:1024").unwrap();
        assert_eq!(endpoint, Endpoint::Hybrid { path: "/run/a:1/v.sock".into(), port: 1024 });
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write() {
        is_refused("", "is no endpoint");
        is_refused("/run/pod.sock", "is no endpoint");
        is_refused("tcp://127.0.0.1:1", "is no endpoint");
        is_refused("unix://run/pod.sock", "three slashes");
        is_refused("unix://", "three slashes");
        is_refused("hvsock://v.sock:1024", "three slashes");
        is_refused("hvsock:///v.sock", "vsock port");
        is_refused("hvsock:///v.sock:0", "vsock port");
        is_refused("hvsock:///v.sock:4294967295", "vsock port");
        is_refused("vsock://3", "vsock port");
        is_refused("vsock://guest:1024", "context id");
        is_refused("vsock://0:1024", "context id");
        is_refused("vsock://2:1024", "context id");
        is_refused("vsock://4294967295:1024", "context id");
        is_refused(&format!("unix:///{}", "x".repeat(107)), "longer than");
    }
}
