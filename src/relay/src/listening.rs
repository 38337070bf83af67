//! The answer to a request for what listens.

use gangplank_channel::frame::MAX_OPENING;
use gangplank_channel::open::{Listening, Network, Opened, Refusal, RefusalKind};
use gangplank_podnet::{ListPosition, ListeningPort, Namespaces, Network as PodNetwork, listening};
use prost::Message;

/// Bytes of an answer besides its list: the other fields with their headers, among them the relay's proof.
const OTHER_FIELDS: usize = 64;

/// What listens after this position in the list, or from its start: as much as fits.
///
/// # Errors
/// The position is malformed, or /proc cannot be read.
pub(crate) fn answer(namespaces: &Namespaces, after: &str) -> Result<Opened, Refusal> {
    let after = match after {
        "" => None,
        text => match text.parse::<ListPosition>() {
            Ok(after) => Some(after),
            Err(error) => return Err(Refusal::new(RefusalKind::Invalid, 0, &error.to_string())),
        },
    };
    match listening(namespaces, after) {
        Ok(ports) => Ok(fit(ports.map(message))),
        Err(error) => {
            let text =
                format!("the relay cannot read the tables under /proc/net ({error}); is /proc mounted?");
            Err(Refusal::new(RefusalKind::Internal, error.raw_os_error().unwrap_or(0), &text))
        }
    }
}

fn message(port: ListeningPort) -> Listening {
    let network = if port.network == PodNetwork::Udp { Network::Udp } else { Network::Tcp };
    Listening {
        network: network.into(),
        host: port.address.ip().to_string(),
        port: port.address.port().into(),
        process: port.process,
    }
}

fn fit(listening: impl Iterator<Item = Listening>) -> Opened {
    let mut opened = Opened::connected();
    let mut room = MAX_OPENING - OTHER_FIELDS;
    for entry in listening {
        match room.checked_sub(entry.encoded_len() + 2) {
            Some(left) => room = left,
            None => {
                opened.is_cut = true;
                break;
            }
        }
        opened.listening.push(entry);
    }
    opened
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn the_list_is_cut_where_it_no_longer_fits() {
        let host = Ipv6Addr::from([0xff; 16]).to_string();
        let entry =
            |port| Listening { network: 1, host: host.clone(), port, process: "fifteen letters".to_owned() };
        let few = fit((1..=10).map(entry));
        assert_eq!((few.listening.len(), few.is_cut), (10, false));
        let many = fit((1..=65_535).map(entry));
        // The host relies on this many when it asks for the rest.
        assert!(many.listening.len() >= 60, "{}", many.listening.len());
        assert!(many.is_cut && many.encoded_len() <= MAX_OPENING, "{}", many.encoded_len());
        assert!(many.encoded_len() > MAX_OPENING - 120);
        assert_eq!(many.listening[0].port, 1);
    }

    #[test]
    fn a_text_that_is_not_a_position_is_invalid() {
        let refusal = answer(&Namespaces::default(), "80").unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Invalid);
    }
}
