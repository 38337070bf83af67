//! Network namespaces and root directories of a pod's containers.
//!
//! A socket belongs to the network namespace it was created in, no matter who uses it. So a short-lived thread enters
//! the namespace and creates the socket, and the caller's thread never has to find its way back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How to find a container by its id. If both ways are set, the path is tried first.
#[derive(Debug, Clone, Default)]
pub struct Containers {
    /// The path of its network namespace, with `{id}` for the container's id, such as `/run/netns/{id}`.
    pub path: Option<String>,
    /// Also look for a process whose cgroup names the container, and use its namespaces.
    pub by_cgroup: bool,
}

/// The longest id, in bytes: the limit of a file name (NAME_MAX).
const MAX_ID: usize = 255;

/// Stack of the thread that enters a namespace, in bytes: it makes one shallow call there.
const STACK: usize = 128 << 10;

/// Why a container's namespaces cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The id contains characters of a path. The author of the request is at fault.
    #[error("{0:?} is not a container id: use letters, digits, `.`, `_` and `-` only")]
    InvalidId(String),
    /// The guest has no such container.
    #[error("container `{container}` is not in the guest: cannot find {sought} ({cause})")]
    NotFound {
        /// The container's id.
        container: String,
        /// Where it was sought.
        sought: String,
        /// The system's error.
        cause: io::Error,
    },
    /// This relay does not look up containers.
    #[error("container `{0}`: this relay serves only the pod's own namespace")]
    NotServed(String),
}

/// The namespaces to dial in; by default, those of this process.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// `None` is this process's own.
    network: Option<OwnedFd>,
    root: Root,
}

/// Where paths start.
#[derive(Debug, Default)]
enum Root {
    #[default]
    Own,
    Container(OwnedFd),
    /// A network namespace alone does not lead to a root directory.
    Unknown,
}

impl Namespaces {
    /// Finds the namespaces of a container. An empty id means those of this process.
    ///
    /// # Errors
    /// If the id is invalid or the container is not found.
    pub fn find(container: &str, by: &Containers) -> Result<Self, NamespaceError> {
        if container.is_empty() {
            return Ok(Self::default());
        }
        if !is_id(container) {
            return Err(NamespaceError::InvalidId(container.to_owned()));
        }
        let not_found = |sought: String, cause| {
            let container = container.to_owned();
            NamespaceError::NotFound { container, sought, cause }
        };
        let mut failure = NamespaceError::NotServed(container.to_owned());
        if let Some(template) = &by.path {
            let path = template.replace("{id}", container);
            match File::open(&path) {
                Ok(file) => return Ok(Self::in_network(Some(file.into()))),
                Err(error) => failure = not_found(path, error),
            }
        }
        if by.by_cgroup {
            match of_container_process(container) {
                Ok(namespaces) => return Ok(namespaces),
                Err(error) => failure = not_found("a process in a cgroup of its name".to_owned(), error),
            }
        }
        Err(failure)
    }

    /// Only a network namespace, without a root directory; `None` is this process's own.
    pub fn in_network(network: Option<OwnedFd>) -> Self {
        Self { network, root: Root::Unknown }
    }

    /// Creates a non-blocking socket in the network namespace.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the system refuses a socket or a thread.
    pub fn socket(&self, family: AddressFamily, kind: SocketType) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        self.within(|| rustix::net::socket_with(family, kind, flags, None))
    }

    /// Translates a path inside these namespaces into one that this process can use. Keep the descriptor open for as long
    /// as the path is used.
    ///
    /// # Errors
    /// `OPNOTSUPP` if only the network namespace is known; otherwise why the path does not resolve.
    pub fn locate(&self, path: &str) -> Result<(PathBuf, Option<OwnedFd>), Errno> {
        match &self.root {
            Root::Own => Ok((path.into(), None)),
            Root::Unknown => Err(Errno::OPNOTSUPP),
            Root::Container(root) => {
                // Symbolic links in a container must not lead out of it.
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                let file = rustix::fs::openat2(root, path, flags, Mode::empty(), within)?;
                Ok((format!("/proc/self/fd/{}", file.as_raw_fd()).into(), Some(file)))
            }
        }
    }

    /// Runs `act` in the network namespace, on a thread of its own unless that is our own.
    pub(crate) fn within<T: Send>(&self, act: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
        let Some(network) = &self.network else { return act() };
        let there = || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            act()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, there);
            let thread = thread.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
            thread.join().unwrap_or(Err(Errno::FAULT))
        })
    }
}

/// An id becomes part of a path, so it must not contain `/` or be `..`.
fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() <= MAX_ID && text.bytes().all(is_plain) && text != "." && text != ".."
}

/// The namespaces of the first process whose cgroup names the container.
fn of_container_process(container: &str) -> io::Result<Namespaces> {
    for entry in std::fs::read_dir("/proc")? {
        let process = entry?.path();
        // The process may have ended in the meantime; another one of the container may still run.
        let Ok(cgroups) = std::fs::read_to_string(process.join("cgroup")) else { continue };
        if cgroups.lines().any(|line| is_cgroup_of(line, container))
            && let Ok(namespaces) = of_process(&process)
        {
            return Ok(namespaces);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn of_process(process: &Path) -> io::Result<Namespaces> {
    let network = File::open(process.join("ns/net"))?.into();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(process.join("root"), flags, Mode::empty())?;
    Ok(Namespaces { network: Some(network), root: Root::Container(root) })
}

/// Whether a line of /proc/PID/cgroup (`ID:CONTROLLERS:PATH`) has a directory named after the container, plain or as a
/// systemd unit: `cri-containerd-ID.scope`, `crio-ID.scope`, `slice:cri-containerd:ID`.
fn is_cgroup_of(line: &str, container: &str) -> bool {
    let path = line.splitn(3, ':').nth(2).unwrap_or("");
    path.split('/').any(|directory| {
        let of_unit = directory
            .strip_suffix(".scope")
            .and_then(|unit| unit.strip_suffix(container))
            .is_some_and(|runtime| runtime.is_empty() || runtime.ends_with('-'));
        let of_slice = directory.strip_suffix(container).is_some_and(|runtime| runtime.ends_with(':'));
        directory == container || of_unit || of_slice
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_not_a_path() {
        for id in ["web", "a.b_c-9", &"f".repeat(64)] {
            assert!(is_id(id), "{id}");
        }
        for text in ["..", ".", "a/b", "../../etc", "a b", "ä", "a\0", &"f".repeat(256)] {
            assert!(!is_id(text), "{text}");
            let error = Namespaces::find(text, &Containers::default()).unwrap_err();
            assert!(matches!(error, NamespaceError::InvalidId(_)), "{error}");
        }
    }

    #[test]
    fn the_cgroup_names_of_every_runtime_are_recognised() {
        for path in [
            "/kubepods/besteffort/pod12/abc",
            "/kubepods.slice/kubepods-pod12.slice/cri-containerd-abc.scope",
            "/machine.slice/crio-abc.scope/container",
            "/kubepods-besteffort-pod12.slice:cri-containerd:abc",
            "/abc.scope",
        ] {
            assert!(is_cgroup_of(&format!("0::{path}"), "abc"), "{path}");
            assert!(is_cgroup_of(&format!("4:cpu,memory:{path}"), "abc"), "{path}");
        }
        for path in ["/", "/xabc", "/x-abc", "/abcd", "/cri-containerd-xabc.scope", "/abc-x.scope"] {
            assert!(!is_cgroup_of(&format!("0::{path}"), "abc"), "{path}");
        }
    }

    #[test]
    fn a_missing_container_is_reported_with_the_place_searched() {
        let by = Containers { path: Some("/nowhere/{id}/net".to_owned()), by_cgroup: false };
        let error = Namespaces::find("web", &by).unwrap_err().to_string();
        assert!(error.contains("`web`") && error.contains("/nowhere/web/net"), "{error}");

        let by = Containers { path: None, by_cgroup: true };
        let error = Namespaces::find("no-such-container", &by).unwrap_err().to_string();
        assert!(error.contains("cgroup"), "{error}");

        let error = Namespaces::find("web", &Containers::default()).unwrap_err();
        assert!(matches!(error, NamespaceError::NotServed(_)), "{error}");
    }
}
