//! Connecting to the addresses of a request without blocking, one after the other.

use std::os::fd::OwnedFd;

use gangplank_channel::open::{Refusal, RefusalKind};
use gangplank_podnet::{Address, Namespaces};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};

use crate::side::Side;

/// A dial in progress. Its time limit is its connection's deadline.
#[derive(Debug)]
pub(crate) struct Dialling {
    namespaces: Namespaces,
    rest: std::vec::IntoIter<Address>,
    current: Option<(Address, Side)>,
    tried: Vec<String>,
    first_error: Option<Errno>,
}

/// How far a dial has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// A new socket, which epoll must watch: it reports when to continue.
    Started,
    /// The current address has not answered yet.
    Waiting,
    /// The address is connected. epoll may watch the socket already.
    Connected { pod: Side, is_known: bool, is_of_datagrams: bool },
    /// No address could be reached.
    Failed(Refusal),
}

impl Dialling {
    /// Nothing is dialled before the first [`proceed`](Self::proceed).
    pub(crate) fn new(addresses: Vec<Address>, namespaces: Namespaces) -> Self {
        Self { namespaces, rest: addresses.into_iter(), current: None, tried: Vec::new(), first_error: None }
    }

    /// The socket that is being connected.
    pub(crate) fn pod(&mut self) -> Option<&mut Side> {
        self.current.as_mut().map(|(_, side)| side)
    }

    /// Checks the current address, and continues with the next one if it failed.
    pub(crate) fn proceed(&mut self) -> Progress {
        if let Some((address, pod)) = self.current.take() {
            match outcome(&pod) {
                Ok(true) => return Progress::Connected { pod, is_known: true, is_of_datagrams: false },
                Ok(false) => {
                    self.current = Some((address, pod));
                    return Progress::Waiting;
                }
                Err(error) => self.first_error = self.first_error.or(Some(error)),
            }
        }
        for address in self.rest.by_ref() {
            self.tried.push(address.to_string());
            match connect(&address, &self.namespaces) {
                Ok((fd, true)) => {
                    let is_of_datagrams = matches!(address, Address::Udp(_));
                    return Progress::Connected { pod: Side::new(fd), is_known: false, is_of_datagrams };
                }
                Ok((fd, false)) => {
                    self.current = Some((address, Side::connecting(fd)));
                    return Progress::Started;
                }
                Err(error) => self.first_error = self.first_error.or(Some(error)),
            }
        }
        Progress::Failed(self.failed(self.first_error.unwrap_or(Errno::ADDRNOTAVAIL)))
    }

    /// The refusal when the time is up.
    pub(crate) fn timed_out(&self) -> Refusal {
        self.failed(Errno::TIMEDOUT)
    }

    /// The callers report the first error: that of the address which is meant in most cases.
    pub(crate) fn failed(&self, error: Errno) -> Refusal {
        let (kind, what) = explain(error);
        let tried = self.tried.join(" or ");
        Refusal::new(kind, error.raw_os_error(), &format!("{what} {tried} in the guest ({error})"))
    }
}

fn explain(error: Errno) -> (RefusalKind, &'static str) {
    match error {
        Errno::CONNREFUSED => (RefusalKind::Refused, "nothing listens on"),
        Errno::NOENT => (RefusalKind::Refused, "there is no socket"),
        Errno::TIMEDOUT => (RefusalKind::TimedOut, "no answer within the limit from"),
        Errno::AGAIN => (RefusalKind::TimedOut, "too many connections already wait at"),
        Errno::NETUNREACH
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::ADDRNOTAVAIL
        | Errno::AFNOSUPPORT => (RefusalKind::Unreachable, "no route to"),
        Errno::ACCESS | Errno::PERM => (RefusalKind::Denied, "the guest's system does not allow"),
        Errno::OPNOTSUPP => (
            RefusalKind::Unsupported,
            "only a relay with --cgroup can reach a container's Unix sockets, so not",
        ),
        _ => (RefusalKind::Internal, "the relay could not dial"),
    }
}

/// Begins to connect. Whether that is done already, as often on loopback and always with datagrams.
fn connect(address: &Address, namespaces: &Namespaces) -> Result<(OwnedFd, bool), Errno> {
    let (socket, begun) = match address {
        Address::Tcp(address) => {
            let socket = namespaces.socket(family(address), SocketType::STREAM)?;
            // The host has already gathered the bytes, so that waiting for more gains nothing.
            sockopt::set_tcp_nodelay(&socket, true)?;
            let begun = rustix::net::connect(&socket, address);
            (socket, begun)
        }
        Address::Udp(address) => {
            let socket = namespaces.socket(family(address), SocketType::DGRAM)?;
            let begun = rustix::net::connect(&socket, address);
            (socket, begun)
        }
        Address::Unix(path) => {
            // Unix sockets with a path do not belong to a network namespace.
            let socket = Namespaces::default().socket(AddressFamily::UNIX, SocketType::STREAM)?;
            let (path, _file) = namespaces.locate(path)?;
            let begun = rustix::net::connect(&socket, &SocketAddrUnix::new(path)?);
            (socket, begun)
        }
    };
    match begun {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

fn family(address: &std::net::SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// The outcome of a connect in progress: whether it is done.
fn outcome(pod: &Side) -> Result<bool, Errno> {
    if !pod.is_writable() {
        return Ok(false);
    }
    sockopt::socket_error(pod.fd())??;
    Ok(true)
}
