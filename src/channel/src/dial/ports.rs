//! What listens in a guest, gathered from several answers.

use std::net::{IpAddr, SocketAddr};

use gangplank_podnet::{ListeningPort, Network};

use crate::open;

/// What listens in a guest, as far as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// TCP before UDP, lowest ports first; at most [`MOST`](Self::MOST).
    pub listening: Vec<ListeningPort>,
    /// Whether there are more.
    pub is_cut: bool,
}

impl Ports {
    /// The most ports that are listed for one guest or container.
    pub const MOST: usize = 1_000;

    /// Adds the ports of one answer. Only a port that sorts behind the last one counts, so a guest that repeats itself
    /// comes to an end.
    pub fn add(&mut self, answer: impl IntoIterator<Item = ListeningPort>) {
        for port in answer {
            if self.listening.last().is_none_or(|last| last.position() < port.position()) {
                self.is_cut |= self.listening.len() == Self::MOST;
                if self.is_cut {
                    return;
                }
                self.listening.push(port);
            }
        }
    }

    /// The position of the last port so far, as a relay that is asked for more understands it; empty at first.
    pub(super) fn last(&self) -> String {
        self.listening.last().map(|port| port.position().to_string()).unwrap_or_default()
    }
}

/// `None` if what the relay names is not a port.
pub(super) fn from_message(message: &open::Listening) -> Option<ListeningPort> {
    let ip: IpAddr = message.host.parse().ok()?;
    let port = u16::try_from(message.port).ok()?;
    let network = match message.network() {
        open::Network::Tcp => Network::Tcp,
        open::Network::Udp => Network::Udp,
        _ => return None,
    };
    Some(ListeningPort::new(network, SocketAddr::new(ip, port), &message.process))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(network: open::Network, host: &str, port: u32) -> Option<ListeningPort> {
        let process = "sh".to_owned();
        from_message(&open::Listening { network: network.into(), host: host.to_owned(), port, process })
    }

    #[test]
    fn only_a_port_counts() {
        let position = |port: Option<ListeningPort>| port.unwrap().position().to_string();
        assert_eq!(position(from(open::Network::Tcp, "127.0.0.1", 80)), "tcp:127.0.0.1:80");
        assert_eq!(position(from(open::Network::Udp, "::", 53)), "udp:[::]:53");
        assert_eq!(from(open::Network::Tcp, "127.0.0.1", 65_536), None);
        assert_eq!(from(open::Network::Tcp, "web", 80), None);
        assert_eq!(from(open::Network::Unix, "127.0.0.1", 80), None);
    }

    fn ports(numbers: impl IntoIterator<Item = u16>) -> Vec<ListeningPort> {
        let port =
            |number| ListeningPort::new(Network::Tcp, SocketAddr::new("::1".parse().unwrap(), number), "");
        numbers.into_iter().map(port).collect()
    }

    #[test]
    fn a_list_is_bounded_and_says_so() {
        let mut list = Ports::default();
        assert_eq!(list.last(), "");
        list.add(ports(1..=600));
        assert_eq!((list.listening.len(), list.is_cut, list.last().as_str()), (600, false, "tcp:[::1]:600"));
        list.add(ports([1, 600]));
        assert_eq!(list.listening.len(), 600, "these were listed before");
        list.add(ports(601..=1_000));
        assert_eq!((list.listening.len(), list.is_cut), (1_000, false));
        list.add(ports(1_000..=1_001));
        assert_eq!((list.listening.len(), list.is_cut), (1_000, true));
    }
}
