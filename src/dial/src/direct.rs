//! Dialling an ordinary pod from the host, in the pod's network namespace and without a relay.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdTcpStream};
use std::path::Path;

use gangplank_podnet::HostPort;
use rustix::net::{AddressFamily, SocketType};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::error::{PodDialError, PodDialErrorKind};
use crate::namespace_sockets::NamespaceSockets;

/// Connects to the address. Without a host, it tries 127.0.0.1 and then ::1. `pod` is the pod's name, for the error.
///
/// There is no time limit here: the caller limits both attempts together.
pub(crate) async fn dial(
    sockets: &NamespaceSockets,
    namespace: &Path,
    pod: &str,
    address: HostPort,
) -> Result<TcpStream, PodDialError> {
    let port = address.port;
    if let Some(ip) = address.host {
        return connect(sockets, namespace, (ip, port).into()).await.map_err(|failed| match failed {
            ConnectError::Socket(error) => no_socket(namespace, pod, &error),
            ConnectError::Connect(error) => {
                no_connection(namespace, pod, port, &SocketAddr::new(ip, port).to_string(), &error)
            }
        });
    }
    let both = format!("127.0.0.1:{port} and [::1]:{port}");
    let v4 = match connect(sockets, namespace, (Ipv4Addr::LOCALHOST, port).into()).await {
        Ok(stream) => return Ok(stream),
        Err(ConnectError::Socket(error)) => return Err(no_socket(namespace, pod, &error)),
        Err(ConnectError::Connect(error)) => error,
    };
    let v6 = match connect(sockets, namespace, (Ipv6Addr::LOCALHOST, port).into()).await {
        Ok(stream) => return Ok(stream),
        // This machine has no IPv6, so only the result of IPv4 counts.
        Err(ConnectError::Socket(_)) => return Err(no_connection(namespace, pod, port, &both, &v4)),
        Err(ConnectError::Connect(error)) => error,
    };
    // A refusal says more than, for example, a missing route: the pod's network works and the port is closed.
    let telling = if v6.kind() == ErrorKind::ConnectionRefused { v6 } else { v4 };
    Err(no_connection(namespace, pod, port, &both, &telling))
}

/// A socket for datagrams to and from the address. Without a host, that is 127.0.0.1: with UDP, a failed attempt does not
/// show, so ::1 would never be tried.
pub(crate) async fn datagrams(
    sockets: &NamespaceSockets,
    namespace: &Path,
    pod: &str,
    address: HostPort,
) -> Result<UdpSocket, PodDialError> {
    let to = SocketAddr::new(address.host.unwrap_or(Ipv4Addr::LOCALHOST.into()), address.port);
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let made = sockets.socket(namespace, family, SocketType::DGRAM).await;
    let socket = made.and_then(|socket| UdpSocket::from_std(socket.into()));
    let socket = socket.map_err(|error| no_socket(namespace, pod, &error))?;
    socket
        .connect(to)
        .await
        .map_err(|error| no_connection(namespace, pod, to.port(), &to.to_string(), &error))?;
    Ok(socket)
}

/// Which step of an attempt failed.
enum ConnectError {
    /// No socket could be created in the namespace, or it could not be configured.
    Socket(io::Error),
    /// The address was not reached.
    Connect(io::Error),
}

async fn connect(
    sockets: &NamespaceSockets,
    namespace: &Path,
    to: SocketAddr,
) -> Result<TcpStream, ConnectError> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = sockets.socket(namespace, family, SocketType::STREAM).await.map_err(ConnectError::Socket)?;
    let socket = TcpSocket::from_std_stream(StdTcpStream::from(socket));
    // Data is forwarded as it arrives: Nagle's algorithm would only add latency.
    socket.set_nodelay(true).map_err(ConnectError::Socket)?;
    socket.connect(to).await.map_err(ConnectError::Connect)
}

pub(crate) fn no_socket(namespace: &Path, pod: &str, error: &io::Error) -> PodDialError {
    let place = namespace.display();
    let (kind, advice) = match error.kind() {
        ErrorKind::NotFound => {
            (PodDialErrorKind::PodGone, "the pod has ended; forward to its successor".into())
        }
        ErrorKind::PermissionDenied => {
            (PodDialErrorKind::Denied, "run gangplank as root or with CAP_SYS_ADMIN".into())
        }
        ErrorKind::InvalidInput => {
            (PodDialErrorKind::PodGone, "it is not a network namespace; correct the pod's endpoint".into())
        }
        _ => (PodDialErrorKind::Internal, format!("{error}; check the limits of this process")),
    };
    PodDialError::new(kind, format!("create a socket in network namespace {place} of pod {pod:?}: {advice}"))
}

fn no_connection(namespace: &Path, pod: &str, port: u16, tried: &str, error: &io::Error) -> PodDialError {
    let what = format!("connect to {tried} in {}", namespace.display());
    let (kind, came) = match error.kind() {
        ErrorKind::ConnectionRefused => (
            PodDialErrorKind::Refused,
            format!("connection refused; nothing listens on port {port} in pod {pod:?}"),
        ),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable => (
            PodDialErrorKind::Unreachable,
            format!("network unreachable; bring up the loopback interface of pod {pod:?}"),
        ),
        ErrorKind::TimedOut => (
            PodDialErrorKind::TimedOut,
            format!("no answer; check whether a packet filter drops port {port} in pod {pod:?}"),
        ),
        ErrorKind::PermissionDenied => (
            PodDialErrorKind::Denied,
            format!("{error}; check which packet filter or policy forbids port {port} in pod {pod:?}"),
        ),
        _ => (PodDialErrorKind::Internal, format!("{error}; check the limits of this process")),
    };
    PodDialError::new(kind, format!("{what}: {came}"))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const OWN: &str = "/proc/self/ns/net";

    async fn dial_here(port: u16) -> Result<TcpStream, PodDialError> {
        dial(&NamespaceSockets::start().unwrap(), Path::new(OWN), "demo", HostPort::loopback(port)).await
    }

    /// Reserves a port on both addresses without listening on it.
    fn bound_socket() -> TcpSocket {
        let socket = TcpSocket::new_v6().unwrap();
        socket.bind("[::]:0".parse().unwrap()).unwrap();
        socket
    }

    async fn says_hello(listener: TcpListener) {
        listener.accept().await.unwrap().0.write_all(b"hello").await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_listens_on_either_address_is_reached() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(says_hello(listener));
            let mut stream = dial_here(port).await.unwrap();
            assert!(stream.nodelay().unwrap());
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "hello", "{address}");
        }
    }

    #[tokio::test]
    async fn a_refusal_says_what_was_tried_where() {
        let bound = bound_socket();
        let port = bound.local_addr().unwrap().port();
        let error = dial_here(port).await.unwrap_err();
        assert_eq!(error.kind, PodDialErrorKind::Refused);
        assert_eq!(
            error.cause,
            format!(
                "connect to 127.0.0.1:{port} and [::1]:{port} in {OWN}: connection refused; \
                 nothing listens on port {port} in pod \"demo\""
            )
        );
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_ends_the_session() {
        let address = HostPort::loopback(80);
        let sockets = NamespaceSockets::start().unwrap();
        let error = dial(&sockets, Path::new("/nowhere/ns"), "demo", address).await.unwrap_err();
        assert_eq!(error.kind, PodDialErrorKind::PodGone);
        assert!(error.cause.contains("/nowhere/ns"), "{}", error.cause);
    }

    /// A process in a network namespace of its own whose loopback is down.
    struct OtherNamespace(Child);

    impl OtherNamespace {
        fn start() -> Self {
            let child = Command::new("unshare")
                .args(["--user", "--map-root-user", "--net", "sleep", "60"])
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let mut namespace = Self(child);
            while namespace.link() == std::fs::read_link(OWN).ok() {
                let ended = namespace.0.try_wait().unwrap();
                assert!(ended.is_none(), "this test needs a machine that allows network namespaces");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            namespace
        }

        fn path(&self) -> String {
            format!("/proc/{}/ns/net", self.0.id())
        }

        fn link(&self) -> Option<std::path::PathBuf> {
            std::fs::read_link(self.path()).ok()
        }
    }

    impl Drop for OtherNamespace {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Entering needs CAP_SYS_ADMIN; without it, the error must say so.
    #[tokio::test]
    async fn a_port_of_one_namespace_is_not_reached_in_another() {
        let other = OtherNamespace::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = NamespaceSockets::start().unwrap();
        let address = HostPort::loopback(port);
        let error = dial(&sockets, Path::new(&other.path()), "demo", address).await.unwrap_err();
        if rustix::process::geteuid().is_root() {
            assert_eq!(error.kind, PodDialErrorKind::Unreachable, "{}", error.cause);
            assert!(error.cause.contains("bring up the loopback"), "{}", error.cause);
        } else {
            assert_eq!(error.kind, PodDialErrorKind::Denied, "{}", error.cause);
            assert!(error.cause.contains("CAP_SYS_ADMIN"), "{}", error.cause);
        }
        dial(&sockets, Path::new(OWN), "demo", address).await.expect("our own namespace is still reached");
    }
}
