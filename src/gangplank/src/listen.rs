//! Listening: Unix sockets whose files come and go with their owner, TCP ports, and accepting on either.

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

/// Connections that may wait to be accepted. Clients of a node come one by one.
const BACKLOG: i32 = 128;

/// How long to wait when accepting fails for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Somebody else listens there.
    #[error("{} is in use: another process answers on it; stop that one or choose another path", .0.display())]
    InUse(PathBuf),
    /// There is something else in its place.
    #[error("{} is there and is no socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses a Unix socket.
    #[error("cannot listen on {}: {source}; see who may write to its folder", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses a TCP port.
    #[error("cannot listen on {address}: {source}; stop whoever uses the port or choose another")]
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
    listener: UnixListener,
    // After the listener, so that nobody finds a file that nobody answers on.
    _file: SocketFile,
}

impl UnixSocket {
    /// Listens at `path` with a file of this mode, which holds from the first moment.
    ///
    /// Makes the folder if need be, and replaces the file of a socket on which nobody answers any more.
    ///
    /// # Errors
    /// When somebody answers there, something else is there, or the system refuses.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        remove_stale(path)?;
        let unix = |source| ListenError::Unix { path: path.into(), source };
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(unix)?;
        }
        let listener = bind(path, mode).map_err(unix)?;
        let file = SocketFile::of(path).map_err(unix)?;
        Ok(Self { listener, _file: file })
    }

    /// Has each connection served as a task, until `stop`; then the socket's file goes at once, and this ends with the
    /// last connection.
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

/// A socket's file, removed when dropped unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
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
            // Nothing to be done if it fails: the next start replaces the file.
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

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let unix = |source| ListenError::Unix { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unix(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(ListenError::NotASocket(path.into())),
        Ok(_) => {}
    }
    if somebody_answers(path).map_err(unix)? {
        return Err(ListenError::InUse(path.into()));
    }
    fs::remove_file(path).map_err(unix)
}

fn somebody_answers(path: &Path) -> io::Result<bool> {
    match rustix::net::connect(stream_socket()?.as_fd(), &SocketAddrUnix::new(path)?) {
        // AGAIN: somebody listens, and more wait than may.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Listens on a TCP port.
///
/// # Errors
/// When the port is in use or the system refuses.
pub(crate) async fn tcp(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let refused = |source| ListenError::Tcp { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}

/// Something that accepts connections.
pub(crate) trait Listener {
    /// A connection.
    type Stream;

    /// The next one.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

/// The next connection. Failures are those of one connection that has gone again, or of a machine short of
/// something, which passes: neither ends the listening.
pub(crate) async fn accept<L: Listener>(listener: &L) -> L::Stream {
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok(stream) => return stream,
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; see the limits of this process");
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

    impl Listener for Answers {
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
    async fn a_socket_has_its_mode_and_goes_with_its_owner() {
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
    async fn a_living_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        let _living = UnixSocket::bind(&path, 0o600).unwrap();
        let error = UnixSocket::bind(&path, 0o600).unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = UnixSocket::bind(&path, 0o600).unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("a.sock");
        fs::write(&path, "precious").unwrap();
        let error = UnixSocket::bind(&path, 0o600).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_file_of_a_successor_is_left_alone() {
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
    async fn accepting_goes_on_after_failures() {
        let answers = Answers(Mutex::new(vec![
            Ok(7),
            Err(io::Error::from_raw_os_error(Errno::MFILE.raw_os_error())),
            Err(io::ErrorKind::ConnectionAborted.into()),
        ]));
        assert_eq!(accept(&answers).await, 7);
    }
}
