//! What a request asks to be dialled, as far as the relay's rules allow it.

use gangplank_channel::errno::EACCES;
use gangplank_channel::open::{Kind, Network, Open, Opened};
use gangplank_podnet::{
    Address, Containers, Destination, NamespaceError, Namespaces, Network as PodNetwork, Rule,
};

/// The addresses to try, one after the other.
///
/// # Errors
/// The answer to a request that is malformed or not allowed.
pub(crate) fn addresses(open: &Open, rules: &[Rule]) -> Result<Vec<Address>, Opened> {
    let network = match Network::try_from(open.network) {
        Ok(Network::Tcp) => PodNetwork::Tcp,
        Ok(Network::Udp) => PodNetwork::Udp,
        Ok(Network::Unix) => PodNetwork::Unix,
        Ok(Network::Unspecified | Network::Listening) | Err(_) => {
            let text =
                format!("the request names a network that this relay does not know ({})", open.network);
            return Err(Opened::failed(Kind::Invalid, 0, &text));
        }
    };
    let destination = Destination::parse(Some(network), &open.address)
        .map_err(|error| Opened::failed(Kind::Invalid, 0, &error.to_string()))?;
    destination
        .permitted(rules)
        .map_err(|denial| Opened::failed(Kind::Denied, EACCES, &denial.by("the relay")))
}

/// The namespaces to dial in.
///
/// # Errors
/// The answer to a request whose container is not here.
pub(crate) fn namespaces(container: &str, by: &Containers) -> Result<Namespaces, Opened> {
    Namespaces::find(container, by).map_err(|error| {
        let (kind, errno) = match &error {
            NamespaceError::InvalidId(_) => (Kind::Invalid, 0),
            NamespaceError::NotFound { cause, .. } => (Kind::Unreachable, cause.raw_os_error().unwrap_or(0)),
            _ => (Kind::Unsupported, 0),
        };
        Opened::failed(kind, errno, &error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tcp(address: &str) -> Open {
        Open::tcp(address, Duration::from_secs(1))
    }

    fn refuses(open: &Open, kind: Kind, part: &str) {
        let opened = addresses(open, &[]).unwrap_err();
        assert_eq!(opened.kind(), kind, "{open:?}");
        assert!(opened.text.contains(part), "{}", opened.text);
    }

    #[test]
    fn a_malformed_request_is_invalid() {
        refuses(&tcp("web:80"), Kind::Invalid, "HOST:PORT");
        let unix = Open { network: Network::Unix.into(), ..tcp("/run/../etc/app.sock") };
        refuses(&unix, Kind::Invalid, "absolute path");
        refuses(&Open { network: Network::Unspecified.into(), ..tcp(":80") }, Kind::Invalid, "network");
        refuses(&Open { network: 77, ..tcp(":80") }, Kind::Invalid, "77");
    }

    #[test]
    fn everything_but_loopback_is_denied_by_default_and_the_rule_is_named() {
        refuses(&tcp("10.0.0.1:80"), Kind::Denied, "the relay's rule `loopback only`");
        assert_eq!(addresses(&tcp(":80"), &[]).unwrap().len(), 2);
    }

    #[test]
    fn a_container_that_is_not_here_has_its_kind_and_errno() {
        let by = Containers { path: Some("/nowhere/{id}/net".to_owned()), by_cgroup: false };
        let opened = namespaces("web", &by).unwrap_err();
        assert_eq!((opened.kind(), opened.errno), (Kind::Unreachable, 2));
        let of = |container| namespaces(container, &Containers::default()).unwrap_err().kind();
        assert_eq!((of("web"), of("..")), (Kind::Unsupported, Kind::Invalid));
    }
}
