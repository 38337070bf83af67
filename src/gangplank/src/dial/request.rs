//! What is to be reached inside a pod.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use relay::Rule;

/// What carries the bytes inside the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// A byte stream to `HOST:PORT`.
    Tcp,
    /// Datagrams to and from `HOST:PORT`. On the byte stream each is preceded by its length in two bytes, the more
    /// significant first.
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
    /// The path of a Unix socket is not absolute, or leads round the rules about paths.
    #[error("{0:?} is no path of a Unix socket: begin it with a slash (or unix:///) and write no `..`")]
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

/// How the address of a Unix socket may begin, so that it shows what it is.
const UNIX_SCHEME: &str = "unix://";

/// A container, a network and an address: one place inside a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// In whose namespaces; empty for the pod's.
    pub(crate) container: String,
    /// By what.
    pub(crate) network: Network,
    /// Where, in the form that was asked for; of a Unix socket, its path.
    pub(crate) address: String,
}

impl Request {
    /// Checked: an address of this network. Where none is named, it is the one that the address shows: `unix` for
    /// `unix:///PATH`, else `tcp`.
    pub(crate) fn new(
        container: &str,
        network: Option<Network>,
        address: &str,
    ) -> Result<Self, RequestError> {
        let shown = if address.starts_with(UNIX_SCHEME) { Network::Unix } else { Network::Tcp };
        let network = network.unwrap_or(shown);
        let request = Self { container: container.into(), network, address: address.into() };
        match network {
            Network::Tcp | Network::Udp => address.parse::<Address>().map(|_| request),
            Network::Unix => {
                let path = address.strip_prefix(UNIX_SCHEME).unwrap_or(address);
                let leads_out = path.split('/').any(|part| part == "..") || path.contains('\0');
                match path.starts_with('/') && !leads_out {
                    true => Ok(Self { address: path.into(), ..request }),
                    false => Err(RequestError::Path(address.into())),
                }
            }
        }
    }

    /// A TCP port on the pod's loopback addresses.
    pub(crate) fn port(port: u16) -> Self {
        Self { container: String::new(), network: Network::Tcp, address: format!("localhost:{port}") }
    }

    /// The port, if there is one.
    pub(super) fn port_number(&self) -> Option<u16> {
        (self.network != Network::Unix)
            .then(|| self.address.parse::<Address>().ok())
            .flatten()
            .map(|at| at.port)
    }

    /// The same as far as these rules allow it: of `localhost`'s two addresses, one may be left.
    ///
    /// # Errors
    /// A sentence that names the rule which forbids it.
    pub(super) fn allowed(&self, rules: &[Rule]) -> Result<Self, String> {
        let places = self.places();
        let mut denial = None;
        let mut left = places.iter().filter(|place| match relay::check(rules, place) {
            Ok(()) => true,
            Err(rule) => {
                denial.get_or_insert(format!("{place} is not allowed by the daemon's rule `{rule}`"));
                false
            }
        });
        let left = (left.next(), left.next());
        match (left, denial) {
            ((Some(relay::Address::Tcp(one) | relay::Address::Udp(one)), None), Some(_)) => {
                Ok(Self { address: one.to_string(), ..self.clone() })
            }
            ((None, _), Some(denial)) => Err(denial),
            _ => Ok(self.clone()),
        }
    }

    /// All that it means.
    fn places(&self) -> Vec<relay::Address> {
        let of = match self.network {
            Network::Unix => return vec![relay::Address::Unix(self.address.clone())],
            Network::Tcp => relay::Address::Tcp,
            Network::Udp => relay::Address::Udp,
        };
        let Ok(Address { host, port }) = self.address.parse() else { return Vec::new() };
        let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let hosts = host.map_or(both.to_vec(), |host| vec![host]);
        hosts.into_iter().map(|host| of(SocketAddr::new(host, port))).collect()
    }
}

/// As people write it: `localhost:80`, `localhost:53/udp`, `unix:///run/app.sock`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network {
            Network::Tcp => f.write_str(&self.address),
            Network::Udp => write!(f, "{}/udp", self.address),
            Network::Unix => write!(f, "{UNIX_SCHEME}{}", self.address),
        }
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
            let error = Request::new("", None, wrong).unwrap_err().to_string();
            assert!(error.contains("HOST:PORT") && error.contains("65535"), "{wrong}: {error}");
        }
        for wrong in ["run/x.sock", "unix://run/x.sock", "/run/../x.sock", "unix:///run/..", "/x\0"] {
            let error = Request::new("", Some(Network::Unix), wrong).unwrap_err().to_string();
            assert!(error.contains("slash"), "{wrong}: {error}");
        }
        assert!("sctp".parse::<Network>().unwrap_err().to_string().contains("\"tcp\""));
    }

    #[test]
    fn an_address_shows_its_network_where_none_is_named() {
        let shown = |address: &str| Request::new("", None, address).unwrap().to_string();
        assert_eq!(shown("unix:///run/x.sock"), "unix:///run/x.sock");
        assert_eq!(shown(":80"), ":80");
        let request = Request::new("c", Some(Network::Unix), "/run/x.sock").unwrap();
        assert_eq!(
            (request.address.as_str(), request.to_string().as_str()),
            ("/run/x.sock", "unix:///run/x.sock")
        );
        assert_eq!(Request::new("", Some(Network::Udp), ":53").unwrap().to_string(), ":53/udp");
        assert!(Request::new("", Some(Network::Tcp), "unix:///run/x.sock").is_err());
    }

    fn left(rules: &[&str], network: Network, address: &str) -> Result<String, String> {
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        Request::new("", Some(network), address).unwrap().allowed(&rules).map(|request| request.address)
    }

    #[test]
    fn rules_leave_what_they_allow() {
        assert_eq!(left(&[], Network::Tcp, "localhost:80").unwrap(), "localhost:80");
        let one = ["allow tcp:127.0.0.1:80", "deny *:*:*"];
        assert_eq!(left(&one, Network::Tcp, "localhost:80").unwrap(), "127.0.0.1:80");
        assert_eq!(left(&["deny tcp:127.0.0.0/8:80"], Network::Tcp, ":80").unwrap(), "[::1]:80");
        assert_eq!(left(&["allow unix:/run/*"], Network::Unix, "unix:///run/a").unwrap(), "/run/a");
    }

    #[test]
    fn a_denial_names_its_rule() {
        for (rules, network, address, rule) in [
            (&[][..], Network::Tcp, "10.0.0.1:80", "`loopback only`"),
            (&[], Network::Unix, "/run/docker.sock", "`loopback only`"),
            (&["deny udp:*:53"], Network::Udp, ":53", "`deny udp:*:53`"),
            (&["deny tcp:*:81", "deny tcp:*:1-99"], Network::Tcp, ":80", "`deny tcp:*:1-99`"),
        ] {
            let denial = left(rules, network, address).unwrap_err();
            assert!(denial.contains("the daemon's rule") && denial.contains(rule), "{denial}");
        }
    }
}
