//! What is to be reached inside a pod.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What carries the bytes inside the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// A byte stream to `HOST:PORT`.
    Tcp,
    /// Datagrams to `HOST:PORT`. Not dialled yet.
    Udp,
    /// The byte stream of a Unix socket at a path, where the pod's relay allows it.
    Unix,
}

impl Network {
    /// Its name, as it is written in calls.
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

/// Why a request makes no sense. Whoever wrote it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no such network.
    #[error("{0:?} is no network: write \"tcp\", \"udp\" or \"unix\"")]
    Network(String),
    /// The address is none.
    #[error(
        "{0:?} is no address: write HOST:PORT with a port from 1 to 65535 and localhost, nothing, an IPv4 address or \
         an IPv6 address in brackets before it"
    )]
    Address(String),
    /// The path of a Unix socket is not absolute.
    #[error("{0:?} is no absolute path of a Unix socket: begin it with a slash")]
    Path(String),
}

impl FromStr for Network {
    type Err = RequestError;

    fn from_str(name: &str) -> Result<Self, RequestError> {
        [Self::Tcp, Self::Udp, Self::Unix]
            .into_iter()
            .find(|network| network.name() == name)
            .ok_or_else(|| RequestError::Network(name.into()))
    }
}

/// A container, a network and an address: one place inside a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// In whose namespaces; empty for the pod's.
    pub(crate) container: String,
    /// By what.
    pub(crate) network: Network,
    /// Where, in the form that was asked for.
    pub(crate) address: String,
}

impl Request {
    /// Checked: an address of this network.
    pub(crate) fn new(container: &str, network: Network, address: &str) -> Result<Self, RequestError> {
        match network {
            Network::Tcp | Network::Udp => drop(address.parse::<Address>()?),
            Network::Unix if !address.starts_with('/') => return Err(RequestError::Path(address.into())),
            Network::Unix => {}
        }
        Ok(Self { container: container.into(), network, address: address.into() })
    }

    /// A TCP port on the pod's loopback addresses.
    pub(crate) fn port(port: u16) -> Self {
        Self { container: String::new(), network: Network::Tcp, address: format!("localhost:{port}") }
    }
}

/// `HOST:PORT`, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    /// `None`: the loopback addresses of both families, IPv4 first.
    pub(super) host: Option<IpAddr>,
    pub(super) port: u16,
}

impl FromStr for Address {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let wrong = || RequestError::Address(text.into());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port != 0 && digits).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => Some(v6.parse::<Ipv6Addr>().map_err(|_| wrong())?.into()),
            None if host.is_empty() || host.eq_ignore_ascii_case("localhost") => None,
            // Names are not looked up: whose resolver should it be?
            None => Some(host.parse::<Ipv4Addr>().map_err(|_| wrong())?.into()),
        };
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_loopback_and_of_numbers() {
        let address = |text: &str| text.parse::<Address>().map(|address| (address.host, address.port));
        assert_eq!(address("localhost:80"), Ok((None, 80)));
        assert_eq!(address(":80"), Ok((None, 80)));
        assert_eq!(address("127.0.0.1:1"), Ok((Some(Ipv4Addr::LOCALHOST.into()), 1)));
        assert_eq!(address("[::1]:65535"), Ok((Some(Ipv6Addr::LOCALHOST.into()), 65535)));
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for wrong in ["", "80", "a:80", "::1:80", ":0", ":65536", ":+80", ":-1", "[127.0.0.1]:80", "x:y"] {
            let error = Request::new("", Network::Tcp, wrong).unwrap_err().to_string();
            assert!(error.contains("HOST:PORT") && error.contains("65535"), "{wrong}: {error}");
        }
        assert!(Request::new("", Network::Unix, "run/x.sock").unwrap_err().to_string().contains("slash"));
        assert!("sctp".parse::<Network>().unwrap_err().to_string().contains("\"tcp\""));
    }
}
