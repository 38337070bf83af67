//! What listens in a test pod. `podserver` serves these on 127.0.0.1; tests reach them through a forward.

/// A program of the test pod. Given a base port, each listens on base + its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// HTTP: `/` is [`PAGE`], `/name` the host's name, `/boot-id` that of the
    /// kernel's boot, `/bytes/N` is N bytes of the pattern.
    Http = 0,
    /// Sends back what it reads, then ends its side.
    Echo = 1,
    /// Reads to the end, then answers with a summary of what arrived.
    Sink = 2,
    /// The same, [`LATE`] after the end.
    LateSink = 3,
    /// Accepts and never reads.
    Blackhole = 4,
    /// Accepts, reads one byte, resets.
    Reset = 5,
    /// Nothing listens: the port is bound, so that no other program can take it.
    Refused = 6,
}

/// Every service, in the order of their numbers.
pub const SERVICES: [Service; 7] = [
    Service::Http,
    Service::Echo,
    Service::Sink,
    Service::LateSink,
    Service::Blackhole,
    Service::Reset,
    Service::Refused,
];

/// How late [`Service::LateSink`] answers: longer than servers wait that cut a connection soon after the
/// first of its two ends.
pub const LATE: std::time::Duration = std::time::Duration::from_secs(3);

/// The page of [`Service::Http`].
pub const PAGE: &str = "This page was served from inside the pod.\n";

/// The vsock port on which a guest's relay listens.
pub const RELAY_PORT: u32 = 1024;

/// The vsock port of the host to which a guest announces that it is ready.
pub const READY_PORT: u32 = 9000;

/// In a guest, [`bulk`](crate::bulk)'s ports begin at this TCP port on loopback.
pub const BULK_PORT: u16 = 200;

/// The same without a relay: the vsock ports from this one on.
pub const RAW_PORT: u32 = 2000;

/// The same through a plain relay in the guest: two threads for a connection, with a buffer of 64 KiB each.
pub const PLAIN_PORT: u32 = 2050;

/// In a guest, a connection to this vsock port gets a line with the speed of its TCP alone, from one process to
/// another: MB/s from and to [`bulk`](crate::bulk)'s ports, and microseconds for a byte there and back.
pub const HOP_PORT: u32 = 2060;

/// In a guest, a connection to this vsock port kills the relay, which is then started again.
pub const KILL_PORT: u32 = 2100;

/// In a guest, datagrams to this port on loopback are sent back.
pub const UDP_PORT: u16 = 5300;

/// In a guest, an echo; its relay's rules allow that path.
pub const UNIX_SOCKET: &str = "/run/echo.sock";

/// Containers of a guest, each with its own network in which [`CONTAINER_PORT`] is [`Service::Http`].
pub const CONTAINERS: [&str; 2] = ["one", "two"];

/// The port in all containers.
pub const CONTAINER_PORT: u16 = 8080;
