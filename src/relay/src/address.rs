//! What may be dialled: loopback addresses, by TCP, in the relay's own namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use channel::errno::EACCES;
use channel::open::{Kind, Network, Open, Opened};

/// The addresses to try, one after the other.
pub(crate) type Candidates = std::iter::Flatten<std::array::IntoIter<Option<SocketAddr>, 2>>;

/// The addresses that a request means.
///
/// # Errors
/// The answer to a request that is not served.
pub(crate) fn candidates(open: &Open) -> Result<Candidates, Opened> {
    if !open.container.is_empty() {
        let text = format!("container `{}`: this relay serves the pod's own namespace only", open.container);
        return Err(Opened::failed(Kind::Unsupported, 0, &text));
    }
    match Network::try_from(open.network) {
        Ok(Network::Tcp) => {}
        Ok(Network::Udp | Network::Unix) => {
            return Err(Opened::failed(Kind::Unsupported, 0, "this relay serves TCP only"));
        }
        Ok(Network::Unspecified) | Err(_) => {
            let text = format!("the request names no network that this relay knows ({})", open.network);
            return Err(Opened::failed(Kind::Invalid, 0, &text));
        }
    }
    let (host, port) = parse(&open.address)?;
    match host {
        Host::Loopback => {
            let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            Ok(both.map(|ip: IpAddr| Some(SocketAddr::new(ip, port))).into_iter().flatten())
        }
        Host::Ip(ip) if ip.is_loopback() => Ok([Some(SocketAddr::new(ip, port)), None].into_iter().flatten()),
        Host::Ip(ip) => {
            let text = format!("{ip} is no loopback address, and the rule `loopback only` allows no other");
            Err(Opened::failed(Kind::Denied, EACCES, &text))
        }
    }
}

enum Host {
    /// `localhost` or nothing.
    Loopback,
    Ip(IpAddr),
}

fn parse(address: &str) -> Result<(Host, u16), Opened> {
    let invalid = || {
        let text = format!("`{address}` is no address: write HOST:PORT, an IPv6 host in brackets");
        Opened::failed(Kind::Invalid, 0, &text)
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)?;
    if host.is_empty() || host.eq_ignore_ascii_case("localhost") {
        return Ok((Host::Loopback, port));
    }
    let ip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
        None => host.parse::<Ipv4Addr>().map(IpAddr::from).ok(),
    };
    match ip {
        Some(ip) => Ok((Host::Ip(ip), port)),
        // Names are not looked up: a relay in an initramfs has nobody to ask.
        None => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tcp(address: &str) -> Open {
        Open::tcp(address, Duration::from_secs(1))
    }

    fn tries(address: &str) -> Vec<String> {
        candidates(&tcp(address)).unwrap().map(|address| address.to_string()).collect()
    }

    fn refuses(open: Open, kind: Kind, part: &str) {
        let opened = candidates(&open).unwrap_err();
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
            refuses(tcp(address), Kind::Denied, "`loopback only`");
        }
    }

    #[test]
    fn what_is_no_address_is_invalid() {
        for address in
            ["", "80", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "[127.0.0.1]:80", "web:80"]
        {
            refuses(tcp(address), Kind::Invalid, "HOST:PORT");
        }
    }

    #[test]
    fn what_is_not_served_yet_is_unsupported() {
        refuses(Open { container: "c1".into(), ..tcp(":80") }, Kind::Unsupported, "`c1`");
        refuses(Open { network: Network::Udp.into(), ..tcp(":80") }, Kind::Unsupported, "TCP only");
        refuses(Open { network: Network::Unspecified.into(), ..tcp(":80") }, Kind::Invalid, "network");
        refuses(Open { network: 77, ..tcp(":80") }, Kind::Invalid, "77");
    }
}
