//! What listens in a place, by the kernel's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

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

/// Descriptors that are looked at for the names of processes, all together: some milliseconds' worth, for which
/// the relay's one thread does nothing else.
const MOST_DESCRIPTORS: usize = 8_192;

/// The answer to a request for what listens behind a place in the list, or from its beginning: as much as fits.
pub(crate) fn answer(place: &Place, after: &str) -> Opened {
    let after = match parse_place(after) {
        Some(after) => after,
        None if after.is_empty() => FIRST,
        None => {
            let text = format!("`{after}` is no place in a list: write NETWORK:ADDRESS:PORT, or nothing");
            return Opened::failed(Kind::Invalid, 0, &text);
        }
    };
    match find(place, after) {
        Ok(listening) => fit(listening),
        Err(error) => {
            let text =
                format!("the relay cannot read the tables under /proc/net ({error}); is /proc mounted?");
            Opened::failed(Kind::Internal, error.raw_os_error(), &text)
        }
    }
}

/// What listens in another network namespace of this machine, or in our own: what the relay tells of its guest, for
/// a pod that has no relay. Waits for a thread of its own.
///
/// # Errors
/// The namespace must not be entered, or /proc is not mounted.
pub fn listening(namespace: Option<OwnedFd>) -> io::Result<Vec<Listening>> {
    Ok(find(&Place::in_network(namespace), FIRST)?.collect())
}

/// Network, port, address: the order of the list.
type At = (i32, u16, IpAddr);

/// Before all others.
const FIRST: At = (0, 0, IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// Each with the inode of its socket.
type Found = BTreeMap<At, u64>;

/// What listens behind this place in the list.
fn find(place: &Place, after: At) -> Result<impl Iterator<Item = Listening>, Errno> {
    let read = || read_tables().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let mut found = place.within(read)?;
    found.retain(|&at, _| at > after);
    let names = processes(found.values().copied().collect());
    Ok(found.into_iter().map(move |((network, port, address), inode)| {
        let process = names.get(&inode).cloned().unwrap_or_default();
        Listening { network, host: address.to_string(), port: port.into(), process }
    }))
}

/// A place as the host writes it: `tcp:127.0.0.1:80`, `udp:[::1]:53`.
fn parse_place(text: &str) -> Option<At> {
    let (network, address) = text.split_once(':')?;
    let network = match network {
        "tcp" => Network::Tcp,
        "udp" => Network::Udp,
        _ => return None,
    };
    let address: SocketAddr = address.parse().ok()?;
    Some((network.into(), address.port(), address.ip()))
}

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
            if let Some((address, port, inode)) = parse(&line, state) {
                found.insert((network.into(), port, address), inode);
            }
        }
    }
    Ok(found)
}

/// The names of the processes that have these sockets, as far as this process may see them: without CAP_SYS_PTRACE
/// those of its own user that may do no more than it.
fn processes(mut wanted: BTreeSet<u64>) -> BTreeMap<u64, String> {
    let (mut names, mut left) = (BTreeMap::new(), MOST_DESCRIPTORS);
    let Ok(entries) = std::fs::read_dir("/proc") else { return names };
    // A process may end at any time, and most are of no interest.
    for process in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else { continue };
        for descriptor in descriptors.filter_map(Result::ok) {
            if wanted.is_empty() || left == 0 {
                return names;
            }
            left -= 1;
            let Some(inode) = socket_of(&descriptor.path()).filter(|inode| wanted.remove(inode)) else {
                continue;
            };
            if let Ok(name) = std::fs::read_to_string(process.join("comm")) {
                names.insert(inode, name.trim_end().to_owned());
            }
        }
    }
    names
}

/// The inode of the socket that a descriptor is: `socket:[INODE]`.
fn socket_of(descriptor: &Path) -> Option<u64> {
    let target = std::fs::read_link(descriptor).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The local address and the inode of a line, if its socket is in this state: `SLOT: ADDRESS:PORT PEER:PORT STATE
/// QUEUES TIMER RETRANSMISSIONS USER TIMEOUT INODE …`. An inode that is not there is none of any socket's, 0.
fn parse(line: &str, wanted: &str) -> Option<(IpAddr, u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != wanted {
        return None;
    }
    let inode = fields.nth(5).and_then(|inode| inode.parse().ok()).unwrap_or(0);
    let (address, port) = local.split_once(':')?;
    Some((parse_address(address)?, u16::from_str_radix(port, 16).ok()?, inode))
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
    use super::*;

    const TCP: &str =
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1";
    const UDP6: &str = "  9: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000";

    #[test]
    fn lines_of_the_kernels_tables_are_understood() {
        // The order of bytes in a word is the machine's; this is a little-endian one's table.
        if cfg!(target_endian = "little") {
            assert_eq!(parse(TCP, "0A"), Some((Ipv4Addr::LOCALHOST.into(), 8080, 1234)));
            assert_eq!(parse(UDP6, "07"), Some((Ipv6Addr::LOCALHOST.into(), 53, 0)));
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
    fn a_place_is_what_the_host_writes_and_nothing_else() {
        assert_eq!(parse_place("tcp:127.0.0.1:80"), Some((1, 80, Ipv4Addr::LOCALHOST.into())));
        assert_eq!(parse_place("udp:[::1]:53"), Some((2, 53, Ipv6Addr::LOCALHOST.into())));
        for text in ["", "tcp", "tcp:80", "unix:/run/a", "tcp:localhost:80"] {
            assert_eq!(parse_place(text), None, "{text}");
        }
        let invalid = answer(&Place::default(), "80");
        assert_eq!(invalid.kind(), Kind::Invalid);
    }
}
