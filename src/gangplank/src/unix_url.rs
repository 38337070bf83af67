//! The URL of a Unix socket, as written in the configuration and in arguments.

use std::fmt;
use std::path::{Path, PathBuf};

/// `unix:///PATH`, with a path that fits into a socket address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct UnixUrl(PathBuf);

impl UnixUrl {
    /// The longest path of a Unix socket, in bytes: `sun_path` holds 108, including the final zero.
    const MAX_PATH: usize = 107;

    /// From a path, if it is absolute and short enough.
    pub(crate) fn new(path: &Path) -> Option<Self> {
        let fits = path.is_absolute() && path.as_os_str().len() <= Self::MAX_PATH;
        fits.then(|| Self(path.to_path_buf()))
    }

    /// From `unix:///path`.
    pub(crate) fn from_url(url: &str) -> Option<Self> {
        Self::new(Path::new(url.strip_prefix("unix://")?))
    }

    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for UnixUrl {
    fn default() -> Self {
        Self("/run/gangplank/cri.sock".into())
    }
}

impl fmt::Display for UnixUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}
