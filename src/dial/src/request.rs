//! A request for a connection into a pod.

use std::fmt;

use gangplank_podnet::{AddressError, Destination, Network, Rule};

/// A destination in a pod, or in one of its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The id of the container; empty for the pod itself.
    pub container: String,
    /// Where to connect.
    pub destination: Destination,
}

impl Request {
    /// Parses a request. Without a network, the address decides: `unix:///PATH` is a Unix socket, anything else is TCP.
    ///
    /// # Errors
    /// Says what is wrong with the address and how to write it.
    pub fn new(container: &str, network: Option<Network>, address: &str) -> Result<Self, AddressError> {
        Ok(Self { container: container.into(), destination: Destination::parse(network, address)? })
    }

    /// A TCP port on the pod's loopback addresses.
    pub fn port(port: u16) -> Self {
        Self { container: String::new(), destination: Destination::port(port) }
    }

    /// The same request, narrowed to the addresses that the rules allow: for localhost, that may be one of two.
    ///
    /// # Errors
    /// A sentence that names the rule that forbids it, and the rule's owner, such as "the daemon".
    pub fn allowed(&self, rules: &[Rule], owner: &str) -> Result<Self, String> {
        let mut left = self.destination.permitted(rules).map_err(|denial| denial.by(owner))?;
        let destination = match left.pop() {
            Some(only) if left.is_empty() => only.into(),
            _ => self.destination.clone(),
        };
        Ok(Self { destination, ..self.clone() })
    }
}

/// As users write it: `localhost:80`, `localhost:53/udp`, `unix:///run/app.sock`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.destination.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_narrow_localhost_to_the_address_they_allow() {
        let rules = ["deny tcp:127.0.0.0/8:80".parse().unwrap()];
        let allowed = |rules: &[Rule]| Request::port(80).allowed(rules, "the daemon").unwrap().to_string();
        assert_eq!(allowed(&[]), "localhost:80");
        assert_eq!(allowed(&rules), "[::1]:80");
        let denial =
            Request::new("", None, "10.0.0.1:80").unwrap().allowed(&rules, "the daemon").unwrap_err();
        assert!(denial.contains("the daemon's rule `loopback only`"), "{denial}");
    }
}
