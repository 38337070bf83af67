//! `[[ADDRESS:]LOCAL:]REMOTE[/udp]`: which local port leads to which port of the pod.

use gangplank_dial::Network;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// One forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortPair {
    /// The local address; `None` for 127.0.0.1 and ::1.
    pub(crate) address: Option<IpAddr>,
    /// The local port; 0 for any free one.
    pub(crate) local: u16,
    /// The pod's port.
    pub(crate) remote: u16,
    /// Streams or datagrams.
    pub(crate) network: Network,
}

/// Why text is not a [`PortPair`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortPairError {
    /// It has another form.
    #[error(
        "{0:?} is not [[ADDRESS:]LOCAL:]REMOTE[/udp]: write 8080:80, 80 for the same port on both sides, :80 for any free \
         local port, or 127.0.0.2:8080:80 ([::1]:8080:80) to listen on that address; 5353:53/udp forwards datagrams"
    )]
    Form(String),
}

impl FromStr for PortPair {
    type Err = PortPairError;

    fn from_str(text: &str) -> Result<Self, PortPairError> {
        let wrong = || PortPairError::Form(text.into());
        let (text, network) = match text.strip_suffix("/udp") {
            Some(text) => (text, Network::Udp),
            None => (text.strip_suffix("/tcp").unwrap_or(text), Network::Tcp),
        };
        let Some((before, remote)) = text.rsplit_once(':') else {
            let port = number(text).filter(|port| *port != 0).ok_or_else(wrong)?;
            return Ok(Self { address: None, local: port, remote: port, network });
        };
        let remote = number(remote).filter(|port| *port != 0).ok_or_else(wrong)?;
        let (address, local) = match before.rsplit_once(':') {
            Some((host, local)) => (host_address(host).ok_or_else(wrong)?, local),
            None => (None, before),
        };
        let local = if local.is_empty() { 0 } else { number(local).ok_or_else(wrong)? };
        Ok(Self { address, local, remote, network })
    }
}

/// Only digits: `u16::from_str` would also accept a leading `+`.
fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `Some(None)` for localhost.
fn host_address(host: &str) -> Option<Option<IpAddr>> {
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().ok().map(|ip| Some(ip.into()));
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Some(None);
    }
    host.parse::<Ipv4Addr>().ok().map(|ip| Some(ip.into()))
}

impl fmt::Display for PortPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(ip) => write!(f, "{ip}:")?,
            None => {}
        }
        write!(f, "{}:{}{}", self.local, self.remote, super::suffix(self.network))
    }
}

/// The ports of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodPorts {
    /// The pod, as the user named it.
    pub(crate) pod: String,
    /// Its ports.
    pub(crate) pairs: Vec<PortPair>,
}

/// Parses `POD PORT… [POD PORT…]…`. After a port, a word that is not a port is the next pod.
///
/// # Errors
/// Says what was expected.
pub(crate) fn targets(words: &[String]) -> Result<Vec<PodPorts>, String> {
    let mut targets: Vec<PodPorts> = Vec::new();
    for word in words {
        match (word.parse::<PortPair>(), targets.last_mut()) {
            (Ok(pair), Some(target)) => target.pairs.push(pair),
            (Err(error), Some(target)) if target.pairs.is_empty() => return Err(error.to_string()),
            (_, _) if word.contains(':') => return Err(PortPairError::Form(word.clone()).to_string()),
            (_, _) => targets.push(PodPorts { pod: word.clone(), pairs: Vec::new() }),
        }
    }
    match targets.last() {
        Some(target) if target.pairs.is_empty() => {
            Err(format!("which port of {:?}? write it after the pod, as in 8080:80 or :80", target.pod))
        }
        _ => Ok(targets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_pairs_have_four_forms() {
        let pair = |text: &str| text.parse::<PortPair>().map(|pair| (pair.address, pair.local, pair.remote));
        assert_eq!(pair("8080:80"), Ok((None, 8080, 80)));
        assert_eq!(pair("80"), Ok((None, 80, 80)));
        assert_eq!(pair(":80"), Ok((None, 0, 80)));
        assert_eq!(pair("0:80/tcp"), Ok((None, 0, 80)));
        assert_eq!(pair("localhost:1:80"), Ok((None, 1, 80)));
        assert_eq!(pair("127.0.0.2::80"), Ok((Some(Ipv4Addr::new(127, 0, 0, 2).into()), 0, 80)));
        assert_eq!(pair("[::1]:8080:80"), Ok((Some(Ipv6Addr::LOCALHOST.into()), 8080, 80)));
    }

    #[test]
    fn other_forms_are_rejected_with_the_expected_ones() {
        for wrong in
            ["", ":", "80:", "0", "a:80", "80:0", "80:65536", "1:2:3", "+80", "-1:80", "http", "::1:1:2"]
        {
            let error = wrong.parse::<PortPair>().unwrap_err().to_string();
            assert!(error.contains("8080:80"), "{wrong}: {error}");
        }
    }

    #[test]
    fn udp_is_a_suffix() {
        for (text, network) in
            [("5353:53/udp", Network::Udp), ("5353:53/tcp", Network::Tcp), ("5353:53", Network::Tcp)]
        {
            let pair: PortPair = text.parse().unwrap();
            assert_eq!((pair.local, pair.remote, pair.network), (5353, 53, network));
        }
        assert_eq!("[::1]:5353:53/udp".parse::<PortPair>().unwrap().to_string(), "[::1]:5353:53/udp");
        assert!("5353:53/sctp".parse::<PortPair>().is_err());
    }

    #[test]
    fn words_are_pods_with_their_ports() {
        let targets = |words: &str| super::targets(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let found = targets("web 8080:80 :443 default/db 5432").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].pod.as_str(), found[0].pairs.len()), ("web", 2));
        assert_eq!((found[1].pod.as_str(), found[1].pairs[0].remote), ("default/db", 5432));
        assert_eq!(targets("80 80").unwrap()[0].pod, "80", "the first word is always a pod");
        for (wrong, part) in [
            ("web", "which port of \"web\"?"),
            ("web 80 db", "which port of \"db\"?"),
            ("web http", "8080:80"),
            ("web 80 8080:http", "8080:80"),
            ("web 53/sctp", "5353:53/udp"),
        ] {
            let error = targets(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }
}
