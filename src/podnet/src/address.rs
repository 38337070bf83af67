//! Where a connection into a pod goes: the address in a request, parsed by the same code on host and guest.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// What carries the bytes inside a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Network {
    /// A byte stream.
    Tcp,
    /// Datagrams.
    Udp,
    /// The byte stream of a Unix socket.
    Unix,
}

impl Network {
    /// The name that requests use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Network {
    type Err = AddressError;

    fn from_str(name: &str) -> Result<Self, AddressError> {
        [Self::Tcp, Self::Udp, Self::Unix]
            .into_iter()
            .find(|network| network.name() == name)
            .ok_or_else(|| AddressError::Network(name.into()))
    }
}

/// An address that does not parse. The author of the request is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// No such network exists.
    #[error("{0:?} is not a network: write \"tcp\", \"udp\" or \"unix\"")]
    Network(String),
    /// The address is not `HOST:PORT`.
    #[error(
        "{0:?} is not an address: write HOST:PORT, where PORT is 1 to 65535 and HOST is localhost, empty, an IPv4 \
         address, or an IPv6 address in brackets"
    )]
    HostPort(String),
    /// The path is relative or not in its plain form.
    #[error("{0:?} is not a socket path: write an absolute path without `.`, `..` or empty parts")]
    Path(String),
}

/// One concrete address to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A byte stream.
    Tcp(SocketAddr),
    /// Datagrams.
    Udp(SocketAddr),
    /// The absolute path of a Unix socket, in the only spelling that rules compare.
    Unix(String),
}

impl Address {
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(address.ip()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Udp(address) => write!(f, "{address} (udp)"),
            Self::Unix(path) => f.write_str(path),
        }
    }
}

/// The `HOST:PORT` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `None` stands for the loopback addresses of both families, IPv4 first.
    pub host: Option<IpAddr>,
    /// From 1 to 65,535.
    pub port: u16,
}

impl HostPort {
    /// A port on the loopback addresses.
    pub fn loopback(port: u16) -> Self {
        Self { host: None, port }
    }

    /// The addresses it stands for, in the order to try them.
    pub fn addresses(self) -> impl Iterator<Item = SocketAddr> {
        let (first, second) = match self.host {
            Some(host) => (host, None),
            None => (Ipv4Addr::LOCALHOST.into(), Some(Ipv6Addr::LOCALHOST.into())),
        };
        std::iter::once(first).chain(second).map(move |ip| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: Some(address.ip()), port: address.port() }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError::HostPort(text.into());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        // `u16::from_str` also accepts a leading `+`.
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port != 0 && is_number).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => Some(v6.parse::<Ipv6Addr>().map_err(|_| wrong())?.into()),
            None if host.is_empty() || host.eq_ignore_ascii_case("localhost") => None,
            // Names are not resolved: a relay in an initramfs has no resolver, and the host's is not the pod's.
            None => Some(host.parse::<Ipv4Addr>().map_err(|_| wrong())?.into()),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => SocketAddr::new(host, self.port).fmt(f),
            None => write!(f, "localhost:{}", self.port),
        }
    }
}

/// An optional prefix that marks an address as a Unix socket.
const UNIX_SCHEME: &str = "unix://";

/// Where a request asks to connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination {
    /// A byte stream.
    Tcp(HostPort),
    /// Datagrams.
    Udp(HostPort),
    /// A Unix socket, by the plain form of its absolute path.
    Unix(String),
}

impl Destination {
    /// Parses an address of this network: `HOST:PORT`, or an absolute path, optionally after `unix://`. Without a
    /// network, the address decides: `unix:///PATH` is a Unix socket, anything else is TCP.
    ///
    /// # Errors
    /// Says what is wrong with the address and how to write it.
    pub fn parse(network: Option<Network>, address: &str) -> Result<Self, AddressError> {
        let implied = if address.starts_with(UNIX_SCHEME) { Network::Unix } else { Network::Tcp };
        match network.unwrap_or(implied) {
            Network::Tcp => Ok(Self::Tcp(address.parse()?)),
            Network::Udp => Ok(Self::Udp(address.parse()?)),
            Network::Unix => {
                let path = address.strip_prefix(UNIX_SCHEME).unwrap_or(address);
                if is_plain(path) {
                    Ok(Self::Unix(path.into()))
                } else {
                    Err(AddressError::Path(address.into()))
                }
            }
        }
    }

    /// A TCP port on the pod's loopback addresses.
    pub fn port(port: u16) -> Self {
        Self::Tcp(HostPort::loopback(port))
    }

    /// What carries the bytes.
    pub fn network(&self) -> Network {
        match self {
            Self::Tcp(_) => Network::Tcp,
            Self::Udp(_) => Network::Udp,
            Self::Unix(_) => Network::Unix,
        }
    }

    /// Host and port, unless it is a Unix socket.
    pub fn host_port(&self) -> Option<HostPort> {
        match self {
            Self::Tcp(at) | Self::Udp(at) => Some(*at),
            Self::Unix(_) => None,
        }
    }

    /// The address without its network, as [`parse`](Self::parse) accepts it.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(at) | Self::Udp(at) => at.to_string(),
            Self::Unix(path) => path.clone(),
        }
    }

    /// The addresses it stands for, in the order to try them.
    pub fn addresses(&self) -> Vec<Address> {
        match self {
            Self::Tcp(at) => at.addresses().map(Address::Tcp).collect(),
            Self::Udp(at) => at.addresses().map(Address::Udp).collect(),
            Self::Unix(path) => vec![Address::Unix(path.clone())],
        }
    }
}

impl From<Address> for Destination {
    fn from(address: Address) -> Self {
        match address {
            Address::Tcp(address) => Self::Tcp(address.into()),
            Address::Udp(address) => Self::Udp(address.into()),
            Address::Unix(path) => Self::Unix(path),
        }
    }
}

/// As users write it: `localhost:80`, `localhost:53/udp`, `unix:///run/app.sock`.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => at.fmt(f),
            Self::Udp(at) => write!(f, "{at}/udp"),
            Self::Unix(path) => write!(f, "{UNIX_SCHEME}{path}"),
        }
    }
}

/// Whether a path is absolute and in its only accepted spelling. Rules compare text, so `/run/app//x` and
/// `/run/./app/x` are rejected: they would name the same socket as `/run/app/x` and bypass its rule.
pub(crate) fn is_plain(path: &str) -> bool {
    let Some(below_root) = path.strip_prefix('/') else { return false };
    !path.contains('\0') && below_root.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(network: Network, address: &str) -> Vec<String> {
        let destination = Destination::parse(Some(network), address).unwrap();
        destination.addresses().iter().map(Address::to_string).collect()
    }

    #[test]
    fn an_empty_host_and_localhost_stand_for_both_loopbacks_ipv4_first() {
        for address in [":80", "localhost:80", "LocalHost:80"] {
            assert_eq!(addresses(Network::Tcp, address), ["127.0.0.1:80", "[::1]:80"]);
        }
    }

    #[test]
    fn a_literal_address_stands_for_itself() {
        for address in ["127.0.0.1:1", "127.8.9.10:65535", "[::1]:80", "10.0.0.1:80"] {
            assert_eq!(addresses(Network::Tcp, address), [address]);
        }
        assert_eq!(addresses(Network::Udp, "[fe80::1]:53"), ["[fe80::1]:53 (udp)"]);
        assert_eq!(addresses(Network::Unix, "/run/app.sock"), ["/run/app.sock"]);
    }

    #[test]
    fn other_addresses_are_rejected_with_the_expected_form() {
        for wrong in
            ["", "80", "127.0.0.1", "::1:80", ":0", ":65536", ":+80", ":-1", "[127.0.0.1]:80", "web:80"]
        {
            for network in [Network::Tcp, Network::Udp] {
                let error = Destination::parse(Some(network), wrong).unwrap_err().to_string();
                assert!(error.contains("HOST:PORT") && error.contains("65535"), "{wrong}: {error}");
            }
        }
        assert!("sctp".parse::<Network>().unwrap_err().to_string().contains("\"tcp\""));
    }

    #[test]
    fn a_socket_path_has_one_spelling() {
        for wrong in [
            "",
            "run/x.sock",
            "unix://run/x.sock",
            "/",
            "/run/../x.sock",
            "unix:///run/..",
            "/run//x.sock",
            "/run/./x.sock",
            "/run/x.sock/",
            "/x\0",
        ] {
            let error = Destination::parse(Some(Network::Unix), wrong).unwrap_err().to_string();
            assert!(error.contains("absolute path"), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn without_a_network_the_address_decides() {
        let parsed = |address: &str| Destination::parse(None, address).unwrap().to_string();
        assert_eq!(parsed("unix:///run/x.sock"), "unix:///run/x.sock");
        assert_eq!(parsed(":80"), "localhost:80");
        let socket = Destination::parse(Some(Network::Unix), "/run/x.sock").unwrap();
        assert_eq!(
            (socket.address().as_str(), socket.to_string().as_str()),
            ("/run/x.sock", "unix:///run/x.sock")
        );
        assert_eq!(Destination::parse(Some(Network::Udp), ":53").unwrap().to_string(), "localhost:53/udp");
        assert!(Destination::parse(Some(Network::Tcp), "unix:///run/x.sock").is_err());
    }

    #[test]
    fn displayed_destinations_parse_back() {
        for text in ["localhost:80", "127.0.0.1:80", "[::1]:80", "unix:///run/x.sock"] {
            let destination = Destination::parse(None, text).unwrap();
            assert_eq!(destination.to_string(), text);
            assert_eq!(
                Destination::parse(Some(destination.network()), &destination.address()).unwrap(),
                destination
            );
        }
    }
}
