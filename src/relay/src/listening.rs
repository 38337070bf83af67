//! The answer to a request for what listens.

use gangplank_channel::frame::MAX_OPENING;
use gangplank_channel::open::{Kind, Listening, Network, Opened};
use gangplank_podnet::{ListPosition, ListeningPort, Namespaces, Network as PodNetwork, listening};
use prost::Message;

/// Bytes of an answer beside its list: its other fields, the relay's proof among them, and a header for each.
const OTHER_FIELDS: usize = 64;

/// What listens behind this position in the list, or from its start: as much as fits.
pub(crate) fn answer(namespaces: &Namespaces, after: &str) -> Opened {
    let after = match after {
        "" => None,
        text => match text.parse::<ListPosition>() {
            Ok(after) => Some(after),
            Err(error) => return Opened::failed(Kind::Invalid, 0, &error.to_string()),
        },
    };
    match listening(namespaces, after) {
        Ok(ports) => fit(ports.map(message)),
        Err(error) => {
            let text =
                format!("the relay cannot read the tables under /proc/net ({error}); is /proc mounted?");
            Opened::failed(Kind::Internal, error.raw_os_error().unwrap_or(0), &text)
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
    fn as_much_is_told_as_fits() {
        let host = Ipv6Addr::from([0xff; 16]).to_string();
        let entry =
            |port| Listening { network: 1, host: host.clone(), port, process: "fifteen letters".to_owned() };
        let few = fit((1..=10).map(entry));
        assert_eq!((few.listening.len(), few.is_cut), (10, false));
        let many = fit((1..=65_535).map(entry));
        // What the host counts on when it asks for the rest.
        assert!(many.listening.len() >= 60, "{}", many.listening.len());
        assert!(many.is_cut && many.encoded_len() <= MAX_OPENING, "{}", many.encoded_len());
        assert!(many.encoded_len() > MAX_OPENING - 120);
        assert_eq!(many.listening[0].port, 1);
    }

    #[test]
    fn a_text_that_is_not_a_position_is_invalid() {
        let invalid = answer(&Namespaces::default(), "80");
        assert_eq!(invalid.kind(), Kind::Invalid);
    }
}
