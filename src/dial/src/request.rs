//! What to reach inside a pod.

use std::fmt;

use gangplank_podnet::{AddressError, Destination, Network, Rule};

/// A destination in a pod, and in which of its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// In whose namespaces; empty for the pod's own.
    pub container: String,
    /// What to connect to there.
    pub destination: Destination,
}

impl Request {
    /// From the texts of a call. If no network is named, the address shows it: `unix` for `unix:///PATH`, otherwise `tcp`.
    ///
    /// # Errors
    /// What is wrong with the address, and how to write it.
    pub fn new(container: &str, network: Option<Network>, address: &str) -> Result<Self, AddressError> {
        Ok(Self { container: container.into(), destination: Destination::parse(network, address)? })
    }

    /// A TCP port on the pod's loopback addresses.
    pub fn port(port: u16) -> Self {
        Self { container: String::new(), destination: Destination::port(port) }
    }

    /// The same, narrowed to what these rules allow: of localhost's two addresses, one may be left.
    ///
    /// # Errors
    /// A sentence that names the rule which forbids it, and its owner, such as "the daemon".
    pub fn allowed(&self, rules: &[Rule], owner: &str) -> Result<Self, String> {
        let mut left = self.destination.permitted(rules).map_err(|denial| denial.by(owner))?;
        let destination = match left.pop() {
            Some(only) if left.is_empty() => only.into(),
            _ => self.destination.clone(),
        };
        Ok(Self { destination, ..self.clone() })
    }
}

/// As people write it: `localhost:80`, `localhost:53/udp`, `unix:///run/app.sock`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.destination.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_narrow_localhost_to_the_address_that_they_leave() {
        let rules = ["deny tcp:127.0.0.0/8:80".parse().unwrap()];
        let allowed = |rules: &[Rule]| Request::port(80).allowed(rules, "the daemon").unwrap().to_string();
        assert_eq!(allowed(&[]), "localhost:80");
        assert_eq!(allowed(&rules), "[::1]:80");
        let denial =
            Request::new("", None, "10.0.0.1:80").unwrap().allowed(&rules, "the daemon").unwrap_err();
        assert!(denial.contains("the daemon's rule `loopback only`"), "{denial}");
    }
}
