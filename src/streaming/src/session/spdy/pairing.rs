//! Which two streams make one forwarded connection. No I/O, no clock.
//!
//! A client opens an error stream and a data stream with the same `requestid`, in either order. Very old
//! clients send none: then the error stream's id stands for it, and the data stream's id is two more.
//!
//! ```text
//!              error (answered at once)
//!   (none) ───────────────────────────► waits for data ──data──► paired, dialled
//!     │ data (not answered yet)
//!     └───────────────────────────────► waits for error ─error─► paired, dialled
//! ```
//!
//! Source: k8s.io/cri-streaming v0.37.2, pkg/streaming/portforward/httpstream.go.

use std::collections::HashMap;

use spdy_rs::Headers;

/// Longest request id, in bytes. Clients count from 0; the longest that a header block can hold would let a
/// session's lone streams keep 64 MiB.
const MAX_REQUEST_ID: usize = 64;

/// The two kinds of stream of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Error,
    Data,
}

/// A stream that waits for its partner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lone<T> {
    pub(super) id: u32,
    pub(super) kind: Kind,
    pub(super) port: u16,
    pub(super) since: T,
}

/// Two streams that belong together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The data stream's.
    pub(super) port: u16,
    pub(super) error: u32,
    pub(super) data: u32,
}

/// What a new stream is to its session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The first of its pair, with its port.
    First(u16, Kind),
    /// The second: the connection can be dialled.
    Complete(Pair, Kind),
    /// Its pair has such a stream already.
    Duplicate,
    /// Its headers make no sense, with the reason.
    Invalid(&'static str),
}

/// The pairs of a session that are not complete. `T` is the caller's instant.
///
/// Invariant: every entry's stream is open. A stream that ends must be taken out with [`Pairing::forget`].
pub(super) struct Pairing<T> {
    waiting: HashMap<Key, Lone<T>>,
}

impl<T: Copy> Pairing<T> {
    pub(super) fn new() -> Self {
        Self { waiting: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes in a new stream.
    pub(super) fn add(&mut self, id: u32, headers: &Headers, now: T) -> Match {
        let kind = match headers.get("streamtype") {
            Some(b"error") => Kind::Error,
            Some(b"data") => Kind::Data,
            Some(_) => return Match::Invalid("its streamtype is neither error nor data"),
            None => return Match::Invalid("it has no streamtype"),
        };
        let Some(port) = headers.get("port").and_then(parse_port) else {
            return Match::Invalid("its port is not a number from 1 to 65535");
        };
        let Some(key) = Key::of(id, kind, headers) else {
            return Match::Invalid("its requestid is too long");
        };
        match self.waiting.get(&key) {
            None => {
                self.waiting.insert(key, Lone { id, kind, port, since: now });
                Match::First(port, kind)
            }
            Some(first) if first.kind == kind => Match::Duplicate,
            Some(first) => {
                let pair = match kind {
                    Kind::Data => Pair { port, error: first.id, data: id },
                    Kind::Error => Pair { port: first.port, error: id, data: first.id },
                };
                self.waiting.remove(&key);
                Match::Complete(pair, kind)
            }
        }
    }

    /// Takes out a stream that has ended.
    pub(super) fn forget(&mut self, id: u32) {
        self.waiting.retain(|_, lone| lone.id != id);
    }

    /// Takes out the streams whose partner is overdue.
    pub(super) fn overdue(&mut self, is_overdue: impl Fn(T) -> bool) -> Vec<Lone<T>> {
        self.waiting.extract_if(|_, lone| is_overdue(lone.since)).map(|(_, lone)| lone).collect()
    }
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(digits).ok()?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// What the two streams of a pair have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Their `requestid`.
    Request(Vec<u8>),
    /// Of streams without one: the error stream's id.
    ErrorStream(u32),
}

impl Key {
    /// `None`: the request id is too long.
    fn of(id: u32, kind: Kind, headers: &Headers) -> Option<Self> {
        match (headers.get("requestid"), kind) {
            (Some(request), _) if request.len() > MAX_REQUEST_ID => None,
            (Some(request), _) if !request.is_empty() => Some(Self::Request(request.to_vec())),
            (_, Kind::Error) => Some(Self::ErrorStream(id)),
            (_, Kind::Data) => Some(Self::ErrorStream(id.saturating_sub(2))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers as they come out of a connection.
    fn headers(list: &[(&str, &str)]) -> Headers {
        let mut client = spdy_rs::Connection::new(spdy_rs::Role::Client, Default::default());
        let mut server = spdy_rs::Connection::new(spdy_rs::Role::Server, Default::default());
        client.open(list, false).unwrap();
        let sent = client.output().to_vec();
        match server.recv(&mut &sent[..]).unwrap() {
            Some(spdy_rs::Event::Opened { headers, .. }) => headers,
            other => panic!("{other:?}"),
        }
    }

    fn stream(kind: &str, port: &str, request: Option<&str>) -> Headers {
        let mut list = vec![("streamType", kind), ("port", port)];
        list.extend(request.map(|r| ("requestID", r)));
        headers(&list)
    }

    #[test]
    fn streams_pair_in_either_order() {
        let mut pairing = Pairing::new();
        assert_eq!(pairing.add(1, &stream("error", "80", Some("0")), 0), Match::First(80, Kind::Error));
        assert_eq!(pairing.add(3, &stream("data", "81", Some("1")), 0), Match::First(81, Kind::Data));
        let complete = pairing.add(5, &stream("data", "80", Some("0")), 0);
        assert_eq!(complete, Match::Complete(Pair { port: 80, error: 1, data: 5 }, Kind::Data));
        let complete = pairing.add(7, &stream("error", "81", Some("1")), 0);
        assert_eq!(complete, Match::Complete(Pair { port: 81, error: 7, data: 3 }, Kind::Error));
        assert!(pairing.is_empty());
    }

    #[test]
    fn old_clients_pair_by_neighbouring_ids() {
        let mut pairing = Pairing::new();
        pairing.add(7, &stream("error", "0080", None), 0);
        let complete = pairing.add(9, &stream("data", "80", None), 0);
        assert_eq!(complete, Match::Complete(Pair { port: 80, error: 7, data: 9 }, Kind::Data));
    }

    #[test]
    fn an_id_is_not_taken_for_a_request_of_that_name() {
        let mut pairing = Pairing::new();
        assert_eq!(pairing.add(3, &stream("error", "80", Some("7")), 0), Match::First(80, Kind::Error));
        assert_eq!(pairing.add(7, &stream("error", "81", None), 0), Match::First(81, Kind::Error));
        let complete = pairing.add(9, &stream("data", "81", None), 0);
        assert_eq!(complete, Match::Complete(Pair { port: 81, error: 7, data: 9 }, Kind::Data));
    }

    #[test]
    fn a_second_stream_of_a_kind_is_a_duplicate_and_harms_nobody() {
        let mut pairing = Pairing::new();
        pairing.add(1, &stream("error", "80", Some("0")), 0);
        assert_eq!(pairing.add(3, &stream("error", "80", Some("0")), 0), Match::Duplicate);
        assert!(matches!(pairing.add(5, &stream("data", "80", Some("0")), 0), Match::Complete(..)));
    }

    #[test]
    fn bad_headers_are_refused() {
        let mut pairing = Pairing::new();
        let bad = [
            stream("weird", "80", Some("0")),
            stream("data", "0", Some("0")),
            stream("data", "70000", Some("0")),
            stream("data", "+80", Some("0")),
            stream("data", "", Some("0")),
            stream("data", "80", Some(&"9".repeat(MAX_REQUEST_ID + 1))),
            headers(&[("streamtype", "data")]),
            headers(&[("port", "80")]),
        ];
        for headers in bad {
            assert!(matches!(pairing.add(1, &headers, 0), Match::Invalid(_)));
        }
        assert!(pairing.is_empty());
    }

    #[test]
    fn a_request_id_of_the_longest_length_pairs() {
        let mut pairing = Pairing::new();
        let longest = "9".repeat(MAX_REQUEST_ID);
        pairing.add(1, &stream("error", "80", Some(&longest)), 0);
        assert!(matches!(pairing.add(3, &stream("data", "80", Some(&longest)), 0), Match::Complete(..)));
    }

    #[test]
    fn the_data_streams_port_is_dialled_whichever_comes_first() {
        let mut pairing = Pairing::new();
        pairing.add(1, &stream("data", "80", Some("0")), 0);
        let complete = pairing.add(3, &stream("error", "81", Some("0")), 0);
        assert_eq!(complete, Match::Complete(Pair { port: 80, error: 3, data: 1 }, Kind::Error));
        pairing.add(5, &stream("error", "81", Some("1")), 0);
        let complete = pairing.add(7, &stream("data", "80", Some("1")), 0);
        assert_eq!(complete, Match::Complete(Pair { port: 80, error: 5, data: 7 }, Kind::Data));
    }

    #[test]
    fn lone_streams_are_given_up_in_time() {
        let mut pairing = Pairing::new();
        pairing.add(1, &stream("error", "80", Some("0")), 10);
        pairing.add(3, &stream("data", "80", Some("1")), 20);
        pairing.add(5, &stream("data", "80", Some("2")), 10);
        pairing.forget(5);
        assert_eq!(
            pairing.overdue(|since| since <= 10),
            [Lone { id: 1, kind: Kind::Error, port: 80, since: 10 }]
        );
        assert_eq!(
            pairing.overdue(|since| since <= 20),
            [Lone { id: 3, kind: Kind::Data, port: 80, since: 20 }]
        );
    }
}
