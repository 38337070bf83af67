//! How a channel opens: each side's preamble and first message (proto/channel.proto).

use std::marker::PhantomData;
use std::time::Duration;

use prost::Message;

use crate::frame::{self, HEADER_LEN, Kind as Frame};
use crate::preamble::{PREAMBLE_LEN, VERSION, Version};

#[rustfmt::skip]
#[allow(unreachable_pub)] // generated
#[path = "open/generated.rs"]
mod generated;

mod outcome;

pub use generated::opened::Kind;
pub use generated::{Listening, Network, Open, Opened};
pub use outcome::{Outcome, Refusal, RefusalKind};

/// The time limit of a dial whose request has none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const LEAD: usize = PREAMBLE_LEN + HEADER_LEN;

/// A message that opens a side: [`Open`] or [`Opened`].
pub trait Opens: Message + Default {
    /// The frame that carries it.
    const FRAME: Frame;

    /// A side's first bytes: its preamble and this message.
    fn opening(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEAD + self.encoded_len());
        bytes.extend_from_slice(&VERSION.encode());
        bytes.extend_from_slice(&frame::header(Self::FRAME, self.encoded_len()));
        bytes.extend_from_slice(&self.encode_to_vec());
        bytes
    }
}

impl Opens for Open {
    const FRAME: Frame = Frame::Open;
}

impl Opens for Opened {
    const FRAME: Frame = Frame::Opened;
}

impl Open {
    /// Asks for a TCP connection to `address` (`127.0.0.1:80`, `[::1]:80`, `localhost:80`, or `:80` for the
    /// loopback addresses of both families) in the pod's own namespace, tried for at most `timeout`.
    pub fn tcp(address: impl Into<String>, timeout: Duration) -> Self {
        Self {
            network: Network::Tcp.into(),
            address: address.into(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            ..Self::default()
        }
    }

    /// Asks for datagrams to and from `address`, written as for [`tcp`](Self::tcp). `localhost` and no host mean
    /// 127.0.0.1 here, as UDP does not show which address a program listens on.
    pub fn udp(address: impl Into<String>, timeout: Duration) -> Self {
        Self { network: Network::Udp.into(), ..Self::tcp(address, timeout) }
    }

    /// Asks for a connection to the Unix socket at `path`.
    pub fn unix(path: impl Into<String>, timeout: Duration) -> Self {
        Self { network: Network::Unix.into(), ..Self::tcp(path, timeout) }
    }

    /// Asks what listens after this place in the list (`tcp:127.0.0.1:80`), or from its beginning.
    pub fn listening(after: impl Into<String>, timeout: Duration) -> Self {
        Self { network: Network::Listening.into(), ..Self::tcp(after, timeout) }
    }

    /// The same, in the namespaces of a container.
    pub fn in_container(self, container: impl Into<String>) -> Self {
        Self { container: container.into(), ..self }
    }

    /// How long the relay may try.
    pub fn timeout(&self) -> Duration {
        match self.timeout_ms {
            0 => DEFAULT_TIMEOUT,
            ms => Duration::from_millis(ms.into()),
        }
    }
}

impl Opened {
    /// The address was reached.
    pub fn connected() -> Self {
        Self::default()
    }

    /// It was not. A text that would not fit is cut.
    pub fn failed(kind: Kind, errno: i32, text: &str) -> Self {
        Self { kind: kind.into(), errno, text: frame::cut(text).to_owned(), ..Self::default() }
    }

    /// The same with the relay's nonce.
    pub fn with_nonce(self, nonce: &[u8]) -> Self {
        Self { nonce: nonce.to_vec(), ..self }
    }
}

/// Why a peer's first bytes do not open a channel. The peer is at fault, or is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpeningError {
    /// No preamble.
    #[error("it does not speak the channel protocol: its first bytes are {0:02x?}")]
    NotAChannel([u8; PREAMBLE_LEN]),
    /// Another major version.
    #[error(
        "it speaks version {0} of the channel protocol, this side {VERSION}: update the older of the two"
    )]
    Version(Version),
    /// Another frame than the one that opens.
    #[error("its first frame has type {0}")]
    Frame(u8),
    /// A message beyond [`frame::MAX_OPENING`].
    #[error("its first message announces {0} bytes, at most {max} are allowed", max = frame::MAX_OPENING)]
    TooLong(usize),
    /// A message that cannot be decoded.
    #[error("its first message cannot be decoded ({0})")]
    Malformed(String),
    /// Bytes after the message, where none may come before the other side's answer.
    #[error("it sent more than its first message")]
    Excess,
}

/// Reads a side's first bytes, in pieces of any size.
#[derive(Debug)]
pub struct Opening<M> {
    bytes: Vec<u8>,
    message: PhantomData<M>,
}

impl<M: Opens> Default for Opening<M> {
    fn default() -> Self {
        Self { bytes: Vec::new(), message: PhantomData }
    }
}

impl<M: Opens> Opening<M> {
    /// How many bytes may be read next without taking any that follow the message: at least 1 until
    /// [`handle`](Self::handle) has given the message or an error.
    pub fn wanted(&self) -> usize {
        match self.announced() {
            None => LEAD - self.bytes.len(),
            Some((_, len)) => (LEAD + len).saturating_sub(self.bytes.len()),
        }
    }

    /// Whether the peer's preamble is here.
    pub fn has_preamble(&self) -> bool {
        self.bytes.len() >= PREAMBLE_LEN
    }

    /// Takes bytes from the peer; gives the message once it is whole.
    pub fn handle(&mut self, bytes: &[u8]) -> Result<Option<M>, OpeningError> {
        self.bytes.extend_from_slice(bytes);
        if let Some(&preamble) = self.bytes.first_chunk() {
            match Version::decode(preamble) {
                None => return Err(OpeningError::NotAChannel(preamble)),
                Some(version) if !version.speaks(VERSION) => return Err(OpeningError::Version(version)),
                Some(_) => {}
            }
        }
        let Some((kind, len)) = self.announced() else { return Ok(None) };
        if kind != M::FRAME as u8 {
            return Err(OpeningError::Frame(kind));
        }
        if !M::FRAME.allows(len) {
            return Err(OpeningError::TooLong(len));
        }
        match self.bytes.len() - LEAD {
            have if have < len => Ok(None),
            have if have > len => Err(OpeningError::Excess),
            _ => self.decode().map(Some),
        }
    }

    fn announced(&self) -> Option<(u8, usize)> {
        self.bytes.get(PREAMBLE_LEN..)?.first_chunk().map(|&header| frame::parse_header(header))
    }

    fn decode(&self) -> Result<M, OpeningError> {
        M::decode(&self.bytes[LEAD..]).map_err(|error| OpeningError::Malformed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/channel.proto");
    const GENERATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/open/generated.rs");

    /// The checked-in code is what the specification gives. `UPDATE_GENERATED=1 cargo test` writes it anew.
    #[test]
    fn generated_code_matches_the_specification() {
        let folder = tempfile::tempdir().unwrap();
        let include = std::path::Path::new(PROTO).parent().unwrap();
        let files = protox::compile([PROTO], [include]).unwrap();
        prost_build::Config::new().out_dir(folder.path()).compile_fds(files).unwrap();
        let fresh = std::fs::read_to_string(folder.path().join("gangplank.channel.v1.rs")).unwrap();
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(GENERATED, &fresh).unwrap();
        }
        assert!(
            std::fs::read_to_string(GENERATED).unwrap() == fresh,
            "{GENERATED} is not what {PROTO} gives: run UPDATE_GENERATED=1 cargo test -p gangplank-channel generated",
        );
    }

    fn request() -> Open {
        Open::tcp("127.0.0.1:80", Duration::from_secs(3))
    }

    fn read<M: Opens>(bytes: &[u8]) -> Result<Option<M>, OpeningError> {
        Opening::default().handle(bytes)
    }

    #[test]
    fn a_request_is_read_in_pieces_of_any_size() {
        let bytes = request().opening();
        for size in 1..=bytes.len() {
            let mut opening = Opening::default();
            let mut got = None;
            for piece in bytes.chunks(size) {
                assert_eq!(got, None);
                got = opening.handle(piece).unwrap();
            }
            assert_eq!(got, Some(request()));
        }
    }

    #[test]
    fn reading_what_is_wanted_never_takes_more() {
        let message = Opened::failed(Kind::Refused, 111, "nothing listens");
        let mut stream = message.opening();
        stream.extend_from_slice(b"data");
        let (mut opening, mut at) = (Opening::<Opened>::default(), 0);
        let got = loop {
            let wanted = opening.wanted();
            assert!(wanted > 0);
            let got = opening.handle(&stream[at..at + wanted]).unwrap();
            at += wanted;
            if let Some(got) = got {
                break got;
            }
        };
        assert_eq!(got, message);
        assert_eq!(&stream[at..], b"data");
    }

    #[test]
    fn a_connected_answer_is_twelve_bytes() {
        assert_eq!(Opened::connected().opening(), *b"GPCH\x02\x00\x00\x00\x02\x00\x00\x00");
    }

    #[test]
    fn a_newer_message_is_understood_by_its_known_fields() {
        let mut message = request().encode_to_vec();
        message.extend_from_slice(&[0x7a, 2, b'h', b'i']); // field 15, a string
        assert_eq!(Open::decode(&message[..]).unwrap(), request());
    }

    #[test]
    fn other_first_bytes_are_refused_as_soon_as_they_are_known() {
        assert_eq!(read::<Open>(b"GET / HTTP"), Err(OpeningError::NotAChannel(*b"GET / HT")));
        assert_eq!(
            read::<Open>(b"GPCH\x01\x01\x00\x00"),
            Err(OpeningError::Version(Version { major: 1, minor: 1 }))
        );
        assert_eq!(read::<Open>(b"GPCH\x02\x00\x00\x00\x03\x00\x00\x01"), Err(OpeningError::Frame(3)));
        assert_eq!(read::<Open>(b"GPCH\x02\x00\x00\x00\x01\x00\x10\x01"), Err(OpeningError::TooLong(4097)));
        let malformed = read::<Open>(b"GPCH\x02\x00\x00\x00\x01\x00\x00\x01\xff");
        assert!(matches!(malformed, Err(OpeningError::Malformed(_))), "{malformed:?}");
        assert_eq!(read::<Opened>(b"GPCH\x02\x00\x00\x00\x02\x00\x00\x00x"), Err(OpeningError::Excess));
    }

    #[test]
    fn every_failure_fits_into_its_frame() {
        let opened = Opened::failed(Kind::Internal, i32::MIN, &"ä".repeat(5_000));
        assert!(opened.encoded_len() <= frame::MAX_OPENING);
    }
}
