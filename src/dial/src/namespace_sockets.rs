//! Sockets in other network namespaces.
//!
//! A socket stays in the namespace it was created in, and each thread is in one namespace at a time. So one dedicated
//! thread enters namespaces and creates sockets there, and the async runtime connects them. Sockets in our own namespace
//! need no such thread.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::{io, thread};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// The network namespace of this process.
const OWN: &str = "/proc/self/ns/net";

/// The thread's stack, in bytes. Its calls are shallow.
const STACK: usize = 128 << 10;

/// Creates sockets in any network namespace. Its thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct NamespaceSockets {
    own: NamespaceId,
    requests: mpsc::Sender<SocketRequest>,
}

/// Identifies a namespace: the device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NamespaceId(u64, u64);

#[derive(Debug)]
struct SocketRequest {
    namespace: PathBuf,
    family: AddressFamily,
    kind: SocketType,
    socket: oneshot::Sender<io::Result<OwnedFd>>,
}

impl NamespaceSockets {
    /// Starts the thread.
    ///
    /// # Errors
    /// If /proc is not mounted or no thread can be started.
    pub fn start() -> io::Result<Self> {
        let home = open(Path::new(OWN))?;
        let (requests, received) = mpsc::channel();
        thread::Builder::new()
            .name("namespaces".into())
            .stack_size(STACK)
            .spawn(move || make_sockets(&home, &received))?;
        Ok(Self { own: identity(Path::new(OWN))?, requests })
    }

    /// Creates a non-blocking socket in this namespace.
    ///
    /// # Errors
    /// If the file is not a network namespace, entering it is not permitted, or the system refuses a socket.
    pub(crate) async fn socket(
        &self,
        namespace: &Path,
        family: AddressFamily,
        kind: SocketType,
    ) -> io::Result<OwnedFd> {
        if identity(namespace)? == self.own {
            return socket(family, kind);
        }
        let (answer, socket) = oneshot::channel();
        let request = SocketRequest { namespace: namespace.into(), family, kind, socket: answer };
        self.requests.send(request).map_err(|_| io::Error::other(ENDED))?;
        socket.await.map_err(|_| io::Error::other(ENDED))?
    }

    /// Opens the namespace; `None` if it is our own.
    ///
    /// # Errors
    /// If the file does not exist or opening it is not permitted.
    pub(crate) fn foreign(&self, namespace: &Path) -> io::Result<Option<OwnedFd>> {
        if identity(namespace)? == self.own { Ok(None) } else { open(namespace).map(Some) }
    }
}

const ENDED: &str = "the thread that enters network namespaces has ended; restart gangplank";

fn make_sockets(home: &OwnedFd, requests: &mpsc::Receiver<SocketRequest>) {
    for request in requests {
        let socket = socket_in(home, &request);
        // The dial may have been cancelled in the meantime.
        let _ = request.socket.send(socket);
    }
}

fn socket_in(home: &OwnedFd, request: &SocketRequest) -> io::Result<OwnedFd> {
    enter(&open(&request.namespace)?)?;
    let socket = socket(request.family, request.kind);
    // Staying would keep the namespace alive after its pod is gone.
    enter(home)?;
    socket
}

fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn open(namespace: &Path) -> io::Result<OwnedFd> {
    // Non-blocking, because a wrong path may be a FIFO, whose open would block until someone writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(namespace, flags, Mode::empty())?)
}

fn socket(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

fn identity(namespace: &Path) -> io::Result<NamespaceId> {
    let stat = rustix::fs::stat(namespace)?;
    Ok(NamespaceId(stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tcp(sockets: &NamespaceSockets, namespace: &Path) -> io::Result<OwnedFd> {
        sockets.socket(namespace, AddressFamily::INET, SocketType::STREAM).await
    }

    #[tokio::test]
    async fn our_own_namespace_needs_no_thread() {
        let (requests, received) = mpsc::channel();
        drop(received);
        let sockets = NamespaceSockets { own: identity(Path::new(OWN)).unwrap(), requests };
        tcp(&sockets, Path::new(OWN)).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_file_and_a_file_that_is_not_a_namespace_are_errors() {
        let sockets = NamespaceSockets::start().unwrap();
        let error = tcp(&sockets, Path::new("/nowhere")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = tcp(&sockets, Path::new("/proc/self/stat")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_thread_ends_with_its_last_sender() {
        let sockets = NamespaceSockets::start().unwrap();
        let weak = sockets.requests.clone();
        drop(sockets);
        drop(weak);
        let named = |task: io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.unwrap().path().join("comm"))
                .is_ok_and(|comm| comm.trim() == "namespaces")
        };
        let is_running = || std::fs::read_dir("/proc/self/task").unwrap().any(named);
        // Other tests in this process briefly run such a thread too, so wait until none is left.
        for _ in 0..1000 {
            if !is_running() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("a thread named \"namespaces\" is still running");
    }
}
