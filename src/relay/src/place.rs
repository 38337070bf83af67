//! Where a dial happens: in the relay's own namespaces, or in those of a container.
//!
//! A socket belongs to the network namespace in which it was made, whoever uses it. So a thread of its own makes
//! it, and that thread alone changes its namespace, which it takes along when it ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use channel::open::{Kind, Opened};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How a container is found by its id. With both ways, the path is tried first.
#[derive(Debug, Clone, Default)]
pub struct Containers {
    /// Network namespaces by path, with `{id}` for the container's id, such as `/run/netns/{id}`.
    pub path: Option<String>,
    /// The namespaces of a process whose cgroup names the container.
    pub by_cgroup: bool,
}

/// The longest id, in bytes: what a file name may have.
const MAX_ID: usize = 255;

/// Stack of a thread that makes a socket or reads a file, in bytes.
const STACK: usize = 128 << 10;

/// Namespaces in which to dial.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// None: the relay's own.
    network: Option<OwnedFd>,
    root: Root,
}

/// Where paths begin.
#[derive(Debug, Default)]
enum Root {
    #[default]
    Own,
    Container(OwnedFd),
    /// A namespace without a process tells nothing of its files.
    Unknown,
}

impl Place {
    /// The place that a request means.
    ///
    /// # Errors
    /// The answer to a request whose container is not here or cannot be.
    pub(crate) fn find(container: &str, by: &Containers) -> Result<Self, Opened> {
        if container.is_empty() {
            return Ok(Self::default());
        }
        if !is_id(container) {
            let text = format!("`{container}` is no container's id: letters, digits, `.`, `_` and `-` only");
            return Err(Opened::failed(Kind::Invalid, 0, &text));
        }
        let mut failure = None;
        if let Some(template) = &by.path {
            let path = template.replace("{id}", container);
            match File::open(&path) {
                Ok(file) => return Ok(Self { network: Some(file.into()), root: Root::Unknown }),
                Err(error) => failure = Some(not_here(container, &path, &error)),
            }
        }
        if by.by_cgroup {
            match of_process(container) {
                Ok(place) => return Ok(place),
                Err(error) => {
                    failure = Some(not_here(container, "a process in a cgroup of its name", &error))
                }
            }
        }
        Err(failure.unwrap_or_else(|| {
            let text = format!("container `{container}`: this relay serves the pod's own namespace only");
            Opened::failed(Kind::Unsupported, 0, &text)
        }))
    }

    /// A network namespace of which nothing else is known; none is our own.
    pub(crate) fn in_network(network: Option<OwnedFd>) -> Self {
        Self { network, root: Root::Unknown }
    }

    /// Makes a non-blocking socket here.
    pub(crate) fn socket(&self, family: AddressFamily, kind: SocketType) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        self.within(|| rustix::net::socket_with(family, kind, flags, None))
    }

    /// A path under which this process finds what is at `path` here. The descriptor must live as long as the
    /// path is used.
    pub(crate) fn locate(&self, path: &str) -> Result<(PathBuf, Option<OwnedFd>), Errno> {
        match &self.root {
            Root::Own => Ok((path.into(), None)),
            Root::Unknown => Err(Errno::OPNOTSUPP),
            Root::Container(root) => {
                // Links in a container must not lead out of it.
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                let file = rustix::fs::openat2(root, path, flags, Mode::empty(), within)?;
                Ok((format!("/proc/self/fd/{}", file.as_raw_fd()).into(), Some(file)))
            }
        }
    }

    /// Does this with the network of this place.
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

/// An id goes into paths, so that it must be no path itself.
fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() <= MAX_ID && text.bytes().all(is_plain) && text != "." && text != ".."
}

fn not_here(container: &str, what: &str, error: &io::Error) -> Opened {
    let text = format!("container `{container}` is not in the guest: {what} is not there ({error})");
    Opened::failed(Kind::Unreachable, error.raw_os_error().unwrap_or(0), &text)
}

/// The namespaces of the first process whose cgroup names the container.
fn of_process(container: &str) -> io::Result<Place> {
    for entry in std::fs::read_dir("/proc")? {
        let process = entry?.path();
        // A process may end at any time; then another is looked for.
        let Ok(cgroups) = std::fs::read_to_string(process.join("cgroup")) else { continue };
        if cgroups.lines().any(|line| is_cgroup_of(line, container))
            && let Ok(place) = of(&process)
        {
            return Ok(place);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn of(process: &Path) -> io::Result<Place> {
    let network = File::open(process.join("ns/net"))?.into();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(process.join("root"), flags, Mode::empty())?;
    Ok(Place { network: Some(network), root: Root::Container(root) })
}

/// Whether a line of /proc/PID/cgroup (`ID:CONTROLLERS:PATH`) has a directory of the container's id, alone or as
/// systemd's unit of it: `cri-containerd-ID.scope`, `crio-ID.scope`, `slice:cri-containerd:ID`.
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
    fn an_id_is_no_path() {
        for id in ["web", "a.b_c-9", &"f".repeat(64)] {
            assert!(is_id(id), "{id}");
        }
        for text in ["..", ".", "a/b", "../../etc", "a b", "ä", "a\0", &"f".repeat(256)] {
            assert!(!is_id(text), "{text}");
            let opened = Place::find(text, &Containers::default()).unwrap_err();
            assert_eq!(opened.kind(), Kind::Invalid);
        }
    }

    #[test]
    fn cgroups_of_every_runtime_name_their_container() {
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
    fn a_container_that_is_not_here_is_told_with_where_it_was_looked_for() {
        let by = Containers { path: Some("/nowhere/{id}/net".to_owned()), by_cgroup: false };
        let opened = Place::find("web", &by).unwrap_err();
        assert_eq!((opened.kind(), opened.errno), (Kind::Unreachable, 2));
        assert!(opened.text.contains("`web`") && opened.text.contains("/nowhere/web/net"), "{}", opened.text);

        let by = Containers { path: None, by_cgroup: true };
        let opened = Place::find("no-such-container", &by).unwrap_err();
        assert!(opened.text.contains("cgroup"), "{}", opened.text);

        let opened = Place::find("web", &Containers::default()).unwrap_err();
        assert_eq!(opened.kind(), Kind::Unsupported);
    }
}
