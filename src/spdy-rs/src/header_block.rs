//! Header blocks: name/value pairs, compressed with one zlib stream per direction for the whole session.
//!
//! Plain form: `count(4) { name length(4) name value length(4) value }*`, with names in lower case and the values of one
//! name joined by NUL bytes. Packed form: a piece of a zlib stream that uses SPDY/3's preset dictionary, ending with a
//! sync flush. Source: SPDY Protocol, Draft 3.1, section 2.6.10.
//!
//! All frames with headers share the stream, so every block must be inflated in order, even those of refused streams. A
//! block that cannot be inflated ends the session.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

use crate::error::Error;

/// The preset dictionary, 1,423 bytes (Adler-32 `e3c6a7c2`).
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");

/// Start of a zlib stream that names the dictionary: CMF, FLG with FDICT, and the dictionary's Adler-32.
const ZLIB_HEADER: [u8; 6] = [0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2];

/// An empty stored block, which is how a sync flush ends. Go's reader waits for it.
const SYNC_FLUSH: [u8; 5] = [0x00, 0x00, 0x00, 0xff, 0xff];

/// The longest stored block in deflate's format.
const MAX_STORED: usize = 0xffff;

/// The largest plain header block that is sent in one frame. Peers accept at most 1 MiB (in Go the limit applies to each
/// name and value), and that much always fits in a frame, with the overhead of stored blocks.
pub const MAX_SENT_BLOCK: usize = 1 << 20;

/// Initial size of the output buffer; port-forward's headers take some 60 bytes.
const FIRST_OUTPUT: usize = 512;

/// The headers of one frame as the peer sent them. Names and values may be any bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Headers {
    /// The plain block, which has been checked: `iter` need not.
    plain: Vec<u8>,
}

impl Headers {
    /// Checks that a plain block is well formed and has at most `max_headers` entries, and keeps it.
    pub(crate) fn parse(plain: Vec<u8>, max_headers: usize) -> Result<Self, Error> {
        let (count, mut rest) =
            take_len(&plain).ok_or(Error::HeaderBlock("the number of headers is missing"))?;
        if count > max_headers {
            return Err(Error::HeaderBlockTooLarge { limit: max_headers, unit: "headers" });
        }
        // `count` is the peer's, but it only bounds the loop: nothing is allocated for it.
        for _ in 0..count {
            (_, rest) = take_pair(rest).ok_or(Error::HeaderBlock("a length exceeds the block"))?;
        }
        if !rest.is_empty() {
            return Err(Error::HeaderBlock("bytes follow the last header"));
        }
        Ok(Self { plain })
    }

    /// All headers in order. A value may consist of several, joined by NUL bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.plain.get(4..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (pair, after) = take_pair(rest)?;
            rest = after;
            Some(pair)
        })
    }

    /// The first value of the header with this name, ignoring ASCII case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))?;
        value.split(|b| *b == 0).next()
    }
}

impl fmt::Debug for Headers {
    /// As text, with other bytes escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        f.debug_map().entries(self.iter().map(|(name, value)| (text(name), text(value)))).finish()
    }
}

fn take_len(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*len) as usize, rest))
}

fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = take_len(bytes)?;
    rest.split_at_checked(len)
}

type Pair<'a> = (&'a [u8], &'a [u8]);

fn take_pair(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let (name, rest) = take_string(bytes)?;
    let (value, rest) = take_string(rest)?;
    Some(((name, value), rest))
}

/// The receiving end of one direction's zlib stream.
pub(crate) struct Inflater {
    zlib: Decompress,
    max_plain: usize,
}

impl Inflater {
    pub(crate) fn new(max_plain: usize) -> Self {
        Self { zlib: Decompress::new(true), max_plain }
    }

    /// Inflates the next block of the stream. The result never grows beyond `max_plain` + 1 bytes, however much the block
    /// would inflate to: the extra byte is how an excess shows.
    pub(crate) fn inflate(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, Error> {
        let most = self.max_plain.saturating_add(1);
        let mut plain = Vec::with_capacity(FIRST_OUTPUT.min(most));
        loop {
            let taken = self.step(packed, &mut plain)?;
            packed = packed.get(taken..).unwrap_or_default();
            if plain.len() > self.max_plain {
                return Err(Error::HeaderBlockTooLarge { limit: self.max_plain, unit: "decompressed bytes" });
            }
            // Room is left and there is no input, so zlib holds nothing back: this was the sync flush.
            if plain.len() < plain.capacity() && packed.is_empty() {
                return Ok(plain);
            }
            if plain.len() == plain.capacity() {
                // Doubling, but exactly up to the limit.
                let room = most.saturating_sub(plain.len()).min(plain.len().max(1));
                plain.reserve_exact(room);
            } else if taken == 0 {
                // Neither input nor room is what is missing, so trying again would loop forever.
                return Err(Error::HeaderBlock("it does not end with its frame"));
            }
        }
    }

    /// Inflates into the spare capacity of `plain`. Returns how much of `packed` was consumed.
    fn step(&mut self, packed: &[u8], plain: &mut Vec<u8>) -> Result<usize, Error> {
        let before = self.zlib.total_in();
        let status = match self.zlib.decompress_vec(packed, plain, FlushDecompress::Sync) {
            // Once a session, at the first block: a zlib stream says after its header that it needs a dictionary.
            Err(e) if e.needs_dictionary().is_some() => {
                self.zlib
                    .set_dictionary(DICTIONARY)
                    .map_err(|_| Error::HeaderBlock("its dictionary is not SPDY/3's"))?;
                Status::Ok
            }
            other => other.map_err(|_| Error::HeaderBlock("it does not inflate"))?,
        };
        if status == Status::StreamEnd {
            return Err(Error::HeaderBlock("it ends the compressed stream"));
        }
        Ok((self.zlib.total_in() - before) as usize)
    }
}

/// The sending end of one direction's zlib stream. It stores and never compresses: our blocks are empty or tiny, and a
/// deflate context would cost 300 KiB per session.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    /// The zlib header has been sent, which happens once a session.
    begun: bool,
}

impl Packer {
    /// Appends these headers as a packed block; their plain block must not exceed [`MAX_SENT_BLOCK`]. Names are sent in
    /// lower case, as SPDY requires.
    pub(crate) fn pack(&mut self, headers: &[(&str, &str)], out: &mut Vec<u8>) {
        let mut plain = Vec::with_capacity(plain_len(headers));
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for (name, value) in headers {
            push_string(&mut plain, name.to_ascii_lowercase().as_bytes());
            push_string(&mut plain, value.as_bytes());
        }
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(&ZLIB_HEADER);
        }
        for piece in plain.chunks(MAX_STORED) {
            let len = piece.len() as u16;
            out.push(0);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&(!len).to_le_bytes());
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(&SYNC_FLUSH);
    }
}

/// Size of these headers' plain block in bytes.
pub(crate) fn plain_len(headers: &[(&str, &str)]) -> usize {
    4 + headers.iter().map(|(name, value)| 8 + name.len() + value.len()).sum::<usize>()
}

fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(packer: &mut Packer, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        packer.pack(headers, &mut out);
        out
    }

    #[test]
    fn the_empty_block_is_the_constant_that_go_clients_take() {
        let mut packer = Packer::default();
        let first =
            [0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        assert_eq!(pack(&mut packer, &[]), first);
        assert_eq!(pack(&mut packer, &[]), first[6..]);
    }

    #[test]
    fn blocks_of_one_session_unpack_in_order() {
        let (mut packer, mut inflater) = (Packer::default(), Inflater::new(64 << 10));
        for port in ["80", "8080", "5432"] {
            let packed = pack(&mut packer, &[("Port", port), ("streamtype", "data")]);
            let headers = Headers::parse(inflater.inflate(&packed).unwrap(), 64).unwrap();
            assert_eq!(headers.get("port"), Some(port.as_bytes()));
            assert_eq!(headers.get("StreamType"), Some(&b"data"[..]));
            assert_eq!(headers.get("requestid"), None);
        }
    }

    #[test]
    fn a_block_of_exactly_the_limit_passes_and_one_more_does_not() {
        for (extra, good) in [(0, true), (1, false)] {
            let value = "x".repeat(5_000 - 4 - 8 - 1 + extra);
            let packed = pack(&mut Packer::default(), &[("v", &value)]);
            let plain = Inflater::new(5_000).inflate(&packed);
            assert_eq!(plain.is_ok(), good, "{:?}", plain.map(|p| p.len()));
        }
    }

    #[test]
    fn several_values_give_the_first() {
        let headers = Headers::parse(b"\0\0\0\x01\0\0\0\x01a\0\0\0\x03b\0c".to_vec(), 1).unwrap();
        assert_eq!(headers.get("A"), Some(&b"b"[..]));
        assert_eq!(format!("{headers:?}"), r#"{"a": "b\\x00c"}"#);
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for (plain, max) in [
            (&b""[..], 9),
            (b"\0\0\0\x02\0\0\0\x01a\0\0\0\x01b", 9),
            (b"\0\0\0\x01\0\0\0\x01a\0\0\0\x01bc", 9),
            (b"\0\0\0\x01\xff\xff\xff\xffa", 9),
            (b"\0\0\0\x02\0\0\0\x01a\0\0\0\x01b\0\0\0\x01c\0\0\0\x01d", 1),
        ] {
            Headers::parse(plain.to_vec(), max).unwrap_err();
        }
    }

    /// See `tests/vectors/README.md`.
    #[test]
    fn recorded_blocks_unpack_as_an_independent_decoder_read_them() {
        let unhex = |text: &str| -> Vec<u8> {
            let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
            digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
        };
        let mut blocks = 0;
        for session in std::fs::read_dir("tests/vectors").unwrap() {
            let Ok(json) = std::fs::read_to_string(session.unwrap().path().join("vectors.json")) else {
                continue;
            };
            let frames: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
            let (mut from_client, mut from_server) = (Inflater::new(64 << 10), Inflater::new(64 << 10));
            for frame in frames.iter().filter(|frame| frame["block_plain"].is_string()) {
                let (inflater, fixed) =
                    if frame["dir"] == "C>S" { (&mut from_client, 18) } else { (&mut from_server, 12) };
                let plain = inflater.inflate(&unhex(frame["raw"].as_str().unwrap())[fixed..]).unwrap();
                assert_eq!(plain, unhex(frame["block_plain"].as_str().unwrap()));
                Headers::parse(plain, 64).unwrap();
                blocks += 1;
            }
        }
        assert_eq!(blocks, 49);
    }
}
