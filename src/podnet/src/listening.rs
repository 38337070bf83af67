//! Listening ports of a network namespace, from the kernel's tables in /proc/net.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use rustix::io::Errno;

use crate::address::Network;
use crate::namespaces::Namespaces;

/// The tables: name, network, and the state of a socket that accepts any peer (include/net/tcp_states.h). That is
/// TCP_LISTEN for TCP and TCP_CLOSE for UDP: a connected UDP socket, which hears only its peer, is TCP_ESTABLISHED.
const TABLES: [(&str, Network, &str); 4] = [
    ("tcp", Network::Tcp, "0A"),
    ("tcp6", Network::Tcp, "0A"),
    ("udp", Network::Udp, "07"),
    ("udp6", Network::Udp, "07"),
];

/// How many descriptors are inspected in total to find process names. That takes a few milliseconds, during which the
/// relay's only thread does nothing else.
const MOST_DESCRIPTORS: usize = 8_192;

/// The longest process name, in characters: Linux's own limit (TASK_COMM_LEN without its NUL).
const MAX_NAME: usize = 15;

/// A port on which a program listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ListeningPort {
    /// TCP or UDP.
    pub network: Network,
    /// Address and port; the address is unspecified if the program listens on all of them.
    pub address: SocketAddr,
    /// The name of the process, empty if unknown: at most 15 characters, no control characters.
    pub process: String,
}

impl ListeningPort {
    /// Keeps only the printable part of `process`: a program chooses its own name, and a terminal may show it.
    pub fn new(network: Network, address: SocketAddr, process: &str) -> Self {
        let process = process.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        Self { network, address, process }
    }

    /// Its position in a sorted list.
    pub fn position(&self) -> ListPosition {
        ListPosition { network: self.network, port: self.address.port(), ip: self.address.ip() }
    }

    /// Whether a TCP dial of `localhost` reaches it.
    pub fn is_local_tcp(&self) -> bool {
        let ip = self.address.ip().to_canonical();
        self.network == Network::Tcp && (ip.is_loopback() || ip.is_unspecified())
    }
}

/// A position in a list of listening ports, which is sorted by the order of these fields: TCP before UDP, then by
/// port, then by address. Displayed as `tcp:127.0.0.1:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListPosition {
    network: Network,
    port: u16,
    ip: IpAddr,
}

/// Text that is not a [`ListPosition`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position in a list of ports: write NETWORK:ADDRESS:PORT, such as tcp:127.0.0.1:80")]
pub struct ListPositionError(String);

impl FromStr for ListPosition {
    type Err = ListPositionError;

    fn from_str(text: &str) -> Result<Self, ListPositionError> {
        let wrong = || ListPositionError(text.to_owned());
        let (network, address) = text.split_once(':').ok_or_else(wrong)?;
        let network = network.parse().ok().filter(|network| *network != Network::Unix).ok_or_else(wrong)?;
        let address: SocketAddr = address.parse().map_err(|_| wrong())?;
        Ok(Self { network, port: address.port(), ip: address.ip() })
    }
}

impl fmt::Display for ListPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.network, SocketAddr::new(self.ip, self.port))
    }
}

/// The listening ports of the network namespace, sorted by [`ListPosition`], from the first one beyond `after`. Blocks
/// while it reads /proc.
///
/// # Errors
/// If the namespace cannot be entered, or /proc is not mounted.
pub fn listening(
    namespaces: &Namespaces,
    after: Option<ListPosition>,
) -> io::Result<impl Iterator<Item = ListeningPort> + use<>> {
    let read = || read_tables().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let mut found = namespaces.within(read)?;
    found.retain(|&at, _| after.is_none_or(|after| at > after));
    let names = process_names(found.values().copied().collect());
    Ok(found.into_iter().map(move |(at, inode)| {
        let process = names.get(&inode).map_or("", String::as_str);
        ListeningPort::new(at.network, SocketAddr::new(at.ip, at.port), process)
    }))
}

/// Maps each listening port to the inode of its socket.
type Inodes = BTreeMap<ListPosition, u64>;

fn read_tables() -> io::Result<Inodes> {
    let mut found = Inodes::new();
    for (name, network, state) in TABLES {
        // `/proc/net` is the main thread's; this thread may have entered another namespace.
        let table = match File::open(format!("/proc/thread-self/net/{name}")) {
            Ok(table) => table,
            // The kernel has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with('6') => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(table).lines().skip(1) {
            let line = line?;
            if let Some((ip, port, inode)) = parse(&line, state) {
                found.insert(ListPosition { network, port, ip }, inode);
            }
        }
    }
    Ok(found)
}

/// The names of the processes that own these sockets, as far as this process may see them: without CAP_SYS_PTRACE,
/// processes of its own user that have no more privileges than it has.
fn process_names(mut wanted: BTreeSet<u64>) -> BTreeMap<u64, String> {
    let (mut names, mut left) = (BTreeMap::new(), MOST_DESCRIPTORS);
    let Ok(entries) = std::fs::read_dir("/proc") else { return names };
    // A process may end, or be off limits, at any point of this loop: then its ports have no name.
    for process in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else { continue };
        for descriptor in descriptors.filter_map(Result::ok) {
            if wanted.is_empty() || left == 0 {
                return names;
            }
            left -= 1;
            let Some(inode) = socket_of(&descriptor.path()).filter(|inode| wanted.remove(inode)) else {
                continue;
            };
            if let Ok(name) = std::fs::read_to_string(process.join("comm")) {
                names.insert(inode, name.trim_end().to_owned());
            }
        }
    }
    names
}

/// The inode of a descriptor's socket, from its link `socket:[INODE]`.
fn socket_of(descriptor: &Path) -> Option<u64> {
    let target = std::fs::read_link(descriptor).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The local address and the inode in a line of a table, if the socket is in this state. The line is `SLOT: ADDRESS:PORT PEER:PORT STATE
/// QUEUES TIMER RETRANSMISSIONS USER TIMEOUT INODE …`. A missing inode becomes 0, which no socket has.
fn parse(line: &str, wanted: &str) -> Option<(IpAddr, u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != wanted {
        return None;
    }
    let inode = fields.nth(5).and_then(|inode| inode.parse().ok()).unwrap_or(0);
    let (address, port) = local.split_once(':')?;
    Some((parse_address(address)?, u16::from_str_radix(port, 16).ok()?, inode))
}

/// Addresses are 32-bit words in the machine's byte order, written in hexadecimal.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (index, four) in bytes.chunks_mut(4).enumerate() {
        four.copy_from_slice(&word(index * 8)?);
    }
    Some(Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str =
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1";
    const UDP6: &str = "  9: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000";

    #[test]
    fn lines_of_the_kernel_tables_parse() {
        // Words have the machine's byte order; these lines come from a little-endian one.
        if cfg!(target_endian = "little") {
            assert_eq!(parse(TCP, "0A"), Some((Ipv4Addr::LOCALHOST.into(), 8080, 1234)));
            assert_eq!(parse(UDP6, "07"), Some((Ipv6Addr::LOCALHOST.into(), 53, 0)));
        }
        assert_eq!(parse(TCP, "01"), None);
        for line in
            ["", "0:", "0: 0100007F 0:0 0A", "0: 01:1F90 0:0 0A", "0: 0100007F:XYZ 0:0 0A", "0: ä:1 0:0 0A"]
        {
            assert_eq!(parse(line, "0A"), None, "{line}");
        }
    }

    #[test]
    fn a_position_parses_from_what_it_displays() {
        for text in ["tcp:127.0.0.1:80", "udp:[::1]:53"] {
            assert_eq!(text.parse::<ListPosition>().unwrap().to_string(), text);
        }
        for text in ["", "tcp", "tcp:80", "unix:/run/a", "unix:127.0.0.1:80", "tcp:localhost:80"] {
            assert!(text.parse::<ListPosition>().is_err(), "{text}");
        }
    }

    #[test]
    fn positions_sort_by_network_then_port_then_address() {
        let sorted = ["tcp:127.0.0.1:80", "tcp:[::1]:80", "tcp:0.0.0.0:443", "udp:0.0.0.0:53"];
        let positions: Vec<ListPosition> = sorted.iter().map(|text| text.parse().unwrap()).collect();
        assert!(positions.is_sorted(), "{positions:?}");
    }

    #[test]
    fn a_process_name_is_printable_and_short() {
        let at = "127.0.0.1:80".parse().unwrap();
        assert_eq!(ListeningPort::new(Network::Tcp, at, "sh\u{1b}[2Jx").process, "sh[2Jx");
        assert_eq!(ListeningPort::new(Network::Tcp, at, &"ä".repeat(99)).process, "ä".repeat(15));
    }

    #[test]
    fn localhost_reaches_loopback_and_unspecified_addresses_by_tcp() {
        for address in ["127.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::1]:80"] {
            let at = address.parse().unwrap();
            assert!(ListeningPort::new(Network::Tcp, at, "").is_local_tcp(), "{address}");
            assert!(!ListeningPort::new(Network::Udp, at, "").is_local_tcp(), "{address}");
        }
        assert!(!ListeningPort::new(Network::Tcp, "10.0.0.1:80".parse().unwrap(), "").is_local_tcp());
    }

    #[test]
    fn our_own_port_is_found_with_our_process_name() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found =
            listening(&Namespaces::default(), None).unwrap().find(|port| port.address == address).unwrap();
        assert_eq!(found.network, Network::Tcp);
        assert!(!found.process.is_empty());
        let beyond = listening(&Namespaces::default(), Some(found.position())).unwrap();
        assert!(beyond.map(|port| port.position()).all(|at| at > found.position()));
    }
}
