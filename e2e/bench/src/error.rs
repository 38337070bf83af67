//! What can go wrong in a benchmark run.

use std::io;

/// Why a run could not be finished. A missed target is not an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A system call or a contender's socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and where.
        what: String,
        /// The error from the system.
        source: io::Error,
    },
    /// A contender did not behave correctly.
    #[error("{0}")]
    Contender(String),
    /// The CRI call for a streaming URL failed.
    #[error("asking {socket} for a streaming URL: {source}")]
    Cri {
        /// The daemon's CRI socket.
        socket: String,
        /// Its answer.
        source: Box<tonic::Status>,
    },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Adds what was tried to an error from the system.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io { what: what.into(), source: source.into() })
    }
}
