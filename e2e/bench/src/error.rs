//! What can go wrong in a benchmark run.

use std::io;

/// A run that could not be finished. Nothing here says anything about speed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The machine refused something, or a contender's socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and where.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A contender did not do what every contender must.
    #[error("{0}")]
    Contender(String),
    /// The CRI call that hands out a streaming URL failed.
    #[error("asking {socket} for a streaming URL: {source}")]
    Cri {
        /// The daemon's CRI socket.
        socket: String,
        /// Its answer.
        source: Box<tonic::Status>,
    },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Says what was tried when the system says no.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io { what: what.into(), source: source.into() })
    }
}
