//! What listens in a place, by the kernel's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// The answer to a request for what listens: as much as fits, TCP first, lowest ports first.
pub(crate) fn answer(place: &Place) -> Opened {
    match place.within(|| read_tables().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))) {
        Ok(found) => {
            let names = processes(found.values().copied().collect());
            list(found, &names)
        }
        Err(error) => {
            let text =
                format!("the relay cannot read the tables under /proc/net ({error}); is /proc mounted?");
            Opened::failed(Kind::Internal, error.raw_os_error(), &text)
        }
    }
}

/// What listens in another network namespace of this machine, or in our own: the same answer as the relay gives
/// of its guest, for a pod that has no relay. Waits for a thread of its own.
pub fn listening(namespace: Option<OwnedFd>) -> Opened {
    answer(&Place::in_network(namespace))
}

/// Network, port, address, in the order of the answer, and the inode of the socket.
type Found = BTreeMap<(i32, u16, IpAddr), u64>;

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

fn list(found: Found, names: &BTreeMap<u64, String>) -> Opened {
    let mut opened = Opened::connected();
    let mut room = MAX_OPENING - OTHER_FIELDS;
    for ((network, port, address), inode) in found {
        let process = names.get(&inode).cloned().unwrap_or_default();
        let entry = Listening { network, host: address.to_string(), port: port.into(), process };
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
        let all = |count| (1..=count).map(|port| ((1, port, Ipv6Addr::from([0xff; 16]).into()), 7)).collect();
        let list = |found| list(found, &BTreeMap::from([(7, "server".to_owned())]));
        let few = list(all(10));
        assert_eq!(few.listening[0].process, "server");
        assert_eq!((few.listening.len(), few.is_cut), (10, false));
        let many = list(all(u16::MAX));
        assert!(many.is_cut && many.encoded_len() <= MAX_OPENING, "{}", many.encoded_len());
        assert!(many.encoded_len() > MAX_OPENING - 120);
        assert_eq!(many.listening[0].port, 1);
    }
}
