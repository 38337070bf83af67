//! Connecting to the pod's port, without waiting: one address after the other.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use channel::open::{Kind, Opened};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::address::Candidates;
use crate::side::Side;

/// A dial under way. Its time limit is its connection's deadline.
#[derive(Debug)]
pub(crate) struct Dialling {
    rest: Candidates,
    current: Option<(SocketAddr, Side)>,
    tried: Vec<SocketAddr>,
    first_error: Option<Errno>,
}

/// How far a dial has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// A new socket, of which epoll must be told; it says when to go on.
    Started,
    /// The current address has not answered yet.
    Waiting,
    /// The port is connected; epoll may know the socket already.
    Connected { pod: Side, is_known: bool },
    /// No address could be reached.
    Failed(Opened),
}

impl Dialling {
    /// Nothing is dialled before the first [`proceed`](Self::proceed).
    pub(crate) fn new(candidates: Candidates) -> Self {
        Self { rest: candidates, current: None, tried: Vec::new(), first_error: None }
    }

    /// The socket that is being connected.
    pub(crate) fn pod(&mut self) -> Option<&mut Side> {
        self.current.as_mut().map(|(_, side)| side)
    }

    /// Looks after the current address and goes on to the next where it failed.
    pub(crate) fn proceed(&mut self) -> Progress {
        if let Some((address, pod)) = self.current.take() {
            match outcome(&pod) {
                Ok(true) => return Progress::Connected { pod, is_known: true },
                Ok(false) => {
                    self.current = Some((address, pod));
                    return Progress::Waiting;
                }
                Err(error) => self.first_error = self.first_error.or(Some(error)),
            }
        }
        for address in self.rest.by_ref() {
            self.tried.push(address);
            match connect(address) {
                Ok((fd, true)) => return Progress::Connected { pod: Side::new(fd), is_known: false },
                Ok((fd, false)) => {
                    self.current = Some((address, Side::connecting(fd)));
                    return Progress::Started;
                }
                Err(error) => self.first_error = self.first_error.or(Some(error)),
            }
        }
        Progress::Failed(self.failed(self.first_error.unwrap_or(Errno::ADDRNOTAVAIL)))
    }

    /// The answer when the time is up.
    pub(crate) fn timed_out(&self) -> Opened {
        self.failed(Errno::TIMEDOUT)
    }

    /// The first error is told: it is that of the address which is meant in most cases.
    pub(crate) fn failed(&self, error: Errno) -> Opened {
        let tried = self.tried.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" nor ");
        let (kind, what) = explain(error);
        Opened::failed(kind, error.raw_os_error(), &format!("{what} {tried} in the guest ({error})"))
    }
}

fn explain(error: Errno) -> (Kind, &'static str) {
    match error {
        Errno::CONNREFUSED => (Kind::Refused, "nothing listens on"),
        Errno::TIMEDOUT => (Kind::TimedOut, "no answer within the limit from"),
        Errno::NETUNREACH
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::ADDRNOTAVAIL
        | Errno::AFNOSUPPORT => (Kind::Unreachable, "no way to"),
        Errno::ACCESS | Errno::PERM => (Kind::Denied, "the guest's firewall does not allow"),
        _ => (Kind::Internal, "the relay could not dial"),
    }
}

/// Begins to connect; whether that is done already, as it often is on loopback.
fn connect(address: SocketAddr) -> Result<(OwnedFd, bool), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // The host has gathered the bytes already; nothing is gained by waiting for more.
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

/// What came of a connect under way: whether it is done.
fn outcome(pod: &Side) -> Result<bool, Errno> {
    if !pod.is_writable() {
        return Ok(false);
    }
    sockopt::socket_error(pod.fd())??;
    Ok(true)
}
