//! Where a relay behind hybrid vsock announces itself: a socket beside the device's, to which the device carries its
//! guest's connections to the host.
//!
//! The folder belongs to the VMM, which may be another user than we are, so nothing here acts by a path that user could
//! redirect: the folder is opened once, the socket is created in it with its final mode, and only what is known to be a
//! socket of ours is removed from it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// How often a folder that does not exist yet is looked for: the fastest guests boot in a tenth of a second.
const FOLDER_PAUSE: Duration = Duration::from_millis(25);

/// The device may run as any user. A connection only makes us probe the relay.
const SOCKET_MODE: u32 = 0o666;

/// Where a device carries its guest's connections to this port of the host.
pub(super) fn announcement_path(device: &Path, port: u32) -> PathBuf {
    let mut path = device.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

/// Waits for a connection there. The socket's file is removed when this is dropped.
pub(super) async fn announced(path: PathBuf) {
    loop {
        let path = path.clone();
        // The folder may be on a file system that does not answer.
        let listening = tokio::task::spawn_blocking(move || AnnouncementSocket::listen(&path)).await;
        if let Ok(Ok(socket)) = listening
            && let Ok(listener) = UnixListener::from_std(socket.listener)
            && listener.accept().await.is_ok()
        {
            return;
        }
        tokio::time::sleep(FOLDER_PAUSE).await;
    }
}

struct AnnouncementSocket {
    listener: std::os::unix::net::UnixListener,
    _file: AnnouncementFile,
}

impl AnnouncementSocket {
    /// Fails if the folder does not exist yet, or anything else is at the path.
    fn listen(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let mut file = AnnouncementFile { folder, name: name.to_owned(), identity: None };
        file.remove_if_stale()?;
        let socket = unix_socket()?;
        // The file gets the mode of its socket, less the umask, which `serve` has cleared: there is no moment at which a
        // chmod by path could be led astray.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
        rustix::net::bind(&socket, &file.address()?)?;
        file.identity = file.stat().ok().map(|stat| (stat.st_dev, stat.st_ino));
        rustix::net::listen(&socket, 1)?;
        Ok(Self { listener: socket.into(), _file: file })
    }
}

/// A name in an open folder. Dropping it removes the file that was bound there, unless another has taken its place.
struct AnnouncementFile {
    folder: OwnedFd,
    name: OsString,
    /// Device and inode, once bound.
    identity: Option<(u64, u64)>,
}

impl AnnouncementFile {
    /// Through the descriptor, because the folder's path may lead elsewhere by now.
    fn address(&self) -> io::Result<SocketAddrUnix> {
        let folder = PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()));
        Ok(SocketAddrUnix::new(folder.join(&self.name))?)
    }

    fn stat(&self) -> Result<rustix::fs::Stat, Errno> {
        rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Removes a socket of our own user on which nothing listens any more: another daemon left it. Anything else stays,
    /// and binding fails.
    fn remove_if_stale(&self) -> io::Result<()> {
        let Ok(stat) = self.stat() else { return Ok(()) };
        let is_ours = FileType::from_raw_mode(stat.st_mode) == FileType::Socket
            && stat.st_uid == rustix::process::geteuid().as_raw();
        if is_ours && rustix::net::connect(unix_socket()?, &self.address()?) == Err(Errno::CONNREFUSED) {
            self.remove();
        }
        Ok(())
    }

    fn remove(&self) {
        // If this fails, the next daemon removes it.
        let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
    }
}

impl Drop for AnnouncementFile {
    fn drop(&mut self) {
        let is_still_ours = |bound| self.stat().is_ok_and(|stat| (stat.st_dev, stat.st_ino) == bound);
        if self.identity.is_some_and(is_still_ours) {
            self.remove();
        }
    }
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn an_announcement_is_a_connection_beside_the_devices_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = announcement_path(&folder.path().join("later/v.sock"), 1023);
        assert!(path.ends_with("later/v.sock_1023"));
        let device = async {
            tokio::time::sleep(4 * FOLDER_PAUSE).await; // the folder may come late
            std::fs::create_dir(folder.path().join("later")).unwrap();
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // another daemon's
            loop {
                if let Ok(stream) = UnixStream::connect(&path).await {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::join!(announced(path.clone()), device);
        assert!(!path.exists(), "the socket is removed");
    }

    #[tokio::test]
    async fn files_and_links_in_the_vmms_folder_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, path) = (folder.path().join("secret"), folder.path().join("v.sock_1023"));
        std::fs::write(&secret, "root's").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        symlink(&secret, &path).unwrap();
        assert!(AnnouncementSocket::listen(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "the VMM's").unwrap();
        assert!(AnnouncementSocket::listen(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "the VMM's");
        assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_file_that_has_taken_the_sockets_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock_1023");
        let socket = AnnouncementSocket::listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
