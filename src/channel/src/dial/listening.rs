//! What listens in a guest.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::open::{self, Network};

/// The longest name of a process that is taken from a guest, in characters: Linux' own limit (TASK_COMM_LEN).
const MAX_NAME: usize = 15;

/// What listens in a guest, as far as it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// TCP before UDP, lowest ports first; at most [`MOST`](Self::MOST).
    pub listening: Vec<Listening>,
    /// Whether there are more.
    pub is_cut: bool,
}

impl Ports {
    /// The most that are told of one guest or container.
    pub const MOST: usize = 1_000;

    /// Adds what an answer names. Only what is behind the last so far counts, in the order of the list: so a guest that
    /// repeats itself comes to an end.
    pub fn add(&mut self, answer: &[open::Listening]) {
        for listening in answer.iter().filter_map(Listening::from_message) {
            if self.listening.last().is_none_or(|last| last.place() < listening.place()) {
                self.is_cut |= self.listening.len() == Self::MOST;
                if self.is_cut {
                    return;
                }
                self.listening.push(listening);
            }
        }
    }

    /// The last so far, as a relay that is asked for more understands it; at first empty.
    pub(super) fn last(&self) -> String {
        self.listening.last().map(Listening::to_string).unwrap_or_default()
    }
}

/// A port on which a program of the guest listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listening {
    /// TCP or UDP.
    pub network: Network,
    /// The port and its address, unspecified where the program listens on all.
    pub address: SocketAddr,
    /// The name of its process, where the guest tells, else empty: at most 15 characters, no control characters.
    pub process: String,
}

impl Listening {
    /// Nothing, where the relay names what is no port.
    fn from_message(message: &open::Listening) -> Option<Self> {
        let ip: IpAddr = message.host.parse().ok()?;
        let port = u16::try_from(message.port).ok()?;
        // A program in the guest chooses its name, and somebody's terminal may show it.
        let process = message.process.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        Some(Self { network: message.network(), address: SocketAddr::new(ip, port), process })
    }

    /// Its place in the list.
    fn place(&self) -> (i32, u16, IpAddr) {
        (self.network.into(), self.address.port(), self.address.ip())
    }

    /// Whether a dial of `localhost` by TCP reaches it.
    pub fn is_local_tcp(&self) -> bool {
        let ip = self.address.ip().to_canonical();
        self.network == Network::Tcp && (ip.is_loopback() || ip.is_unspecified())
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = if self.network == Network::Udp { "udp" } else { "tcp" };
        write!(f, "{network}:{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(network: Network, host: &str, port: u32) -> Option<Listening> {
        let process = "sh\u{1b}[2Jx".to_owned();
        let message = open::Listening { network: network.into(), host: host.to_owned(), port, process };
        Listening::from_message(&message)
    }

    #[test]
    fn only_what_is_a_port_counts() {
        assert_eq!(from(Network::Tcp, "127.0.0.1", 80).unwrap().to_string(), "tcp:127.0.0.1:80");
        assert_eq!(from(Network::Udp, "::", 53).unwrap().to_string(), "udp:[::]:53");
        assert_eq!(
            from(Network::Tcp, "::", 80).unwrap().process,
            "sh[2Jx",
            "no control character gets through"
        );
        assert_eq!(from(Network::Tcp, "127.0.0.1", 65_536), None);
        assert_eq!(from(Network::Tcp, "web", 80), None);
    }

    fn messages(ports: impl IntoIterator<Item = u32>) -> Vec<open::Listening> {
        let message =
            |port| open::Listening { network: 1, host: "::1".to_owned(), port, process: String::new() };
        ports.into_iter().map(message).collect()
    }

    #[test]
    fn what_is_told_is_bounded_and_says_so() {
        let mut ports = Ports::default();
        assert_eq!(ports.last(), "");
        ports.add(&messages(1..=600));
        assert_eq!(
            (ports.listening.len(), ports.is_cut, ports.last().as_str()),
            (600, false, "tcp:[::1]:600")
        );
        // Said before, and no port.
        ports.add(&messages([1, 600, 65_536]));
        assert_eq!(ports.listening.len(), 600);
        ports.add(&messages(601..=1_000));
        assert_eq!((ports.listening.len(), ports.is_cut), (1_000, false));
        ports.add(&messages(1_000..=1_001));
        assert_eq!((ports.listening.len(), ports.is_cut), (1_000, true));
    }

    #[test]
    fn localhost_reaches_loopback_and_unspecified_by_tcp() {
        for host in ["127.0.0.1", "0.0.0.0", "::", "::1"] {
            assert!(from(Network::Tcp, host, 80).unwrap().is_local_tcp(), "{host}");
            assert!(!from(Network::Udp, host, 80).unwrap().is_local_tcp(), "{host}");
        }
        assert!(!from(Network::Tcp, "10.0.0.1", 80).unwrap().is_local_tcp());
    }
}
