//! The route to a pod's ports, and the obstacles on it.

use std::fs;
use std::path::{Path, PathBuf};

use gangplank_dial::PodEndpoint;

/// How a pod's ports are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// The daemon dials this endpoint.
    Endpoint(PodEndpoint),
    /// The daemon dials a socket that the pod itself has named, but only while it lies in this folder.
    Within {
        /// The socket.
        endpoint: PodEndpoint,
        /// The sandbox's own folder.
        folder: PathBuf,
    },
    /// The daemon dials in the network namespace of the sandbox, and has to ask the runtime for it.
    Namespace,
    /// The container runtime forwards the ports itself; PortForward is passed on to it.
    Runtime,
    /// The pod must not be reached, for this reason.
    Barred(String),
}

/// What keeps a pod's ports from being reached. The text ends a sentence: "is not ready: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Obstacle {
    /// The file of its endpoint does not exist: its VM is not running, or its namespace is gone.
    #[error("{} is not there; start the pod and forward again", .0.display())]
    Missing(PathBuf),
    /// Its sandbox has been stopped.
    #[error("its sandbox has stopped; forward to its successor")]
    Stopped,
    /// Its endpoint must not be used.
    #[error("{0}")]
    Barred(String),
}

impl Route {
    /// The scheme of its endpoint, or a word in its place. One of a few fixed names, so it can be a metric's label.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Endpoint(endpoint) | Self::Within { endpoint, .. } => endpoint.kind(),
            Self::Namespace => "netns",
            Self::Runtime => "runtime",
            Self::Barred(_) => "barred",
        }
    }

    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Self::Endpoint(endpoint) => endpoint.missing().map(|file| Obstacle::Missing(file.into())),
            Self::Within { endpoint, folder } => within(endpoint, folder).err(),
            Self::Namespace | Self::Runtime => None,
            Self::Barred(why) => Some(Obstacle::Barred(why.clone())),
        }
    }

    /// The endpoint to dial now, if there is one.
    ///
    /// # Errors
    /// If the socket that the pod has named is not in its folder.
    pub(crate) fn endpoint(&self) -> Result<Option<PodEndpoint>, Obstacle> {
        match self {
            Self::Endpoint(endpoint) => Ok(Some(endpoint.clone())),
            Self::Within { endpoint, folder } => within(endpoint, folder).map(Some),
            Self::Namespace | Self::Runtime => Ok(None),
            Self::Barred(why) => Err(Obstacle::Barred(why.clone())),
        }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(endpoint) | Self::Within { endpoint, .. } => endpoint.fmt(f),
            Self::Namespace => f.write_str("network namespace"),
            Self::Runtime => f.write_str("runtime"),
            Self::Barred(_) => f.write_str("barred"),
        }
    }
}

/// The endpoint with the canonical path of its socket, if that is in the folder.
///
/// Links in both paths are resolved first, so that no link leads to another pod's guest. The resolved path is also the
/// one that is dialled: a link that changes after the check has no effect.
fn within(endpoint: &PodEndpoint, folder: &Path) -> Result<PodEndpoint, Obstacle> {
    let barred = |why: String| Obstacle::Barred(format!("its annotation names {endpoint}, {why}"));
    let file = endpoint.file().ok_or_else(|| barred("which is not the path of a socket; name one".into()))?;
    let canonical = |path: &Path| fs::canonicalize(path).map_err(|_| Obstacle::Missing(path.into()));
    let (file, folder) = (canonical(file)?, canonical(folder)?);
    if !file.starts_with(&folder) {
        let why = format!("which is not in its own folder {}; name a socket there", folder.display());
        return Err(barred(why));
    }
    endpoint.at(file).ok_or_else(|| barred("which is not the path of a socket; name one".into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The folders of two sandboxes, each with its guest's socket.
    fn guests() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for sandbox in ["mine", "other"] {
            fs::create_dir(folder.path().join(sandbox)).unwrap();
            fs::write(folder.path().join(sandbox).join("v.sock"), "").unwrap();
        }
        folder
    }

    fn route(folder: &Path, socket: &str) -> Route {
        let endpoint = format!("hvsock://{}/{socket}:7", folder.display()).parse().unwrap();
        Route::Within { endpoint, folder: folder.join("mine") }
    }

    #[test]
    fn a_socket_in_its_own_folder_is_dialled() {
        let guests = guests();
        let route = route(guests.path(), "mine/v.sock");
        assert_eq!(route.obstacle(), None);
        assert_eq!(route.endpoint().unwrap().unwrap().to_string(), route.to_string());
    }

    #[test]
    fn no_path_leads_to_the_guest_of_another_pod() {
        let guests = guests();
        let mine = guests.path().join("mine");
        symlink("../other/v.sock", mine.join("link.sock")).unwrap();
        symlink("../other", mine.join("folder")).unwrap();
        for path in ["other/v.sock", "mine/../other/v.sock", "mine/link.sock", "mine/folder/v.sock"] {
            let obstacle = route(guests.path(), path).endpoint().unwrap_err();
            assert!(matches!(&obstacle, Obstacle::Barred(_)), "{path}: {obstacle:?}");
            assert!(obstacle.to_string().contains("not in its own folder"), "{obstacle}");
        }
    }

    #[test]
    fn a_missing_socket_is_not_barred() {
        let guests = guests();
        let obstacle = route(guests.path(), "mine/later.sock").obstacle().unwrap();
        assert_eq!(obstacle, Obstacle::Missing(guests.path().join("mine/later.sock")));
    }
}
