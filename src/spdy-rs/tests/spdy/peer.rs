//! The other side, byte by byte: sends whatever a test wants and reads what the connection answers, with its own
//! compression in both directions.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use spdy_rs::{Config, Connection, Error, Role};

use crate::common::{Heard, hear};

pub(crate) const FIN: u8 = 1;
pub(crate) const UNIDIRECTIONAL: u8 = 2;

const DICTIONARY: &[u8] = include_bytes!("../../src/dictionary.bin");

/// A frame as seen on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream { id: u32, flags: u8, headers: Vec<(String, String)> },
    SynReply { id: u32 },
    Rst { id: u32, status: u32 },
    Ping(u32),
    GoAway { last: u32, status: u32 },
    Data { id: u32, payload: Vec<u8>, fin: bool },
}

/// A connection under test, and the peer's side of it.
pub(crate) struct Talk {
    pub(crate) us: Connection,
    /// Bytes that the peer has sent and the connection has not been fed yet.
    said: Vec<u8>,
    deflate: Compress,
    answers: FrameReader,
}

impl Talk {
    pub(crate) fn with_server() -> Self {
        Self::with(Role::Server, Config::default())
    }

    pub(crate) fn with_client() -> Self {
        Self::with(Role::Client, Config::default())
    }

    pub(crate) fn with(role: Role, config: Config) -> Self {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(DICTIONARY).unwrap();
        let answers = FrameReader::default();
        Self { us: Connection::new(role, config), said: Vec::new(), deflate, answers }
    }

    pub(crate) fn says_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.said.extend_from_slice(bytes);
        self
    }

    pub(crate) fn says_control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> &mut Self {
        self.said.extend_from_slice(&control(kind, flags, payload.len()));
        self.says_bytes(payload)
    }

    pub(crate) fn opens(&mut self, id: u32) -> &mut Self {
        self.opens_with(id, 0, &[])
    }

    pub(crate) fn opens_with(&mut self, id: u32, flags: u8, headers: &[(&str, &str)]) -> &mut Self {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 6]);
        payload.extend(self.pack(&plain_block(headers)));
        self.says_control(1, flags, &payload)
    }

    pub(crate) fn replies(&mut self, id: u32, flags: u8) -> &mut Self {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(self.pack(&plain_block(&[])));
        self.says_control(2, flags, &payload)
    }

    pub(crate) fn sends_headers(&mut self, id: u32, flags: u8) -> &mut Self {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(self.pack(&plain_block(&[("late", "header")])));
        self.says_control(8, flags, &payload)
    }

    pub(crate) fn sends(&mut self, id: u32, payload: &[u8]) -> &mut Self {
        self.announces_data(id, payload.len(), 0).says_bytes(payload)
    }

    pub(crate) fn finishes(&mut self, id: u32) -> &mut Self {
        self.announces_data(id, 0, FIN)
    }

    pub(crate) fn announces_data(&mut self, id: u32, len: usize, flags: u8) -> &mut Self {
        let word = (u32::from(flags) << 24) | len as u32;
        self.says_bytes(&id.to_be_bytes()).says_bytes(&word.to_be_bytes())
    }

    pub(crate) fn resets(&mut self, id: u32, status: u32) -> &mut Self {
        self.says_control(3, 0, &words(&[id, status]))
    }

    pub(crate) fn pings(&mut self, id: u32) -> &mut Self {
        self.says_control(6, 0, &words(&[id]))
    }

    pub(crate) fn goes_away(&mut self, last: u32, status: u32) -> &mut Self {
        self.says_control(7, 0, &words(&[last, status]))
    }

    /// Compresses a block as Go does: with the dictionary, and a sync flush at the end.
    pub(crate) fn pack(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(plain.len() + 1_024);
        let before = self.deflate.total_in();
        self.deflate.compress_vec(plain, &mut packed, FlushCompress::Sync).unwrap();
        assert_eq!((self.deflate.total_in() - before) as usize, plain.len());
        packed
    }

    /// Takes the bytes that have not been fed yet, to feed them elsewhere.
    pub(crate) fn take_said(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.said)
    }

    /// Feeds the connection what was sent, which must be free of errors, and returns its events.
    pub(crate) fn heard(&mut self) -> Vec<Heard> {
        let said = self.take_said();
        let (heard, error) = hear(&mut self.us, &said);
        assert_eq!(error, None);
        heard
    }

    /// Feeds the connection what was sent, and returns the error that it must find.
    pub(crate) fn error(&mut self) -> Error {
        let said = self.take_said();
        hear(&mut self.us, &said).1.expect("an error")
    }

    /// Takes the connection's output, as frames.
    pub(crate) fn answered(&mut self) -> Vec<Frame> {
        let frames = self.answers.read(self.us.output());
        self.us.clear_output();
        frames
    }
}

/// Reads one direction frame by frame.
pub(crate) struct FrameReader {
    inflate: Decompress,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl FrameReader {
    /// Parses whole frames; anything else fails the test.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let len = (word(bytes, 4) & 0x00ff_ffff) as usize;
            frames.push(self.frame(word(bytes, 0), bytes[4], &bytes[8..8 + len]));
            bytes = &bytes[8 + len..];
        }
        frames
    }

    fn frame(&mut self, first: u32, flags: u8, payload: &[u8]) -> Frame {
        if first >> 31 == 0 {
            return Frame::Data { id: first, payload: payload.to_vec(), fin: flags == FIN };
        }
        let id = word(payload, 0);
        match first & 0x7fff_ffff {
            0x3_0001 => Frame::SynStream { id, flags, headers: self.unpack(&payload[10..]) },
            0x3_0002 => {
                assert_eq!(self.unpack(&payload[4..]), [], "a reply has no headers");
                Frame::SynReply { id }
            }
            0x3_0003 => Frame::Rst { id, status: word(payload, 4) },
            0x3_0006 => Frame::Ping(id),
            0x3_0007 => Frame::GoAway { last: id, status: word(payload, 4) },
            other => panic!("said a frame of version and kind {other:x}"),
        }
    }

    fn unpack(&mut self, packed: &[u8]) -> Vec<(String, String)> {
        assert!(packed.ends_with(&[0, 0, 0xff, 0xff]), "every block ends in a sync flush");
        let mut plain = Vec::with_capacity(2 << 20);
        let mut rest = packed;
        while !rest.is_empty() {
            let before = self.inflate.total_in();
            match self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Err(e) if e.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).unwrap();
                }
                other => assert!(other.is_ok()),
            }
            rest = &rest[(self.inflate.total_in() - before) as usize..];
        }
        pairs(&plain)
    }
}

pub(crate) fn control(kind: u16, flags: u8, len: usize) -> [u8; 8] {
    let [k0, k1] = kind.to_be_bytes();
    let [_, l0, l1, l2] = (len as u32).to_be_bytes();
    [0x80, 3, k0, k1, flags, l0, l1, l2]
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

pub(crate) fn plain_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
        plain.extend_from_slice(text.as_bytes());
    }
    plain
}

fn pairs(plain: &[u8]) -> Vec<(String, String)> {
    let mut at = 4;
    let mut text = || {
        let len = word(plain, at) as usize;
        at += 4 + len;
        String::from_utf8(plain[at - len..at].to_vec()).unwrap()
    };
    let pairs = (0..word(plain, 0)).map(|_| (text(), text())).collect();
    assert_eq!(at, plain.len());
    pairs
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}
