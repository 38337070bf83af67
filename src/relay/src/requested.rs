//! What a request asks to be dialled, as far as the relay's rules allow it.

use gangplank_channel::errno::EACCES;
use gangplank_channel::open::{Network, Open, Refusal, RefusalKind};
use gangplank_podnet::{
    Address, Containers, Destination, NamespaceError, Namespaces, Network as PodNetwork, Rule,
};

/// The addresses to try, one after the other.
///
/// # Errors
/// The request is malformed or not allowed.
pub(crate) fn addresses(open: &Open, rules: &[Rule]) -> Result<Vec<Address>, Refusal> {
    let network = match Network::try_from(open.network) {
        Ok(Network::Tcp) => PodNetwork::Tcp,
        Ok(Network::Udp) => PodNetwork::Udp,
        Ok(Network::Unix) => PodNetwork::Unix,
        Ok(Network::Unspecified | Network::Listening) | Err(_) => {
            let text =
                format!("the request names a network that this relay does not know ({})", open.network);
            return Err(Refusal::new(RefusalKind::Invalid, 0, &text));
        }
    };
    let destination = Destination::parse(Some(network), &open.address)
        .map_err(|error| Refusal::new(RefusalKind::Invalid, 0, &error.to_string()))?;
    destination
        .permitted(rules)
        .map_err(|denial| Refusal::new(RefusalKind::Denied, EACCES, &denial.by("the relay")))
}

/// The namespaces to dial in.
///
/// # Errors
/// The container is not here.
pub(crate) fn namespaces(container: &str, by: &Containers) -> Result<Namespaces, Refusal> {
    Namespaces::find(container, by).map_err(|error| {
        let (kind, errno) = match &error {
            NamespaceError::InvalidId(_) => (RefusalKind::Invalid, 0),
            NamespaceError::NotFound { cause, .. } => {
                (RefusalKind::Unreachable, cause.raw_os_error().unwrap_or(0))
            }
            _ => (RefusalKind::Unsupported, 0),
        };
        Refusal::new(kind, errno, &error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tcp(address: &str) -> Open {
        Open::tcp(address, Duration::from_secs(1))
    }

    fn refuses(open: &Open, kind: RefusalKind, part: &str) {
        let refusal = addresses(open, &[]).unwrap_err();
        assert_eq!(refusal.kind, kind, "{open:?}");
        assert!(refusal.text.contains(part), "{}", refusal.text);
    }

    #[test]
    fn a_malformed_request_is_invalid() {
        refuses(&tcp("web:80"), RefusalKind::Invalid, "HOST:PORT");
        let unix = Open { network: Network::Unix.into(), ..tcp("/run/../etc/app.sock") };
        refuses(&unix, RefusalKind::Invalid, "absolute path");
        refuses(
            &Open { network: Network::Unspecified.into(), ..tcp(":80") },
            RefusalKind::Invalid,
            "network",
        );
        refuses(&Open { network: 77, ..tcp(":80") }, RefusalKind::Invalid, "77");
    }

    #[test]
    fn everything_but_loopback_is_denied_by_default_and_the_rule_is_named() {
        refuses(&tcp("10.0.0.1:80"), RefusalKind::Denied, "the relay's rule `loopback only`");
        assert_eq!(addresses(&tcp(":80"), &[]).unwrap().len(), 2);
    }

    #[test]
    fn a_container_that_is_not_here_has_its_kind_and_errno() {
        let by = Containers { path: Some("/nowhere/{id}/net".to_owned()), by_cgroup: false };
        let refusal = namespaces("web", &by).unwrap_err();
        assert_eq!((refusal.kind, refusal.errno), (RefusalKind::Unreachable, 2));
        let of = |container| namespaces(container, &Containers::default()).unwrap_err().kind;
        assert_eq!((of("web"), of("..")), (RefusalKind::Unsupported, RefusalKind::Invalid));
    }
}
