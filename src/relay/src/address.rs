//! What a request asks to be dialled, and whether that is allowed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use channel::errno::EACCES;
use channel::open::{Kind, Network, Open, Opened};

use crate::policy::{self, Rule};

/// Something that can be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A byte stream.
    Tcp(SocketAddr),
    /// Datagrams.
    Udp(SocketAddr),
    /// An absolute path without `..`, so that no rule about paths can be led round.
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

/// The addresses that a request means, to be tried one after the other.
///
/// # Errors
/// The answer to a request that is not served, or not allowed.
pub(crate) fn addresses(open: &Open, rules: &[Rule]) -> Result<Vec<Address>, Opened> {
    let mut addresses = match Network::try_from(open.network) {
        Ok(Network::Tcp) => sockets(&open.address)?.into_iter().map(Address::Tcp).collect(),
        Ok(Network::Udp) => sockets(&open.address)?.into_iter().map(Address::Udp).collect(),
        Ok(Network::Unix) => vec![Address::Unix(path(&open.address)?)],
        Ok(Network::Unspecified | Network::Listening) | Err(_) => {
            let text = format!("the request names no network that this relay knows ({})", open.network);
            return Err(Opened::failed(Kind::Invalid, 0, &text));
        }
    };
    let mut denial = None;
    addresses.retain(|address| match policy::check(rules, address) {
        Ok(()) => true,
        Err(rule) => {
            denial.get_or_insert(format!("{address} is not allowed by the relay's rule `{rule}`"));
            false
        }
    });
    match denial {
        Some(text) if addresses.is_empty() => Err(Opened::failed(Kind::Denied, EACCES, &text)),
        _ => Ok(addresses),
    }
}

/// One address, or those of both families' loopbacks.
fn sockets(text: &str) -> Result<Vec<SocketAddr>, Opened> {
    let invalid = || invalid(&format!("`{text}` is no address: write HOST:PORT, an IPv6 host in brackets"));
    let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)?;
    if host.is_empty() || host.eq_ignore_ascii_case("localhost") {
        let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(both.map(|ip: IpAddr| SocketAddr::new(ip, port)).into());
    }
    let ip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
        None => host.parse::<Ipv4Addr>().map(IpAddr::from).ok(),
    };
    // Names are not looked up: a relay in an initramfs has nobody to ask.
    Ok(vec![SocketAddr::new(ip.ok_or_else(invalid)?, port)])
}

fn path(text: &str) -> Result<String, Opened> {
    let is_plain = text.starts_with('/') && !text.contains('\0') && !text.split('/').any(|part| part == "..");
    if is_plain {
        Ok(text.to_owned())
    } else {
        Err(invalid(&format!("`{text}` is no path of a socket: write an absolute one without `..`")))
    }
}

fn invalid(text: &str) -> Opened {
    Opened::failed(Kind::Invalid, 0, text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tcp(address: &str) -> Open {
        Open::tcp(address, Duration::from_secs(1))
    }

    fn unix(address: &str) -> Open {
        Open { network: Network::Unix.into(), ..tcp(address) }
    }

    fn tries(address: &str) -> Vec<String> {
        addresses(&tcp(address), &[]).unwrap().iter().map(Address::to_string).collect()
    }

    fn refuses(open: &Open, kind: Kind, part: &str) {
        let opened = addresses(open, &[]).unwrap_err();
        assert_eq!(opened.kind(), kind, "{open:?}");
        assert!(opened.text.contains(part), "{}", opened.text);
    }

    #[test]
    fn no_host_and_localhost_mean_both_loopbacks_ipv4_first() {
        assert_eq!(tries(":80"), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(tries("localhost:80"), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(tries("LocalHost:80"), ["127.0.0.1:80", "[::1]:80"]);
    }

    #[test]
    fn a_literal_loopback_address_means_itself() {
        assert_eq!(tries("127.0.0.1:80"), ["127.0.0.1:80"]);
        assert_eq!(tries("127.8.9.10:65535"), ["127.8.9.10:65535"]);
        assert_eq!(tries("[::1]:80"), ["[::1]:80"]);
    }

    #[test]
    fn all_else_is_denied_and_the_rule_named() {
        for address in
            ["10.0.0.1:80", "0.0.0.0:80", "169.254.169.254:80", "[fe80::1]:80", "[::ffff:127.0.0.1]:80"]
        {
            refuses(&tcp(address), Kind::Denied, "rule `loopback only`");
        }
        refuses(&unix("/run/app.sock"), Kind::Denied, "/run/app.sock is not allowed");
    }

    #[test]
    fn what_a_rule_denies_is_left_out_while_something_is_left() {
        let rule = Rule::deny("tcp:127.0.0.1:80".parse().unwrap());
        let left = addresses(&tcp(":80"), std::slice::from_ref(&rule)).unwrap();
        assert_eq!(left, [Address::Tcp("[::1]:80".parse().unwrap())]);
    }

    #[test]
    fn what_is_no_address_is_invalid() {
        for address in
            ["", "80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "[127.0.0.1]:80", "web:80"]
        {
            refuses(&tcp(address), Kind::Invalid, "HOST:PORT");
        }
        for path in ["", "run/app.sock", "/run/../etc/app.sock", "/run/app\0.sock"] {
            refuses(&unix(path), Kind::Invalid, "without `..`");
        }
        refuses(&Open { network: Network::Unspecified.into(), ..tcp(":80") }, Kind::Invalid, "network");
        refuses(&Open { network: 77, ..tcp(":80") }, Kind::Invalid, "77");
    }
}
