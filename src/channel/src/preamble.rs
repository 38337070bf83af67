//! The first eight bytes of each side: `"GPCH" major minor 0 0`. They never change, so that any two versions
//! can tell each other apart.

use std::fmt;

/// Bytes of a preamble.
pub const PREAMBLE_LEN: usize = 8;

/// The version that this crate speaks.
pub const VERSION: Version = Version { major: 2, minor: 0 };

const MAGIC: [u8; 4] = *b"GPCH";

/// A version of the protocol. Sides with different majors refuse each other; a minor only adds fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes when an old side would misunderstand a new one.
    pub major: u8,
    /// Changes when fields are added that an old side may ignore.
    pub minor: u8,
}

impl Version {
    /// The preamble that announces this version.
    pub fn encode(self) -> [u8; PREAMBLE_LEN] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, self.major, self.minor, 0, 0]
    }

    /// The version that a preamble announces; none if these bytes are no preamble. The last two bytes are
    /// reserved and not looked at.
    pub fn decode(bytes: [u8; PREAMBLE_LEN]) -> Option<Self> {
        let [a, b, c, d, major, minor, ..] = bytes;
        ([a, b, c, d] == MAGIC).then_some(Self { major, minor })
    }

    /// Whether sides of these two versions understand each other.
    pub fn speaks(self, other: Self) -> bool {
        self.major == other.major
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_there_and_back() {
        assert_eq!(VERSION.encode(), *b"GPCH\x02\x00\x00\x00");
        assert_eq!(Version::decode(*b"GPCH\x03\x07\x00\x00"), Some(Version { major: 3, minor: 7 }));
    }

    #[test]
    fn reserved_bytes_are_ignored_and_other_magic_is_not() {
        assert_eq!(Version::decode(*b"GPCH\x02\x00\xff\xff"), Some(VERSION));
        assert_eq!(Version::decode(*b"HTTP/1.1"), None);
    }

    #[test]
    fn only_the_major_divides() {
        assert!(VERSION.speaks(Version { major: 2, minor: 9 }));
        assert!(!VERSION.speaks(Version { major: 1, minor: 0 }));
    }
}
