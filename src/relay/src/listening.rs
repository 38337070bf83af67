//! What listens in a place, by the kernel's tables.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use channel::frame::MAX_OPENING;
use channel::open::{Kind, Listening, Network, Opened};
use prost::Message;
use rustix::io::Errno;

use crate::place::Place;

/// The tables: their name, their network, and the state of a socket that waits for anybody (include/net/tcp_states.h:
/// TCP_LISTEN; of UDP, TCP_CLOSE, since one that is connected waits for its peer alone).
const TABLES: [(&str, Network, &str); 4] = [
    ("tcp", Network::Tcp, "0A"),
    ("tcp6", Network::Tcp, "0A"),
    ("udp", Network::Udp, "07"),
    ("udp6", Network::Udp, "07"),
];

/// Bytes of an answer beside its list: its other fields, the relay's proof among them, and a header for each.
const OTHER_FIELDS: usize = 64;

/// The answer to a request for what listens: as much as fits, TCP first, lowest ports first.
pub(crate) fn answer(place: &Place) -> Opened {
    match place.within(|| read_tables().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))) {
        Ok(found) => list(found),
        Err(error) => {
            let text =
                format!("the relay cannot read the tables under /proc/net ({error}); is /proc mounted?");
            Opened::failed(Kind::Internal, error.raw_os_error(), &text)
        }
    }
}

/// Network, port, address: in the order of the answer.
type Found = BTreeSet<(i32, u16, IpAddr)>;

fn read_tables() -> io::Result<Found> {
    let mut found = Found::new();
    for (name, network, state) in TABLES {
        // Of this thread, which may be in another namespace than the process.
        let table = match File::open(format!("/proc/thread-self/net/{name}")) {
            Ok(table) => table,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with('6') => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(table).lines().skip(1) {
            let line = line?;
            if let Some((address, port)) = parse(&line, state) {
                found.insert((network.into(), port, address));
            }
        }
    }
    Ok(found)
}

/// The local address of a line, if its socket is in this state: `SLOT: ADDRESS:PORT PEER:PORT STATE …`.
fn parse(line: &str, wanted: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != wanted {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    Some((parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// Addresses are words of the machine's order, in hexadecimal digits.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (index, four) in bytes.chunks_mut(4).enumerate() {
        four.copy_from_slice(&word(index * 8)?);
    }
    Some(Ipv6Addr::from(bytes).into())
}

fn list(found: Found) -> Opened {
    let mut opened = Opened::connected();
    let mut room = MAX_OPENING - OTHER_FIELDS;
    for (network, port, address) in found {
        let entry = Listening { network, host: address.to_string(), port: port.into() };
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
    use super::*;

    const TCP: &str =
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
    const UDP6: &str = "  9: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000";

    #[test]
    fn lines_of_the_kernels_tables_are_understood() {
        // The order of bytes in a word is the machine's; this is a little-endian one's table.
        if cfg!(target_endian = "little") {
            assert_eq!(parse(TCP, "0A"), Some((Ipv4Addr::LOCALHOST.into(), 8080)));
            assert_eq!(parse(UDP6, "07"), Some((Ipv6Addr::LOCALHOST.into(), 53)));
        }
        assert_eq!(parse(TCP, "01"), None);
        for line in
            ["", "0:", "0: 0100007F 0:0 0A", "0: 01:1F90 0:0 0A", "0: 0100007F:XYZ 0:0 0A", "0: ä:1 0:0 0A"]
        {
            assert_eq!(parse(line, "0A"), None, "{line}");
        }
    }

    #[test]
    fn as_much_is_told_as_fits() {
        let all = |count| (1..=count).map(|port| (1, port, Ipv6Addr::from([0xff; 16]).into())).collect();
        let few = list(all(10));
        assert_eq!((few.listening.len(), few.is_cut), (10, false));
        let many = list(all(u16::MAX));
        assert!(many.is_cut && many.encoded_len() <= MAX_OPENING, "{}", many.encoded_len());
        assert!(many.encoded_len() > MAX_OPENING - 100);
        assert_eq!(many.listening[0].port, 1);
    }
}
