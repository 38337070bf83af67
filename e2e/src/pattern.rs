//! Bytes that both ends can generate and check: a lost, repeated or moved piece changes their hash.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes after which the pattern repeats. A prime, so that no buffer size is a multiple of it and a lost
/// buffer never goes unnoticed.
const PERIOD: usize = 65_521;

/// A reader of the first `len` bytes of the pattern.
pub struct Pattern {
    block: Vec<u8>,
    at: usize,
    left: u64,
}

impl Pattern {
    /// The first `len` bytes.
    pub fn new(len: u64) -> Self {
        // Any generator would do; this is the top byte of Knuth's MMIX congruence.
        let step = |seed: &mut u64| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Some((*seed >> 56) as u8)
        };
        let block = std::iter::from_fn({
            let mut seed = 1;
            move || step(&mut seed)
        });
        Self { block: block.take(PERIOD).collect(), at: 0, left: len }
    }
}

impl Read for Pattern {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = &self.block[self.at..];
        let len = rest.len().min(buf.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buf[..len].copy_from_slice(&rest[..len]);
        self.at = (self.at + len) % PERIOD;
        self.left -= len as u64;
        Ok(len)
    }
}

/// Reads to the end. Returns `HASH LENGTH` (SHA-256 in hex, bytes in decimal), which is how all parts of
/// the tests describe contents.
///
/// # Errors
/// Errors of the reader.
pub fn summary(mut reader: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut len = 0;
    let mut buf = vec![0; 64 << 10];
    loop {
        let n = reader.read(&mut buf)?;
        if n == 0 {
            let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(format!("{hash} {len}"));
        }
        hash.update(&buf[..n]);
        len += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_has_the_asked_length_and_is_the_same_each_time() {
        let mut bytes = Vec::new();
        Pattern::new(200_000).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 200_000);
        assert_eq!(summary(&bytes[..]).unwrap(), summary(Pattern::new(200_000)).unwrap());
    }

    #[test]
    fn a_lost_buffer_changes_the_summary() {
        let mut bytes = Vec::new();
        Pattern::new(1 << 20).read_to_end(&mut bytes).unwrap();
        let whole = summary(&bytes[..]).unwrap();
        bytes.drain(65_536..131_072);
        bytes.extend(vec![0; 65_536]);
        assert_ne!(summary(&bytes[..]).unwrap(), whole);
    }
}
