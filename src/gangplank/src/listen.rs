//! Listening on TCP ports and on Unix sockets whose files live as long as their owner, and accepting on either.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted. The clients on one node rarely connect at the same moment.
const BACKLOG: i32 = 128;

/// How long to wait when `accept` fails for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Another process listens there.
    #[error("{} is in use: another process answers on it; stop that process or choose another path", .0.display())]
    InUse(PathBuf),
    /// The path is taken by something that is not a socket.
    #[error("{} exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses the Unix socket.
    #[error("cannot listen on {}: {source}; check that this user may write to its folder", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses the TCP port.
    #[error(
        "cannot listen on {address}: {source}; stop the process that uses the port or choose another port"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A listening Unix socket. Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    // Dropped before the listener: while we still answer, no successor takes the file for a stale one and replaces it.
    _file: SocketFile,
    listener: UnixListener,
}

impl UnixSocket {
    /// Listens at `path`. Its file has this mode from the first moment.
    ///
    /// Creates the folder if necessary, and replaces a stale socket file, on which no process answers.
    ///
    /// # Errors
    /// If a process answers there, the path is not a socket, or the system refuses.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, BindError> {
        remove_stale(path)?;
        let unix = |source| BindError::Unix { path: path.into(), source };
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(unix)?;
        }
        let listener = bind(path, mode).map_err(unix)?;
        let file = SocketFile::of(path).map_err(unix)?;
        Ok(Self { listener, _file: file })
    }

    /// Serves each connection in a task until `stop`. Then the socket's file is removed at once, and this returns when the
    /// last connection has ended.
    pub(crate) async fn serve<F>(self, stop: &CancellationToken, connection: impl Fn(UnixStream) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = TaskTracker::new();
        loop {
            tokio::select! {
                stream = accept(&self.listener) => {
                    connections.spawn(connection(stream));
                }
                () = stop.cancelled() => break,
            }
        }
        drop(self);
        connections.close();
        connections.wait().await;
    }
}

/// A socket's file. It is removed on drop, unless the path is another file by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: a successor's file at the same path has others.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // A failure does no harm: the next start replaces a stale file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = stream_socket()?;
    // The file gets the mode of its socket, less the umask, which `serve` has cleared. A chmod by path could be led to
    // another file.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(StdUnixListener::from(socket))
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let unix = |source| BindError::Unix { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unix(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket(path.into())),
        Ok(_) => {}
    }
    if is_answered(path).map_err(unix)? {
        return Err(BindError::InUse(path.into()));
    }
    fs::remove_file(path).map_err(unix)
}

fn is_answered(path: &Path) -> io::Result<bool> {
    match rustix::net::connect(stream_socket()?.as_fd(), &SocketAddrUnix::new(path)?) {
        // AGAIN: a process listens, and its backlog is full.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Listens on a TCP port.
///
/// # Errors
/// If the port is in use or the system refuses.
pub(crate) async fn tcp(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let refused = |source| BindError::Tcp { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}

/// Something that accepts connections.
pub(crate) trait Acceptor {
    /// An accepted connection.
    type Stream;

    /// Polls for the next one.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
}

impl Acceptor for TcpListener {
    type Stream = TcpStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

impl Acceptor for UnixListener {
    type Stream = UnixStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

/// The next connection. A failure concerns one connection that is gone again, or a lack of resources that passes.
/// Neither is a reason to stop listening.
pub(crate) async fn accept<L: Acceptor>(listener: &L) -> L::Stream {
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok(stream) => return stream,
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; check the limits of this process");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use std::sync::Mutex;

    use super::*;

    struct Answers(Mutex<Vec<io::Result<u8>>>);

    impl Acceptor for Answers {
        type Stream = u8;

        fn poll_accept(&self, _: &mut Context<'_>) -> Poll<io::Result<u8>> {
            Poll::Ready(self.0.lock().unwrap().pop().unwrap())
        }
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_is_removed_with_its_owner() {
        rustix::process::umask(Mode::empty()); // as `serve` does
        let folder = folder();
        let path = folder.path().join("made/for/it.sock");
        let socket = UnixSocket::bind(&path, 0o660).unwrap();
        assert_eq!(mode_of(&path), 0o660);
        let (client, _server) = tokio::join!(UnixStream::connect(&path), accept(&socket.listener));
        client.unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_in_use_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let _living = UnixSocket::bind(&path, 0o600).unwrap();
        let error = UnixSocket::bind(&path, 0o600).unwrap_err();
        assert!(matches!(error, BindError::InUse(_)), "{error}");
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = UnixSocket::bind(&path, 0o600).unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        fs::write(&path, "precious").unwrap();
        let error = UnixSocket::bind(&path, 0o600).unwrap_err();
        assert!(matches!(error, BindError::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let old = UnixSocket::bind(&path, 0o600).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        let _new = UnixSocket::bind(&path, 0o600).unwrap();
        drop(old);
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let (_listener, bound) = tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = tcp(bound).await.unwrap_err().to_string();
        assert!(error.contains(&bound.to_string()), "{error}");
    }

    #[tokio::test]
    async fn accept_goes_on_after_failures() {
        let answers = Answers(Mutex::new(vec![
            Ok(7),
            Err(io::Error::from_raw_os_error(Errno::MFILE.raw_os_error())),
            Err(io::ErrorKind::ConnectionAborted.into()),
        ]));
        assert_eq!(accept(&answers).await, 7);
    }
}
